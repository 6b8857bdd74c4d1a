/// A Dockerfile, parsed; no word is expanded yet.
#[derive(Debug)]
pub(crate) struct Dockerfile {
    /// `# escape`: what takes the next character literally.
    pub(crate) escape: char,
    /// The text of each ARG before the first FROM.
    pub(crate) global_args: Vec<Step>,
    /// At least one.
    pub(crate) stages: Vec<BuildStage>,
}

/// A FROM, and what follows it.
#[derive(Debug)]
pub(crate) struct BuildStage {
    pub(crate) line: usize,
    pub(crate) flags: Vec<Flag>,
    pub(crate) image: Word,
    /// The name that AS gives.
    pub(crate) name: Option<String>,
    pub(crate) steps: Vec<Step>,
}

/// An instruction, and where it stands.
#[derive(Debug)]
pub(crate) struct Step {
    /// Counted from 1.
    pub(crate) line: usize,
    /// Its first line, for messages and for the history.
    pub(crate) text: String,
    pub(crate) instruction: Instruction,
}

#[derive(Debug)]
pub(crate) enum Instruction {
    Arg(String),
    Cmd(Command),
    /// COPY and ADD.
    Copy(CopyInstruction),
    Entrypoint(Command),
    Env(String),
    Expose(Vec<Word>),
    Healthcheck {
        flags: Vec<Flag>,
        /// `None` for `HEALTHCHECK NONE`.
        test: Option<Command>,
    },
    Label(String),
    Maintainer,
    Onbuild,
    Run,
    Shell(Vec<String>),
    Stopsignal(Word),
    User(Word),
    Volume(Vec<Word>),
    Workdir(Word),
}

#[derive(Debug)]
pub(crate) struct CopyInstruction {
    pub(crate) verb: Verb,
    pub(crate) flags: Vec<Flag>,
    pub(crate) sources: Vec<Word>,
    pub(crate) documents: Vec<HereDocument>,
    pub(crate) destination: Word,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Copy,
    Add,
}

impl Verb {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Copy => "COPY",
            Self::Add => "ADD",
        }
    }
}

#[derive(Debug)]
pub(crate) struct HereDocument {
    /// Its delimiter, which is its file name in a folder.
    pub(crate) name: String,
    pub(crate) text: String,
    /// Whether variables are put in: not behind a quoted delimiter.
    pub(crate) expand: bool,
}

/// Arguments as a list, or as one line for a shell.
#[derive(Debug)]
pub(crate) enum Command {
    Exec(Vec<String>),
    Shell(String),
}

/// `--name=value`
#[derive(Debug)]
pub(crate) struct Flag {
    pub(crate) line: usize,
    pub(crate) name: String,
    pub(crate) value: Option<Word>,
}

/// A word with the line where it stands, which is not that of the instruction when that goes on
/// over several lines.
#[derive(Debug)]
pub(crate) struct Word {
    pub(crate) line: usize,
    pub(crate) text: String,
}
