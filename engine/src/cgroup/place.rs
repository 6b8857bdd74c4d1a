//! The cgroup of one worker, within the group of its owner.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{
    CONTROLLERS,
    base::{base, enable_controllers},
    number, read_below, remove_folder,
};
use crate::limits::{CGROUP_REMOVE_TIME_MAX, CGROUP_UNUSED_FOR};

/// The period of a quota, in microseconds: the kernel's default.
const PERIOD_US: u64 = 100_000;
/// The least quota that the kernel takes, in microseconds.
const QUOTA_US_MIN: u64 = 1_000;

/// Where a worker is counted and limited. All containers of one owner are in one group, and groups
/// have equal weights: when processors are short, owners get equal shares, however many containers
/// each has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    mount: PathBuf,
    group: String,
    name: String,
}

/// What the kernel enforces for one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Pages of it and of its files, and none in swap.
    pub memory_bytes_max: u64,
    /// Threads.
    pub processes_max: u32,
    /// Thousandths of a processor; nothing means as many as there are.
    pub cpu_millis_max: Option<u32>,
}

impl Place {
    /// That of the container in `folder`, which may not exist yet. Nothing where this process may
    /// make no cgroups.
    pub fn of(folder: &Path, owner: &str) -> Option<Self> {
        Self::below(&base()?, folder, owner)
    }

    /// Two platforms on one machine have different folders, and so different groups.
    fn below(mount: &Path, folder: &Path, owner: &str) -> Option<Self> {
        let (tasks, name) = (folder.parent()?, folder.file_name()?.to_str()?);
        let group = format!("{}{owner}", prefix(tasks));
        Some(Self { mount: mount.to_owned(), group, name: name.to_owned() })
    }

    /// Makes it, and opens where a process enters it.
    ///
    /// # Errors
    /// When the kernel refuses; nothing is left then.
    pub fn create(&self, bounds: &Bounds) -> io::Result<Vec<OwnedFd>> {
        let made = self.try_create(bounds);
        if made.is_err() {
            self.remove();
        }
        made
    }

    fn try_create(&self, bounds: &Bounds) -> io::Result<Vec<OwnedFd>> {
        match self.is_v2() {
            true => {
                enable_controllers(&self.mount)?;
                make(&self.mount.join(&self.group))?;
                enable_controllers(&self.mount.join(&self.group))?;
            }
            false => self.groups().iter().try_for_each(|group| make(group))?,
        }
        let mut entries = Vec::new();
        for folder in self.folders() {
            make(&folder)?;
            bounds.write(&folder)?;
            // In version 1 a process with one thread enters by that thread: for a whole process
            // the kernel waits until no other one forks, which takes 10 ms.
            let entry = if self.is_v2() { "cgroup.procs" } else { "tasks" };
            entries.push(File::options().write(true).open(folder.join(entry))?.into());
        }
        Ok(entries)
    }

    /// Makes it for the process `pid`, which has one thread and did nothing yet.
    ///
    /// # Errors
    /// When the kernel refuses; nothing is left then.
    pub fn hold(self, pid: u32, bounds: &Bounds) -> io::Result<Tenancy> {
        let entries = self.create(bounds)?;
        let held = Tenancy(self);
        for entry in entries {
            rustix::io::write(entry, pid.to_string().as_bytes())?;
        }
        Ok(held)
    }

    /// Whether it is there.
    pub fn exists(&self) -> bool {
        self.folders().iter().any(|folder| folder.exists())
    }

    /// Its limit of memory, when the kernel has killed one of its processes for that.
    pub fn oom_bytes_max(&self) -> Option<u64> {
        let own = format!("{}/{}", self.group, self.name);
        let killed = read_below(&self.mount, &own).oom_kills > 0;
        let limits = [format!("memory/{own}/memory.limit_in_bytes"), format!("{own}/memory.max")];
        limits.iter().map(|path| number(&self.mount.join(path))).max().filter(|_| killed)
    }

