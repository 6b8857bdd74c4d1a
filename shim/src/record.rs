//! The files in a container's folder, and what else a container leaves on its machine.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use disk::Survives;
use engine::Exit;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use spec::{Timestamp, Usage};

use crate::{
    Error, Runtime,
    host::cgroup,
    ids::{self, Claims, HostIds},
};

/// The control socket in a container's folder.
pub(crate) const SOCKET: &str = "worker.sock";

/// What identifies everything that a container leaves: written before any of it exists.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Traces {
    pub version: u32,
    /// The container's name for the runtime, and its cgroup's.
    pub id: String,
    pub runtime: Runtime,
    /// The users that it has.
    #[serde(default)]
    pub ids: HostIds,
}

impl Traces {
    /// Writes down that the container of `folder` has the users of the namespace that this process
    /// is in, as others of `owner`.
    pub(crate) fn of_namespace(
        folder: &Path,
        id: String,
        runtime: Runtime,
        owner: &str,
    ) -> Result<Self, Error> {
        let claims = Claims::open_beside(folder).map_err(Error::io(CLAIMING))?;
        let shared = claims.shared(HostIds::OF_NAMESPACE, folder, owner, is_held);
        let ids = shared.map_err(Error::io(CLAIMING))?;
        let ids = ids.map_err(|other| Error::OneOwner { owner: other })?;
        let traces = Self { version: VERSION, id, runtime, ids };
        traces.write_or_release(folder)?;
        Ok(traces)
    }

    /// Writes down that it has a range of its own.
    pub(crate) fn claim(folder: &Path, id: String, runtime: Runtime) -> Result<Self, Error> {
        let claims = Claims::open().map_err(Error::io(CLAIMING))?;
        let ids = claims.own(folder, is_held).map_err(Error::io(CLAIMING))?;
        let traces = Self { version: VERSION, id, runtime, ids };
        traces.write_or_release(folder)?;
        Ok(traces)
    }

    /// Writes down that it has the range of the disk instead, beside others of `owner`.
    pub(crate) fn share(&mut self, folder: &Path, owner: &str, path: &Path) -> Result<(), Error> {
        let claims = Claims::open().map_err(Error::io(CLAIMING))?;
        let shared =
            claims.shared(HostIds::ON_DISK, folder, owner, is_held).map_err(Error::io(CLAIMING))?;
        let ids = shared.map_err(|other| Error::Shared { path: path.to_owned(), owner: other })?;
        let own = std::mem::replace(&mut self.ids, ids);
        self.write_or_release(folder)?;
        ids::release(folder, own).map_err(Error::io(RELEASING))
    }

    /// Needed after a kill, and not after a power cut, which leaves nothing to sweep.
    fn write_or_release(&self, folder: &Path) -> Result<(), Error> {
        let written = write(&folder.join(TRACES), self, Survives::Crash);
        if written.is_err() {
            ids::release(folder, self.ids).map_err(Error::io(RELEASING))?;
        }
        written
    }
}

const CLAIMING: &str = "take users for a container";
const RELEASING: &str = "give back the users of a container";

/// Whether the container of `folder` has `ids`: while its shim lives, which listens before it
/// claims them, and after that while a process of the container does. One whose traces cannot be
/// read may have them.
fn is_held(folder: &Path, ids: HostIds) -> bool {
    match read::<Traces>(&folder.join(TRACES)) {
        Ok(None) => false,
        Ok(Some(traces)) if traces.ids != ids => false,
        Ok(Some(traces)) => listens(folder) || !cgroup::processes(&traces.id).is_empty(),
        Err(_) => true,
    }
}

fn listens(folder: &Path) -> bool {
    match engine::frame::connect(folder, SOCKET) {
        Ok(_) => true,
        Err(error) => {
            !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
        }
    }
}

/// How a container ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ended {
    pub version: u32,
    pub exit: Exit,
    pub usage: Usage,
    pub at: Timestamp,
}

impl Ended {
    pub(crate) fn new(exit: Exit, usage: Usage) -> Self {
        Self { version: VERSION, exit, usage, at: Timestamp::of(SystemTime::now()) }
    }
}

