//! What a client asks of a container that runs: another program beside the first one, and files in
//! and out.
//!
//! A client connects to the socket [`SOCKET`] in the container's folder, sends one [`Request`] as a
//! document, and hears [`Answer`]s until the connection ends. The same messages go to a worker and
//! to a task shim. The mode of the folder decides which users may connect.

use std::{collections::BTreeMap, io, os::fd::OwnedFd, path::Path};

use serde::{Deserialize, Serialize};

use crate::{Exit, StartFailure, frame, limits::LEFT_OUT_CHARS_MAX};

/// The name of the socket in a container's folder.
pub const SOCKET: &str = "exec.sock";

/// The version of [`Request`] and [`Answer`].
pub const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    version: u32,
    pub ask: Ask,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// Run a program. Its stdin, stdout and stderr ride beside, and then the client's ends of both
    /// outputs: the container reads them should the client be gone. With a terminal of its own it
    /// has none of them; its controlling side comes back with [`Answer::Started`].
    Exec(Box<Program>),
    /// Look at a path. Answered with [`Answer::Found`].
    Stat(Place),
    /// Write what is at a path as an archive into the pipe that rides beside, under this name;
    /// without a name, the content of a folder. Answered with [`Answer::Copied`].
    Pack { place: Place, name: String },
    /// Read an archive from the pipe that rides beside, and write it into a folder. Answered with
    /// [`Answer::Copied`].
    Unpack { folder: String, owners: Owners },
}

/// A path in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Absolute, without `.`, `..` and empty parts.
    pub path: String,
    pub link: Link,
}

/// Whether a link at the end of a path is meant, or what it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Link {
    Itself,
    Target,
}

/// The owners of files that come out of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owners {
    /// The process that writes them.
    Own,
    /// As the archive says.
    Kept,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileStat {
    pub kind: FileKind,
    pub bytes: u64,
    /// Of a link.
    pub target: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    Folder,
    File,
    Link,
    /// A device, a pipe or a socket.
    Other,
}

/// What a copy did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copied {
    /// Devices, pipes and sockets: how many were left out, and the name of the first.
    pub left_out: u64,
    pub left_out_first: Option<String>,
    /// Files that lost set-user-id and set-group-id.
    #[serde(default)]
    pub made_plain: u64,
    #[serde(default)]
    pub made_plain_first: Option<String>,
}

impl Copied {
    pub fn leave_out(&mut self, name: &[u8]) {
        self.left_out += 1;
        self.left_out_first.get_or_insert_with(|| shown(name));
    }

    pub fn make_plain(&mut self, name: &[u8]) {
        self.made_plain += 1;
        self.made_plain_first.get_or_insert_with(|| shown(name));
    }
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(LEFT_OUT_CHARS_MAX).collect()
}

/// A program to be run in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// The program's name, then its arguments.
    pub args: Vec<String>,
    /// Beyond the container's own variables, over which they win.
    pub env: BTreeMap<String, String>,
    /// The container's own when left out.
    pub working_dir: Option<String>,
    /// By name or number, as in USER; the container's own when left out.
    pub user: Option<String>,
    /// Rows and columns of its terminal, if it has one.
    pub terminal: Option<(u16, u16)>,
    /// Where its machine code lies in the container's code area; Wasm only.
    pub code: Option<CodeRange>,
    /// Whether it is killed, with what it has started, when its client has no more to say: a check
    /// that takes too long, or whose supervisor is gone. Others go on without their client.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ends_with_client: bool,
}

/// Bytes in the code area of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeRange {
    pub offset: u64,
    pub bytes: u64,
}

/// What a client may say after its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    Signal(i32),
    /// The reader of this output, as numbered among the program's three streams, is gone: the
    /// program is to find its pipe broken.
    Unread(usize),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The program runs.
    Started,
    /// It does not, and why: one sentence, causes included.
    Refused {
        failure: StartFailure,
        message: String,
        hint: Option<String>,
    },
    /// It is over. The last answer.
    Exited(Exit),
    /// What is at the path, or nothing.
    Found(Option<FileStat>),
    Copied(Copied),
}

impl Answer {
    /// A refusal for a reason that lies in the container's host.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::Refused { failure: StartFailure::Host, message: message.into(), hint: None }
    }

    pub fn busy(programs_max: usize) -> Self {
        Self::Refused {
            failure: StartFailure::Host,
            message: format!("it runs {programs_max} programs of `exec` already, the most at once"),
            hint: Some("wait until one of them has ended".to_owned()),
        }
    }
}

/// Sends a request to the container of `folder`, with what rides beside it.
///
/// # Errors
/// `NotFound` and `ConnectionRefused` when no container of this version runs there.
pub fn ask(folder: &Path, ask: Ask, fds: &[OwnedFd]) -> io::Result<OwnedFd> {
    let socket = frame::connect(folder, SOCKET)?;
    match send(&socket, ask, fds) {
        // It has no room, has said so and closed: that answer is still to be read.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(socket),
        sent => sent.map(|()| socket),
    }
}

/// Sends a request over a connection that there is already.
///
/// # Errors
/// When the other side is gone.
pub fn send(socket: &OwnedFd, ask: Ask, fds: &[OwnedFd]) -> io::Result<()> {
    let fds: Vec<_> = fds.iter().map(std::os::fd::AsFd::as_fd).collect();
    frame::send_document(socket, &Request { version: VERSION, ask }, &fds)
}

/// The request on a connection that was just accepted; `None` when the client is gone.
///
/// # Errors
/// When something else came, or a request of another version.
pub fn receive(socket: &OwnedFd) -> io::Result<Option<(Ask, Vec<OwnedFd>)>> {
    let Some((request, fds)) = frame::receive_document::<Request>(socket)? else {
        return Ok(None);
    };
    if request.version != VERSION {
        let why = format!(
            "the request has version {}, and this container knows {VERSION}: start it again",
            request.version
        );
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    Ok(Some((request.ask, fds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_arrives_as_it_was_sent_and_one_of_another_version_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let listener = frame::listen(folder.path(), SOCKET).unwrap();
        let accept = || rustix::net::accept(&listener).unwrap();
        let program = Program { args: vec!["sh".repeat(100_000)], ..Program::default() };
        let stdin = OwnedFd::from(tempfile::tempfile().unwrap());
        let sent = Ask::Exec(Box::new(program.clone()));
        let _client = ask(folder.path(), sent, &[stdin]).unwrap();
        let (Ask::Exec(got), fds) = receive(&accept()).unwrap().unwrap() else {
            panic!("a program was asked for")
        };
        assert_eq!((*got, fds.len()), (program, 1));

        let client = frame::connect(folder.path(), SOCKET).unwrap();
        let newer = Request { version: 2, ask: Ask::Exec(Box::default()) };
        frame::send_document(&client, &newer, &[]).unwrap();
        let error = receive(&accept()).unwrap_err().to_string();
        assert!(error.contains("version 2") && error.contains("knows 1"), "{error}");
    }
}
