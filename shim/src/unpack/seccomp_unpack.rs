//! The system calls of the unpacking process. Any other ends it.

use std::{collections::BTreeMap, io};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// Reading and writing files, memory, and the exit. No sockets are made, and no executable memory.
const CALLS: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_mkdirat,
    libc::SYS_mknodat, // whiteouts are devices 0:0, which take no capability; for others there is none
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_ftruncate, // the hole at the end of a sparse file
    libc::SYS_fchmod,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fsetxattr,
    libc::SYS_utimensat,
    libc::SYS_sendmsg, // the reply, in two parts
    libc::SYS_sendto,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Confines this process to them.
pub(crate) fn apply() -> io::Result<()> {
    let no_machine_code = (2, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0);
    // A build with debug assertions checks that a descriptor that it closes is open.
    let is_open = (1, SeccompCmpOp::Eq, libc::F_GETFD as u64);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        CALLS.iter().map(|call| (*call, vec![])).collect();
    for (call, (argument, operator, value)) in [
        (libc::SYS_mmap, no_machine_code.clone()),
        (libc::SYS_mprotect, no_machine_code),
        (libc::SYS_fcntl, is_open),
    ] {
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value);
        let rule = SeccompRule::new(vec![condition.map_err(io::Error::other)?])
            .map_err(io::Error::other)?;
        rules.insert(call, vec![rule]);
    }
    let architecture = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let filter =
        SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, architecture);
    let program =
        BpfProgram::try_from(filter.map_err(io::Error::other)?).map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}
