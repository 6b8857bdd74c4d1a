#![allow(missing_docs, reason = "the messages say what the variants and their fields are")]

use std::io;

use spec::Digest;

use crate::path::InvalidName;

/// Why some bytes are refused as an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading failed before anything could be judged.
    #[error("cannot read {what}")]
    Read { what: String, source: io::Error },
    /// Some bytes are not what they were announced as.
    #[error("{what} is not what it claims to be: {why}")]
    Media { what: String, why: String },
    #[error("the layer has an entry `{name}`: {why}")]
    LayerPath {
        /// The name, with anything unprintable escaped.
        name: String,
        why: InvalidName,
    },
    #[error("the layer has an entry `{name}`, which is {kind}")]
    LayerKind { name: String, kind: &'static str },
    #[error("the layer is beyond its budget: {why}")]
    Budget { why: String },
    /// Bytes that are not those that their name says.
    #[error("the bytes of {what} are not those of `{expected}`: they are `{found}`")]
    WrongDigest {
        what: String,
        /// The digest that they should have.
        expected: Digest,
        /// The digest that they have.
        found: Digest,
    },
    /// More or fewer bytes than announced.
    #[error("{what} has {found} bytes, and its descriptor says {expected}")]
    WrongSize { what: String, expected: u64, found: u64 },
    /// The manifest or config is malformed.
    #[error("the {document} is malformed: {why}")]
    Malformed {
        /// `manifest`, `index`, `image config`, …
        document: &'static str,
        why: String,
    },
    #[error("the image has nothing for {wanted}: it offers {}", .offered.join(", "))]
    NoPlatform { wanted: String, offered: Vec<String> },
    /// The image names no program, or one that is not in it.
    #[error("the image has no program to run: {why}")]
    NoProgram { why: String },
    /// A program in Wasm that is broken.
    #[error("{what} is not a Wasm program: {why}")]
    NotWasm { what: String, why: String },
    #[error("{what} imports `{import}`, which nothing here provides")]
    UnknownImport {
        what: String,
        /// The interface, or `MODULE.NAME`.
        import: String,
    },
    #[error("{what} is machine code for a Wasm engine, compiled elsewhere: it is never accepted")]
    Precompiled { what: String },
    /// A capability line in the image that does not parse.
    #[error("the image's `margay.wants` cannot be used: {why}")]
    Wants { why: String },
    /// A wish in the image that is no number of requests.
    #[error("the image's `margay.reuse` is `{said}`, and not a number from 1 to 10000")]
    Reuse { said: String },
    #[error("the file index cannot be used: {why}")]
    Index { why: String },
    /// A known format or feature that this version cannot run.
    #[error("{what} cannot run here yet: {why}")]
    Unsupported { what: String, why: String },
}

impl Error {
    /// A stable word for programs and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "E_READ",
            Self::Media { .. } => "E_MEDIA",
            Self::LayerPath { .. } => "E_LAYER_PATH",
            Self::LayerKind { .. } => "E_LAYER_KIND",
            Self::Budget { .. } => "E_LAYER_BUDGET",
            Self::WrongDigest { .. } => "E_DIGEST",
            Self::WrongSize { .. } => "E_SIZE",
            Self::Malformed { .. } => "E_MANIFEST",
            Self::NoPlatform { .. } => "E_PLATFORM",
            Self::NoProgram { .. } => "E_PROGRAM",
            Self::NotWasm { .. } => "E_NOT_WASM",
            Self::UnknownImport { .. } => "E_IMPORT",
            Self::Precompiled { .. } => "E_AOT_UNTRUSTED",
            Self::Wants { .. } => "E_WANTS",
            Self::Reuse { .. } => "E_REUSE",
            Self::Index { .. } => "E_INDEX",
            Self::Unsupported { .. } => "E_UNSUPPORTED",
        }
    }

    /// The next thing that a user could try, where one is known.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Read { .. } | Self::Malformed { .. } | Self::Unsupported { .. } => return None,
            Self::Media { .. } => {
                "build or pull the image again; a download may have been cut short"
            }
            Self::LayerPath { .. } | Self::LayerKind { .. } => {
                "build the layer from ordinary files, folders and links that stay inside of it"
            }
            Self::Budget { .. } => "split the layer, or leave out what the program does not need",
            Self::WrongDigest { .. } | Self::WrongSize { .. } => {
                "the bytes were changed or cut short: remove the image and pull it again"
            }
            Self::NoPlatform { .. } => {
                "build the image for `wasi/wasm`, or for the platform of this host"
            }
            Self::NoProgram { .. } => "set ENTRYPOINT to the absolute path of a file in the image",
            Self::NotWasm { .. } => {
                "compile the program for `wasm32-wasip2` (or `wasm32-wasip1`) and build again"
            }
            Self::UnknownImport { import, .. } if import.contains(".sock_") => {
                "it is an extension of another runtime, and there are no plain sockets here. \
                 Build for wasm32-wasip2: serve with `wasi:http/incoming-handler`, and send with \
                 `wasi:http/outgoing-handler` and --allow net.out:http://HOST:PORT"
            }
            Self::UnknownImport { .. } => {
                "only wasi:{cli,clocks,filesystem,http,io,random,sockets}@0.2, \
                 wasi:config/store@0.2.0-rc.1, wasi:logging/logging@0.1.0-draft and \
                 wasi_snapshot_preview1 are provided: \
                 compose the program with the other components that it needs"
            }
            Self::Precompiled { .. } => {
                "ship the `.wasm` it was compiled from: each node compiles its own"
            }
            Self::Wants { .. } => "write one capability in each line, as in `fs:/data#rw`",
            Self::Reuse { .. } => {
                "write how many requests one instance may answer, or leave it out for a fresh \
                 instance for each"
            }
            Self::Index { .. } => "remove the prepared image: it is made again at the next start",
        };
        Some(text.to_owned())
    }

    pub(crate) fn media(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Media { what: what.into(), why: why.into() }
    }

    pub(crate) fn malformed(document: &'static str, why: impl Into<String>) -> Self {
        Self::Malformed { document, why: why.into() }
    }
}
