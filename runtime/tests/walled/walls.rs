use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use engine::{Engine as _, Event, Exit, LimitCode};
use runtime::{Broker, SpareWorker, SpawnOptions, WasmEngine, prepare::Program};
use spec::Digest;

use crate::{
    Test,
    bench::{Bench, capability, file_of},
};

pub const TESTS: &[Test] = &[
    ("hostile_machine_code_finds_no_way_out", hostile),
    ("hostile_machine_code_has_no_more_memory_than_its_cgroup", greedy),
    ("a_kernel_that_keeps_the_auxiliary_vector_in_a_file_will_do", auxiliary_vector),
    ("a_preparer_is_in_a_cgroup_of_the_owner_of_its_image", preparer),
];

/// Takes memory that no limit of the engine sees.
pub fn hog(_: &[BorrowedFd<'_>]) {
    let mut held: Vec<Vec<u8>> = Vec::new();
    for byte in 0..4096u32 {
        held.push(vec![byte as u8 | 1; 1 << 20]);
    }
    std::hint::black_box(held);
}

/// Needs the right to make cgroups.
fn greedy() {
    if !engine::cgroup::is_writable() {
        println!("SKIPPED: this user may make no cgroups");
        return;
    }
    let bench = Bench::new();
    let prepared = bench.prepare(&crate::bench::sample("hello/hello.wasm"), &[]).unwrap();
    let assignment = bench.assignment(prepared);
    let place = engine::cgroup::Place::of(bench.folder.path(), "acme").unwrap();
    let options = SpawnOptions { arguments: vec!["hog".into()], ..SpawnOptions::default() };
    let exit = bench.tokio.block_on(async {
        let spare = SpareWorker::spawn(&options).unwrap();
        let engine = WasmEngine::new(Broker::default(), Some(spare)).of("acme", None);
        let mut container = engine.start(assignment).await.unwrap();
        assert!(place.exists(), "{place:?}");
        loop {
            let event = tokio::time::timeout(crate::bench::PATIENCE, container.next_event()).await;
            if let Event::Exited(ended) = event.expect("it ends in time") {
                return ended.exit;
            }
        }
    });
    assert!(matches!(&exit, Exit::Limit { code: LimitCode::Memory, .. }), "{exit:?}");
    assert!(!place.exists(), "nothing is left");
}

/// As before Linux 6.4, where `prctl` does not know `PR_GET_AUXV`: a worker that asked for it
/// behind its walls would be killed.
fn auxiliary_vector() {
    use ::sandbox::{all, compiled, is};
    use seccompiler::SeccompAction;
    const PR_GET_AUXV: u64 = 0x4155_5856;
    let rules = [(libc::SYS_prctl, vec![all([is(0, PR_GET_AUXV)]).unwrap()])];
    let unknown = SeccompAction::Errno(libc::EINVAL as u32);
    let old_kernel = compiled(rules.into(), SeccompAction::Allow, unknown).unwrap();
    // Its children have the filter of the thread that starts them, and no other test has it.
    std::thread::spawn(move || {
        ::sandbox::SystemCalls::of([old_kernel]).apply().unwrap();
        let bench = Bench::new();
        let prepared = bench.prepare(&crate::bench::sample("hello/hello.wasm"), &[]).unwrap();
        let mut worker = bench.start(bench.assignment(prepared));
        let exit = bench.tokio.block_on(async {
            tokio::time::timeout(crate::bench::PATIENCE, worker.wait()).await.expect("it ends")
        });
        assert_eq!(exit, Exit::Code(0));
    })
    .join()
    .unwrap();
}

/// What compiles without its limit of memory is refused with it.
fn preparer() {
    if !engine::cgroup::is_writable() {
        println!("SKIPPED: this user may make no cgroups");
        return;
    }
    let bench = Bench::new();
    let wasm = crate::bench::sample("adopt/adopt.wasm");
    let place = engine::cgroup::Place::of(&bench.folder.path().join("prepare"), "acme").unwrap();
    let prepare = |name: &str, bytes: u64| {
        let program = Program::Blob { blob: file_of(&wasm), digest: Digest::of(&wasm) };
        bench.prepare_into(name, program, &[], |preparation| {
            preparation.place = Some(place.clone());
            preparation.limits.resident_bytes_max = bytes;
        })
    };
    let error = prepare("small", 8 << 20).unwrap_err();
    assert!(error.to_string().contains("took more than 8MiB of memory"), "{error}");
    assert!(!place.exists(), "nothing is left");
    prepare("usual", 2 << 30).unwrap();
    assert!(!place.exists(), "nothing is left");
}

/// Everything that an intruder does is written to its standard error, which the worker has replaced
/// by nothing: so it reports through the volume that it was granted.
fn hostile() {
    let bench = Bench::new();
    let prepared = bench.prepare(&crate::bench::sample("hello/hello.wasm"), &[]).unwrap();
    let mut assignment = bench.assignment(prepared);
    let (folder, mount) = bench.volume("book", "/data", "rwd", None);
    std::fs::write(folder.join("page"), "mine").unwrap();
    std::os::unix::fs::symlink("/etc/hostname", folder.join("link")).unwrap();
    assignment.volumes.push(mount);
    assignment.grants.add(capability("fs:/data#rwd;volume=book"));
    let options = SpawnOptions { arguments: vec!["intruder".into()], ..SpawnOptions::default() };
    let mut worker = bench.start_with(assignment, Broker::default(), &options);
    let exit = bench
        .tokio
        .block_on(async { tokio::time::timeout(crate::bench::PATIENCE, worker.wait()).await })
        .unwrap();
    let report = std::fs::read_to_string(folder.join("report"))
        .unwrap_or_else(|e| panic!("no report: {e}; {exit:?}"));
    let attempts: Vec<(&str, &str)> =
        report.lines().filter_map(|line| line.split_once(" -> ")).collect();
    assert!(attempts.len() > 30, "{report}");
    for (what, got) in &attempts {
        let want: &[&str] = if what.starts_with("allowed") {
            &["ok"]
        } else {
            &["EPERM", "EACCES", "ENOENT", "EXDEV", "ENOSYS", "ELOOP"]
        };
        assert!(want.contains(got), "{what} -> {got}\n{report}");
    }
}

/// Runs in the sandbox, as machine code that has broken out of its Wasm would.
pub fn intrude(volumes: &[BorrowedFd<'_>]) {
    let volume = volumes[0].as_raw_fd();
    let mut report = Report::default();
    for attempts in [
        open_files,
        make_sockets,
        reach_processes,
        ask_the_kernel,
        misuse_descriptors,
        make_machine_code,
        look_around,
    ] {
        attempts(&mut report, volume);
    }
    let fd = openat2(volume, c"report", libc::O_WRONLY | libc::O_CREAT);
    // SAFETY: a descriptor that was just opened, and memory that lives on.
    unsafe { libc::write(fd as i32, report.0.as_ptr().cast(), report.0.len()) };
}

/// A line for each attempt, with its result.
#[derive(Default)]
struct Report(String);

impl Report {
    fn note(&mut self, what: &str, result: libc::c_long) {
        let got = match result {
            0.. => "ok",
            _ => name(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        };
        self.0.push_str(&format!("{what} -> {got}\n"));
    }
}

fn open_files(report: &mut Report, volume: i32) {
    for path in [
        c"../../../../../../etc/hostname",
        c"..",
        c"/etc/hostname",
        c"/proc/self/maps",
        c"/proc/1/environ",
        c"/",
        c"/dev/null",
        c"link",
    ] {
        report.note(&format!("openat(volume, {path:?})"), openat(volume, path, libc::O_RDONLY));
        report
            .note(&format!("openat(cwd, {path:?})"), openat(libc::AT_FDCWD, path, libc::O_RDONLY));
        if path != c".." {
            report
                .note(&format!("openat2(volume, {path:?})"), openat2(volume, path, libc::O_RDONLY));
        }
        report.note(
            &format!("openat2(cwd, {path:?})"),
            openat2(libc::AT_FDCWD, path, libc::O_RDONLY),
        );
    }
    for path in [c"..", c"../..", c"./../../.."] {
        let above = openat2(volume, path, libc::O_PATH);
        // Above the root of a detached mount there is nothing: `..` is the root itself.
        let same = if same(above as i32, volume) { 0 } else { -1 };
        report.note(&format!("allowed: openat2(volume, {path:?}) is the volume"), same);
        report.note(
            &format!("openat2(volume, {path:?}/etc/hostname)"),
            openat2(above as i32, c"etc/hostname", libc::O_RDONLY),
        );
    }
    report.note("allowed: openat2(volume, \"page\")", openat2(volume, c"page", libc::O_RDONLY));
}

fn make_sockets(report: &mut Report, _: i32) {
    // SAFETY: numbers and terminated strings; whatever these do, the process ends soon.
    unsafe {
        report.note("socket(inet)", libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0).into());
        report.note("socket(unix)", libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0).into());
        report.note("socket(netlink)", libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, 0).into());
        let mut pair = [0; 2];
        report.note(
            "socketpair(inet)",
            libc::socketpair(libc::AF_INET, libc::SOCK_STREAM, 0, pair.as_mut_ptr()).into(),
        );
    }
}

