use std::{
    os::fd::{AsFd, OwnedFd},
    process::exit,
};

use engine::frame;
use rustix::{
    fs::Mode,
    process::{Resource, Rlimit, setsid, umask},
};
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    assignment::{ShimMessage, join},
    client::task::Reply,
    owner::event_loop as owner,
    unpack::sandbox as walls,
};

/// What a shim process can be told to do, once, over its control socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Be the task shim of one container.
    Run(Box<ShimMessage>),
    /// Unpack one layer.
    Unpack(Box<walls::Unpack>),
}

/// The task shim's own process. Its standard input is the control socket that
/// [`Task::spawn`](crate::Task::spawn) made; call this before any thread exists, when the first
/// argument is `shim`.
pub fn main() -> ! {
    match serve() {
        Ok(()) => exit(0),
        Err(error) => {
            // The supervisor has heard it; this line is for `shim.log`.
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("{}\n", error.chain()).as_bytes(),
            );
            exit(1)
        }
    }
}

fn serve() -> Result<(), Error> {
    let socket = become_shim().map_err(Error::io("take the control socket from standard input"))?;
    let (job, fds) =
        match frame::receive_document::<Job>(&socket).map_err(Error::io("read the order"))? {
            Some(job) => job,
            None => return Err(Error::protocol("no order")),
        };
    let result = match job {
        Job::Unpack(job) => walls::run(&socket, &job, fds).map(|()| Some(Reply::Done)),
        Job::Run(message) => join(*message, fds)
            .and_then(|assignment| owner::run(&socket, assignment))
            .map(|()| None),
    };
    let reply = match &result {
        Ok(reply) => reply.as_ref().map(|_| Reply::Done),
        Err(error) => Some(Reply::failed(error)),
    };
    if let Some(reply) = reply {
        // Nobody may be there any more to hear it.
        let _ = frame::send(&socket, &reply, &[]);
    }
    result.map(drop)
}

/// Leaves the supervisor's terminal and signals behind.
fn become_shim() -> std::io::Result<OwnedFd> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    umask(Mode::from_raw_mode(0o022));
    // It is no group leader, for it was just forked; if somebody started it by hand, the error does
    // no harm.
    let _ = setsid();
    // Two descriptors for each of 1024 connections, and some.
    let files = Rlimit { current: Some(4096), maximum: Some(4096) };
    rustix::process::setrlimit(Resource::Nofile, files)?;
    Ok(socket)
}
