//! The processes of a container, and what they use: those of its cgroup, or, where this process may
//! make none, those of the namespace whose first process is the shim.

use std::{fs, path::PathBuf, time::Duration};

use engine::cgroup::{self, Reading};

use crate::ids::HostIds;

#[derive(Debug, Clone)]
pub(crate) enum Members {
    /// By its name in every hierarchy.
    Cgroup(String),
    /// As this process's `/proc` shows them.
    Namespace,
}

impl Members {
    /// Of the container with the name `id` and these users.
    pub(crate) fn of(id: &str, ids: HostIds) -> Self {
        match ids.are_of_namespace() {
            true => Self::Namespace,
            false => Self::Cgroup(id.to_owned()),
        }
    }

    pub(crate) fn processes(&self) -> Vec<i32> {
        match self {
            Self::Cgroup(name) => cgroup::processes(name),
            Self::Namespace => {
                let own = i32::try_from(std::process::id()).unwrap_or(-1);
                let all = fs::read_dir("/proc").into_iter().flatten().flatten();
                let all = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
                all.filter(|pid| *pid != own).collect()
            }
        }
    }

    /// The cgroups that a process enters which joins them.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        match self {
            Self::Cgroup(name) => cgroup::folders(name),
            Self::Namespace => Vec::new(),
        }
    }

    /// What they used so far. Without a cgroup their memory is what each has alone.
    pub(crate) fn read(&self) -> Reading {
        let processes = match self {
            Self::Cgroup(name) => return cgroup::read(name),
            Self::Namespace => self.processes(),
        };
        let own = i32::try_from(std::process::id()).unwrap_or(-1);
        // What has ended counts for the process that has waited for it.
        let mut reading = Reading { cpu_ns: cpu_ns(own, &[2, 3]), ..Reading::default() };
        for pid in processes {
            reading.cpu_ns = reading.cpu_ns.saturating_add(cpu_ns(pid, &[0, 1, 2, 3]));
            reading.memory_bytes = reading.memory_bytes.saturating_add(memory_bytes(pid));
        }
        reading.memory_bytes_peak = reading.memory_bytes;
        reading
    }

    /// Whether the kernel keeps them within their memory.
    pub(crate) fn are_limited(&self) -> bool {
        matches!(self, Self::Cgroup(_))
    }
}

/// The kernel counts CPU time for programs in hundredths of a second.
const TICK: Duration = Duration::from_millis(10);
/// Of `/proc/PID/stat`, behind the name of the program: time in the program, in the kernel, and the
/// same of its ended children.
const TIMES: usize = 11;

fn cpu_ns(pid: i32, times: &[usize]) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, fields)) = stat.rsplit_once(')') else { return 0 };
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let ticks = |nth: &usize| fields.get(TIMES + nth)?.parse::<u64>().ok();
    let ticks = times.iter().filter_map(ticks).fold(0, u64::saturating_add);
    u64::try_from(TICK.as_nanos()).unwrap_or(u64::MAX).saturating_mul(ticks)
}

/// Pages that no file has.
fn memory_bytes(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.strip_suffix("kB"));
    line.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn processes_of_a_namespace_are_counted_without_a_cgroup() {
        let mut child = Command::new("/bin/sleep").arg("100").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let found = Members::Namespace.processes();
        assert!(found.contains(&pid) && !found.contains(&own), "{found:?}");
        assert!(memory_bytes(pid) > 0);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((memory_bytes(pid), cpu_ns(pid, &[0, 1])), (0, 0), "it is gone");
        let began = std::time::Instant::now();
        while cpu_ns(own, &[0]) == 0 {
            assert!(began.elapsed() < Duration::from_secs(60), "time passes in this program");
        }
    }
}
