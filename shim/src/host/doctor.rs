use std::path::Path;

use crate::{
    Error, Runtime,
    host::{
        cgroup,
        layering::Layering,
        rights::{Rights, rights},
    },
    limits::ID_COUNT,
};

/// One thing that this machine can or cannot do for native images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Stable, for programs: `cgroups`, `oci-runtime`, …
    pub name: &'static str,
    pub level: Level,
    pub message: String,
    pub hint: Option<String>,
}

/// The outcome of a [`Check`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Native images run.
    Good,
    /// Native images run, with a restriction.
    Warning,
    /// Native images do not run.
    Missing,
}

/// Checks everything that native images need of this machine. Wasm images need none of it. `found`
/// is of the folder that containers are kept in, where this process may mount, and `refused` why an
/// ordinary user may not.
pub fn doctor(folder: &Path, found: Option<&Layering>, refused: Option<&Error>) -> Vec<Check> {
    let by = rights();
    let is_root = matches!(by, Ok(Rights::Root));
    let mut checks = vec![root(&by, refused), runtime()];
    // Without the rights there is one cause, and one next step.
    if checks[0].level == Level::Good {
        checks.push(if is_root { cgroups() } else { no_cgroups() });
    }
    checks.push(file(
        "user-namespaces",
        "/proc/self/ns/user",
        "user namespaces",
        "start a kernel with CONFIG_USER_NS=y",
    ));
    checks.push(overlay());
    if let Some(found) = found {
        let mut found = layering(found, folder);
        // An ordinary user shows no files with other owners, and has one range for all containers.
        found.retain(|check| is_root || check.name != "id-mapped-mounts");
        checks.extend(found);
    }
    checks
}

fn root(by: &Result<Rights, Error>, refused: Option<&Error>) -> Check {
    let missing =
        |error: &Error| check("root", Level::Missing, error.chain(), error.hint().as_deref());
    match (by, refused) {
        (Ok(Rights::Root), _) => {
            check("root", Level::Good, "running as root, as native images need".to_owned(), None)
        }
        (Err(error), _) | (_, Some(error)) => missing(error),
        (Ok(Rights::Subordinate(ids, _)), None) => {
            let (count, first) = (ID_COUNT - 1, ids.users.first);
            let message = format!(
                "containers are in user namespaces: their root is this user, and their other \
                 users are the {count} from {first} on in /etc/subuid"
            );
            check("root", Level::Good, message, None)
        }
    }
}

/// Of an ordinary user.
fn no_cgroups() -> Check {
    let message = "an ordinary user's containers are in no cgroup: their processes are limited, \
                   their memory is looked at once a second, and processors are not shared out";
    let hint = "run margay as root where Linux containers need hard limits";
    check("cgroups", Level::Warning, message.to_owned(), Some(hint))
}

/// Where the files of containers and of the host meet, as [`probe_layering`] has found it.
fn layering(found: &Layering, folder: &Path) -> Vec<Check> {
    let folder = folder.display();
    let layers = match &found.writable_layers {
        None => check(
            "writable-layers",
            Level::Good,
            format!("`{folder}` can hold what containers write"),
            None,
        ),
        Some(why) => check(
            "writable-layers",
            Level::Missing,
            format!("`{folder}` cannot hold what containers write ({why})"),
            Some(
                "put MARGAY_HOME on ext4, xfs, btrfs or tmpfs (inside a container: on a volume), or use `--read-only`",
            ),
        ),
    };
    let mounts = match &found.id_mapped_mounts {
        None => check(
            "id-mapped-mounts",
            Level::Good,
            "each container has users of its own, and files of the host keep their owners"
                .to_owned(),
            None,
        ),
        Some(why) => check(
            "id-mapped-mounts",
            Level::Warning,
            format!(
                "files cannot be shown with other owners ({why}): containers share one range of users"
            ),
            Some(
                "start Linux 5.19 or newer with MARGAY_HOME on ext4, xfs, btrfs or tmpfs; till then containers of one tenant run at a time, and what you mount must be open to all users",
            ),
        ),
    };
    vec![layers, mounts]
}

fn runtime() -> Check {
    match Runtime::probe() {
        Ok(runtime) => match runtime.warning() {
            None => check(
                "oci-runtime",
                Level::Good,
                format!("{runtime} at {}", runtime.path.display()),
                None,
            ),
            Some(warning) => {
                let hint = "let your distribution update it, or install a newer one in front of it on the PATH";
                check("oci-runtime", Level::Warning, warning, Some(hint))
            }
        },
        Err(error) => {
            check("oci-runtime", Level::Missing, error.to_string(), error.hint().as_deref())
        }
    }
}

fn cgroups() -> Check {
    match cgroup::kind() {
        Some(kind) if !cgroup::is_writable() => {
            let hint =
                "inside a container: start it with `--privileged`, or mount its cgroup writable";
            check("cgroups", Level::Missing, format!("{kind}, which we may not change"), Some(hint))
        }
        Some(kind) if cgroup::counts_swap() => {
            check("cgroups", Level::Good, format!("{kind}, with swap"), None)
        }
        Some(kind) => {
            let hint = "boot with `swapaccount=1`, or without swap";
            check("cgroups", Level::Warning, format!("{kind} that cannot limit swap"), Some(hint))
        }
        None => {
            let hint = "mount cgroup2 on /sys/fs/cgroup";
            check(
                "cgroups",
                Level::Missing,
                "no cgroups to limit memory and processes with".to_owned(),
                Some(hint),
            )
        }
    }
}

fn overlay() -> Check {
    let listed = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    match listed.lines().any(|line| line.ends_with("\toverlay")) {
        true => check(
            "overlayfs",
            Level::Good,
            "overlayfs stacks the layers of images".to_owned(),
            None,
        ),
        false => {
            let message =
                "overlayfs is not loaded; the kernel may still load it when it is first used"
                    .to_owned();
            check("overlayfs", Level::Warning, message, Some("modprobe overlay"))
        }
    }
}

fn file(name: &'static str, path: &str, what: &str, hint: &str) -> Check {
    match Path::new(path).exists() {
        true => check(name, Level::Good, format!("the kernel has {what}"), None),
        false => check(name, Level::Missing, format!("the kernel has no {what}"), Some(hint)),
    }
}

fn check(name: &'static str, level: Level, message: String, hint: Option<&str>) -> Check {
    Check { name, level, message, hint: hint.map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_is_not_good_has_a_hint() {
        let bad = || Some("no".to_owned());
        let found = Layering { writable_layers: bad(), id_mapped_mounts: bad() };
        for check in doctor(Path::new("/x"), Some(&found), None) {
            assert_eq!(check.level == Level::Good, check.hint.is_none(), "{check:?}");
        }
    }
}
