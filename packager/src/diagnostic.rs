use std::{
    error::Error as StdError,
    fmt,
    path::{Path, PathBuf},
};

use image::{InvalidName, Sniffed};
use spec::{Digest, Platform, Reference};

use crate::limits::{
    CONTEXT_DEPTH_MAX, CONTEXT_ENTRIES_MAX, EXPANDED_BYTES_MAX, ITEMS_MAX, LAYERS_MAX,
    LINE_BYTES_MAX, LINKS_MAX, MESSAGE_CHARS_MAX, NESTING_MAX, QUOTED_CHARS_MAX, VARIABLES_MAX,
    WARNINGS_MAX,
};

/// What is wrong at one place of a build file. Printed as "`Dockerfile`, line 3, column 1: …".
#[derive(Debug)]
pub struct Diagnostic {
    /// The name of the build file.
    pub file: String,
    /// `None` where no single line is at fault.
    pub place: Option<Place>,
    pub kind: DiagnosticKind,
}

/// A place in a build file, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub line: usize,
    pub column: Option<usize>,
}

impl Place {
    pub(crate) fn line(line: usize) -> Self {
        Self { line, column: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        self.column.map_or(Ok(()), |column| write!(f, ", column {column}"))
    }
}

/// Why a build file, or one of its instructions, cannot be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiagnosticKind {
    #[error("it is not UTF-8")]
    NotUtf8,
    #[error("{}", .0.message().trim().replace('\n', ", "))]
    Toml(toml::de::Error),
    #[error("there is no instruction `{0}`")]
    UnknownInstruction(String),
    #[error("it has no instruction")]
    Empty,
    #[error("it has no FROM")]
    NoFrom,
    #[error("only ARG may stand before the first FROM")]
    BeforeFrom,
    #[error("the line has more than {LINE_BYTES_MAX} bytes")]
    LineTooLong,
    #[error("`# {0}` stands there for the second time")]
    SecondDirective(String),
    #[error("`{0}` cannot be the escape: it is a backslash or a backtick")]
    Escape(String),
    #[error("the here-document `{0}` has no end")]
    OpenDocument(String),
    #[error("{0} has no arguments")]
    NoArguments(&'static str),
    #[error("{0} has no value")]
    NoValue(&'static str),
    #[error("`{0}` is not NAME=value")]
    NotAPair(String),
    #[error("`{0}` has no name")]
    NoName(String),
    #[error("the list holds something else than strings")]
    NotStrings,
    #[error("SHELL takes a list: SHELL [\"/bin/sh\", \"-c\"]")]
    ShellNotJson,
    #[error("{instruction} has no `--{flag}`")]
    Flag { instruction: &'static str, flag: String },
    #[error("{instruction} has `--{flag}` twice")]
    SecondFlag { instruction: &'static str, flag: String },
    #[error("`--{0}` is `true` or `false`")]
    FlagBool(String),
    #[error("`--{0}` has no value")]
    FlagWithoutValue(String),
    #[error("FROM takes an image, and a name behind AS: FROM IMAGE AS NAME")]
    FromArguments,
    #[error(
        "`{0}` cannot be the name of a stage: use a letter, then letters, digits, `-`, `_`, `.`"
    )]
    StageName(String),
    #[error("{0} has one path and needs two: what to copy, and the destination")]
    NoDestination(&'static str),
    #[error("a here-document cannot be a destination")]
    DocumentAsDestination,
    #[error("the here-document `{0}` cannot be a file: its name leads elsewhere")]
    DocumentName(String),
    #[error("`{0}` cannot be in ONBUILD")]
    OnbuildVerb(String),
    #[error("`{0}` is not one instruction")]
    Trigger(String),
    #[error("HEALTHCHECK NONE has no arguments")]
    HealthcheckNone,
    #[error("HEALTHCHECK has no `{0}`: it has CMD and NONE")]
    HealthcheckKind(String),
    #[error("`{0}` is not a signal like TERM, SIGINT or 9")]
    Signal(String),
    #[error(
        "the image is empty: FROM puts no variable of a stage in, only ARG above the first FROM"
    )]
    NoImageName,
    #[error("COPY --from takes no variables: name a stage with FROM and use its name")]
    FromVariable,
    #[error("`--from={0}` is not an earlier stage")]
    LaterStage(String),
    #[error("`--checksum` is for what ADD fetches")]
    Checksum,
    #[error(
        "`--chown={0}` with `--link` takes numbers: names would be those of an image that is not there"
    )]
    LinkedNames(String),
    #[error("`{0}` is not a user and group like 1000:1000, or has a number that is too large")]
    Chown(String),
    #[error("`{pattern}` is not a pattern of paths")]
    PathPattern { pattern: String },
    #[error("it has {found} {what}, at most {max}")]
    TooMany { what: &'static str, found: usize, max: usize },
    #[error(transparent)]
    Expansion(#[from] ExpansionError),

    #[error("there is no stage `{name}`{}", named(.known))]
    NoStage {
        name: String,
        /// The names that stages of the file have.
        known: Vec<String>,
    },
    #[error(transparent)]
    Reference(spec::ParseError),
    #[error("`{0}` is not a platform like linux/amd64")]
    Platform(String),
    #[error("there is no local image `{image}`{}", fetching(.why))]
    NoBase {
        image: Reference,
        /// Why it could not be fetched, if that was tried.
        why: Option<String>,
        /// A folder beside the context from which it could be built.
        folder: Option<PathBuf>,
    },

    #[error("RUN is not supported: a build executes no programs")]
    Run,
    #[error(
        "the base asks for `ONBUILD {0}`, and RUN is not supported: a build executes no programs"
    )]
    RunTrigger(String),
    #[error("the image has more than {VARIABLES_MAX} variables")]
    TooManyVariables,
    #[error("`{0}` is not a port like 80, 53/udp or 8000-8010")]
    Port(String),
    #[error("`{0}` is not a user: use NAME, UID, NAME:GROUP or UID:GID")]
    User(String),
    #[error("`{0}` is not a duration like 500ms, 30s, 1m30s or 1.5h")]
    Duration(String),
    #[error("`{0}` is not a number")]
    Number(String),
    #[error(transparent)]
    Wants(image::Error),
    #[error(transparent)]
    Reuse(image::Error),
    #[error(transparent)]
    Program(image::Error),

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
    #[error("`{path}` in the build context {problem}")]
    Context { path: String, problem: ContextProblem },
    #[error("`/{0}` is a file already, and no folder can take its place")]
    FileInTheWay(String),
    #[error("`/{0}` is a link in the image, and no folder can take its place")]
    LinkInTheWay(String),
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

