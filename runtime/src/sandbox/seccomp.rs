//! The system calls that a process in the sandbox may make: the lists, and the filters of them.

use std::{collections::BTreeMap, io};

use ::sandbox::{Rules, SystemCalls, all, compiled, is, masked, one_of};
use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

/// For every process in the sandbox: memory, threads, time, and the descriptors it holds.
const BASE: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Refused by a filter of its own, so that the C library turns to `clone`.
    libc::SYS_clone3,
    // Refused likewise: the engine would keep the data of a program of `exec` there.
    libc::SYS_memfd_create,
    // Refused likewise: the allocator asks for a setting of the kernel, and can do without.
    libc::SYS_openat,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    // How a sleep goes on that the freezing of the process, or of the machine, has broken.
    libc::SYS_restart_syscall,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// For serving, on top: an event loop and the sockets that were handed over.
const SERVING: &[libc::c_long] = &[
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_getsockopt,
    libc::SYS_shutdown,
];

/// For a granted volume, on top. Every path goes through `openat2`, which never leaves the
/// volume; the others take a folder that was opened so, and one name in it.
const VOLUME: &[libc::c_long] = &[
    libc::SYS_openat2,
    libc::SYS_getdents64,
    libc::SYS_statx,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_symlinkat,
    libc::SYS_readlinkat,
    libc::SYS_fsync,
    libc::SYS_utimensat,
];

/// Missing in the `libc` crate; Linux 6.4.
const PR_GET_AUXV: libc::c_int = 0x4155_5856;
/// Missing in the `libc` crate; Linux 6.7: which pages of a slot were written to.
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;

/// What an unknown system call does to its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// Ends it at once.
    Kill,
    /// Fails: for tests that want to see each attempt refused.
    Refuse,
}

/// A filter, compiled beforehand because that takes longer than all the rest of an assignment.
pub(crate) struct Filter(SystemCalls);

impl Filter {
    /// For a process that only computes over the descriptors it holds, and compiles.
    pub fn computing(strictness: Strictness) -> io::Result<Self> {
        Self::of(BASE.iter().copied(), computing_rules()?, strictness)
    }

    /// For a worker; with `volumes` for one that has some.
    pub fn serving(volumes: bool, strictness: Strictness) -> io::Result<Self> {
        let volume = if volumes { VOLUME } else { &[] };
        Self::of(BASE.iter().chain(SERVING).chain(volume).copied(), serving_rules()?, strictness)
    }

    fn of(
        calls: impl Iterator<Item = libc::c_long>,
        ruled: Rules,
        strictness: Strictness,
    ) -> io::Result<Self> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = calls.map(|call| (call, vec![])).collect();
        rules.extend(ruled);
        let otherwise = match strictness {
            Strictness::Kill => SeccompAction::KillProcess,
            Strictness::Refuse => SeccompAction::Errno(libc::EPERM as u32),
        };
        let known = compiled(rules, otherwise, SeccompAction::Allow)?;
        // `clone3` hides its flags behind a pointer, where no filter can look.
        let hidden = SeccompAction::Errno(libc::ENOSYS as u32);
        let absent = [(libc::SYS_clone3, vec![]), (libc::SYS_memfd_create, vec![])];
        let hidden = compiled(absent.into(), SeccompAction::Allow, hidden)?;
        let shut = SeccompAction::Errno(libc::EACCES as u32);
        let shut = compiled([(libc::SYS_openat, vec![])].into(), SeccompAction::Allow, shut)?;
        Ok(Self(SystemCalls::of([hidden, shut, known])))
    }

    /// From here on for this thread and all that it starts. Also gives up gaining privileges, for
    /// ever.
    pub fn apply(&self) -> io::Result<()> {
        self.0.apply()
    }
}

/// Calls that every process in the sandbox may make with some arguments only.
fn common_rules() -> io::Result<Rules> {
    // `F_SETOWN` and `F_SETSIG` would send signals to processes of the same uid.
    let descriptor =
        [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC];
    // Names of threads, and what the kernel told the process at its start; nothing else that
    // `prctl` can do.
    let told = [libc::PR_SET_NAME, PR_GET_AUXV];
    // Threads only: no new process, and no namespace.
    let namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET;
    let thread = libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND;
    Ok(vec![
        // A thread may signal its own process (that is how a panic ends it) and no other.
        (libc::SYS_tgkill, vec![all([is(0, std::process::id().into())])?]),
        (libc::SYS_fcntl, one_of(1, &descriptor)?),
        (libc::SYS_prctl, one_of(0, &told)?),
        (libc::SYS_clone, vec![all([masked(0, namespaces | thread, thread)])?]),
    ])
}

fn computing_rules() -> io::Result<Rules> {
    let mut rules = common_rules()?;
    rules.extend([(libc::SYS_mmap, vec![]), (libc::SYS_mprotect, vec![])]);
    Ok(rules)
}

/// Calls that a worker may make with some arguments only. The descriptors that it was handed are
/// real ones of the host: a listener can be turned into a connection (`MSG_FASTOPEN`), a socket of
/// datagrams reaches every other one by its path, and a lingering socket holds up the process that
/// closes it last.
fn serving_rules() -> io::Result<Rules> {
    let without_address = SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0);
    let mut rules = common_rules()?;
    rules.extend([
        (libc::SYS_sendto, vec![all([masked(3, libc::MSG_FASTOPEN, 0), without_address])?]),
        (libc::SYS_sendmsg, vec![all([masked(2, libc::MSG_FASTOPEN, 0)])?]),
        (
            libc::SYS_setsockopt,
            vec![all([is(1, libc::IPPROTO_TCP as u64), is(2, libc::TCP_NODELAY as u64)])?],
        ),
        // A pair of streams that know only each other: the event loop wakes itself through one.
        (
            libc::SYS_socketpair,
            vec![all([is(0, libc::AF_UNIX as u64), masked(1, 0xf, libc::SOCK_STREAM)])?],
        ),
        (
            libc::SYS_ioctl,
            vec![
                all([is(1, libc::FIONBIO)])?,
                all([is(1, libc::TCGETS)])?,
                all([is(1, PAGEMAP_SCAN)])?,
            ],
        ),
        // Machine code was mapped before; none is made from here on.
        (libc::SYS_mmap, vec![all([masked(2, libc::PROT_EXEC, 0)])?]),
        (libc::SYS_mprotect, vec![all([masked(2, libc::PROT_EXEC, 0)])?]),
    ]);
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_needs_few_system_calls() {
        let by_argument = serving_rules().unwrap().len();
        // `clone3`, `memfd_create` and `openat` are in the list, and in a filter of their own that
        // refuses them.
        let refused = 3;
        assert!(BASE.len() + SERVING.len() + by_argument - refused <= 51);
        assert!(BASE.len() + SERVING.len() + VOLUME.len() + by_argument - refused <= 61);
        let mut all: Vec<_> = BASE.iter().chain(SERVING).chain(VOLUME).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), BASE.len() + SERVING.len() + VOLUME.len(), "each stands there once");
    }
}
