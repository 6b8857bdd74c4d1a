//! A process that joins a container: a fork of the shim, which takes on one wall after the other,
//! and then becomes a program or copies files.
//!
//! The order matters. Descriptors of the host are closed before the first path of the container is
//! looked at, so that no link of a hostile container leads to one. The process has the container's
//! user namespace by then: of the host's files it may change none, the shim's own program included.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use engine::{
    StartFailure,
    exec::{Answer, Ask},
    frame,
};
use rustix::{
    fs::{Gid, Mode, OFlags, ResolveFlags, Uid, fchown, fstatfs, openat2},
    io::Errno,
    process::{Pid, Resource, Rlimit, setrlimit, setsid, umask},
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
    termios::tcsetwinsize,
    thread::{
        CapabilitySet, CapabilitySets, ThreadNameSpaceType, clear_ambient_capability_set,
        configure_capability_in_ambient_set, move_into_thread_name_spaces,
        remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities,
        set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};
use serde::{Deserialize, Serialize};

use super::{
    filter::Filter,
    template::{Capabilities, Order, ResourceLimit, User},
};
use crate::{
    bundle::{account::account, rootfs::RootFolder},
    files,
    limits::USER_DATABASE_BYTES_MAX,
    owner::{members::Members, runner::window_size},
    privileges::{COPY, drop_privileges},
    unpack::seccomp_unpack,
};

/// Where a program goes.
pub(crate) struct Place<'a> {
    /// The container's first process.
    pub first: BorrowedFd<'a>,
    pub members: &'a Members,
}

/// What the new process says before it becomes the program; then its end of the socket closes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The controlling side of its terminal rides beside.
    Terminal,
    /// The last word for its client: it does not run, or has copied.
    Answer(Answer),
}

/// What a process joins a container for.
pub(crate) enum Errand<'a> {
    Program {
        order: Order<'a>,
        filter: &'a Filter,
    },
    /// Anything but a program.
    Files(Ask),
}

/// What the new process holds until it is the program, each above [`REPORT_FD`]: none lies in the
/// way of another that is moved to its number.
struct Held {
    first: OwnedFd,
    cgroups: Vec<OwnedFd>,
    stdio: Option<[OwnedFd; 3]>,
    report: OwnedFd,
}

impl Held {
    fn of(
        place: &Place<'_>,
        stdio: Option<&[OwnedFd; 3]>,
        report: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        let high = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, REPORT_FD + 1);
        let open = |folder: std::path::PathBuf| -> io::Result<OwnedFd> {
            let file = std::fs::File::options().write(true).open(folder.join("cgroup.procs"))?;
            Ok(high(file.as_fd())?)
        };
        let stdio = match stdio {
            Some([stdin, stdout, stderr]) => {
                Some([high(stdin.as_fd())?, high(stdout.as_fd())?, high(stderr.as_fd())?])
            }
            None => None,
        };
        Ok(Self {
            first: high(place.first)?,
            cgroups: place.members.cgroups().into_iter().map(open).collect::<Result<_, _>>()?,
            stdio,
            report: high(report)?,
        })
    }
}

/// Starts the process of `errand`, which reports at the other end of `report`. Its namespace of
/// processes is the one that the shim's children are in.
#[expect(unsafe_code, reason = "std offers no fork without an exec at once")]
pub(crate) fn start(
    errand: Errand<'_>,
    place: &Place<'_>,
    stdio: Option<&[OwnedFd; 3]>,
    report: BorrowedFd<'_>,
) -> io::Result<Pid> {
    let held = Held::of(place, stdio, report)?;
    // SAFETY: the shim has one thread, so that its copy finds every lock free and every value
    // whole. The copy never returns from here.
    match unsafe { libc::fork() } {
        0 => {
            let entered = catch_unwind(AssertUnwindSafe(|| match errand {
                Errand::Program { order, filter } => become_program(&order, filter, &held),
                Errand::Files(ask) => copy_files(ask, &held),
            }));
            if let Ok(answer) = entered {
                // SAFETY: a plain number; the descriptor is open, or the send fails.
                let report = unsafe { BorrowedFd::borrow_raw(REPORT_FD) };
                let _ = frame::send(report, &Report::Answer(answer), &[]);
            }
            // SAFETY: ends this process without what the shim does at its own end.
            unsafe { libc::_exit(127) }
        }
        -1 => Err(io::Error::last_os_error()),
        pid => Pid::from_raw(pid).ok_or_else(|| io::ErrorKind::InvalidData.into()),
    }
}