/// Why a path of the build context cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContextProblem {
    #[error("holds `{0}`, which is not a pattern")]
    IgnorePattern(String),
    #[error("leads through a link of the archive")]
    ThroughLink,
    #[error("is a link that leads in a circle")]
    LinkLoop,
    #[error("is {0}, which no image can hold")]
    Special(&'static str),
    #[error("is a folder, and not a program")]
    IsFolder,
    #[error("is more than {CONTEXT_DEPTH_MAX} folders deep")]
    TooDeep,
    #[error("is one of more than {CONTEXT_ENTRIES_MAX} files: name the folders to copy")]
    TooManyFiles,
    #[error("has more than {bytes_max} bytes")]
    TooLarge { bytes_max: u64 },
    #[error("has a name that is not UTF-8")]
    NameNotUtf8,
    #[error("changed while the image was built")]
    Changed,
    #[error("changed its size while the image was built")]
    SizeChanged,
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
    #[error("`{0}` has no name")]
    NoVariable(String),
    #[error("`{0}` is of a form that is not known")]
    UnknownForm(String),
    #[error("`{0}` has no `/` and no replacement behind it")]
    NoReplacement(String),
    #[error("`{0}` is not a pattern: a backslash stands before `*`, `?`, `\\`, `/` or `}}`")]
    Pattern(String),
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
}

