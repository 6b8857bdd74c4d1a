//! The init of `margay run --init`: process 1 of a container, `docker-init -- PROGRAM [ARG]...`.
//!
//! It starts the program, hands every signal on to it, waits for every process that has lost its
//! parent, and exits as the program did: with its code, or with 128 and the signal that ended it.
//!
//! It runs in images that may hold nothing but their program. So it is static, and has neither a
//! standard library nor an allocator: numbers of system calls, and memory of its stack. The build
//! script of the shim compiles it.
#![no_std]
#![no_main]
#![no_builtins] // loops that copy must not become calls of a C library's functions

use core::arch::{asm, global_asm};

#[cfg(target_arch = "x86_64")]
mod number {
    pub const WRITE: usize = 1;
    pub const RT_SIGPROCMASK: usize = 14;
    pub const IOCTL: usize = 16;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const CLONE: usize = 56;
    pub const EXECVE: usize = 59;
    pub const EXIT_GROUP: usize = 231;
    pub const WAIT4: usize = 61;
    pub const KILL: usize = 62;
    pub const SETPGID: usize = 109;
    pub const GETPID: usize = 39;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub const WRITE: usize = 64;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const IOCTL: usize = 29;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const CLONE: usize = 220;
    pub const EXECVE: usize = 221;
    pub const EXIT_GROUP: usize = 94;
    pub const WAIT4: usize = 260;
    pub const KILL: usize = 129;
    pub const SETPGID: usize = 154;
    pub const GETPID: usize = 172;
}

// The kernel puts the number of arguments, the arguments and the variables where the stack begins.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {main}",
    "ud2",
    main = sym main,
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, #0",
    "mov x30, #0",
    "mov x0, sp",
    "bl {main}",
    "brk #1",
    main = sym main,
);

/// # Safety
/// As the system call asks for.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, args: [usize; 5]) -> isize {
    let result: isize;
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// # Safety
/// As the system call asks for.
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, args: [usize; 5]) -> isize {
    let result: isize;
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") args[0] as isize => result,
            in("x1") args[1], in("x2") args[2], in("x3") args[3], in("x4") args[4],
            options(nostack),
        );
    }
    result
}

const EINTR: isize = -4;
const ENOENT: isize = -2;
const EACCES: isize = -13;
const ENOTDIR: isize = -20;

const SIGCHLD: i32 = 17;
/// Bytes of the kernel's set of signals.
const SET_BYTES: usize = 8;
const SIG_SETMASK: usize = 2;
const WNOHANG: usize = 1;
const TIOCSPGRP: usize = 0x5410;

/// All signals but those that a fault of this program raises: ILL, TRAP, ABRT, BUS, FPE, SEGV, SYS.
/// What stops a process that writes to a terminal, TTIN and TTOU, waits as well and is dropped.
const HANDED_ON: u64 = !(bit(4) | bit(5) | bit(6) | bit(7) | bit(8) | bit(11) | bit(31));
const OF_TERMINALS: u64 = bit(21) | bit(22);

const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

/// Longer than any path that the kernel takes.
const PATH_BYTES_MAX: usize = 4096;

type Words = *const *const u8;

/// # Safety
/// `stack` is what the kernel has made.
unsafe extern "C" fn main(stack: *const usize) -> ! {
    unsafe {
        let count = *stack;
        let args: Words = stack.add(1).cast();
        let env: Words = args.add(count + 1);
        // `docker-init -- PROGRAM`.
        if count < 3 {
            say(b"margay: usage: docker-init -- PROGRAM [ARG]...\n\0".as_ptr());
            exit(125);
        }
        let (set, mut before) = (HANDED_ON, 0u64);
        let places = [&raw const set as usize, &raw mut before as usize];
        call(number::RT_SIGPROCMASK, [SIG_SETMASK, places[0], places[1], SET_BYTES, 0]);
        let program = call(number::CLONE, [SIGCHLD as usize, 0, 0, 0, 0]);
        match program {
            0 => become_program(args.add(2), env, before),
            1.. => serve(program),
            _ => {
                say(b"margay: cannot start a process in the container\n\0".as_ptr());
                exit(125)
            }
        }
    }
}

/// Until the program has ended.
///
/// # Safety
/// `program` is a child.
unsafe fn serve(program: isize) -> ! {
    let set = HANDED_ON;
    loop {
        let wait = [&raw const set as usize, 0, 0, SET_BYTES, 0];
        match unsafe { call(number::RT_SIGTIMEDWAIT, wait) } as i32 {
            SIGCHLD => {
                if let Some(code) = unsafe { reap(program) } {
                    exit(code)
                }
            }
            signal @ 1.. if bit(signal as u32) & OF_TERMINALS == 0 => unsafe {
                call(number::KILL, [program as usize, signal as usize, 0, 0, 0]);
            },
            _ => {}
        }
    }
}