/// Why it does not run.
struct Failure {
    failure: StartFailure,
    message: String,
}

impl Failure {
    fn host(step: &str, error: impl std::fmt::Display) -> Self {
        let message = format!("cannot enter the container ({step}): {error}");
        Self { failure: StartFailure::Host, message }
    }
}

/// For `map_err`.
fn at<E: std::fmt::Display>(step: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| Failure::host(step, error)
}

fn become_program(order: &Order<'_>, filter: &Filter, held: &Held) -> Answer {
    let entered = || -> Result<(), Failure> {
        limit(order.rlimits);
        enter(order.oom_score_adj, held)?;
        let (user, home) = user(order)?;
        if let Some(size) = order.terminal {
            terminal(size, user.uid).map_err(at("terminal"))?;
        }
        change_folder(&order.cwd)?;
        let (program, args, env) = command(order, home)?;
        match order.no_new_privileges {
            true => {
                take_user(&user, order.capabilities).map_err(at("user"))?;
                set_no_new_privs(true).map_err(at("privileges"))?;
                filter.apply().map_err(at("system calls"))?;
            }
            // As runtimes do: only root of the namespace may set a filter for programs that gain
            // privileges.
            false => {
                filter.apply().map_err(at("system calls"))?;
                take_user(&user, order.capabilities).map_err(at("user"))?;
            }
        }
        Err(execute(&program, &args, &env, order.env.get("PATH").map_or("", String::as_str)))
    };
    match entered() {
        Ok(()) => unreachable!("it has become the program, or failed"),
        Err(Failure { failure, message }) => Answer::Refused { failure, message, hint: None },
    }
}

/// As root of the container, with no more of that than files take, and few system calls.
fn copy_files(ask: Ask, held: &Held) -> Answer {
    let entered = || -> Result<OwnedFd, Failure> {
        enter(None, held)?;
        umask(Mode::empty());
        let stream = io::stdin().as_fd().try_clone_to_owned().map_err(at("stream"))?;
        drop_privileges(COPY).map_err(at("capabilities"))?;
        seccomp_unpack::apply(seccomp_unpack::COPY).map_err(at("system calls"))?;
        Ok(stream)
    };
    match entered() {
        Ok(stream) => files::answer(ask, Some(stream)),
        Err(Failure { failure, message }) => Answer::Refused { failure, message, hint: None },
    }
}

/// Makes this process one of the container, with the rights of its root and no descriptor of the
/// host.
fn enter(oom_score_adj: Option<i32>, held: &Held) -> Result<(), Failure> {
    report_at_its_number(&held.report).map_err(at("report"))?;
    join(oom_score_adj, held).map_err(at("cgroup and namespaces"))?;
    become_root().map_err(at("root of the namespace"))?;
    close_the_hosts(held.stdio.as_ref()).map_err(at("descriptors"))
}

/// Where the new process reports: above its three streams.
const REPORT_FD: i32 = 3;

