//! What this machine can and cannot do, as facts. [`verbs::doctor`](crate::verbs::doctor) turns
//! them into words.
//!
//! A check that would change this process (a user namespace) runs in a child: `margay probe`.

use std::{io::ErrorKind, net::TcpListener, path::Path};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    mount::OpenTreeFlags,
    thread::{CapabilitySet, UnshareFlags, capabilities},
};
use serde::{Deserialize, Serialize};

/// The kernel's release, and its first two numbers.
pub fn kernel() -> (String, (u32, u32)) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|text| text.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (release, version)
}

/// The version of Landlock that the kernel offers, or why there is none.
pub fn landlock_abi() -> std::io::Result<u32> {
    /// From `linux/landlock.h`.
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;
    // SAFETY: with a null pointer, size 0 and this flag the call takes nothing, makes nothing, and
    // returns a number.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(answer).map_err(|_| std::io::Error::last_os_error())
}

/// Whether opens can be kept below a folder by the kernel.
pub fn openat2() -> std::io::Result<()> {
    rustix::fs::openat2(
        CWD,
        "/",
        OFlags::PATH | OFlags::DIRECTORY,
        Mode::empty(),
        ResolveFlags::NO_MAGICLINKS,
    )?;
    Ok(())
}

/// Whether seccomp filters can answer with an error number.
pub fn seccomp() -> std::io::Result<bool> {
    let actions = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail")?;
    Ok(actions.split_whitespace().any(|action| action == "errno"))
}

/// Whether pages that a guest wrote can be found without touching the others (used to reset
/// instances).
pub fn pagemap_scan(kernel: (u32, u32)) -> bool {
    kernel >= (6, 7) && std::fs::File::open("/proc/self/pagemap").is_ok()
}

pub fn free_bytes(folder: &Path) -> std::io::Result<u64> {
    let facts = rustix::fs::statvfs(folder)?;
    Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
}

pub fn writable(folder: &Path) -> std::io::Result<()> {
    let trial = folder.join(format!(".doctor-{}", std::process::id()));
    std::fs::write(&trial, b"margay")?;
    std::fs::remove_file(trial)
}

pub fn port_is_free(port: u16) -> std::io::Result<bool> {
    match TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether another engine has put us into a container, as far as those say so.
pub fn is_in_container() -> bool {
    ["/.dockerenv", "/run/.containerenv"].iter().any(|path| Path::new(path).exists())
        || std::env::var_os("container").is_some()
        || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// Whether this process is without a right of root.
pub fn lacks(capability: CapabilitySet) -> bool {
    capabilities(None).is_ok_and(|sets| !sets.effective.contains(capability))
}

/// How many descriptors a process may hold, and whether its address space is limited.
pub fn limits() -> (Option<u64>, Option<u64>) {
    use rustix::process::{Resource, getrlimit};
    (getrlimit(Resource::Nofile).maximum, getrlimit(Resource::As).maximum)
}

/// Namespaces and mounts, as checked by a child; each an error text when it failed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Probe {
    /// Own network, ipc, uts and mount namespaces, in a user namespace where workers get one.
    pub namespaces: Option<String>,
    /// Detached mounts, with which volumes are handed over.
    pub open_tree: Option<String>,
    /// What folders can be for Linux containers, where we may mount.
    pub layering: Option<shim::Layering>,
}

/// Runs the checks in a child, because they move a process into other namespaces.
pub fn probe(folder: &Path) -> anyhow::Result<Probe> {
    let child =
        std::process::Command::new(std::env::current_exe()?).arg("probe").arg(folder).output()?;
    Ok(serde_json::from_slice(&child.stdout)?)
}

/// `margay probe FOLDER`: the child of [`probe`]. Called before any thread exists.
pub fn probe_main() -> ! {
    let folder = std::env::args_os().nth(2).unwrap_or_else(|| "/".into());
    // Asked first: in a user namespace of its own every process has all rights, and they mean
    // nothing outside.
    let may_mount = rustix::process::geteuid().is_root() && shim::check_rights().is_ok();
    // SAFETY: there is one thread, and nothing shares its descriptors or its view of the
    // filesystem.
    let own_mounts = || unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) };
    let walls = runtime::try_walls().and_then(|()| Ok(own_mounts()?));
    let mut namespaces = walls.err().map(|error| error.to_string());
    let open_tree = rustix::mount::open_tree(
        CWD,
        Path::new(&folder),
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
    .err()
    .map(|error| error.to_string());
    // The mounts are in a namespace of this process, and end with it.
    let layering = match (&namespaces, may_mount) {
        (None, true) => Some(shim::probe_layering(Path::new(&folder))),
        _ => None,
    };
    if namespaces.is_none() {
        namespaces = runtime::try_own_user().err().map(|error| error.to_string());
    }
    let probe = Probe { namespaces, open_tree, layering };
    crate::output::line(format_args!("{}", serde_json::to_string(&probe).unwrap_or_default()));
    std::process::exit(0)
}
