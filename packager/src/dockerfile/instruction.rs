use crate::diagnostic::Place;

/// A Dockerfile, parsed; no word is expanded yet.
#[derive(Debug)]
pub(crate) struct Dockerfile {
    /// `# escape`: what takes the next character literally.
    pub(crate) escape: char,
    /// Each ARG before the first FROM.
    pub(crate) global_args: Vec<Step>,
    /// At least one.
    pub(crate) stages: Vec<BuildStage>,
}

/// A FROM, and what follows it.
#[derive(Debug)]
pub(crate) struct BuildStage {
    pub(crate) place: Place,
    pub(crate) platform: Option<Word>,
    pub(crate) image: Word,
    /// The name that AS gives, in lower case.
    pub(crate) name: Option<String>,
    pub(crate) steps: Vec<Step>,
}

/// An instruction, and where it stands.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) place: Place,
    /// Its beginning, for messages and for the history.
    pub(crate) text: String,
    pub(crate) instruction: Instruction,
}

#[derive(Debug)]
pub(crate) enum Instruction {
    Arg(Vec<Argument>),
    Cmd(Command),
    /// COPY and ADD.
    Copy(CopyInstruction),
    Entrypoint(Command),
    Env(Vec<Pair>),
    Expose(Vec<Word>),
    Healthcheck(spec::HealthCheck),
    Label(Vec<Pair>),
    Maintainer(String),
    /// What it holds, as written.
    Onbuild(String),
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

#[derive(Debug, Clone)]
pub(crate) struct HereDocument {
    /// Its delimiter, which is its file name in a folder.
    pub(crate) name: String,
    pub(crate) text: String,
    /// Whether variables are put in: not behind a quoted delimiter.
    pub(crate) expand: bool,
}

/// `NAME` or `NAME=default`
#[derive(Debug)]
pub(crate) struct Argument {
    pub(crate) name: String,
    pub(crate) default: Option<Word>,
}

/// `NAME=value`
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) name: Word,
    pub(crate) value: Word,
}

/// Arguments as a list, or as one line for a shell.
#[derive(Debug)]
pub(crate) enum Command {
    Exec(Vec<String>),
    Shell(String),
}

/// `--name=value`, or `--name` with the value `true`.
#[derive(Debug)]
pub(crate) struct Flag {
    pub(crate) name: String,
    pub(crate) value: Word,
}

/// A word with the place where it stands, which is not that of the instruction.
#[derive(Debug)]
pub(crate) struct Word {
    pub(crate) place: Place,
    pub(crate) text: String,
}