    /// Removes it, and its group with the last container. Also what others have left there: workers
    /// whose supervisor was killed.
    pub fn remove(&self) {
        let deadline = std::time::Instant::now() + CGROUP_REMOVE_TIME_MAX;
        for folder in self.folders() {
            // One that cannot be removed now goes with the next container of its owner.
            let _ = remove_folder(&folder, deadline);
        }
        self.groups().iter().for_each(|group| sweep_group(group));
    }

    fn is_v2(&self) -> bool {
        self.mount.join("cgroup.controllers").exists()
    }

    fn groups(&self) -> Vec<PathBuf> {
        hierarchies(&self.mount).iter().map(|folder| folder.join(&self.group)).collect()
    }

    fn folders(&self) -> Vec<PathBuf> {
        self.groups().iter().map(|group| group.join(&self.name)).collect()
    }
}

/// The cgroup of a process that its parent waits for. Removed when this is dropped, and what is
/// left in it is killed.
#[derive(Debug)]
pub struct Tenancy(Place);

impl Tenancy {
    /// As [`Place::oom_bytes_max`].
    pub fn oom_bytes_max(&self) -> Option<u64> {
        self.0.oom_bytes_max()
    }
}

impl Drop for Tenancy {
    fn drop(&mut self) {
        self.0.remove();
    }
}

/// Moves this process, which has one thread, into a cgroup.
///
/// # Errors
/// When the cgroup is gone.
pub fn enter(entries: &[impl AsFd]) -> io::Result<()> {
    entries.iter().try_for_each(|entry| rustix::io::write(entry, b"0").map(drop))?;
    Ok(())
}

/// Makes a cgroup and removes it, for `margay doctor`.
///
/// # Errors
/// What the kernel refuses.
pub fn probe(folder: &Path) -> io::Result<()> {
    let name = format!("probe-{}", std::process::id());
    let place = Place::of(&folder.join(name), "doctor");
    let place = place.ok_or(io::ErrorKind::PermissionDenied)?;
    let bounds = Bounds { memory_bytes_max: 1 << 20, processes_max: 1, cpu_millis_max: Some(10) };
    let made = place.create(&bounds);
    place.remove();
    made.map(drop)
}

/// Removes what ended workers have left of the platform whose containers are in `tasks`.
pub fn sweep(tasks: &Path) {
    let prefix = prefix(tasks);
    for hierarchy in base().iter().flat_map(|base| hierarchies(base)) {
        let found = fs::read_dir(&hierarchy).into_iter().flatten().flatten();
        let own = found.filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(&prefix)));
        own.for_each(|group| sweep_group(&group.path()));
    }
}

/// Every cgroup of a platform begins so.
fn prefix(tasks: &Path) -> String {
    let digest = spec::Digest::of(tasks.as_os_str().as_encoded_bytes());
    format!("margay-{}.", digest.short())
}

/// Where a group is made: one folder for each controller, or one for all.
fn hierarchies(mount: &Path) -> Vec<PathBuf> {
    match mount.join("cgroup.controllers").exists() {
        true => vec![mount.to_owned()],
        false => {
            let folders = CONTROLLERS.iter().map(|controller| mount.join(controller));
            folders.filter(|folder| folder.is_dir()).collect()
        }
    }
}

fn make(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // The last container of this owner has just taken the group with it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir_all(folder),
        other => other,
    }
}

/// Removes the empty children of a group, and the group itself when none is left. One that was made
/// a moment ago may be entered in the next.
fn sweep_group(group: &Path) {
    let is_old = |entry: &fs::DirEntry| {
        let modified = entry.metadata().and_then(|meta| meta.modified());
        let age = modified.map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
        age.is_ok_and(|age: Duration| age > CGROUP_UNUSED_FOR)
    };
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && is_old(&entry) {
            let _ = fs::remove_dir(entry.path()); // refused while a process is in it
        }
    }
    let _ = fs::remove_dir(group); // refused while it has children
}

