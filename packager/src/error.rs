use std::{io, path::PathBuf};

use image::Sniffed;
use spec::{Digest, Reference};

use crate::diagnostic::{ContextProblem, Diagnostic};

/// Why an image was not built, stored, imported or exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("cannot {doing} `{}`", .path.display())]
    Io {
        /// `read`, `write`, …
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Bytes of an image that are refused.
    #[error("{}", .whose)]
    Image {
        /// What was being read, as in "`cats.tar` cannot be used".
        whose: String,
        source: image::Error,
    },
    /// Before anything in it was looked at.
    #[error("`{}` cannot be read as an archive: {why}", .path.display())]
    Archive { path: PathBuf, why: String },
    /// What is wrong comes first, and where it is behind it.
    #[error("{refusal} (layer `{}`)", .layer.short())]
    Layer { layer: Digest, refusal: image::Error },
    #[error(transparent)]
    Program(image::Error),
    #[error("`{}` has nothing to build from: {reason}", .path.display())]
    NoBuildFile { path: PathBuf, reason: NoBuildFile },
    #[error(transparent)]
    BuildFile(Diagnostic),
    #[error("`{path}` in the build context {problem}")]
    Context {
        /// Relative to the context.
        path: String,
        problem: ContextProblem,
    },
    #[error("`{}` {problem}", .folder.display())]
    Init { folder: PathBuf, problem: InitProblem },
    #[error("cannot start the build command `{command}`")]
    CommandStart { command: String, source: io::Error },
    #[error("the build command `{command}` failed: {status}")]
    Command {
        command: String,
        status: std::process::ExitStatus,
        /// The commands that install what is missing, as one line.
        missing: Option<String>,
    },
    #[error("cannot make a component of {what}, which answers HTTP: {why}")]
    Encode {
        /// As errors call it, with backticks.
        what: String,
        why: String,
    },
    #[error("there is no local image `{0}`")]
    NoImage(Reference),
    #[error("the blob `{0}` is missing")]
    NoBlob(Digest),
    #[error("`{}` is not an image: {problem}", .path.display())]
    NotAnImage { path: PathBuf, problem: ImportProblem },
}

/// Why there is nothing to build from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoBuildFile {
    #[error("it is not a file")]
    NotAFile,
    #[error("it has no Dockerfile to check")]
    NoDockerfile,
    #[error("there are {0} `.wasm` files in it: say which")]
    SeveralPrograms(usize),
    #[error("it has a `{file}` and no `.wasm`")]
    OnlySources {
        file: String,
        /// The commands that build it, as one line.
        steps: String,
    },
    #[error("it has no `Dockerfile`, no `margay.toml` and no `.wasm`")]
    Nothing,
}

/// Why no build file was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InitProblem {
    #[error("has a `margay.toml` already")]
    HasBuildFile,
    #[error("has a `Dockerfile`, which is a build file already")]
    HasDockerfile,
    #[error(
        "has no sources: no `Cargo.toml`, `go.mod`, `package.json`, `pyproject.toml`, `app.py` or `*.c`"
    )]
    NoSources,
    #[error("has sources in {found} (`{marker}`), and not in {asked}")]
    OtherLanguage { found: &'static str, marker: String, asked: &'static str },
    #[error("is a workspace of several crates")]
    Workspace,
    #[error("has sources in {language}, and none of them is known as the program: {missing}")]
    NoProgram { language: &'static str, missing: &'static str, hint: &'static str },
    #[error("has several sources in {language} that could be the program: `{}`", .files.join("`, `"))]
    SeveralPrograms { language: &'static str, files: Vec<String>, hint: &'static str },
}

impl InitProblem {
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::HasBuildFile => "build it: margay build. `--force` writes the file anew",
            Self::HasDockerfile => "build it: margay build",
            Self::NoSources => {
                "begin an app: margay init --language rust (or go, c, javascript, python)"
            }
            Self::OtherLanguage { .. } => {
                "leave `--language` out, or name a folder for a new app: margay init DIR"
            }
            Self::Workspace => "name the folder of one of its crates: margay init DIR",
            Self::NoProgram { hint, .. } | Self::SeveralPrograms { hint, .. } => hint,
        }
    }
}