/// Takes leave of every process that has ended. The exit code, when the program was among them.
///
/// # Safety
/// None beyond that of a system call with a place for a number.
unsafe fn reap(program: isize) -> Option<i32> {
    let mut code = None;
    loop {
        let mut status = 0i32;
        let any = usize::MAX;
        let ended =
            unsafe { call(number::WAIT4, [any, &raw mut status as usize, WNOHANG, 0, 0]) };
        if ended == EINTR {
            continue;
        }
        if ended <= 0 {
            return code;
        }
        if ended == program {
            code = Some(match status & 0x7f {
                0 => (status >> 8) & 0xff,
                signal => 128 + signal,
            });
        }
    }
}

/// In the new process: a group of its own, in front of the terminal if there is one, and the
/// signals as they were.
///
/// # Safety
/// Lists of C strings with an end.
unsafe fn become_program(args: Words, env: Words, before: u64) -> ! {
    unsafe {
        call(number::SETPGID, [0, 0, 0, 0, 0]);
        let group = call(number::GETPID, [0, 0, 0, 0, 0]) as i32;
        call(number::IOCTL, [0, TIOCSPGRP, &raw const group as usize, 0, 0]);
        call(number::RT_SIGPROCMASK, [SIG_SETMASK, &raw const before as usize, 0, SET_BYTES, 0]);
        let why = execute(*args, args, env);
        say(b"margay: cannot start `\0".as_ptr());
        say(*args);
        say(match why {
            ENOENT | ENOTDIR => b"`: no such file or directory\n\0".as_ptr(),
            EACCES => b"`: permission denied\n\0".as_ptr(),
            _ => b"`: it is no program of this machine\n\0".as_ptr(),
        });
        exit(if matches!(why, ENOENT | ENOTDIR) { 127 } else { 126 })
    }
}

/// Becomes `program`, looked for in PATH where it has no slash. What it returns is why not.
///
/// # Safety
/// C strings, and lists of them with an end.
unsafe fn execute(program: *const u8, args: Words, env: Words) -> isize {
    unsafe {
        if length_to(program, b'/', 0) < length(program) {
            return call(number::EXECVE, [program as usize, args as usize, env as usize, 0, 0]);
        }
        let mut folders = variable(env, b"PATH=");
        let mut why = ENOENT;
        let mut path = [0u8; PATH_BYTES_MAX];
        while !folders.is_null() {
            let folder = length_to(folders, b':', 0);
            let name = length(program);
            if folder + name + 2 <= PATH_BYTES_MAX {
                let start = path.as_mut_ptr();
                copy(folders, start, folder);
                // An empty folder is the present one.
                let slash = usize::from(folder > 0);
                *start.add(folder) = b'/';
                copy(program, start.add(folder + slash), name + 1);
                let failed =
                    call(number::EXECVE, [start as usize, args as usize, env as usize, 0, 0]);
                match failed {
                    ENOENT | ENOTDIR => {}
                    EACCES => why = EACCES,
                    other => return other,
                }
            }
            let end = folders.add(folder);
            folders = if *end == b':' { end.add(1) } else { core::ptr::null() };
        }
        why
    }
}

/// The value of the variable that begins with `name`; null when there is none.
///
/// # Safety
/// A list of C strings with an end.
unsafe fn variable(env: Words, name: &[u8]) -> *const u8 {
    unsafe {
        let mut at = env;
        while !(*at).is_null() {
            let line = *at;
            let mut same = 0;
            while same < name.len() && *line.add(same) == *name.as_ptr().add(same) {
                same += 1;
            }
            if same == name.len() {
                return line.add(same);
            }
            at = at.add(1);
        }
    }
    core::ptr::null()
}

unsafe fn length(text: *const u8) -> usize {
    unsafe { length_to(text, 0, 0) }
}

/// Bytes before the first `end`, or before the end of the string.
unsafe fn length_to(text: *const u8, end: u8, from: usize) -> usize {
    let mut at = from;
    unsafe {
        while *text.add(at) != end && *text.add(at) != 0 {
            at += 1;
        }
    }
    at
}

unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    let mut at = 0;
    while at < bytes {
        unsafe { *to.add(at) = *from.add(at) };
        at += 1;
    }
}

/// To the error output.
unsafe fn say(text: *const u8) {
    unsafe { call(number::WRITE, [2, text as usize, length(text), 0, 0]) };
}

fn exit(code: i32) -> ! {
    loop {
        // SAFETY: ends this process.
        unsafe { call(number::EXIT_GROUP, [code as usize, 0, 0, 0, 0]) };
    }
}

// What the compiler itself may call.

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    unsafe { copy(from, to, bytes) };
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, bytes: usize) -> *mut u8 {
    let mut at = 0;
    while at < bytes {
        unsafe { *to.add(at) = byte as u8 };
        at += 1;
    }
    to
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(125)
}
