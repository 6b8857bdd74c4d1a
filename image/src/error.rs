use std::io;

use spec::Digest;

use crate::path::BadName;

/// Why some bytes are not an image that we would touch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading failed before anything could be judged.
    #[error("cannot read {what}")]
    Read {
        /// What was being read.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Some bytes are not what they were announced as.
    #[error("{what} is not what it claims to be: {why}")]
    Media {
        /// Which bytes.
        what: String,
        /// What is wrong with them.
        why: String,
    },
    /// A name in a layer that we refuse to use.
    #[error("the layer has an entry `{name}`: {why}")]
    LayerPath {
        /// The name, with anything unprintable escaped.
        name: String,
        /// What is wrong with it.
        why: BadName,
    },
    /// An entry of a kind that no image of ours can hold.
    #[error("the layer has an entry `{name}`, which is {kind}")]
    LayerKind {
        /// Its name.
        name: String,
        /// Its kind, as in "a block device".
        kind: &'static str,
    },
    /// A layer costs more than we are willing to pay.
    #[error("the layer is beyond its budget: {why}")]
    Budget {
        /// Which part of the [`Budget`](crate::Budget), and by how much.
        why: String,
    },
    /// Bytes that are not those that their name says.
    #[error("the bytes of {what} are not those of `{expected}`: they are `{found}`")]
    WrongDigest {
        /// Which bytes.
        what: String,
        /// The digest that they should have.
        expected: Digest,
        /// The digest that they have.
        found: Digest,
    },
    /// More or fewer bytes than announced.
    #[error("{what} has {found} bytes, and its descriptor says {expected}")]
    WrongSize {
        /// Which bytes.
        what: String,
        /// How many were announced.
        expected: u64,
        /// How many there are (or at least are).
        found: u64,
    },
    /// The manifest or config is malformed.
    #[error("the {document} is malformed: {why}")]
    Malformed {
        /// `manifest`, `index`, `image config`, …
        document: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// An index without an entry for us.
    #[error("the image has nothing for {wanted}: it offers {}", .offered.join(", "))]
    NoPlatform {
        /// What we looked for.
        wanted: String,
        /// What there was.
        offered: Vec<String>,
    },
    /// The image names no program, or one that is not in it.
    #[error("the image has no program to run: {why}")]
    NoProgram {
        /// What was looked for.
        why: String,
    },
    /// A program in Wasm that is broken.
    #[error("{what} is not a Wasm program: {why}")]
    NotWasm {
        /// Which file.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A program that asks for something that nobody has.
    #[error("{what} imports `{import}`, which nothing here provides")]
    UnknownImport {
        /// Which file.
        what: String,
        /// The interface, or `MODULE.NAME`.
        import: String,
    },
    /// Machine code from outside, whoever compiled it.
    #[error("{what} is machine code for a Wasm engine, compiled elsewhere: it is never accepted")]
    Precompiled {
        /// Which file.
        what: String,
    },
    /// A capability line in the image that does not parse.
    #[error("the image's `margay.wants` cannot be used: {why}")]
    Wants {
        /// Which line, and what is wrong with it.
        why: String,
    },
    /// A stored index that we did not write, or not in this version.
    #[error("the file index cannot be used: {why}")]
    Index {
        /// What is wrong with it.
        why: String,
    },
    /// Something that this version knows of and cannot run.
    #[error("{what} cannot run here yet: {why}")]
    Unsupported {
        /// What.
        what: String,
        /// Why not.
        why: String,
    },
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
            Self::Index { .. } => "E_INDEX",
            Self::Unsupported { .. } => "E_UNSUPPORTED",
        }
    }

    /// The next thing a person could try, when we know one.
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
            Self::UnknownImport { .. } => {
                "only wasi:{cli,clocks,filesystem,http,io,random,sockets}@0.2 and wasi_snapshot_preview1 are provided: \
                 compose the program with whatever else it needs"
            }
            Self::Precompiled { .. } => {
                "ship the `.wasm` it was compiled from: each node compiles its own"
            }
            Self::Wants { .. } => "write one capability in each line, as in `fs:/data#rw`",
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
