//! `_start` of a command: replaces the `crt1-command.o` of Debian's wasi-libc, which is from 2022.
//!
//! The explicit call of `__wasm_call_ctors` matters: without it wasm-ld wraps every export,
//! `cabi_realloc` too, in constructor calls, and a component then traps with "cannot leave
//! component instance". No core library is at hand when this is compiled, so the few language items
//! it needs are declared here.
#![feature(no_core, lang_items)]
#![allow(internal_features)]
#![no_core]
#![no_std]

#[lang = "pointee_sized"]
pub trait PointeeSized {}
#[lang = "meta_sized"]
pub trait MetaSized: PointeeSized {}
#[lang = "sized"]
pub trait Sized: MetaSized {}
#[lang = "copy"]
pub trait Copy {}
impl Copy for i32 {}

extern "C" {
    fn __wasm_call_ctors();
    fn __main_void() -> i32;
    fn __wasm_call_dtors();
    fn __wasi_proc_exit(code: i32) -> !;
}

/// What the host calls.
#[no_mangle]
pub unsafe extern "C" fn _start() {
    __wasm_call_ctors();
    match __main_void() {
        0 => __wasm_call_dtors(),
        code => {
            __wasm_call_dtors();
            __wasi_proc_exit(code)
        }
    }
}
