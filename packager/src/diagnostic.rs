use std::{
    error::Error as StdError,
    fmt,
    path::{Path, PathBuf},
};

use image::{InvalidName, Sniffed};
use spec::{Digest, Platform, Reference};

use crate::limits::{
    EXPANDED_BYTES_MAX, ITEMS_MAX, LAYERS_MAX, LINKS_MAX, MESSAGE_CHARS_MAX, NESTING_MAX,
    PORT_RANGE_MAX, QUOTED_CHARS_MAX, VARIABLES_MAX, WARNINGS_MAX,
};

/// What is wrong at one place of a build file. Printed as "`Dockerfile`, line 3: …".
#[derive(Debug)]
pub struct Diagnostic {
    /// The name of the build file.
    pub file: String,
    /// Counted from 1; `None` where no single line is at fault.
    pub line: Option<usize>,
    pub kind: DiagnosticKind,
}

/// Why a build file, or one of its instructions, cannot be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiagnosticKind {
    #[error("it is not UTF-8")]
    NotUtf8,
    #[error(transparent)]
    Syntax(Syntax),
    #[error("{}", .0.message().trim().replace('\n', ", "))]
    Toml(toml::de::Error),
    #[error("it has an instruction that is not supported")]
    UnknownInstruction,
    #[error("it has {found} {what}, at most {max}")]
    TooMany { what: &'static str, found: usize, max: usize },
    #[error(transparent)]
    Expansion(#[from] ExpansionError),

    #[error("there is no stage `{0}`")]
    NoStage(String),
    #[error(transparent)]
    Reference(spec::ParseError),
    #[error("FROM has no `--{0}`: it has `--platform=linux/amd64`")]
    FromFlag(String),
    #[error("`{0}` is not a platform like linux/amd64")]
    Platform(String),
    #[error("there is no local image `{image}`")]
    NoBase {
        image: Reference,
        /// A folder beside the context from which it could be built.
        folder: Option<PathBuf>,
    },
    #[error("`{image}` asks for `ONBUILD {trigger}`, which is not supported")]
    BaseTrigger { image: String, trigger: String },

    #[error("RUN is not supported: a build executes no programs")]
    Run,
    #[error("ONBUILD is not supported")]
    Onbuild,
    #[error("the image has more than {VARIABLES_MAX} variables")]
    TooManyVariables,
    #[error("`{0}` is not a port like 80, 53/udp or 8000-8010")]
    Port(String),
    #[error("`{0}` is a range of no or of more than {PORT_RANGE_MAX} ports")]
    PortRange(String),
    #[error("`{0}` is not a user: use NAME, UID, NAME:GROUP or UID:GID")]
    User(String),
    #[error("`{0}` is not a duration like 500ms, 30s, 1m30s or 1.5h")]
    Duration(String),
    #[error("`{0}` is not a number")]
    Number(String),
    #[error("HEALTHCHECK has no `--{0}`")]
    HealthcheckFlag(String),
    #[error(transparent)]
    Wants(image::Error),

    #[error("{verb} --{flag} is not supported")]
    CopyFlag { verb: &'static str, flag: String },
    #[error("`--chmod={0}` is not a mode like 755 or u=rwx,go=rx")]
    Mode(String),
    #[error("ADD does not fetch `{0}`")]
    Url(String),
    #[error("`{}` is longer than any path", shortened(.0, QUOTED_CHARS_MAX))]
    PathTooLong(String),
    #[error("there is no `{path}` in {tree}")]
    Missing {
        path: String,
        tree: SourceTree,
        /// Whether it is in the context, and `.dockerignore` excludes it.
        ignored: bool,
    },
    #[error("`{0}` leads out of the build context")]
    LeavesContext(String),
    #[error("{sources} sources go to `{destination}`, which is not a folder: put a `/` at its end")]
    DestinationNotAFolder { sources: usize, destination: String },
    #[error("`/{0}` is a file already, and no folder can take its place")]
    FileInTheWay(String),
    #[error("`/{0}` is a folder already, and no file can take its place")]
    FolderInTheWay(String),
    #[error("`{path}` cannot be in an image: {reason}")]
    PathInImage { path: String, reason: InvalidName },
    #[error("`{0}` leads through more than {LINKS_MAX} links")]
    TooManyLinks(String),
    #[error("its stages hold more than {ITEMS_MAX} files and folders")]
    TooManyItems,
    #[error("the image would have more than {} layers: COPY more at once", LAYERS_MAX - 1)]
    TooManyLayers,
    #[error(
        "`{0}` is compressed with bzip2 or xz, which ADD does not unpack: use gzip or zstd, or \
         COPY it as it is"
    )]
    Compression(String),
    #[error("`{entry}` in the archive `{archive}` {reason}")]
    ArchiveEntry { archive: String, entry: String, reason: ArchiveProblem },

    #[error("`{0}` in `files` is not absolute")]
    FilesNotAbsolute(String),
    #[error("`{path}` in `files` cannot be in an image: {reason}")]
    FilesPath { path: String, reason: InvalidName },
    #[error("`{0}` is not a file")]
    NotAFile(String),
    #[error("`{0}` in `native` is not like `linux-amd64`")]
    NativePlatform(String),
    #[error("`{path}` is {}, not a native program", .kind.name())]
    NotNative { path: String, kind: Sniffed },
    #[error("`{path}` is for {}, not for `{platform}`", .machine.unwrap_or("another machine"))]
    WrongMachine { path: String, machine: Option<&'static str>, platform: String },
}

/// Why ADD does not unpack an entry of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveProblem {
    #[error("leads through a link or a file of the archive")]
    ThroughLink,
    #[error("is a hard link to something that is not in it")]
    MissingHardLink,
    #[error("is a whiteout, which only layers have")]
    Whiteout,
    #[error("is beyond what a layer may hold")]
    TooLarge,
    #[error("is {0}, which ADD does not make")]
    Special(&'static str),
    #[error("has a name that is not UTF-8")]
    NotUtf8,
}

/// Where the sources of a COPY are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceTree {
    Context(PathBuf),
    /// A stage or an image, by the name that `--from` gives.
    Image(String),
}

