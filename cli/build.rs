//! Links the binary as small as this machine's linker and C library can have it.

use std::{env, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CARGO_ENCODED_RUSTFLAGS");
    let out = env::var("OUT_DIR").expect("cargo sets it for build scripts");
    for wish in [
        // 63,000 relocations take 1.5 MB of every process otherwise, and the time to read them at
        // each start. Linkers ignore what they do not know here, so the loader decides.
        Wish { flag: "-Wl,-z,pack-relative-relocs", is_possible: has_packed_relocations },
        // A tenth of the code is there several times, once for each type that it was made for.
        // Neither Rust nor the C in it compares the addresses of functions.
        Wish { flag: "-Wl,--icf=all", is_possible: || true },
    ] {
        if (wish.is_possible)() && links_with(Path::new(&out), wish.flag) {
            println!("cargo::rustc-link-arg-bins={}", wish.flag);
        }
    }
}

struct Wish {
    flag: &'static str,
    is_possible: fn() -> bool,
}

/// Whether a program can be linked with `flag`: not every linker knows it.
fn links_with(out: &Path, flag: &str) -> bool {
    let source = out.join("empty.rs");
    if std::fs::write(&source, "fn main() {}\n").is_err() {
        return false;
    }
    let (rustc, target) = (env::var_os("RUSTC"), env::var_os("TARGET"));
    let (Some(rustc), Some(target)) = (rustc, target) else { return false };
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let mut command = Command::new(rustc);
    command.args(flags.split('\u{1f}').filter(|flag| !flag.is_empty()));
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        command.arg("-C").arg(format!("linker={}", linker.to_string_lossy()));
    }
    command.arg("--target").arg(target).arg("-C").arg(format!("link-arg={flag}"));
    let linked = command.arg("-o").arg(out.join("empty")).arg(source).output();
    linked.is_ok_and(|output| output.status.success())
}

/// The first glibc whose loader reads `DT_RELR`.
const FIRST: (u32, u32) = (2, 36);

fn has_packed_relocations() -> bool {
    glibc().is_some_and(|version| version >= FIRST)
}

/// The version of this machine's C library; none where it is another one than glibc.
fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = said.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}
