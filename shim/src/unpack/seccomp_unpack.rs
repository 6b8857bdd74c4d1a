//! The system calls of processes that unpack and copy. Any other ends them.

use std::{collections::BTreeMap, io};

use sandbox::{SystemCalls, all, compiled, masked, one_of};
use seccompiler::SeccompAction;

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

/// What a process that copies needs beyond those: it gives names to what is whole, and hears one
/// request after another.
pub(crate) const COPY: &[libc::c_long] = &[libc::SYS_renameat2, libc::SYS_recvmsg];

/// Confines this process to them, and to `more`.
pub(crate) fn apply(more: &[libc::c_long]) -> io::Result<()> {
    let mut rules: BTreeMap<_, _> = CALLS.iter().chain(more).map(|call| (*call, vec![])).collect();
    let no_machine_code = || Ok::<_, io::Error>(vec![all([masked(2, libc::PROT_EXEC, 0)])?]);
    rules.insert(libc::SYS_mmap, no_machine_code()?);
    rules.insert(libc::SYS_mprotect, no_machine_code()?);
    // A build with debug assertions checks that a descriptor that it closes is open.
    rules.insert(libc::SYS_fcntl, one_of(1, &[libc::F_GETFD])?);
    let filter = compiled(rules, SeccompAction::KillProcess, SeccompAction::Allow)?;
    SystemCalls::of([filter]).apply()
}