/// Why a file or folder is not an image that can be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportProblem {
    #[error("it is {}", .0.name())]
    Kind(Sniffed),
    #[error("it is empty")]
    NoBytes,
    #[error("the folder has no `index.json`")]
    NoIndex,
    #[error("the tar has neither an `index.json` nor a `manifest.json`")]
    NeitherIndexNorManifest,
    #[error("it has no `{0}`")]
    Missing(String),
    #[error("`{name}`: {reason}")]
    BlobName { name: String, reason: spec::ParseError },
    #[error("it is an empty layout")]
    Empty,
    #[error("it has more than {0} images")]
    TooManyImages(usize),
    #[error("its `index.json` is no index")]
    ManifestAsIndex,
    #[error("its config is malformed: {0}")]
    Config(serde_json::Error),
    #[error("its config names {named} layers, and there are {found}")]
    LayerCount { named: usize, found: usize },
}

impl From<blobs::Error> for Error {
    fn from(error: blobs::Error) -> Self {
        match error {
            blobs::Error::Missing(digest) => Self::NoBlob(digest),
            blobs::Error::WrongDigest { expected, actual } => Self::Image {
                whose: format!("the blob `{}` cannot be stored", expected.short()),
                source: image::Error::WrongDigest {
                    what: "a blob".to_owned(),
                    expected,
                    found: actual,
                },
            },
            blobs::Error::Damaged { source } => {
                Self::Image { whose: "a stored blob cannot be used".to_owned(), source }
            }
            blobs::Error::Image { image, source } => {
                Self::Image { whose: format!("the image `{image}` cannot be used"), source }
            }
            blobs::Error::Io { action, path, source } => Self::Io { doing: action, path, source },
        }
    }
}

impl Error {
    /// The next thing that a user could try, where one is known.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Image { source, .. }
            | Self::Layer { refusal: source, .. }
            | Self::Program(source) => {
                return source.hint();
            }
            Self::BuildFile(diagnostic) => return diagnostic.instead(),
            Self::NoBuildFile { reason: NoBuildFile::OnlySources { steps, .. }, .. } => {
                return Some(format!(
                    "build it: {steps} (`margay init` writes a `margay.toml` that does)"
                ));
            }
            Self::Command { missing: Some(missing), .. } => {
                return Some(format!("what is missing: {missing}"));
            }
            Self::Init { problem, .. } => problem.hint(),
            Self::NoBuildFile { .. } => {
                "add a `Dockerfile` or a `margay.toml`, or name one `.wasm` file: margay build \
                 app.wasm"
            }
            Self::NoImage(reference) if reference.registry().is_some() => {
                return Some(format!("fetch it: margay pull {reference}"));
            }
            Self::Encode { .. } => {
                "it may import what WASI 0.1 and `wasi:http/types` have, and exports `memory` and \
                 `cabi_realloc`"
            }
            Self::NoImage(_) => "`margay images` lists what there is",
            Self::NoBlob(_) => "pull or build the image again",
            Self::NotAnImage { .. } => {
                "an image file is a `docker save` tar, an OCI layout (tar or folder), or a `.wasm`"
            }
            Self::Archive { .. } => "save or fetch it again: it may have been cut short",
            Self::Io { .. }
            | Self::Context { .. }
            | Self::CommandStart { .. }
            | Self::Command { .. } => return None,
        };
        Some(text.to_owned())
    }
}

/// Attaches the manifest whose image is refused.
pub(crate) fn unusable(manifest: &Digest) -> impl Fn(image::Error) -> Error + Copy + use<> {
    let manifest = *manifest;
    move |source| Error::Image { whose: format!("the image `{manifest}` cannot be used"), source }
}

/// Attaches what was being done, and to which path.
pub(crate) fn io_error(
    doing: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::Io { doing, path, source }
}