fn reach_processes(report: &mut Report, _: i32) {
    // SAFETY: numbers and terminated strings; whatever these do, the process ends soon.
    unsafe {
        report.note("kill(1)", libc::kill(1, 0).into());
        report.note("kill(parent)", libc::kill(libc::getppid(), 0).into());
        report.note("tgkill(1)", libc::syscall(libc::SYS_tgkill, 1, 1, 0));
        report.note("ptrace", libc::ptrace(libc::PTRACE_ATTACH, 1, 0, 0));
        report.note(
            "execve",
            libc::execve(c"/bin/true".as_ptr(), std::ptr::null(), std::ptr::null()).into(),
        );
        report.note("fork", libc::syscall(libc::SYS_fork));
        report.note("vfork by clone", libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0));
        let flags = libc::CLONE_NEWUSER | libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND;
        report.note("clone(NEWUSER)", libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0));
        report.note("clone3", libc::syscall(libc::SYS_clone3, 0, 0));
    }
}

fn ask_the_kernel(report: &mut Report, volume: i32) {
    // SAFETY: numbers and terminated strings; whatever these do, the process ends soon.
    unsafe {
        report.note("unshare", libc::unshare(libc::CLONE_NEWUSER).into());
        report.note("setns", libc::setns(volume, 0).into());
        report.note(
            "mount",
            libc::mount(
                c"/".as_ptr(),
                c"/".as_ptr(),
                std::ptr::null(),
                libc::MS_BIND,
                std::ptr::null(),
            )
            .into(),
        );
        report.note("chroot", libc::chroot(c"/".as_ptr()).into());
        report.note("setuid", libc::setuid(0).into());
        report.note("bpf", libc::syscall(libc::SYS_bpf, 0, 0, 0));
        report.note("io_uring_setup", libc::syscall(libc::SYS_io_uring_setup, 1, 0));
        report.note("userfaultfd", libc::syscall(libc::SYS_userfaultfd, 0));
        report.note("perf_event_open", libc::syscall(libc::SYS_perf_event_open, 0, 0, 0, 0, 0));
        report.note("keyctl", libc::syscall(libc::SYS_keyctl, 0, 0));
        report
            .note("process_vm_readv", libc::syscall(libc::SYS_process_vm_readv, 1, 0, 0, 0, 0, 0));
        report.note("pidfd_open", libc::syscall(libc::SYS_pidfd_open, 1, 0));
        report.note("open_by_handle_at", libc::syscall(libc::SYS_open_by_handle_at, volume, 0, 0));
        report.note("memfd_create", libc::syscall(libc::SYS_memfd_create, c"x".as_ptr(), 0));
        report
            .note("prctl(PR_SET_DUMPABLE)", libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0).into());
        report.note(
            "readlink by path",
            libc::syscall(libc::SYS_readlink, c"/proc/self/exe".as_ptr(), 0, 0),
        );
        report.note("chdir", libc::chdir(c"/".as_ptr()).into());
        report.note("prlimit", libc::syscall(libc::SYS_prlimit64, 0, 7, 0, 0));
    }
}

