use std::process::ExitCode;

use rustix::thread::CapabilitySet;
use serde::Serialize;

use crate::{
    home::Home,
    machine,
    output::{Format, Output, Paint, line, size},
    platform,
};

/// Check what this machine can and cannot do, and say the next step
#[derive(Debug, clap::Args)]
#[command(after_help = "Exits with 1 when something fails that margay cannot do without.")]
pub struct Args {
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// Something is missing that some images need, or that makes things slower.
    Warn,
    /// margay cannot work here.
    Fail,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Check {
    name: String,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

fn check(verdict: Verdict, name: &str, found: impl Into<String>, next: Option<String>) -> Check {
    Check { name: name.to_owned(), verdict, found: found.into(), next }
}

fn ok(name: &str, found: impl Into<String>) -> Check {
    check(Verdict::Ok, name, found, None)
}

fn warn(name: &str, found: impl Into<String>, next: impl Into<String>) -> Check {
    check(Verdict::Warn, name, found, Some(next.into()))
}

fn bad(name: &str, found: impl Into<String>, next: impl Into<String>) -> Check {
    check(Verdict::Fail, name, found, Some(next.into()))
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<ExitCode> {
        let checks = examine(home);
        match self.output.output {
            Format::Json => crate::output::json(&checks)?,
            Format::Table => checks.iter().for_each(print),
        }
        let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
        Ok(ExitCode::from(u8::from(failed)))
    }
}

fn print(check: &Check) {
    let paint = Paint::on_stdout();
    let verdict = match check.verdict {
        Verdict::Ok => paint.good("ok  "),
        Verdict::Warn => paint.warn("warn"),
        Verdict::Fail => paint.error("fail"),
    };
    line(format_args!("{verdict}  {:<24}  {}", check.name, check.found));
    if let Some(next) = &check.next {
        line(format_args!("{:<6}{:<24}  next: {next}", "", ""));
    }
}

fn examine(home: &Home) -> Vec<Check> {
    let (release, version) = machine::kernel();
    let mut checks = vec![kernel(&release, version), user(), landlock(), seccomp(), openat2()];
    let probe = machine::probe(home.path());
    checks.extend(namespaces(&probe));
    checks.extend([limits(), cgroups(home), pagemap(version), folder(home), space(home)]);
    let tried = shim::try_namespace(home.path());
    let layering = match &tried {
        Ok(Some(found)) => Some(found),
        Ok(None) | Err(_) => probe.as_ref().ok().and_then(|probe| probe.layering.as_ref()),
    };
    let native_checks = shim::doctor(home.path(), layering, tried.as_ref().err());
    checks.extend(native_checks.into_iter().map(native));
    checks.extend(ports());
    checks
}

/// 5.13 has Landlock, the youngest wall that we ask for; openat2 and open_tree are older.
fn kernel(release: &str, version: (u32, u32)) -> Check {
    match version >= (5, 13) {
        true => ok("kernel", release),
        false => bad("kernel", release, "run Linux 5.13 or newer: it is the first with Landlock"),
    }
}

fn user() -> Check {
    if runtime::Separation::available() == runtime::Separation::OwnIds {
        return ok("user", "root: each task gets a user id of its own");
    }
    // Only a worker shows whether the kernel and the programs of the distribution agree.
    let _ = runtime::SpareWorker::spawn(&runtime::SpawnOptions::default());
    match engine::subordinate_ids::available() {
        Ok(ids) => ok(
            "user",
            format!(
                "each task gets a user id of its own, of the {} from {} on in /etc/subuid",
                ids.users.count, ids.users.first
            ),
        ),
        Err(why) => warn("user", format!("tasks have the user id of this user: {why}"), why.hint()),
    }
}

fn landlock() -> Check {
    match machine::landlock_abi() {
        Ok(abi) if abi >= 3 => ok("Landlock", format!("ABI {abi}")),
        Ok(abi) => warn(
            "Landlock",
            format!("ABI {abi}, which does not know truncate"),
            "update the kernel to 6.2 or newer",
        ),
        Err(error) => bad(
            "Landlock",
            error.to_string(),
            "boot with `landlock` in the `lsm=` list of the kernel's command line, or use a kernel that has it",
        ),
    }
}

fn seccomp() -> Check {
    let next = "use a kernel with CONFIG_SECCOMP_FILTER";
    match machine::seccomp() {
        Ok(true) => ok("seccomp", "filters"),
        Ok(false) => bad("seccomp", "filters cannot answer with an error", next),
        Err(error) => bad("seccomp", error.to_string(), next),
    }
}

fn openat2() -> Check {
    match machine::openat2() {
        Ok(()) => ok("openat2", "works"),
        Err(error) => bad(
            "openat2",
            error.to_string(),
            "let the container or sandbox around us pass openat2 (Linux 5.6)",
        ),
    }
}

fn namespaces(probe: &anyhow::Result<machine::Probe>) -> Vec<Check> {
    let probe = match probe {
        Ok(probe) => probe,
        Err(error) => {
            return vec![bad("namespaces", error.to_string(), "run `margay probe /` to see why")];
        }
    };
    if let Some(error) = &probe.namespaces {
        // What else is forbidden has the same cause.
        let found = format!("{error}: no guest can be started");
        return vec![bad("namespaces", found, Forbidding::of(error).next())];
    }
    let namespaces = ok("namespaces", "user, network, ipc, uts and mount");
    let open_tree = match &probe.open_tree {
        None => ok("detached mounts", "work"),
        Some(error) => warn(
            "detached mounts",
            error.clone(),
            "volumes need open_tree(2): allow mounts in namespaces; images without volumes run anyhow",
        ),
    };
    vec![namespaces, open_tree]
}

/// What may forbid a namespace.
#[derive(Debug, Clone, Copy)]
struct Forbidding {
    /// The kernel's word for a number of namespaces that is used up, or zero.
    used_up: bool,
    /// Since Linux 5.12 it takes this to be user 0 in a namespace of its own.
    root_without_setfcap: bool,
    in_container: bool,
}

impl Forbidding {
    fn of(error: &str) -> Self {
        let root = rustix::process::geteuid().is_root();
        Self {
            used_up: error == std::io::Error::from_raw_os_error(libc::ENOSPC).to_string(),
            root_without_setfcap: root && machine::lacks(CapabilitySet::SETFCAP),
            in_container: machine::is_in_container(),
        }
    }

    /// A container around us is what forbids them mostly.
    fn next(self) -> &'static str {
        match self {
            Self { used_up: true, .. } => {
                "allow more user namespaces: sysctl -w user.max_user_namespaces=15000"
            }
            Self { root_without_setfcap: true, in_container: true, .. } => {
                "this root has no CAP_SETFCAP: start the container around us with \
                 `--cap-add SETFCAP --cap-add SYS_CHROOT`, or as an ordinary user (`--user 1000`)"
            }
            Self { root_without_setfcap: true, .. } => {
                "this root has no CAP_SETFCAP: give it that one, or start as an ordinary user"
            }
            Self { in_container: true, .. } => {
                "let the container around us make user namespaces: start it with \
                 `--security-opt seccomp=unconfined`, or with `--cap-add SYS_ADMIN`"
            }
            Self { .. } => {
                "allow user namespaces: sysctl -w kernel.unprivileged_userns_clone=1 \
                 user.max_user_namespaces=15000 (Ubuntu: \
                 kernel.apparmor_restrict_unprivileged_userns=0), or run as root"
            }
        }
    }
}

/// Wasm memories reserve address space in steps of 4 GiB: a limit on it stops the first instance.
fn limits() -> Check {
    match machine::limits() {
        (_, Some(bytes)) => bad(
            "limits",
            format!("address space is limited to {}", size(bytes)),
            "lift it: ulimit -v unlimited",
        ),
        (Some(files), None) if files < net::DESCRIPTORS_MIN => warn(
            "limits",
            format!("{files} open files for a process: few connections to `margay up`"),
            format!("raise it: ulimit -Hn {}", net::DESCRIPTORS_MIN),
        ),
        (files, None) => ok(
            "limits",
            files.map_or("none".to_owned(), |files| format!("{files} open files for a process")),
        ),
    }
}

/// Without one a worker that has broken its Wasm wall takes what the machine has.
fn cgroups(home: &Home) -> Check {
    match engine::cgroup::probe(home.path()) {
        Ok(()) if engine::cgroup::limits_processors() => {
            ok("cgroups", "each worker has one: memory, processors and threads")
        }
        Ok(()) => warn(
            "cgroups",
            "each worker has one, for memory and threads: the one of this user was delegated without `cpu`",
            "delegate it, in a unit of systemd: Delegate=cpu memory pids",
        ),
        Err(error) => warn(
            "cgroups",
            format!("{error}: the limits of workers are their own, and owners get no equal shares"),
            "run as root, with cgroups that may be changed, for a node of the shared pool",
        ),
    }
}

fn pagemap(version: (u32, u32)) -> Check {
    match machine::pagemap_scan(version) {
        true => ok("PAGEMAP_SCAN", "fast reset of instances"),
        false => warn(
            "PAGEMAP_SCAN",
            "missing: each request costs a little more",
            "update the kernel to 6.7 or newer",
        ),
    }
}

/// Without these only native images stay behind: nothing that fails margay.
fn native(check: shim::Check) -> Check {
    let name = format!("native: {}", check.name);
    let next = check.hint.unwrap_or_else(|| "run Wasm images, which need none of this".to_owned());
    match check.level {
        shim::Level::Good => ok(&name, check.message),
        shim::Level::Warning => warn(&name, check.message, next),
        shim::Level::Missing => warn(&name, format!("{}: no native images", check.message), next),
    }
}

fn folder(home: &Home) -> Check {
    let path = home.path().display();
    match machine::writable(home.path()) {
        Ok(()) => ok("MARGAY_HOME", path.to_string()),
        Err(error) => {
            let next = "choose another: MARGAY_HOME=/some/folder";
            bad("MARGAY_HOME", format!("{path}: {error}"), next)
        }
    }
}

fn space(home: &Home) -> Check {
    let next = "free some, or put MARGAY_HOME on a larger disk";
    match machine::free_bytes(home.path()) {
        Ok(bytes) if bytes >= 1 << 30 => ok("free space", size(bytes)),
        Ok(bytes) if bytes >= 64 << 20 => warn("free space", size(bytes), next),
        Ok(bytes) => bad("free space", size(bytes), next),
        Err(error) => bad("free space", error.to_string(), next),
    }
}

fn ports() -> Vec<Check> {
    let next = "choose another: margay up --help";
    let check = |(name, port): (&'static str, u16)| match machine::port_is_free(port) {
        Ok(true) => ok(name, format!("{port} is free")),
        Ok(false) => warn(name, format!("{port} is taken (by `margay up`?)"), next),
        Err(error) => warn(name, format!("{port}: {error}"), next),
    };
    let ports = [
        ("control plane port", platform::SERVER_PORT),
        ("registry port", platform::REGISTRY_PORT),
        ("ingress port", platform::INGRESS_PORT),
    ];
    ports.into_iter().map(check).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_is_forbidden_has_the_next_step_of_its_cause() {
        for (used_up, root_without_setfcap, in_container, want) in [
            (true, true, true, "sysctl -w user.max_user_namespaces"),
            (false, true, true, "--cap-add SETFCAP"),
            (false, true, false, "give it that one"),
            (false, false, true, "seccomp=unconfined"),
            (false, false, false, "unprivileged_userns_clone"),
        ] {
            let cause = Forbidding { used_up, root_without_setfcap, in_container };
            assert!(cause.next().contains(want), "{cause:?}: {}", cause.next());
        }
    }

    #[test]
    fn an_old_kernel_fails_with_a_next_step() {
        for (version, want) in [
            ((4, 19), Verdict::Fail),
            ((5, 12), Verdict::Fail),
            ((5, 13), Verdict::Ok),
            ((6, 1), Verdict::Ok),
        ] {
            let check = kernel("x", version);
            assert_eq!(check.verdict, want, "{version:?}");
            assert_eq!(check.next.is_some(), want == Verdict::Fail);
        }
    }
}
