//! Below which cgroup this process may make others.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};

use super::{CONTROLLERS, MOUNT, processes_in};

/// What processes go to that would keep a cgroup from having limited children: in version 2 one has
/// either children or processes.
const LEAF: &str = "margay-supervisor";
/// How often processes that are started meanwhile are moved after the others.
const ROUNDS_MAX: u32 = 16;

/// The folder that cgroups are made in: for root where they are mounted, and for others the cgroup
/// that was delegated to them, which is the one that they are in. Nothing where this process may
/// make none.
pub(super) fn base() -> Option<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    base_below(Path::new(MOUNT), &own, |path| access(path, Access::WRITE_OK).is_ok())
}

fn base_below(mount: &Path, own: &str, may_write: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    if !mount.join("cgroup.controllers").exists() {
        return may_write(&mount.join("memory")).then(|| mount.to_owned());
    }
    if may_write(mount) {
        return Some(mount.to_owned());
    }
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let folder = mount.join(path);
    let folder = if folder.ends_with(LEAF) { folder.parent()? } else { &folder };
    (folder != mount && may_write(folder) && may_write(&folder.join("cgroup.procs")))
        .then(|| folder.to_owned())
}

/// Whether it can share out processors: a cgroup may be delegated without that.
pub fn limits_processors() -> bool {
    base().is_some_and(|base| {
        let offered = fs::read_to_string(base.join("cgroup.controllers"));
        match offered {
            Ok(offered) => has(&offered, "cpu"),
            Err(_) => base.join("cpu").is_dir(),
        }
    })
}

fn has(names: &str, name: &str) -> bool {
    names.split_whitespace().any(|word| word == name)
}

/// Lets the children of `folder` be limited by every controller that it has, after its processes
/// have moved into a child of their own where they are in the way.
///
/// # Errors
/// When it cannot limit memory and threads, or the kernel refuses.
pub(super) fn enable_controllers(folder: &Path) -> io::Result<()> {
    let offered = fs::read_to_string(folder.join("cgroup.controllers"))?;
    for name in ["memory", "pids"] {
        if !has(&offered, name) {
            let why = format!("`{}` was delegated without `{name}`", folder.display());
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
    }
    let path = folder.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&path)?;
    let missing = |name: &&&str| has(&offered, name) && !has(&enabled, name);
    for controller in CONTROLLERS.iter().filter(missing) {
        let enable = || fs::write(&path, format!("+{controller}"));
        match enable() {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                move_processes(folder)?;
                enable()?;
            }
            done => done?,
        }
    }
    Ok(())
}

fn move_processes(folder: &Path) -> io::Result<()> {
    let leaf = folder.join(LEAF);
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for _ in 0..ROUNDS_MAX {
        let processes = processes_in(folder);
        if processes.is_empty() {
            break;
        }
        for pid in processes {
            // One that has ended meanwhile is in the way no more.
            let moved = fs::write(leaf.join("cgroup.procs"), pid.to_string());
            moved.or_else(|error| match error.raw_os_error() {
                Some(libc::ESRCH) => Ok(()),
                _ => Err(error),
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_made_where_this_process_may_make_them() {
        let tree = tempfile::tempdir().unwrap();
        let mount = tree.path();
        let base = |own: &str, writable: bool| base_below(mount, own, |_| writable);
        assert_eq!(base("4:memory:/x\n", true), Some(mount.to_owned()));
        assert_eq!(base("4:memory:/x\n", false), None);
        fs::write(mount.join("cgroup.controllers"), "").unwrap();
        assert_eq!(base("0::/user.slice/u\n", true), Some(mount.to_owned()), "root's");
        assert_eq!(base("0::/user.slice/u\n", false), None);
    }

    #[test]
    fn a_delegated_cgroup_is_the_base_of_its_processes_and_of_their_supervisor() {
        let tree = tempfile::tempdir().unwrap();
        let mount = tree.path();
        let own = mount.join("user.slice/margay.scope");
        fs::write(mount.join("cgroup.controllers"), "memory pids\n").unwrap();
        for (path, want) in [
            ("/user.slice/margay.scope", Some(&own)),
            ("/user.slice/margay.scope/margay-supervisor", Some(&own)),
            ("/user.slice", None), // that of others
            ("/", None),
        ] {
            let found = base_below(mount, &format!("0::{path}\n"), |path| path.starts_with(&own));
            assert_eq!(found.as_ref(), want, "{path}");
        }
    }

    #[test]
    fn a_cgroup_without_a_needed_controller_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        put("cgroup.subtree_control", "");
        put("cgroup.controllers", "cpu pids\n");
        let error = enable_controllers(folder.path()).unwrap_err();
        assert!(error.to_string().contains("without `memory`"), "{error}");
        put("cgroup.controllers", "memory pids\n");
        enable_controllers(folder.path()).unwrap();
        let enabled = fs::read_to_string(folder.path().join("cgroup.subtree_control")).unwrap();
        assert_eq!(enabled, "+pids", "and no `cpu`, which is not there");
    }
}