pub(crate) const VERSION: u32 = 1;
pub(crate) const TRACES: &str = "native.json";
pub(crate) const ENDED: &str = "exit.json";
/// A shim writes these files; a longer one is not of a shim.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Removes everything that `traces` identifies, and then the traces. Without the runtime, which may
/// be what broke: a container is its cgroup, and a runtime that is still creating one is known by
/// its arguments.
pub(crate) fn clear(folder: &Path, traces: &Traces) -> Result<(), Error> {
    kill_runtime(&state_folder(folder));
    clear_dead(folder, traces)
}

/// Processes that a killed runtime had started see the end of its pipes and exit.
fn kill_runtime(state: &Path) {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid =
            entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let Some(pid) = pid else { continue };
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        if line.split(|b| *b == 0).any(|argument| argument == state.as_os_str().as_encoded_bytes())
        {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The same for a container whose first process is known to be dead.
pub(crate) fn clear_dead(folder: &Path, traces: &Traces) -> Result<(), Error> {
    let state = state_folder(folder);
    cgroup::remove(&traces.id).map_err(Error::io("remove its cgroup".to_owned()))?;
    remove(fs::remove_dir_all(&state), &state)?;
    // With its cgroup its last process is gone.
    ids::release(folder, traces.ids).map_err(Error::io(RELEASING))?;
    for name in [SOCKET, engine::exec::SOCKET, TRACES] {
        let path = folder.join(name);
        remove(fs::remove_file(&path), &path)?;
    }
    Ok(())
}

/// Where the runtime keeps its state: in the container's own folder, so that two platforms on one
/// machine never meet.
pub(crate) fn state_folder(folder: &Path) -> PathBuf {
    folder.join("oci")
}

/// `adoptable` says that a supervisor may come back for it after a loss of power. One that dies
/// with its container keeps no account of it.
pub(crate) fn write_ended(folder: &Path, ended: &Ended, adoptable: bool) -> Result<(), Error> {
    let survives = if adoptable { Survives::PowerLoss } else { Survives::Crash };
    write(&folder.join(ENDED), ended, survives)
}

pub(crate) fn read_ended(folder: &Path) -> Result<Option<Ended>, Error> {
    read(&folder.join(ENDED))
}

pub(crate) fn remove(result: io::Result<()>, path: &Path) -> Result<(), Error> {
    match result {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Io { what: format!("remove `{}`", path.display()), source })
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, value: &impl Serialize, survives: Survives) -> Result<(), Error> {
    let written = serde_json::to_vec(value)
        .map_err(io::Error::from)
        .and_then(|bytes| disk::write(path, &bytes, survives));
    written.map_err(Error::io(format!("write `{}`", path.display())))
}

pub(crate) fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let read = disk::read_optional(path, FILE_BYTES_MAX).and_then(|bytes| {
        bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose().map_err(io::Error::from)
    });
    read.map_err(Error::io(format!("read `{}`", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Folders of tests and of killed platforms stay on disk; their ids do not.
    #[test]
    fn a_range_is_held_while_its_shim_or_a_process_lives_and_not_by_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let ids = HostIds::EXAMPLE;
        assert!(!is_held(folder, ids), "no container was here");
        let id = format!("margay-test-{}", disk::random_hex::<8>());
        let kind = crate::host::probe::RuntimeKind::Runc;
        let runtime = Runtime { kind, path: "/usr/bin/runc".into(), version: (1, 1, 5) };
        let traces = Traces { version: VERSION, id, runtime, ids };
        write(&folder.join(TRACES), &traces, Survives::Crash).unwrap();
        assert!(!is_held(folder, ids), "its shim is dead");
        let listener = engine::frame::listen(folder, SOCKET).unwrap();
        assert!(is_held(folder, ids), "its shim lives");
        assert!(!is_held(folder, HostIds::ON_DISK), "it has another range");
        drop(listener);
        assert!(!is_held(folder, ids), "its socket is left");
        fs::write(folder.join(TRACES), "half").unwrap();
        assert!(is_held(folder, ids), "it may have any");
    }
}