#[expect(unsafe_code, reason = "descriptors by their number")]
fn report_at_its_number(report: &OwnedFd) -> io::Result<()> {
    // SAFETY: what was at this number is a copy of one of the shim's, which this process does not
    // use.
    match unsafe { libc::dup3(report.as_raw_fd(), REPORT_FD, libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The container's cgroups first, so that all else counts as its; then its namespaces at once.
fn join(oom_score_adj: Option<i32>, held: &Held) -> io::Result<()> {
    for cgroup in &held.cgroups {
        rustix::io::write(cgroup, b"0\n")?;
    }
    if let Some(score) = oom_score_adj {
        // It may be higher already.
        let _ = std::fs::write("/proc/self/oom_score_adj", score.to_string());
    }
    setsid()?;
    umask(Mode::from_raw_mode(0o022));
    // No process of the container may look into this one before it is one of theirs.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    let namespaces = ThreadNameSpaceType::USER
        | ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::CONTROL_GROUP;
    Ok(move_into_thread_name_spaces(held.first.as_fd(), namespaces)?)
}

fn limit(rlimits: &[ResourceLimit]) {
    for ResourceLimit { name, soft, hard } in rlimits {
        let resource = match name.as_str() {
            "RLIMIT_AS" => Resource::As,
            "RLIMIT_CORE" => Resource::Core,
            "RLIMIT_CPU" => Resource::Cpu,
            "RLIMIT_DATA" => Resource::Data,
            "RLIMIT_FSIZE" => Resource::Fsize,
            "RLIMIT_MEMLOCK" => Resource::Memlock,
            "RLIMIT_NOFILE" => Resource::Nofile,
            "RLIMIT_NPROC" => Resource::Nproc,
            "RLIMIT_RSS" => Resource::Rss,
            "RLIMIT_STACK" => Resource::Stack,
            _ => continue,
        };
        // The shim cannot raise its own hard limits any more: then they stay, which are lower.
        let _ = setrlimit(resource, Rlimit { current: Some(*soft), maximum: Some(*hard) });
    }
}

/// Until the user is known.
fn become_root() -> rustix::io::Result<()> {
    set_keep_capabilities(true)?;
    set_thread_groups(&[])?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
}

/// From here on this process holds the program's streams and [`REPORT_FD`], and nothing of the
/// host's.
#[expect(unsafe_code, reason = "descriptors by their number")]
fn close_the_hosts(stdio: Option<&[OwnedFd; 3]>) -> io::Result<()> {
    // SAFETY: plain numbers; every descriptor of this process below is one of its own, and the
    // shim's are copies that end with it.
    unsafe {
        for stream in 0..REPORT_FD {
            let from = match stdio {
                Some(fds) => fds[stream as usize].as_raw_fd(),
                // Until there is a terminal.
                None => REPORT_FD,
            };
            if libc::dup2(from, stream) < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        if libc::syscall(libc::SYS_close_range, REPORT_FD + 1, u32::MAX, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The user by the container's own files, and the user's home where another one was asked for.
fn user(order: &Order<'_>) -> Result<(User, Option<String>), Failure> {
    let Some(name) = &order.user_name else { return Ok((order.user.clone(), None)) };
    let look = || {
        let root = RootFolder::open(Path::new("/"), (Uid::ROOT, Gid::ROOT))
            .map_err(crate::Error::io("look into the container"))?;
        account(
            name,
            &root.text("/etc/passwd", USER_DATABASE_BYTES_MAX)?,
            &root.text("/etc/group", USER_DATABASE_BYTES_MAX)?,
        )
    };
    let found = look().map_err(|error| Failure {
        failure: StartFailure::NotExecutable,
        message: error.to_string(),
    })?;
    let home = found.home.clone().unwrap_or_else(|| "/".to_owned());
    Ok((User { uid: found.uid, gid: found.gid, additional_gids: found.groups }, Some(home)))
}

/// The magic number of `devpts`: what a container puts in its place is none.
const DEVPTS: i64 = 0x1cd1;

/// A terminal of the container's own, as the controlling one of this process.
#[expect(unsafe_code, reason = "descriptors by their number")]
fn terminal((rows, columns): (u16, u16), uid: u32) -> io::Result<()> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let rooted = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let master = openat2(rustix::fs::CWD, "/dev/pts/ptmx", flags, Mode::empty(), rooted)?;
    if fstatfs(&master)?.f_type != DEVPTS {
        return Err(io::Error::other("`/dev/pts` is no file system of terminals"));
    }
    unlockpt(&master)?;
    let ours = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    fchown(&ours, Some(Uid::from_raw(uid)), None)?;
    let _ = tcsetwinsize(&master, window_size(rows, columns));
    // SAFETY: plain numbers, and descriptors of this process alone.
    unsafe {
        let report = BorrowedFd::borrow_raw(REPORT_FD);
        frame::send(report, &Report::Terminal, &[master.as_fd()])?;
        for stream in 0..REPORT_FD {
            if libc::dup2(ours.as_raw_fd(), stream) < 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(rustix::process::ioctl_tiocsctty(&ours)?)
}

/// Nothing of the host is open any more, so no path leads to it; that the folder lies in the
/// container is looked at all the same.
fn change_folder(path: &str) -> Result<(), Failure> {
    let cannot = |why: String| Failure {
        failure: StartFailure::NotExecutable,
        message: format!("cannot enter the working directory `{}`: {why}", path.escape_debug()),
    };
    rustix::process::chdir(path).map_err(|error| cannot(words(error)))?;
    match rustix::process::getcwd(Vec::new()) {
        Ok(folder) if folder.to_bytes().starts_with(b"/") => Ok(()),
        _ => Err(cannot("it lies outside of the container".to_owned())),
    }
}

fn take_user(user: &User, capabilities: &Capabilities) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let groups: Vec<_> = user.additional_gids.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let bounding = set_of(&capabilities.bounding);
    for capability in CapabilitySet::all().difference(bounding).iter() {
        match remove_capability_from_bounding_set(capability) {
            // A capability that this kernel does not know.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    set_keep_capabilities(false)?;
    clear_ambient_capability_set()?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: set_of(&capabilities.effective),
            permitted: set_of(&capabilities.permitted),
            inheritable: set_of(&capabilities.inheritable),
        },
    )?;
    for capability in set_of(&capabilities.ambient).iter() {
        configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

fn set_of(names: &[String]) -> CapabilitySet {
    let known = |name: &String| CapabilitySet::from_name(name.strip_prefix("CAP_")?);
    names.iter().filter_map(known).fold(CapabilitySet::empty(), CapabilitySet::union)
}

type Words = Vec<CString>;

fn command(order: &Order<'_>, home: Option<String>) -> Result<(String, Words, Words), Failure> {
    let mut env = order.env.clone();
    if let Some(home) = home {
        env.entry("HOME".to_owned()).or_insert(home);
    }
    let c = |text: String| CString::new(text).map_err(at("arguments"));
    let args = order.args.iter().cloned().map(c).collect::<Result<_, _>>()?;
    let env = env.into_iter().map(|(name, value)| c(format!("{name}={value}")));
    Ok((order.args[0].clone(), args, env.collect::<Result<_, _>>()?))
}

/// Becomes the program; what it returns is why not.
fn execute(program: &str, args: &[CString], env: &[CString], path: &str) -> Failure {
    let by_name = !program.contains('/');
    let candidates: Vec<String> = match by_name {
        true => path
            .split(':')
            .map(|folder| match folder {
                "" => format!("./{program}"),
                folder => format!("{folder}/{program}"),
            })
            .collect(),
        false => vec![program.to_owned()],
    };
    let mut why = Errno::NOENT;
    for candidate in candidates {
        let Ok(candidate) = CString::new(candidate) else { continue };
        match execve(&candidate, args, env) {
            // The search goes on, and remembers one that was there.
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS if by_name => why = Errno::ACCESS,
            other => {
                why = other;
                break;
            }
        }
    }
    let (failure, text) = match why {
        Errno::NOENT if by_name => {
            (StartFailure::NotFound, "executable file not found in $PATH".to_owned())
        }
        Errno::NOENT | Errno::NOTDIR => (StartFailure::NotFound, words(why)),
        _ => (StartFailure::NotExecutable, words(why)),
    };
    Failure { failure, message: format!("cannot start `{}`: {text}", program.escape_debug()) }
}

#[expect(unsafe_code, reason = "rustix has no execve that is not experimental")]
fn execve(program: &CString, args: &[CString], env: &[CString]) -> Errno {
    let pointers = |words: &[CString]| -> Vec<*const libc::c_char> {
        words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // Rust ignores this signal, and ignored ones stay so.
    // SAFETY: the default action of a signal, set by the only thread.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    // SAFETY: lists of C strings with an end, which live until the call returns.
    unsafe { libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) };
    let error = io::Error::last_os_error();
    Errno::from_io_error(&error).unwrap_or(Errno::NOEXEC)
}

/// As runtimes and shells say it.
fn words(error: Errno) -> String {
    match error {
        Errno::NOENT => "no such file or directory".to_owned(),
        Errno::NOTDIR => "not a directory".to_owned(),
        Errno::ACCESS | Errno::PERM => "permission denied".to_owned(),
        Errno::NOEXEC => "exec format error".to_owned(),
        other => io::Error::from(other).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_known_by_the_names_of_the_runtime_spec() {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let want = CapabilitySet::CHOWN | CapabilitySet::NET_BIND_SERVICE;
        assert_eq!(set_of(&names(&["CAP_CHOWN", "CAP_NET_BIND_SERVICE"])), want);
        assert_eq!(set_of(&names(&["CHOWN", "CAP_OF_LATER"])), CapabilitySet::empty());
    }
}
