//! What the kernel counts and limits for a container, in both versions of cgroups.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::limits::CGROUP_REMOVE_TIME_MAX;

mod base; // below which cgroup this process may make others
mod place; // the cgroup of one worker, within the group of its owner

pub use base::limits_processors;
pub use place::{Bounds, Place, Tenancy, enter, probe, sweep};

const MOUNT: &str = "/sys/fs/cgroup";
/// The controllers that limit a container.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// What the kernel counted for a container, at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    pub cpu_ns: u64,
    pub memory_bytes: u64,
    pub memory_bytes_peak: u64,
    /// Processes that the kernel killed because the container was out of memory.
    pub oom_kills: u64,
}

/// Reads the counters of `name`. What is not there counts as zero: not every host has every
/// controller.
pub fn read(name: &str) -> Reading {
    read_below(Path::new(MOUNT), name)
}

fn read_below(mount: &Path, name: &str) -> Reading {
    match mount.join("cgroup.controllers").exists() {
        true => read_v2(&mount.join(name)),
        false => read_v1(mount, name),
    }
}

fn read_v2(folder: &Path) -> Reading {
    let memory_bytes = number(&folder.join("memory.current"));
    Reading {
        cpu_ns: keyed(&folder.join("cpu.stat"), "usage_usec").saturating_mul(1000),
        memory_bytes,
        memory_bytes_peak: number(&folder.join("memory.peak")).max(memory_bytes),
        oom_kills: keyed(&folder.join("memory.events"), "oom_kill"),
    }
}

fn read_v1(mount: &Path, name: &str) -> Reading {
    let memory = mount.join("memory").join(name);
    let cpu_ns = ["cpuacct", "cpu,cpuacct"]
        .map(|controller| number(&mount.join(controller).join(name).join("cpuacct.usage")));
    Reading {
        cpu_ns: cpu_ns[0].max(cpu_ns[1]),
        memory_bytes: number(&memory.join("memory.usage_in_bytes")),
        memory_bytes_peak: number(&memory.join("memory.max_usage_in_bytes")),
        oom_kills: keyed(&memory.join("memory.oom_control"), "oom_kill"),
    }
}

/// Whether the kernel can limit swap.
pub fn counts_swap() -> bool {
    let mount = Path::new(MOUNT);
    mount.join("cgroup.controllers").exists()
        || mount.join("memory/memory.memsw.limit_in_bytes").exists()
}

/// Which cgroups this host has, for `margay doctor`.
pub fn kind() -> Option<&'static str> {
    let mount = Path::new(MOUNT);
    match mount {
        _ if mount.join("cgroup.controllers").exists() => Some("cgroup v2"),
        _ if mount.join("memory").is_dir() && mount.join("pids").is_dir() => Some("cgroup v1"),
        _ => None,
    }
}

/// Whether we may make cgroups, where the memory of containers is limited.
pub fn is_writable() -> bool {
    base::base().is_some()
}

/// Whether the controllers are divided among both versions, as in systemd's hybrid mode. crun
/// refuses that.
pub fn is_hybrid() -> bool {
    let controllers = fs::read_to_string(Path::new(MOUNT).join("unified/cgroup.controllers"));
    controllers.is_ok_and(|names| !names.trim().is_empty())
}

/// Kills every process of `name`, and removes it from every hierarchy.
///
/// # Errors
/// Names the folder that cannot be removed.
pub fn remove(name: &str) -> io::Result<()> {
    let deadline = Instant::now() + CGROUP_REMOVE_TIME_MAX;
    for folder in folders(name) {
        remove_folder(&folder, deadline).map_err(|error| {
            io::Error::new(error.kind(), format!("`{}`: {error}", folder.display()))
        })?;
    }
    Ok(())
}

/// Where `name` exists.
pub fn folders(name: &str) -> Vec<PathBuf> {
    let mount = Path::new(MOUNT);
    let hierarchies = fs::read_dir(mount).into_iter().flatten().flatten().map(|entry| entry.path());
    let real = hierarchies.filter(|path| path.symlink_metadata().is_ok_and(|meta| meta.is_dir()));
    std::iter::once(mount.to_owned())
        .chain(real)
        .map(|path| path.join(name))
        .filter(|path| path.is_dir())
        .collect()
}

fn remove_folder(folder: &Path, deadline: Instant) -> io::Result<()> {
    // What has ended is empty, which is the rule, and there may be ten hierarchies.
    if fs::remove_dir(folder).is_ok() {
        return Ok(());
    }
    loop {
        for child in fs::read_dir(folder).into_iter().flatten().flatten() {
            if child.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_folder(&child.path(), deadline)?;
            }
        }
        kill_all(folder);
        match fs::remove_dir(folder) {
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline =>
            {
                // Killed processes leave their cgroup a moment later, and no event tells when.
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
}

fn kill_all(folder: &Path) {
    if fs::write(folder.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for pid in processes_in(folder).into_iter().filter_map(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// The processes of `name`.
pub fn processes(name: &str) -> Vec<i32> {
    folders(name).first().map(|folder| processes_in(folder)).unwrap_or_default()
}

fn processes_in(folder: &Path) -> Vec<i32> {
    let list = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    list.lines().filter_map(|line| line.parse().ok()).collect()
}

fn number(path: &Path) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn keyed(path: &Path, key: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_cgroups_are_read() {
        let mount = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = mount.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("cpuacct/cats/cpuacct.usage", "123\n");
        put("memory/cats/memory.usage_in_bytes", "10\n");
        put("memory/cats/memory.max_usage_in_bytes", "20\n");
        put("memory/cats/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n");
        let v1 = Reading { cpu_ns: 123, memory_bytes: 10, memory_bytes_peak: 20, oom_kills: 3 };
        assert_eq!(read_below(mount.path(), "cats"), v1);
        put("cgroup.controllers", "cpu memory pids\n");
        put("cats/cpu.stat", "usage_usec 5\nuser_usec 4\n");
        put("cats/memory.current", "10\n");
        put("cats/memory.peak", "30\n");
        put("cats/memory.events", "low 0\noom 1\noom_kill 1\noom_group_kill 0\n");
        let v2 = Reading { cpu_ns: 5000, memory_bytes: 10, memory_bytes_peak: 30, oom_kills: 1 };
        assert_eq!(read_below(mount.path(), "cats"), v2);
        assert_eq!(read_below(mount.path(), "none"), Reading::default());
    }
}
