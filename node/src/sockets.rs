//! Unix sockets whose path is longer than the 107 bytes that an address holds.

use std::{
    fs::File,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

/// `path`'s file, named through the open descriptor of the folder that it lies in.
pub(crate) fn below(folder: &File, path: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()))
        .join(path.file_name().unwrap_or_default())
}
