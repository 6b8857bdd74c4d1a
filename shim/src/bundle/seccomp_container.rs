//! The system calls that a container may make: what programs use, and nothing that changes the
//! machine. Everything else answers EPERM, so that programs can try and go on without.

use serde_json::{Value, json};

/// Calls that are allowed with any arguments: files, memory, time, signals, processes, threads,
/// sockets that exist.
const PLAIN: &str = "
    accept accept4 access alarm arch_prctl bind brk cachestat capget capset chdir chmod chown chroot clock_getres
    clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1
    epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2
    fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork
    fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake futimesat
    get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer
    getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid
    getsockname getsockopt gettid gettimeofday getuid getxattr inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch ioctl ioprio_get ioprio_set kill lchown lgetxattr link linkat listen listxattr llistxattr
    lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat
    mlock mlock2 mlockall mmap mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap
    mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap nanosleep newfstatat open openat openat2 pause
    pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2
    prlimit64 process_mrelease pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom
    recvmmsg recvmsg remap_file_pages removexattr rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
    sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select
    semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address
    setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit
    setsid setsockopt setuid setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 splice stat statfs
    statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete
    timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask
    uname unlink unlinkat utime utimensat utimes vfork vmsplice wait4 waitid write writev
";

/// `CLONE_NEW*` of every namespace: a container makes none, because each one exposes kernel code
/// that otherwise only root reaches.
const CLONE_NEW_ANY: u64 = 0x7e02_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const AF_UNIX: u64 = 1;
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
const AF_NETLINK: u64 = 16;
const NETLINK_ROUTE: u64 = 0;
const NETLINK_AUDIT: u64 = 9;
const EAFNOSUPPORT: u32 = 97;
const S_IFMT: u64 = 0o170_000;
const S_IFIFO: u64 = 0o010_000;
const S_IFREG: u64 = 0o100_000;
const S_IFSOCK: u64 = 0o140_000;
/// Linux, Linux with 32-bit addresses reported, and the query.
const PERSONALITIES: [u64; 3] = [0x0, 0x0002_0000, 0xffff_ffff];

/// The profile as the runtime-spec writes it, for the architecture of this host. Programs for other
/// architectures (32-bit ones among them) are stopped at their first call.
pub(crate) fn profile() -> Value {
    let names: Vec<_> = PLAIN.split_whitespace().collect();
    let mut rules = vec![json!({ "names": names, "action": "SCMP_ACT_ALLOW" })];
    let mut allow = |name: &str, args: Value| {
        rules.push(json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": args }));
    };
    allow(
        "clone",
        json!([{ "index": 0, "value": CLONE_NEW_ANY, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }]),
    );
    for family in [AF_UNIX, AF_INET, AF_INET6] {
        allow("socket", json!([equals(0, family)]));
    }
    // Resolvers ask the kernel for its addresses; other netlink families configure the machine.
    allow("socket", json!([equals(0, AF_NETLINK), equals(2, NETLINK_ROUTE)]));
    allow("socketpair", json!([equals(0, AF_UNIX)]));
    for personality in PERSONALITIES {
        allow("personality", json!([equals(0, personality)]));
    }
    // Named pipes and sockets; a device would be refused for want of a capability, too.
    for kind in [S_IFIFO, S_IFSOCK, S_IFREG] {
        for (name, mode) in [("mknod", 1), ("mknodat", 2)] {
            let kind = json!({ "index": mode, "value": S_IFMT, "valueTwo": kind, "op": "SCMP_CMP_MASKED_EQ" });
            allow(name, json!([kind]));
        }
    }
    // `su` and others that log to the kernel's audit go on where there is none.
    rules.push(json!({
        "names": ["socket"],
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": EAFNOSUPPORT,
        "args": [equals(0, AF_NETLINK), equals(2, NETLINK_AUDIT)],
    }));
    // Its flags are behind a pointer, where no filter can look: C libraries fall back to clone.
    rules.push(json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS }));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": [architecture()],
        "syscalls": rules,
    })
}

fn equals(index: u32, value: u64) -> Value {
    json!({ "index": index, "value": value, "op": "SCMP_CMP_EQ" })
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "SCMP_ARCH_AARCH64",
        "riscv64" => "SCMP_ARCH_RISCV64",
        _ => "SCMP_ARCH_X86_64",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_change_the_machine_are_not_allowed() {
        let profile = profile().to_string();
        for name in [
            "add_key",
            "bpf",
            "delete_module",
            "finit_module",
            "fsconfig",
            "fsmount",
            "fsopen",
            "init_module",
            "io_uring_enter",
            "io_uring_register",
            "io_uring_setup",
            "iopl",
            "kcmp",
            "kexec_load",
            "keyctl",
            "mbind",
            "mount",
            "mount_setattr",
            "move_mount",
            "move_pages",
            "name_to_handle_at",
            "open_by_handle_at",
            "open_tree",
            "perf_event_open",
            "pidfd_getfd",
            "pivot_root",
            "process_vm_readv",
            "process_vm_writev",
            "ptrace",
            "quotactl",
            "reboot",
            "request_key",
            "setdomainname",
            "sethostname",
            "setns",
            "settimeofday",
            "swapon",
            "syslog",
            "umount2",
            "unshare",
            "userfaultfd",
            "vhangup",
            "acct",
        ] {
            assert!(!profile.contains(&format!("\"{name}\"")), "{name}");
        }
    }

    #[test]
    fn devices_cannot_be_made() {
        let profile = profile();
        let rules = profile["syscalls"].as_array().unwrap().iter();
        let mut kinds: Vec<_> = rules
            .filter(|rule| rule["names"][0].as_str().unwrap().starts_with("mknod"))
            .map(|rule| rule["args"][0]["valueTwo"].as_u64().unwrap())
            .collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds, [S_IFIFO, S_IFREG, S_IFSOCK]);
    }

    #[test]
    fn no_call_is_named_twice() {
        let mut names: Vec<_> = PLAIN.split_whitespace().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