impl Diagnostic {
    /// What the author of the build file can write or do instead.
    pub fn instead(&self) -> Option<String> {
        let text = match &self.kind {
            DiagnosticKind::Run | DiagnosticKind::RunTrigger(_) => {
                "build outside of the image (`cargo build`, `npm run build`, …) and COPY the \
                 result, or COPY --from an \
                 image that another tool has built"
            }
            DiagnosticKind::LinkInTheWay(path) => {
                return Some(format!("copy what is in the folder: COPY SOURCE/ /{path}/"));
            }
            DiagnosticKind::Url(_) => "fetch it outside, check its digest, and COPY the file",
            DiagnosticKind::Missing { ignored: true, .. } => {
                "`.dockerignore` leaves it out: add a line with `!` and its name"
            }
            DiagnosticKind::Missing { .. } if self.place.is_none() => {
                "paths in `margay.toml` are relative to the folder given to `margay build`"
            }
            DiagnosticKind::Missing { .. } => {
                "paths in COPY are relative to the build context, the folder given to `margay \
                 build`"
            }
            DiagnosticKind::NoBase { image, folder, .. } => return Some(base_hint(image, folder)),
            DiagnosticKind::Wants(source)
            | DiagnosticKind::Reuse(source)
            | DiagnosticKind::Program(source) => return source.hint(),
            _ => return None,
        };
        Some(text.to_owned())
    }
}

fn fetching(why: &Option<String>) -> String {
    why.as_ref().map(|why| format!(", and it cannot be pulled: {why}")).unwrap_or_default()
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
        if let Some(place) = self.place {
            write!(f, ", {place}")?;
        }
        write!(f, ": {}", shortened(&self.kind.to_string(), MESSAGE_CHARS_MAX))
    }
}

impl StdError for Diagnostic {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.kind.source()
    }
}

fn named(known: &[String]) -> String {
    match known {
        [] => ": no FROM of the file names one with AS".to_owned(),
        _ => format!(": the file has `{}`", known.join("`, `")),
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
    /// `None` where no single line is meant.
    pub place: Option<Place>,
    pub kind: WarningKind,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WarningKind {
    #[error("`{0}` in the build context is {1}: it is left out")]
    Special(String, &'static str),
    #[error(
        "`{0}` is neither in `/etc/passwd` nor in `/etc/group` of the image: root takes its place"
    )]
    UnknownOwner(String),
    #[error("FROM --platform={wanted} is ignored: the local `{image}` is for {found}")]
    PlatformIgnored { wanted: Platform, image: Reference, found: Platform },
    #[error("the build argument `{0}` is not used: no ARG of that name")]
    UnusedArgument(String),
    #[error("the build argument `{argument}` is not used: `{file}` has none")]
    NoArguments { argument: String, file: String },
    #[error("`{reference}` was another image until now (`{before}`); -t gives another name")]
    NameTaken { reference: Reference, before: Digest },
    #[error(
        "there is no `{0}` in the image yet: it can be run once a volume or an image on top of it \
         brings it"
    )]
    NoProgramYet(String),
    #[error(
        "{instruction} in shell form needs a shell, and there is no `{name}` in the image: write it \
         as a list, {instruction} [\"program\", \"argument\"]"
    )]
    NoShell { instruction: &'static str, name: String },
    #[error("--platform={wanted} is ignored: the program is for {found}")]
    PlatformOfProgram { wanted: Platform, found: Platform },
    #[error("the image names no program: it can be a base for others, and cannot be run")]
    NoProgram,
}

impl From<WarningKind> for Warning {
    fn from(kind: WarningKind) -> Self {
        Self { place: None, kind }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&shortened(&self.kind.to_string(), MESSAGE_CHARS_MAX))
    }
}

/// Warnings about the lines of one build file, at most [`WARNINGS_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Warnings(pub(crate) Vec<Warning>);

impl Warnings {
    pub(crate) fn add(&mut self, place: Place, kind: WarningKind) {
        if self.0.len() < WARNINGS_MAX {
            self.0.push(Warning { place: Some(place), kind });
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
