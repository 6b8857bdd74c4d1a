//! The processes of a task, read from `/proc`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    time::Duration,
};

use crate::{
    error::Result,
    tasks::{Kind, TaskFolder},
};

/// A process as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub uid: u32,
    pub cpu_time: Duration,
    pub memory_bytes: u64,
    /// Read from and written to disks.
    pub disk_bytes: (u64, u64),
    pub command: String,
}

/// The kernel counts CPU time for programs in hundredths of a second.
const TICK: Duration = Duration::from_millis(10);
/// As much of a command line as is shown.
const COMMAND_CHARS_MAX: usize = 200;

/// All processes of the machine at one moment: tasks are looked up in it as often as wanted.
#[derive(Debug, Default)]
pub struct ProcessTable(BTreeMap<i32, Process>);

impl ProcessTable {
    pub fn read() -> Self {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Self(pids.filter_map(process).map(|process| (process.pid, process)).collect())
    }

    /// Those of a task that runs: its worker, or what its container's shim has started.
    ///
    /// # Errors
    /// When its status cannot be read.
    pub fn of_task(&self, task: &TaskFolder) -> Result<Vec<Process>> {
        let Some(root) = task.status()?.and_then(|status| status.process) else {
            return Ok(Vec::new());
        };
        if !task.state()?.is_alive() || !root.is_alive() {
            return Ok(Vec::new());
        }
        let is_shim = task.record().kind == Kind::Native;
        let mut found = self.below(root.pid);
        found.retain(|process| !(is_shim && process.pid == root.pid));
        Ok(found)
    }

    /// The process `root` and all that come from it.
    fn below(&self, root: i32) -> Vec<Process> {
        let mut inside = BTreeSet::from([root]);
        // Children may have lower numbers than their parents; each round goes one level down.
        loop {
            let before = inside.len();
            let children = self.0.values().filter(|process| inside.contains(&process.parent));
            let children: Vec<i32> = children.map(|process| process.pid).collect();
            inside.extend(children);
            if inside.len() == before {
                break;
            }
        }
        self.0.values().filter(|process| inside.contains(&process.pid)).cloned().collect()
    }
}

/// Those of one task.
///
/// # Errors
/// As [`ProcessTable::of_task`].
pub fn of_task(task: &TaskFolder) -> Result<Vec<Process>> {
    ProcessTable::read().of_task(task)
}

fn process(pid: i32) -> Option<Process> {
    let folder = format!("/proc/{pid}");
    let read = |name: &str| fs::read_to_string(format!("{folder}/{name}")).ok();
    let stat = read("stat")?;
    // The name in brackets may hold anything.
    let (start, rest) = stat.rsplit_once(')')?;
    let name = start.split_once('(').map(|(_, name)| name).unwrap_or_default();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |field: usize| fields.get(field)?.parse::<u64>().ok();
    let words = fs::read(format!("{folder}/cmdline")).unwrap_or_default();
    let words = String::from_utf8_lossy(&words).trim_end_matches('\0').replace('\0', " ");
    let command = if words.is_empty() { format!("[{name}]") } else { words };
    let page = u64::try_from(rustix::param::page_size()).ok()?;
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        uid: fs::metadata(&folder).ok()?.uid(),
        cpu_time: TICK * u32::try_from(number(11)? + number(12)?).unwrap_or(u32::MAX),
        memory_bytes: number(21)? * page,
        disk_bytes: read("io").map(|text| disk_bytes(&text)).unwrap_or_default(),
        command: command.chars().take(COMMAND_CHARS_MAX).collect(),
    })
}

fn disk_bytes(io: &str) -> (u64, u64) {
    let value = |name: &str| {
        let line = io.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|text| text.trim().parse().ok()).unwrap_or_default()
    };
    (value("read_bytes:"), value("write_bytes:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_and_its_children_are_found() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let me = std::process::id().cast_signed();
        let found = ProcessTable::read().below(me);
        let own = found.iter().find(|process| process.pid == me).unwrap();
        assert!(own.memory_bytes > 0, "{own:?}");
        let theirs = child.id().cast_signed();
        let theirs = found.iter().find(|process| process.pid == theirs).unwrap();
        assert_eq!(theirs.parent, me);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(disk_bytes("rchar: 5\nread_bytes: 10\nwrite_bytes: 20\n"), (10, 20));
    }
}