/// What a real descriptor of the host could be turned into; the filter looks at the call, whatever
/// the descriptor.
fn misuse_descriptors(report: &mut Report, volume: i32) {
    // SAFETY: numbers and terminated strings; whatever these do, the process ends soon.
    unsafe {
        let mut pair = [0; 2];
        let fast = libc::MSG_FASTOPEN;
        report.note(
            "sendto(MSG_FASTOPEN)",
            libc::syscall(libc::SYS_sendto, volume, c"x".as_ptr(), 1, fast, 0, 0),
        );
        report.note(
            "sendto(another address)",
            libc::syscall(libc::SYS_sendto, volume, c"x".as_ptr(), 1, 0, c"/dev/log".as_ptr(), 10),
        );
        report.note(
            "sendto(above 4 GiB)",
            libc::syscall(libc::SYS_sendto, volume, c"x".as_ptr(), 1, 0, 1u64 << 32, 10),
        );
        let message: libc::msghdr = std::mem::zeroed();
        report.note(
            "sendmsg(MSG_FASTOPEN)",
            libc::syscall(libc::SYS_sendmsg, volume, &message, fast),
        );
        for (level, option) in [
            (libc::SOL_SOCKET, libc::SO_LINGER),
            (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER),
            (libc::IPPROTO_TCP, libc::TCP_ULP),
            (libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT),
        ] {
            let what = format!("setsockopt({level}, {option})");
            report.note(&what, libc::syscall(libc::SYS_setsockopt, volume, level, option, 0, 0));
        }
        report.note(
            "socketpair(dgram)",
            libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM, 0, pair.as_mut_ptr()).into(),
        );
        report.note("fcntl(F_SETOWN)", libc::fcntl(volume, libc::F_SETOWN, 1).into());
        report.note("fcntl(F_SETSIG)", libc::syscall(libc::SYS_fcntl, volume, 10, libc::SIGKILL));
        report.note("ioctl(FIOSETOWN)", libc::syscall(libc::SYS_ioctl, volume, 0x8901, 0));
        report.note(
            "ioctl(TIOCSTI)",
            libc::syscall(libc::SYS_ioctl, 0, libc::TIOCSTI, c"x".as_ptr()),
        );
    }
}