impl fmt::Display for SourceTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Context(path) => write!(f, "the build context `{}`", path.display()),
            Self::Image(name) => write!(f, "`{name}`"),
        }
    }
}

/// What is wrong with a word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExpansionError {
    #[error("`{word}` has a `{quote}` without its end")]
    OpenQuote { word: String, quote: char },
    #[error("`${0}` has no `}}`")]
    OpenBrace(String),
    #[error("`${{{0}}}` has no name")]
    NoVariable(String),
    #[error("`${{{0}}}` is of a form that is not known")]
    UnknownForm(String),
    #[error("its variables are nested more than {NESTING_MAX} deep")]
    TooDeep,
    #[error(
        "with `${name}`, variables bring too much text into it: at most {} MiB",
        EXPANDED_BYTES_MAX >> 20
    )]
    TooMuchText { name: String },
    #[error("matching patterns against `${name}` takes too many steps")]
    TooMuchWork { name: String },
    #[error("`{name}` is required: {message}")]
    Required { name: String, message: String },
    #[error("`{0}` is not NAME=value")]
    NotAPair(String),
    #[error("`{0}` has no name")]
    NoName(String),
}

/// The parser's error, without the position that it prints at its end.
#[derive(Debug)]
pub struct Syntax(pub(crate) parse_dockerfile::Error);

impl fmt::Display for Syntax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        f.write_str(text.split(" at line ").next().unwrap_or_default())
    }
}

impl StdError for Syntax {}

