use std::{
    os::fd::{AsFd, OwnedFd},
    process::exit,
};

use engine::frame;
use rustix::{
    fs::Mode,
    process::{Resource, Rlimit, getrlimit, setrlimit, setsid, umask},
};

use crate::limits::SHIM_OPEN_FILES_MAX;
use crate::{
    Error, Ulimit,
    assignment::join,
    namespace,
    owner::event_loop,
    protocol::{Job, Reply},
    unpack::{chore, sandbox},
    visit,
};

/// The task shim's own process. Its standard input is the control socket that
/// [`Task::spawn`](crate::Task::spawn) made; call this before any thread exists, when the first
/// argument is `shim`.
pub fn main() -> ! {
    match serve() {
        Ok(()) => exit(0),
        Err(error) => {
            // The supervisor was told; this line is for `shim.log`.
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("{}\n", error.chain()).as_bytes(),
            );
            exit(1)
        }
    }
}

fn serve() -> Result<(), Error> {
    ::sandbox::read_auxiliary_vector();
    // What the client of a verb left open is none of a container's, and takes of the few
    // descriptors that a process of ours may have.
    ::sandbox::close_other_descriptors(&[]).map_err(Error::io("close inherited descriptors"))?;
    let socket = become_shim().map_err(Error::io("take the control socket from standard input"))?;
    let (job, fds) =
        match frame::receive_document::<Job>(&socket).map_err(Error::io("read the job"))? {
            Some(job) => job,
            None => return Err(Error::protocol("no job arrived")),
        };
    let result = match job {
        Job::Chore(chore) => chore::serve(&socket, &chore).map(|done| Some(Reply::Chore(done))),
        Job::Unpack(job) => sandbox::run(&socket, &job, fds).map(|()| Some(Reply::Done)),
        Job::Visit(message) => join(*message, fds)
            .and_then(|assignment| visit::serve(&socket, &assignment))
            .map(|()| None),
        // Before anything of it is held: it goes on in another process.
        Job::Run(message) => namespace::enter(&socket)
            .and_then(|numbers| {
                let assignment = join(*message, fds)?;
                raise_limits(&assignment.program.settings.ulimits)?;
                event_loop::run(&socket, assignment, numbers)
            })
            .map(|()| None),
    };
    let (reply, result) = match result {
        Ok(reply) => (reply, Ok(())),
        Err(error) => (Some(Reply::failed(&error)), Err(error)),
    };
    if let Some(reply) = reply {
        // The supervisor may have ended.
        let _ = frame::send(&socket, &reply, &[]);
    }
    result
}

/// Lets the OCI runtime set limits above our own, which it inherits without the right to raise
/// them.
fn raise_limits(ulimits: &[Ulimit]) -> Result<(), Error> {
    for ulimit in ulimits {
        let Some(resource) = ulimit.resource() else { continue };
        let own = getrlimit(resource);
        let hard = (ulimit.hard != u64::MAX).then_some(ulimit.hard);
        let is_enough = own.maximum.is_none_or(|own| hard.is_some_and(|hard| hard <= own));
        let raised = Rlimit { maximum: hard, ..own };
        if !is_enough && setrlimit(resource, raised).is_err() {
            let most = own.maximum.unwrap_or(u64::MAX);
            return Err(Error::Ulimit { name: ulimit.name.clone(), most });
        }
    }
    Ok(())
}

/// Leaves the supervisor's session, and takes the control socket.
fn become_shim() -> std::io::Result<OwnedFd> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    umask(Mode::from_raw_mode(0o022));
    // A process that was just forked is no group leader; for one that was started by hand the error
    // does no harm.
    let _ = setsid();
    // The hard limit stays: a container may be given more, and nothing here raises its own.
    let own = getrlimit(Resource::Nofile).maximum;
    let soft = own.map_or(SHIM_OPEN_FILES_MAX, |own| own.min(SHIM_OPEN_FILES_MAX));
    let files = Rlimit { current: Some(soft), maximum: own };
    setrlimit(Resource::Nofile, files)?;
    Ok(socket)
}