impl Bounds {
    fn write(&self, folder: &Path) -> io::Result<()> {
        let quota = self
            .cpu_millis_max
            .map(|millis| (u64::from(millis) * PERIOD_US / 1000).max(QUOTA_US_MIN).to_string());
        let (memory, processes) =
            (self.memory_bytes_max.to_string(), self.processes_max.to_string());
        let v2 = format!("{} {PERIOD_US}", quota.as_deref().unwrap_or("max"));
        // What a controller of this folder has, is written; the others have folders of their own.
        for (file, value, required) in [
            ("memory.limit_in_bytes", &memory, true),
            ("memory.memsw.limit_in_bytes", &memory, false),
            ("memory.max", &memory, true),
            ("memory.swap.max", &"0".to_owned(), false),
            ("pids.max", &processes, true),
            ("cpu.max", &v2, true),
            ("cpu.cfs_quota_us", &quota.clone().unwrap_or_else(|| "-1".to_owned()), true),
        ] {
            let path = folder.join(file);
            if path.exists() {
                let written = fs::write(&path, value);
                if required {
                    written?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_by_its_platform_its_owner_and_its_folder() {
        let mount = tempfile::tempdir().unwrap();
        let of = |folder: &str, owner: &str| {
            Place::below(mount.path(), Path::new(folder), owner).unwrap()
        };
        let place = of("/home/tasks/acme.cats-1.app", "acme");
        assert!(place.group.starts_with("margay-") && place.group.ends_with(".acme"));
        assert_eq!(place.name, "acme.cats-1.app");
        assert_ne!(place.group, of("/other/tasks/acme.cats-1.app", "acme").group);
        assert_ne!(place.group, of("/home/tasks/acme.cats-1.app", "bob").group);
    }

    #[test]
    fn a_process_is_held_in_a_cgroup_for_as_long_as_its_parent_waits() {
        let folder = tempfile::tempdir().unwrap();
        let Some(place) = Place::of(&folder.path().join("probe"), "acme") else {
            println!("SKIPPED: this user may make no cgroups");
            return;
        };
        let mut command = std::process::Command::new("cat");
        let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
        let bounds = Bounds { memory_bytes_max: 64 << 20, processes_max: 8, cpu_millis_max: None };
        let held = place.clone().hold(child.id(), &bounds).unwrap();
        let groups = || fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
        assert!(groups().contains(&format!("{}/probe", place.group)), "{}", groups());
        assert_eq!(held.oom_bytes_max(), None);
        drop(held);
        assert!(place.groups().iter().all(|group| !group.exists()), "{place:?}");
        assert!(!child.wait().unwrap().success(), "it was killed");
    }

    #[test]
    fn a_worker_that_enters_is_limited_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let Some(place) = Place::of(&folder.path().join("probe"), "acme") else {
            println!("SKIPPED: this user may make no cgroups");
            return;
        };
        let bounds =
            Bounds { memory_bytes_max: 64 << 20, processes_max: 8, cpu_millis_max: Some(500) };
        let entries = place.create(&bounds).unwrap();
        let mut command = std::process::Command::new("cat");
        command.stdin(std::process::Stdio::piped());
        // SAFETY: it makes system calls only.
        #[allow(unsafe_code, reason = "a child that enters between fork and exec")]
        unsafe {
            std::os::unix::process::CommandExt::pre_exec(&mut command, move || enter(&entries))
        };
        let mut child = command.spawn().unwrap();
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
        assert!(groups.contains(&format!("{}/probe", place.group)), "{groups}");
        for file in ["memory.limit_in_bytes", "memory.max"] {
            for folder in place.folders().iter().filter(|folder| folder.join(file).exists()) {
                assert_eq!(number(&folder.join(file)), 64 << 20);
            }
        }
        place.groups().iter().for_each(|group| sweep_group(group));
        assert!(place.folders().iter().all(|folder| folder.exists()), "it is in use");
        child.kill().unwrap();
        child.wait().unwrap();
        place.remove();
        assert!(place.groups().iter().all(|group| !group.exists()), "{place:?}");
    }
}
