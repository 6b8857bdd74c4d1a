//! The counters that a worker maps, read from the outside.

use std::{fs::File, path::Path};

use spec::Usage;

/// What the page at `path` says; `None` when there is none, or none of ours.
pub(crate) fn read(path: &Path) -> Option<Usage> {
    runtime::usage::read(&File::open(path).ok()?).ok()
}

/// How the worker that counted there ended, if it could still say so.
pub(crate) fn read_exit(path: &Path) -> Option<runtime::Exit> {
    runtime::usage::read_exit(&File::open(path).ok()?)
}

/// The page at `path`, kept when it is there: its counters go on across restarts of a worker.
pub(crate) fn open(path: &Path) -> Result<File, runtime::Error> {
    match File::options().read(true).write(true).open(path) {
        Ok(page) if runtime::usage::read(&page).is_ok() => Ok(page),
        _ => runtime::usage::create(path),
    }
}
