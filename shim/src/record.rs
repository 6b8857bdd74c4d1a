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

use crate::{Error, Runtime, host::cgroup};

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

pub(crate) fn write_traces(folder: &Path, traces: &Traces) -> Result<(), Error> {
    // Needed after a kill, and not after a power cut, which leaves nothing to sweep.
    write(&folder.join(TRACES), traces, Survives::Crash)
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
