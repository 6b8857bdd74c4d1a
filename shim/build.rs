//! Compiles the init of containers for the machine that the shim is for: a program of its own,
//! static and without a standard library, so that it runs in an image that holds nothing else. The
//! compiler that builds the shim has all that it takes; a crate of its own would be linked with the
//! C library of this machine.

use std::{env, path::PathBuf, process::Command};

const SOURCE: &str = "init/main.rs";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    let variable = |name: &str| env::var_os(name).unwrap_or_default();
    let out = PathBuf::from(variable("OUT_DIR")).join("init");
    let mut compile = Command::new(variable("RUSTC"));
    compile.args(["--edition=2024", "--crate-name=init", "--crate-type=bin", SOURCE, "-o"]);
    compile.arg(&out).arg("--target").arg(variable("TARGET"));
    for option in [
        "opt-level=s",
        "panic=abort",
        "relocation-model=static",
        "strip=symbols",
        "link-arg=-nostdlib",
        "link-arg=-nostartfiles",
        "link-arg=-static",
        "link-arg=-Wl,--build-id=none",
    ] {
        compile.arg("-C").arg(option);
    }
    let linker = variable("RUSTC_LINKER");
    if !linker.is_empty() {
        compile.arg("-C").arg(format!("linker={}", linker.to_string_lossy()));
    }
    let compiled = compile.status().expect("the compiler of this build runs");
    assert!(compiled.success(), "the init of containers (shim/{SOURCE}) was not compiled");
}
