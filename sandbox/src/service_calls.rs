//! The system calls of a server: files below its folder, sockets, threads, and no other process.

use std::{collections::BTreeMap, io};

use seccompiler::SeccompAction;

use crate::system_calls::{Rules, SystemCalls, all, compiled, is, masked, one_of};

/// With any arguments.
const CALLS: &[libc::c_long] = &[
    // Files. Landlock says which.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_open,
    libc::SYS_close,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_lseek,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_rmdir,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_chmod,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_umask,
    libc::SYS_utimensat,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_flock,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_dup,
    libc::SYS_pipe2,
    // Sockets, and waiting for them.
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_poll,
    libc::SYS_ppoll,
    // Memory and threads.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_msync,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_membarrier,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Time, chance, and what the process is.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// What only an attacker asks for: it ends the process at once. Anything else that is not allowed
/// is answered as by a kernel that does not know it, and libraries turn to what they did before.
const HOSTILE: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_capset,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
];

/// With some arguments only.
fn rules() -> io::Result<Rules> {
    // `F_SETOWN` and `F_SETSIG` would send signals to other processes of this user.
    let descriptor = [
        libc::F_DUPFD,
        libc::F_DUPFD_CLOEXEC,
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_GETLK,
        libc::F_SETLK,
        libc::F_SETLKW,
        libc::F_OFD_GETLK,
        libc::F_OFD_SETLK,
        libc::F_OFD_SETLKW,
    ];
    // Names of threads.
    let process = [libc::PR_SET_NAME];
    // TCP, and UDP for names; nothing raw, and no other family but the kernel's list of addresses,
    // which resolving a name reads.
    let plain = |family| all([is(0, family), masked(1, 0xf, libc::SOCK_STREAM)]);
    let datagram = |family| all([is(0, family), masked(1, 0xf, libc::SOCK_DGRAM)]);
    let (v4, v6, unix) = (libc::AF_INET as u64, libc::AF_INET6 as u64, libc::AF_UNIX as u64);
    let netlink = all([is(0, libc::AF_NETLINK as u64), is(2, libc::NETLINK_ROUTE as u64)])?;
    let sockets = vec![plain(v4)?, plain(v6)?, plain(unix)?, datagram(v4)?, datagram(v6)?, netlink];
    let thread = libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND;
    Ok(vec![
        (libc::SYS_fcntl, one_of(1, &descriptor)?),
        (libc::SYS_prctl, one_of(0, &process)?),
        (libc::SYS_socket, sockets),
        (libc::SYS_socketpair, vec![plain(unix)?]),
        (
            libc::SYS_ioctl,
            vec![
                all([is(1, libc::FIONBIO)])?,
                all([is(1, libc::FIONREAD)])?,
                all([is(1, libc::TCGETS)])?,
            ],
        ),
        // Of this process only, which it cannot raise above its hard limit.
        (libc::SYS_prlimit64, vec![all([is(0, 0)])?]),
        (libc::SYS_tgkill, vec![all([is(0, std::process::id().into())])?]),
        (libc::SYS_clone, vec![all([masked(0, thread, thread)])?]),
        // No machine code is made or loaded.
        (libc::SYS_mmap, vec![all([masked(2, libc::PROT_EXEC, 0)])?]),
        (libc::SYS_mprotect, vec![all([masked(2, libc::PROT_EXEC, 0)])?]),
    ])
}

/// For this process: its number is in them.
pub(crate) fn of_this_process() -> io::Result<SystemCalls> {
    let hostile = HOSTILE.iter().map(|call| (*call, vec![])).collect();
    let hostile = compiled(hostile, SeccompAction::Allow, SeccompAction::KillProcess)?;
    let mut known: BTreeMap<_, _> = CALLS.iter().map(|call| (*call, vec![])).collect();
    known.extend(rules()?);
    let unknown = SeccompAction::Errno(libc::ENOSYS as u32);
    // The narrow one last: it allows no further filter. The stricter answer of both counts.
    Ok(SystemCalls::of([hostile, compiled(known, unknown, SeccompAction::Allow)?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_system_call_stands_in_one_list() {
        let ruled = rules().unwrap();
        let mut all: Vec<_> = CALLS.iter().chain(HOSTILE).copied().collect();
        all.extend(ruled.iter().map(|(call, _)| *call));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
