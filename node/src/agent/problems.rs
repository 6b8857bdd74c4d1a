//! What is wrong with this machine, as far as its agent can see.

use std::path::Path;

use spec::{NodeProblem, NodeProblemKind, print_bytes};

use super::{
    capacity::meminfo_bytes,
    limits::{DISK_FREE_BYTES, MEMORY_FREE_BYTES, PRESSURE_ENDS_AT, PRESSURE_PERCENT},
};

/// What was found, and what is looked at again with each report.
#[derive(Debug, Default)]
pub(super) struct Problems {
    /// Of the kernel, which stays as it is.
    lasting: Vec<NodeProblem>,
    disk: Pressure,
    memory: Pressure,
}

/// Whether there is too little of something. It ends later than it begins, so that tasks do not
/// come and go with every megabyte.
#[derive(Debug, Default)]
struct Pressure(bool);

impl Pressure {
    /// Looks at `free` of `all`, of which `most` or a small share has to be free.
    fn is_high(&mut self, free: u64, all: u64, most: u64) -> bool {
        let least = most.min(all / 100 * PRESSURE_PERCENT);
        self.0 = match self.0 {
            true => free < least.saturating_mul(PRESSURE_ENDS_AT.0) / PRESSURE_ENDS_AT.1,
            false => free < least,
        };
        self.0
    }
}

impl Problems {
    pub fn of_kernel(runs_native: bool) -> Self {
        let mut lasting = Vec::new();
        let mut add = |kind, message: &str| {
            lasting.push(NodeProblem { kind, message: message.to_owned() });
        };
        if runs_native && !engine::cgroup::is_writable() {
            add(
                NodeProblemKind::Cgroups,
                "its agent can make no cgroups: Linux images run without limits of memory and \
                 processor",
            );
        }
        if !sandbox::has_landlock() {
            add(
                NodeProblemKind::Kernel,
                "its kernel has no Landlock: one wall less around what runs on it",
            );
        }
        Self { lasting, ..Self::default() }
    }

    /// What is wrong now, with the disk that `home` is on, and with the rest.
    pub fn look(&mut self, home: &Path, outdated: bool) -> Vec<NodeProblem> {
        let mut found = self.lasting.clone();
        if outdated {
            let version = env!("CARGO_PKG_VERSION");
            found.push(NodeProblem {
                kind: NodeProblemKind::AgentVersion,
                message: format!(
                    "its agent {version} does not understand the control plane: upgrade it"
                ),
            });
        }
        if let Some((free, all)) = disk(home)
            && self.disk.is_high(free, all, DISK_FREE_BYTES)
        {
            let (free, all) = (print_bytes(free), print_bytes(all));
            found.push(NodeProblem {
                kind: NodeProblemKind::DiskPressure,
                message: format!("{free} of {all} are free on the disk of `{}`", home.display()),
            });
        }
        if let Some((free, all)) = memory()
            && self.memory.is_high(free, all, MEMORY_FREE_BYTES)
        {
            let (free, all) = (print_bytes(free), print_bytes(all));
            found.push(NodeProblem {
                kind: NodeProblemKind::MemoryPressure,
                message: format!("{free} of {all} of memory are available"),
            });
        }
        found
    }
}

/// Whether so little is free on the disk of `home` that what is not needed should go: before this
/// machine is one that takes no tasks.
pub(super) fn is_disk_short(home: &Path) -> bool {
    disk(home).is_some_and(|(free, all)| is_short(free, all))
}

fn is_short(free: u64, all: u64) -> bool {
    free / 2 < DISK_FREE_BYTES.min(all / 100 * PRESSURE_PERCENT)
}

/// Bytes that are free for its owner, and all.
fn disk(folder: &Path) -> Option<(u64, u64)> {
    let facts = rustix::fs::statvfs(folder).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(facts.f_frsize);
    Some((bytes(facts.f_bavail), bytes(facts.f_blocks)))
}

fn memory() -> Option<(u64, u64)> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    Some((meminfo_bytes(&meminfo, "MemAvailable")?, meminfo_bytes(&meminfo, "MemTotal")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_begins_at_a_share_or_an_amount_and_ends_later() {
        const GIB: u64 = 1 << 30;
        for (free, all, want) in [
            (2 * GIB, 10 * GIB, false),
            (GIB - (1 << 20), 10 * GIB, true),
            (5 * GIB, 1000 * GIB, false),
            (3 * GIB, 1000 * GIB, true),
        ] {
            assert_eq!(is_short(free, all), want, "{free} of {all}, before there is pressure");
        }
        // Five per cent of a small disk, two gibibytes of a large one.
        for (all, at) in [(10 * GIB, GIB / 2), (1000 * GIB, 2 * GIB)] {
            let mut pressure = Pressure::default();
            for (free, want) in [
                (at + at / 100, false),
                (at - at / 50, true),
                (at + at / 8, true),
                (at + at / 3, false),
                (at + at / 100, false),
            ] {
                let is_high = pressure.is_high(free, all, 2 * GIB);
                assert_eq!(is_high, want, "{free} of {all}");
            }
        }
        assert!(!Pressure::default().is_high(0, 0, GIB), "a disk without a size says nothing");
    }

    #[test]
    fn a_machine_that_is_well_has_its_memory_and_disk() {
        let (free, all) = disk(Path::new("/")).unwrap();
        assert!(free <= all && all > 0);
        let (free, all) = memory().unwrap();
        assert!(free <= all && free > 0);
        assert_eq!(disk(Path::new("/no/such/folder")), None);
    }
}
