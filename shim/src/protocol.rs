//! What a supervisor, a task shim and an unpacking process send each other.

use std::{os::fd::OwnedFd, path::PathBuf, time::Duration};

use engine::{AssignmentMessage, ListenersMessage, StartFailure, Stop, frame};
use rustix::net::sockopt;
use serde::{Deserialize, Serialize};
use spec::{Descriptor, Digest, ImageConfig, Usage};

use crate::{Error, Layering, RootAccess, Runtime, Settings, record::Ended};

/// What a process of `exe shim` is told to do, once, over the socket that is its standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Be the task shim of one container.
    Run(Box<ShimMessage>),
    /// Unpack one layer.
    Unpack(Box<UnpackJob>),
    /// Do this with files of containers.
    Chore(Chore),
    /// Answer what is asked about the files of a container that does not run.
    Visit(Box<ShimMessage>),
}

/// A [`NativeProgram`](crate::NativeProgram) as it crosses the socket.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProgramMessage {
    pub config: ImageConfig,
    pub layers: Vec<PathBuf>,
    pub runtime: Runtime,
    pub cpu_millis: Option<u32>,
    pub settings: Settings,
    pub root: RootAccess,
    pub owner: String,
    pub local_ports: Vec<u16>,
}

pub(crate) type ShimMessage = AssignmentMessage<ProgramMessage>;

/// What the unpacking process is told. The descriptors of the folder and of the compressed layer
/// come with it, in this order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UnpackJob {
    pub descriptor: Descriptor,
    pub diff_id: Digest,
}

/// What is done with files of containers outside of one. Paths are of folders that margay has made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Chore {
    /// Remove a tree.
    Remove(PathBuf),
    /// Say what a tree takes of the disk.
    Weigh(PathBuf),
    /// Make the hard links of an unpacked layer to files of those below it.
    Link { layer: String, folder: PathBuf, links: Vec<(String, String)>, lower: Vec<PathBuf> },
    /// Say what can be done in a folder.
    Try(PathBuf),
}

/// What comes of a [`Chore`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Done,
    Bytes(u64),
    Layering(Layering),
}

/// What a shim says about its container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The first process of the container, as the host numbers it.
    pub pid: i32,
    /// The shim.
    pub shim_pid: u32,
    /// The ports that it relays.
    pub ports: Vec<u16>,
    /// Whether it was asked to stop.
    pub stopping: bool,
    /// What it used so far.
    pub usage: Usage,
}

/// What a supervisor asks of a shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    Status,
    Stop(Stop),
    Kill {
        signal: i32,
    },
    Resize {
        rows: u16,
        columns: u16,
    },
    Listeners,
    Wait,
    /// From now on this supervisor is told what is [wanted](Wanted), and answers.
    Connect,
}

/// A connection that a container wants.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub id: u32,
    /// A name or an address.
    pub host: String,
    pub port: u16,
}

/// What came of it. Without a refusal the connected socket rides along.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Brokered {
    pub id: u32,
    /// For the log of the container.
    pub refused: Option<String>,
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Started,
    Failed {
        code: String,
        message: String,
        hint: Option<String>,
        failure: StartFailure,
    },
    Status(Status),
    /// Their sockets ride along.
    Listeners(ListenersMessage),
    Done,
    /// The process goes on in another one, as which it is the first of a namespace.
    Moved {
        pid: i32,
    },
    Chore(Outcome),
    /// Hard links that an unpacking process could not make: what is to be made, and from what of
    /// the layers below.
    LowerLinks(Vec<(String, String)>),
    Exited(Ended),
}

impl Reply {
    pub(crate) fn failed(error: &Error) -> Self {
        Self::Failed {
            code: error.code().to_owned(),
            message: error.chain(),
            hint: error.hint(),
            failure: error.failure(),
        }
    }

    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Failed { code, message, hint, failure } => {
                Error::Reported { code, message, hint, failure }
            }
            other => Error::protocol(format!("{other:?}")),
        }
    }
}

/// One reply in time. The end of the stream is [`Error::Protocol`].
pub(crate) fn expect_reply(
    socket: &OwnedFd,
    time_max: Duration,
) -> Result<(Reply, Vec<OwnedFd>), Error> {
    let reading = || "read the task shim's answer";
    set_read_timeout(socket, Some(time_max)).map_err(Error::io(reading()))?;
    match frame::receive(socket) {
        Ok(Some(reply)) => Ok(reply),
        Ok(None) => Err(Error::protocol("nothing")),
        Err(source) => Err(Error::Io { what: reading().to_owned(), source }),
    }
}

pub(crate) fn set_read_timeout(
    socket: &OwnedFd,
    time_max: Option<Duration>,
) -> rustix::io::Result<()> {
    sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, time_max)
}