impl Diagnostic {
    /// What the author of the build file can write or do instead.
    pub fn instead(&self) -> Option<String> {
        let text = match &self.kind {
            DiagnosticKind::Run => {
                "build outside of the image (`cargo build`, `npm run build`, …) and COPY the \
                 result, or COPY --from an \
                 image that another tool has built"
            }
            DiagnosticKind::Onbuild => "write the instruction where it is needed",
            DiagnosticKind::BaseTrigger { .. } => {
                "build the base without ONBUILD, and write the instruction behind FROM"
            }
            DiagnosticKind::Url(_) => "fetch it outside, check its digest, and COPY the file",
            DiagnosticKind::CopyFlag { .. } => "leave it out, or use several COPY lines",
            DiagnosticKind::Missing { ignored: true, .. } => {
                "`.dockerignore` leaves it out: add a line with `!` and its name"
            }
            DiagnosticKind::Missing { .. } if self.line.is_none() => {
                "paths in `margay.toml` are relative to the folder given to `margay build`"
            }
            DiagnosticKind::Missing { .. } => {
                "paths in COPY are relative to the build context, the folder given to `margay \
                 build`"
            }
            DiagnosticKind::NoBase { image, folder } => return Some(base_hint(image, folder)),
            DiagnosticKind::Wants(source) => return source.hint(),
            _ => return None,
        };
        Some(text.to_owned())
    }
}

fn base_hint(image: &Reference, folder: &Option<PathBuf>) -> String {
    let name = image.to_string();
    let short = name.strip_suffix(":latest").unwrap_or(&name);
    match folder {
        Some(folder) => format!("build it first: margay build -t {short} {}", folder.display()),
        None if image.registry().is_some() => format!("fetch it first: margay pull {image}"),
        None => format!(
            "build it first: margay build -t {short} FOLDER; or name it with its registry and pull \
             it"
        ),
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.file)?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}", shortened(&self.kind.to_string(), MESSAGE_CHARS_MAX))
    }
}

impl StdError for Diagnostic {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.kind.source()
    }
}

impl DiagnosticKind {
    pub(crate) fn missing_in_context(path: &str, context: &Path, ignored: bool) -> Self {
        Self::Missing { path: path.to_owned(), tree: SourceTree::Context(context.into()), ignored }
    }
}

/// Something that the author of a build file should know although the build succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Counted from 1; `None` where no single line is meant.
    pub line: Option<usize>,
    pub kind: WarningKind,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WarningKind {
    #[error("{0} --chown is ignored: every file belongs to root")]
    ChownIgnored(&'static str),
    #[error("HEALTHCHECK --start-interval is ignored: `--interval` counts from the start")]
    StartIntervalIgnored,
    #[error("MAINTAINER is ignored: use LABEL org.opencontainers.image.authors")]
    MaintainerIgnored,
    #[error("FROM --platform={wanted} is ignored: the local `{image}` is for {found}")]
    PlatformIgnored { wanted: Platform, image: Reference, found: Platform },
    #[error("the build argument `{0}` is not used: no ARG of that name")]
    UnusedArgument(String),
    #[error("the build argument `{argument}` is not used: `{file}` has none")]
    NoArguments { argument: String, file: String },
    #[error("`{reference}` was another image until now (`{before}`); -t gives another name")]
    NameTaken { reference: Reference, before: Digest },
    #[error("the image names no program: it can be a base for others, and cannot be run")]
    NoProgram,
}

impl From<WarningKind> for Warning {
    fn from(kind: WarningKind) -> Self {
        Self { line: None, kind }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        f.write_str(&shortened(&self.kind.to_string(), MESSAGE_CHARS_MAX))
    }
}

/// Warnings about the lines of one build file, at most [`WARNINGS_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Warnings(pub(crate) Vec<Warning>);

impl Warnings {
    pub(crate) fn add(&mut self, line: usize, kind: WarningKind) {
        if self.0.len() < WARNINGS_MAX {
            self.0.push(Warning { line: Some(line), kind });
        }
    }
}

/// `text`, or its beginning.
pub(crate) fn shortened(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