fn make_machine_code(report: &mut Report, _: i32) {
    // SAFETY: numbers and terminated strings; whatever these do, the process ends soon.
    unsafe {
        let executable = libc::PROT_READ | libc::PROT_EXEC;
        let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        report.note(
            "mmap(PROT_EXEC)",
            libc::syscall(libc::SYS_mmap, 0, 4096, executable, private, -1, 0),
        );
        report.note("mprotect(PROT_EXEC)", libc::syscall(libc::SYS_mprotect, 0, 4096, executable));
    }
}

/// What Landlock leaves alone: there is nothing to look at.
fn look_around(report: &mut Report, _: i32) {
    // SAFETY: numbers and terminated strings; whatever these do, the process ends soon.
    unsafe {
        let mut found = [0u8; 512];
        for path in [c"/etc/shadow", c"/root", c"/proc/self/exe"] {
            let (at, path) = (libc::AT_FDCWD, path.as_ptr());
            report.note(
                "statx(an absolute path)",
                libc::syscall(libc::SYS_statx, at, path, 0, 0, found.as_mut_ptr()),
            );
            report.note(
                "readlinkat(an absolute path)",
                libc::syscall(libc::SYS_readlinkat, at, path, found.as_mut_ptr(), 512),
            );
        }
        report.note(
            "openat2(O_PATH, /etc/shadow)",
            openat2(libc::AT_FDCWD, c"/etc/shadow", libc::O_PATH),
        );
    }
}

fn openat(folder: i32, path: &CStr, flags: i32) -> libc::c_long {
    // SAFETY: a terminated path.
    unsafe { libc::syscall(libc::SYS_openat, folder, path.as_ptr(), flags) }
}

/// Without any of the flags that keep an honest caller inside.
fn openat2(folder: i32, path: &CStr, flags: i32) -> libc::c_long {
    let mode = if flags & libc::O_CREAT != 0 { 0o666 } else { 0u64 };
    let how: [u64; 3] = [flags as u64, mode, 0];
    // SAFETY: a terminated path, and a structure of the length that is said.
    unsafe {
        libc::syscall(libc::SYS_openat2, folder, path.as_ptr(), how.as_ptr(), size_of_val(&how))
    }
}

/// Whether two descriptors are of the same folder.
fn same(one: i32, other: i32) -> bool {
    let identity = |fd: i32| {
        // SAFETY: memory of the right size; an error leaves it as it is.
        unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            (libc::syscall(libc::SYS_fstat, fd, &mut stat) == 0)
                .then_some((stat.st_dev, stat.st_ino))
        }
    };
    identity(one).is_some() && identity(one) == identity(other)
}

fn name(errno: i32) -> &'static str {
    match errno {
        libc::EPERM => "EPERM",
        libc::EACCES => "EACCES",
        libc::ENOENT => "ENOENT",
        libc::EXDEV => "EXDEV",
        libc::ENOSYS => "ENOSYS",
        libc::ELOOP => "ELOOP",
        libc::EINVAL => "EINVAL",
        libc::EFAULT => "EFAULT",
        _ => "something else",
    }
}
