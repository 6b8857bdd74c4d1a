//! The init of `--init`: process 1 of a container, which starts the program. See `init/main.rs`.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

use crate::bundle::config::Bind;

/// A static program of some kilobytes.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init"));

/// Where Docker has it.
const PATH: &str = "/sbin/docker-init";

/// Puts it on `point`, which is memory of this container alone, to be bound into the container.
pub(crate) fn place(point: &Path) -> io::Result<Bind> {
    let from = point.join("init");
    fs::write(&from, PROGRAM)?;
    fs::set_permissions(&from, fs::Permissions::from_mode(0o755))?;
    Ok(Bind { from, to: PATH.to_owned(), writable: false, noexec: false })
}

/// What process 1 is then.
pub(crate) fn args(program: &[String]) -> Vec<String> {
    let head = [PATH, "--"].map(str::to_owned);
    head.into_iter().chain(program.iter().cloned()).collect()
}
