//! The files of a container that does not run, for a copy in or out: a process of its own mounts
//! them where only it sees them, and then shuts itself in there. No path of the container is ever
//! looked up outside of that.

use std::{os::fd::OwnedFd, path::Path};

use engine::{
    exec::{self, Answer, Ask},
    frame,
};
use rustix::{
    fs::Mode,
    process::{Resource, Rlimit, setrlimit, umask},
    thread::UnshareFlags,
};

use crate::{
    Assignment, Error,
    assignment::split,
    bundle::stage,
    client::sweep,
    files,
    host::rights::check_rights,
    ids::HostIds,
    limits::{UNPACK_MEMORY_BYTES_MAX, UNPACK_START_TIME_MAX, VISIT_OPEN_FILES_MAX},
    namespace::{self, give_ids, take_ids},
    privileges::{COPY, drop_privileges},
    protocol::{Job, Reply, expect_reply, set_read_timeout},
    spawn::{Process, end_process, start_process},
    unpack::{sandbox::confine_to, seccomp_unpack},
};

/// A container's files, and the process that has them. It ends with this value, or with this
/// process.
pub struct Visit {
    socket: OwnedFd,
    process: Process,
}

impl Visit {
    /// Mounts the files of the container that `assignment` would start. No other process may start
    /// it meanwhile: the caller holds its folder.
    ///
    /// # Errors
    /// What would keep the container from starting, as far as it concerns its files.
    pub fn open(exe: &Path, mut assignment: Assignment) -> Result<Self, Error> {
        check_rights()?;
        let folder = &assignment.folder;
        let folder =
            folder.canonicalize().map_err(Error::io(format!("find `{}`", folder.display())))?;
        if sweep::sweep(&folder)? == sweep::Swept::Alive {
            return Err(Error::protocol("that it runs"));
        }
        assignment.folder.clone_from(&folder);
        // Until the other process holds them itself.
        let _layers = assignment.program.layers.clone();
        let (message, fds) = split(assignment);
        let (socket, process) = start_process(exe, Path::new("/dev/null"))?;
        let visit = Self { socket, process };
        let borrowed: Vec<_> = fds.iter().map(std::os::fd::AsFd::as_fd).collect();
        frame::send_document(&visit.socket, &Job::Visit(Box::new(message)), &borrowed)
            .map_err(Error::io("send the files of a container to a process"))?;
        give_ids(&visit.socket, visit.process.pid)?;
        match expect_reply(&visit.socket, UNPACK_START_TIME_MAX)?.0 {
            Reply::Done => {}
            other => return Err(other.into_error()),
        }
        set_read_timeout(&visit.socket, None).map_err(Error::io("wait for an answer"))?;
        Ok(visit)
    }

    /// Where [`exec::send`] sends requests, one at a time, and their answers come from.
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        end_process(&self.process);
    }
}

/// Serves the client at the other end of `socket`, in the process that was started for it.
pub(crate) fn serve(socket: &OwnedFd, order: &Assignment) -> Result<(), Error> {
    let confining = |step: &str| format!("confine the process of a copy ({step})");
    let root = match namespace::is_needed() {
        // Nothing can be mounted before.
        true => {
            take_ids(socket, UnshareFlags::empty())?;
            stage::build_files(order, HostIds::OF_NAMESPACE)?
        }
        false => {
            let root = stage::build_files(order, HostIds::ON_DISK)?;
            // Its mounts are in the namespace that it has: in another one they would end with this
            // one.
            take_ids(socket, UnshareFlags::empty())?;
            root
        }
    };
    set_read_timeout(socket, None).map_err(Error::io(confining("socket")))?;
    umask(Mode::empty());
    confine_to(&root)
        .and_then(|()| limit_resources())
        .map_err(Error::io(confining("users and root folder")))?;
    drop_privileges(COPY).map_err(Error::io(confining("capabilities")))?;
    seccomp_unpack::apply(seccomp_unpack::COPY).map_err(Error::io(confining("system calls")))?;
    let hearing = || Error::io("hear what is to be copied");
    frame::send(socket, &Reply::Done, &[]).map_err(hearing())?;
    while let Some((ask, fds)) = exec::receive(socket).map_err(hearing())? {
        let answer = match ask {
            Ask::Exec(_) => Answer::refused("the container does not run"),
            ask => files::answer(ask, fds.into_iter().next()),
        };
        if frame::send(socket, &answer, &[]).is_err() {
            break;
        }
    }
    Ok(())
}

fn limit_resources() -> rustix::io::Result<()> {
    let limit = |most| Rlimit { current: Some(most), maximum: Some(most) };
    setrlimit(Resource::As, limit(UNPACK_MEMORY_BYTES_MAX))?;
    setrlimit(Resource::Core, limit(0))?;
    setrlimit(Resource::Nofile, limit(VISIT_OPEN_FILES_MAX))
}
