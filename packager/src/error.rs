use std::{io, path::PathBuf};

use spec::{Digest, Reference};

/// Why an image was not built, stored, read in or written out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder of ours or of the user's.
    #[error("cannot {doing} `{}`", .path.display())]
    Io {
        /// `read`, `write`, …
        doing: &'static str,
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Bytes of an image that we would not touch.
    #[error("{}", .whose)]
    Image {
        /// What was being read, as in "`cats.tar` cannot be used".
        whose: String,
        /// Why not.
        source: image::Error,
    },
    /// A program that cannot be run, told by its own words.
    #[error(transparent)]
    Program(image::Error),
    /// There is nothing that says how to build.
    #[error("`{}` has nothing to build from: {why}", .path.display())]
    NoBuildFile {
        /// The folder.
        path: PathBuf,
        /// What was looked for.
        why: String,
    },
    /// The Dockerfile or `margay.toml` does not parse.
    #[error("`{file}`{}: {why}", at(*.line))]
    BuildFile {
        /// Its name.
        file: String,
        /// Where, counted from 1.
        line: Option<usize>,
        /// What is wrong.
        why: String,
    },
    /// `RUN`.
    #[error("`{file}`, line {line}: RUN is not executed here")]
    Run {
        /// The Dockerfile.
        file: String,
        /// Where.
        line: usize,
    },
    /// Another instruction, or part of one, that is known and not done.
    #[error("`{file}`, line {line}: {what}")]
    Unsupported {
        /// The Dockerfile.
        file: String,
        /// Where.
        line: usize,
        /// What, and why not.
        what: String,
        /// What to do instead.
        instead: String,
    },
    /// A source of COPY or ADD that is not there.
    #[error("`{file}`{}: there is no `{source_path}` in {tree}", at(*.line))]
    CopyMissing {
        /// The Dockerfile, or `margay.toml`.
        file: String,
        /// Where, counted from 1.
        line: Option<usize>,
        /// As written.
        source_path: String,
        /// Where it was looked for.
        tree: String,
        /// Whether `.dockerignore` leaves it out.
        ignored: bool,
    },
    /// A name in the build context that leads out of it, or to something that is no file.
    #[error("`{path}` in the build context {why}")]
    Context {
        /// Relative to the context.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The image in FROM, or in COPY --from, is not among the local ones.
    #[error("`{file}`, line {line}: there is no local image `{image}`")]
    NoBase {
        /// The Dockerfile.
        file: String,
        /// Where.
        line: usize,
        /// The image.
        image: Reference,
        /// A folder beside the context from which it could be built.
        folder: Option<PathBuf>,
    },
    /// ENTRYPOINT or CMD in shell form in an image without a shell.
    #[error("{instruction} in shell form needs a shell, which this image does not have")]
    ShellForm {
        /// ENTRYPOINT or CMD.
        instruction: &'static str,
    },
    /// The build command of `margay.toml` failed.
    #[error("the build command `{command}` failed: {why}")]
    Command {
        /// As written.
        command: String,
        /// How it ended.
        why: String,
    },
    /// No local image of that name.
    #[error("there is no local image `{0}`")]
    NoImage(Reference),
    /// An image that lacks one of its blobs.
    #[error("the blob `{0}` is missing")]
    NoBlob(Digest),
    /// Something that is no image archive, or not one we know.
    #[error("`{}` is not an image: {why}", .path.display())]
    NotAnImage {
        /// The file or folder.
        path: PathBuf,
        /// What was looked for.
        why: String,
    },
}

impl Error {
    /// The next thing a person could try, when we know one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Image { source, .. } | Self::Program(source) => source.hint(),
            Self::NoBuildFile { .. } => {
                Some("add a `Dockerfile` or a `margay.toml`, or name one `.wasm` file: margay build app.wasm".to_owned())
            }
            Self::Run { .. } => Some(
                "build outside of the image (`cargo build`, `npm run build`, …) and COPY the result, or COPY --from an \
                 image that another tool has built"
                    .to_owned(),
            ),
            Self::Unsupported { instead, .. } => Some(instead.clone()),
            Self::CopyMissing { ignored: true, .. } => {
                Some("`.dockerignore` leaves it out: add a line with `!` and its name".to_owned())
            }
            Self::CopyMissing { line: None, .. } => {
                Some("paths in `margay.toml` are relative to the folder given to `margay build`".to_owned())
            }
            Self::CopyMissing { .. } => {
                Some("paths in COPY are relative to the build context, the folder given to `margay build`".to_owned())
            }
            Self::NoBase { image, folder: Some(folder), .. } => {
                Some(format!("build it first: margay build -t {} {}", short_name(image), folder.display()))
            }
            Self::NoBase { image, .. } if image.registry().is_some() => {
                Some(format!("fetch it first: margay pull {image}"))
            }
            Self::NoBase { image, .. } => Some(format!(
                "build it first: margay build -t {} FOLDER; or name it with its registry and pull it",
                short_name(image)
            )),
            Self::ShellForm { instruction, .. } => {
                Some(format!("write the arguments as a list: {instruction} [\"/app.wasm\", \"argument\"]"))
            }
            Self::NoImage(reference) => match reference.registry() {
                Some(_) => Some(format!("fetch it: margay pull {reference}")),
                None => Some("`margay images` lists what there is".to_owned()),
            },
            Self::NoBlob(_) => Some("pull or build the image again".to_owned()),
            Self::NotAnImage { .. } => {
                Some("an image file is a `docker save` tar, an OCI layout (tar or folder), or a `.wasm`".to_owned())
            }
            Self::Io { .. } | Self::BuildFile { .. } | Self::Context { .. } | Self::Command { .. } => None,
        }
    }
}

fn at(line: Option<usize>) -> String {
    line.map(|line| format!(", line {line}")).unwrap_or_default()
}

/// As a person would write it: without `:latest`.
fn short_name(image: &Reference) -> String {
    let text = image.to_string();
    text.strip_suffix(":latest").map_or(text.clone(), str::to_owned)
}

/// Attaches what was being done, and to which path.
pub(crate) fn io_error(
    doing: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::Io { doing, path, source }
}
