//! The system calls that unpacking takes. Any other ends the process.

use std::{collections::BTreeMap, io};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// Bytes in, files out; memory; and the end. Sockets are only spoken through, and nothing is made
/// that runs.
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
    libc::SYS_fchmod,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fsetxattr,
    libc::SYS_utimensat,
    libc::SYS_sendmsg, // the answer, in two parts
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

/// From here on for this process.
pub(crate) fn apply() -> io::Result<()> {
    let no_machine_code = (2, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0);
    // A build with assertions asks whether what it closes is open.
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
    let here = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, here);
    let program =
        BpfProgram::try_from(filter.map_err(io::Error::other)?).map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}
