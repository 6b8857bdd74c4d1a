//! The walls that a process raises around itself, once it holds everything it will ever need.

use std::{io, os::fd::BorrowedFd};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// What every process behind walls needs: memory, threads, time, and the descriptors it holds.
const BASE: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_fcntl,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_clone3, // refused by a filter of its own, so that the C library turns to `clone`
    libc::SYS_openat, // refused likewise: the allocator asks for a setting of the kernel, and can do without
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
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What serving takes on top: an event loop and the sockets that were handed over.
const SERVING: &[libc::c_long] = &[
    libc::SYS_ioctl,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd2,
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    libc::SYS_shutdown,
];

/// What a granted volume takes on top. Every path goes through `openat2`, which never leaves the volume; the others
/// take a folder that was opened so, and one name in it.
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

/// What an unknown system call does to its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// Ends it at once.
    Kill,
    /// Fails: for tests that want to see each attempt refused.
    Refuse,
}

/// A filter, compiled beforehand because that takes longer than all the rest of an assignment.
pub(crate) struct Filter([BpfProgram; 3]);

impl Filter {
    /// For a process that only computes over the descriptors it holds.
    pub fn computing(strictness: Strictness) -> io::Result<Self> {
        Self::of(BASE.iter().copied(), strictness)
    }

    /// For a worker; with `volumes` for one that has some.
    pub fn serving(volumes: bool, strictness: Strictness) -> io::Result<Self> {
        let volume = if volumes { VOLUME } else { &[] };
        Self::of(BASE.iter().chain(SERVING).chain(volume).copied(), strictness)
    }

    fn of(calls: impl Iterator<Item = libc::c_long>, strictness: Strictness) -> io::Result<Self> {
        let mut rules: std::collections::BTreeMap<i64, Vec<SeccompRule>> = calls.map(|call| (call, vec![])).collect();
        // A thread may signal its own process (that is how a panic ends it) and nobody else's.
        rules.insert(libc::SYS_tgkill, vec![first_argument_is(std::process::id().into())?]);
        // A pair of sockets that know only each other: the event loop wakes itself through one.
        rules.insert(libc::SYS_socketpair, vec![first_argument_is(libc::AF_UNIX as u64)?]);
        // Names of threads, and what the kernel told the process at its start; nothing else that `prctl` can do.
        rules.insert(
            libc::SYS_prctl,
            [libc::PR_SET_NAME, PR_GET_AUXV]
                .map(|what| first_argument_is(what as u64))
                .into_iter()
                .collect::<Result<_, _>>()?,
        );
        // Threads only: no new process, and no namespace.
        rules.insert(libc::SYS_clone, vec![threads_only()?]);
        let otherwise = match strictness {
            Strictness::Kill => SeccompAction::KillProcess,
            Strictness::Refuse => SeccompAction::Errno(libc::EPERM as u32),
        };
        let here = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
        let known = SeccompFilter::new(rules, otherwise, SeccompAction::Allow, here).map_err(io::Error::other)?;
        // `clone3` hides its flags behind a pointer, where no filter can look.
        let hidden = SeccompFilter::new(
            [(libc::SYS_clone3, vec![])].into(),
            SeccompAction::Allow,
            SeccompAction::Errno(libc::ENOSYS as u32),
            here,
        )
        .map_err(io::Error::other)?;
        let shut = SeccompFilter::new(
            [(libc::SYS_openat, vec![])].into(),
            SeccompAction::Allow,
            SeccompAction::Errno(libc::EACCES as u32),
            here,
        )
        .map_err(io::Error::other)?;
        let compiled = |filter| BpfProgram::try_from(filter).map_err(io::Error::other);
        Ok(Self([compiled(hidden)?, compiled(shut)?, compiled(known)?]))
    }

    /// From here on for this thread and all that it starts. Also gives up gaining privileges, for ever.
    pub fn apply(&self) -> io::Result<()> {
        rustix::thread::set_no_new_privs(true)?;
        for program in &self.0 {
            seccompiler::apply_filter(program).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

fn first_argument_is(value: u64) -> io::Result<SeccompRule> {
    let condition =
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value).map_err(io::Error::other)?;
    SeccompRule::new(vec![condition]).map_err(io::Error::other)
}

/// `clone` with the flags that every thread has, and none that makes a namespace.
fn threads_only() -> io::Result<SeccompRule> {
    let namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET;
    let thread = libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND;
    let mask = u64::from((namespaces | thread).cast_unsigned());
    let wanted = u64::from(thread.cast_unsigned());
    let condition = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), wanted)
        .map_err(io::Error::other)?;
    SeccompRule::new(vec![condition]).map_err(io::Error::other)
}

/// A place below which files may be opened, and whether they may be changed.
pub(crate) struct Place<'a> {
    pub folder: BorrowedFd<'a>,
    pub writable: bool,
}

/// Landlock: no file can be opened but below `places`, no TCP port bound or connected, no signal or abstract socket
/// reaches a process outside.
///
/// # Errors
/// When this kernel has no Landlock: a worker without it is not started.
pub(crate) fn shut_files(places: &[Place<'_>]) -> io::Result<()> {
    let abi = ABI::V6;
    let (read, all) = (AccessFs::from_read(abi), AccessFs::from_all(abi));
    let prepare = || -> Result<_, landlock::RulesetError> {
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(all)?
            .handle_access(AccessNet::from_all(abi))?
            .scope(Scope::from_all(abi))?
            .create()?
            .set_compatibility(CompatLevel::BestEffort);
        for place in places {
            let allowed: BitFlags<AccessFs> = if place.writable { all } else { read };
            // Nothing below a volume is ever run as a program.
            ruleset = ruleset.add_rule(PathBeneath::new(place.folder, allowed & !AccessFs::Execute))?;
        }
        ruleset.restrict_self()
    };
    match prepare().map_err(io::Error::other)?.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        RulesetStatus::NotEnforced => {
            Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel has no Landlock (it came with Linux 5.13)"))
        }
    }
}

/// Gives up every capability, also those that a user namespace gave.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    use rustix::thread::{CapabilitySet, CapabilitySets};
    rustix::thread::clear_ambient_capability_set()?;
    for capability in CapabilitySet::all().iter() {
        // Fails without `CAP_SETPCAP`, and then there is nothing to remove either; newer kernels know more of them.
        if rustix::thread::remove_capability_from_bounding_set(capability).is_err() {
            break;
        }
    }
    let none = CapabilitySet::empty();
    Ok(rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}

/// Nobody of the same uid may look into this process, and it leaves no image of itself.
pub(crate) fn hide() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_needs_no_more_than_sixty_system_calls() {
        let by_argument = 4; // tgkill, prctl, clone and socketpair
        let refused = 2; // clone3 and openat stand in the list, and in a filter of their own that refuses them
        assert!(BASE.len() + SERVING.len() + VOLUME.len() + by_argument - refused <= 60);
        let mut all: Vec<_> = BASE.iter().chain(SERVING).chain(VOLUME).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), BASE.len() + SERVING.len() + VOLUME.len(), "each stands there once");
    }
}
