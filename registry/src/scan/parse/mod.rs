//! One file for each format: bytes to packages. What is malformed is left out; no bytes panic.

mod os_release; // which distribution
mod dpkg; // Debian, Ubuntu, distroless
mod apk; // Alpine, Wolfi
mod rpm; // Fedora, Red Hat, SUSE
mod cargo; // Cargo.lock, and what cargo-auditable leaves in programs
mod npm; // package-lock.json, yarn, pnpm, installed modules
mod python; // METADATA, poetry, requirements
mod golang; // go.mod, and what the Go linker leaves in programs
mod elf; // sections of Linux programs
mod wasm; // custom sections of modules and components

pub(super) use apk::apk_installed;
pub(super) use cargo::cargo_lock;
pub(super) use dpkg::dpkg_status;
pub(super) use elf::is_elf;
pub(super) use golang::go_mod;
pub(super) use npm::{installed_module, package_lock, pnpm_lock, yarn_lock};
pub(super) use os_release::os_release;
pub(super) use python::{metadata, poetry_lock, requirements};
pub(super) use rpm::{rpm_ndb, rpm_sqlite};
pub(super) use wasm::wasm;

use super::package::Package;

/// The packages that a Linux program was linked of, by its own word.
pub(super) fn program(bytes: &[u8]) -> Vec<Package> {
    let mut packages = golang::build_info(bytes);
    if let Some(section) = elf::section(bytes, ".dep-v0") {
        packages.extend(cargo::audit_data(section));
    }
    packages
}

#[cfg(test)]
pub(super) mod tests {
    pub use super::{
        elf::tests::with_section,
        golang::tests::built_with,
        rpm::tests::{header_of, sqlite_of},
    };
}
