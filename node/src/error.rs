use std::{io, path::PathBuf};

use engine::StartFailure;
use spec::{
    Capability, Digest, FileGrant, MissingGrant, NodeId, ParseError, SecretGrant, Transport,
    wire::Fault,
};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("cannot {verb} `{}`", .path.display())]
    File { verb: &'static str, path: PathBuf, source: io::Error },
    #[error("`{}` is damaged: {why}", .path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("`{}`: {source}", .path.display())]
    Newer { path: PathBuf, source: ParseError },
    #[error("no task is called `{0}`")]
    NoSuchTask(String),
    /// An id was shortened too much.
    #[error("`{text}` could be any of {candidates:?}")]
    Ambiguous { text: String, candidates: Vec<String> },
    #[error("the name `{name}` is taken by task `{id}`")]
    NameTaken { name: String, id: String },
    #[error(
        "`{0}` cannot name a task: use 200 letters, digits, `_`, `.` and `-` at most, \
         beginning with a letter or digit"
    )]
    BadName(String),
    #[error("the task is called `{0}` already")]
    SameName(String),
    #[error("task `{0}` is not running")]
    NotRunning(String),
    #[error("`{task}` runs WebAssembly, and a Wasm program cannot receive signal {signal}")]
    NoSignals { task: String, signal: i32 },
    /// Its request was not kept: it was not made by `margay run` or `create` of this version.
    #[error("task `{0}` cannot be started again: how it was started was not kept")]
    NotKept(String),
    #[error("task `{0}` keeps no log")]
    NoLog(String),
    #[error("no volume is called `{0}`")]
    NoSuchVolume(String),
    #[error("volume `{volume}` is mounted by task `{task}`")]
    VolumeInUse { volume: String, task: String },
    /// A task runs, and what was asked needs it not to.
    #[error("task `{0}` is running")]
    StillRunning(String),
    /// What was asked needs it to run.
    #[error("task `{task}` is not running: it {state}")]
    NotJoinable { task: String, state: String, hint: Option<String> },
    #[error("task `{0}` is held by another process")]
    Held(String),
    /// A start waits for a copy, or a copy for a start.
    #[error("task `{0}` is being started, or its files are being copied")]
    Copied(String),
    #[error("port {port} of the host is taken")]
    PortTaken { port: u16, transport: Transport, task: Option<String> },
    #[error("cannot listen on port {port}")]
    Listen { port: u16, source: io::Error },
    #[error("`{text}` is not {what}")]
    BadArgument { text: String, what: &'static str },
    /// The image needs something that was not granted.
    #[error("{0}")]
    NotGranted(#[from] MissingGrant),
    #[error("secret `{0}` is granted but no value was provided")]
    NoSecret(String),
    #[error("secret `{0}` is not text, and a variable can hold nothing else")]
    SecretIsNotText(String),
    #[error("image `{0}` is a Linux program of the pool, and this node runs none of other tenants")]
    PoolNative(String),
    /// Neither a local image nor one that can be pulled.
    #[error("there is no image `{0}` here")]
    NoSuchImage(String),
    #[error("cannot fetch image `{image}`: {why}")]
    Fetch { image: String, why: String, hint: Option<String> },
    #[error("cannot prepare image `{image}`: {why}")]
    Prepare { image: Digest, why: String, hint: Option<String>, failure: StartFailure },
    /// A worker could not be started, or did not take its task.
    #[error("cannot start `{task}`: {why}")]
    Start {
        task: String,
        why: String,
        hint: Option<String>,
        /// Docker's for it: 127 for a program that is not there, 126 for one that cannot run, 125
        exit_code: u8,
    },
    /// A task in the background could not be started.
    #[error("{message}")]
    Kept {
        message: String,
        hint: Option<String>,
        /// As in [`Error::Start`].
        exit_code: u8,
    },
    #[error("`{flag}` means nothing for a Wasm program: {why}")]
    NotForWasm { flag: &'static str, why: &'static str, hint: &'static str },
    /// A native image cannot be run here, or not like this.
    #[error("{why}")]
    Native { why: String, hint: Option<String> },
    /// Joining, or talking to, the control plane failed.
    #[error("cannot reach the control plane at `{address}`: {why}")]
    ControlPlane { address: String, why: String },
    /// It answers, and with something that this version does not know.
    #[error("the control plane at `{address}` says what this version does not understand: {why}")]
    NotUnderstood { address: String, why: String },
    #[error("the control plane refused: {0}")]
    Refused(Fault),
    #[error("this is not a join token: {0}")]
    BadToken(String),
    /// The certificate or key of this node does not work.
    #[error("cannot use this node's certificate: {0}")]
    Identity(String),
    #[error("this node has not joined a control plane: `{}` is missing", .0.display())]
    NotJoined(PathBuf),
    /// Its control plane does not know this node any more.
    #[error("node `{0}` was removed from its platform: its tasks have ended")]
    Removed(NodeId),
    #[error("another agent runs here: it holds `{}`", .0.display())]
    AgentRuns(PathBuf),
    #[error("task `{task}` did not answer: {why}")]
    NoAnswer { task: String, why: String },
    /// Nothing is at a path of a task.
    #[error("could not find the file `{path}` in task `{task}`")]
    NoSuchFile { task: String, path: String },
    /// A copy in or out of a task.
    #[error("cannot {what}: {why}")]
    Copy { what: String, why: String, hint: Option<String> },
    #[error("cannot {verb}")]
    System { verb: &'static str, source: io::Error },
    #[error(transparent)]
    Certificate(net::tls::CertificateError),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What to try next, where something is known.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Certificate(error) => error.hint().to_owned(),
            Self::PortTaken { task: Some(task), .. } => {
                format!("task `{task}` has it: margay stop {task}, or publish another port with -p")
            }
            Self::PortTaken { port, transport, task: None } => {
                let tables = if transport.is_tcp() { "-ltnp" } else { "-lunp" };
                format!(
                    "see which process has it: ss {tables} 'sport = :{port}', \
                     or publish another port with -p"
                )
            }
            Self::NoLog(_) => "make it without --log-driver none to have one".to_owned(),
            Self::Listen { port, source }
                if source.kind() == io::ErrorKind::PermissionDenied && *port < 1024 =>
            {
                "ports below 1024 need root here: publish a higher one with -p".to_owned()
            }
            Self::NotGranted(missing) => how_to_grant(&missing.0),
            Self::NotForWasm { hint, .. } => (*hint).to_owned(),
            Self::NoSecret(name) => format!("hand it in: --secret {name}=FILE"),
            Self::SecretIsNotText(name) => {
                format!("hand it over as a file: grant `secret:{name}` without `;as=env`")
            }
            Self::PoolNative(_) => {
                "the operator of a node lets it: margay node --pool-native".to_owned()
            }
            Self::NoSuchImage(image) => {
                format!("see what there is: margay images; or: margay pull {image}")
            }
            Self::Newer { .. } => "update margay, or use another MARGAY_HOME".to_owned(),
            Self::NotJoined(_) | Self::Removed(_) => "join one: margay node join TOKEN".to_owned(),
            Self::BadToken(_) => "ask for a new one: margay node token".to_owned(),
            Self::Fetch { hint, .. }
            | Self::Prepare { hint, .. }
            | Self::Start { hint, .. }
            | Self::Kept { hint, .. }
            | Self::NotJoinable { hint, .. }
            | Self::Copy { hint, .. }
            | Self::Native { hint, .. } => return hint.clone(),
            Self::Refused(fault) => return fault.hint.clone(),
            Self::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "the disk is full: make room, for example with margay prune".to_owned()
            }
            Self::NoSuchVolume(_) => "see what there is: margay volume ls".to_owned(),
            Self::VolumeInUse { task, .. } => format!("remove the task first: margay rm {task}"),
            Self::NoSuchTask(_)
            | Self::Ambiguous { .. }
            | Self::NameTaken { .. }
            | Self::StillRunning(_)
            | Self::NotRunning(_)
            | Self::NoSignals { .. }
            | Self::NotKept(_)
            | Self::NoSuchFile { .. }
            | Self::Copied(_)
            | Self::Held(_) => return self.task_hint(),
            Self::File { .. }
            | Self::Damaged { .. }
            | Self::BadName(_)
            | Self::SameName(_)
            | Self::Listen { .. }
            | Self::BadArgument { .. }
            | Self::ControlPlane { .. }
            | Self::NotUnderstood { .. }
            | Self::Identity(_)
            | Self::AgentRuns(_)
            | Self::NoAnswer { .. }
            | Self::System { .. } => return None,
        };
        Some(text)
    }

    /// The same for what is wrong with a task's name or state.
    fn task_hint(&self) -> Option<String> {
        Some(match self {
            Self::NoSuchTask(_) => "see what there is: margay ps -a".to_owned(),
            Self::Ambiguous { .. } => "give more of the id, or the name".to_owned(),
            Self::NameTaken { name, .. } => {
                format!("choose another --name, or remove that task: margay rm {name}")
            }
            Self::StillRunning(task) => format!("stop it first: margay stop {task}"),
            Self::NoSignals { .. } => "KILL, TERM, INT, HUP and QUIT end it at once".to_owned(),
            Self::NotRunning(task) => format!("start it: margay start {task}"),
            Self::NotKept(task) => {
                format!("remove it, and run its image anew: margay rm {task}")
            }
            Self::NoSuchFile { task, path } => {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                format!("see what there is: margay cp '{task}:{folder}/.' - | tar t")
            }
            Self::Copied(_) => "try again when that is over".to_owned(),
            Self::Held(task) => {
                format!("wait for it, or see which process holds it: margay inspect {task}")
            }
            _ => return None,
        })
    }

    /// What a run that ends like this exits with, in Docker's convention.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Start { exit_code, .. } | Self::Kept { exit_code, .. } => *exit_code,
            Self::Prepare { failure, .. } => failure.exit_code(),
            _ => Self::OURS,
        }
    }

    /// The guest never ran, and not for its program's sake.
    pub(crate) const OURS: u8 = 125;

    /// Whether the control plane says that it knows no such node, which no network and no restart
    /// can say for it.
    pub(crate) fn is_unknown_node(&self) -> bool {
        matches!(self, Self::Refused(fault) if fault.code == "unauthenticated")
    }

    /// For `map_err` on something that was done to a file.
    pub(crate) fn file(
        verb: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { verb, path, source }
    }
}

/// The flag that grants what is missing.
fn how_to_grant(missing: &Capability) -> String {
    match missing {
        Capability::Inbound(grant) if grant.port.transport.is_tcp() => {
            format!("publish it: -p 8080:{}", grant.port.number)
        }
        Capability::Inbound(grant) => format!("publish it: -p {}", grant.port),
        Capability::Env(grant) => format!("set it: -e {}=VALUE", grant.name),
        Capability::Secret(SecretGrant { name, as_env: false }) => {
            format!("hand it in: --secret {name}=FILE")
        }
        wanted @ Capability::Secret(SecretGrant { name, .. }) => {
            format!("hand it in, and grant it: --secret {name}=FILE --allow '{wanted}'")
        }
        Capability::Files(FileGrant { path, volume: Some(volume), .. }) => {
            format!("mount it: -v {volume}:{path}")
        }
        wanted => format!("grant it: --allow '{wanted}'"),
    }
}

/// An error and its causes in one line, for places where only text fits.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    text
}
