//! The limit of what a container writes to its root, on any file system and without its help: the
//! layer is measured when the disk has lost space, and a container that has too much is ended.

use std::{
    collections::HashSet,
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread::JoinHandle,
    time::Instant,
};

use engine::Exit;
use rustix::fs::{FsWord, statfs, statvfs};

use crate::{
    host::cgroup,
    limits::{
        LAYER_DEPTH_MAX, LAYER_FILES_MAX, OPEN_FILES_SEEN_MAX, WALK_BYTES, WALK_INTERVAL_MAX,
        WALK_SHARE,
    },
    unpack::disk_usage::{Measured, measure},
};

/// What a container may have in its writable layer, and the last look at it.
pub(crate) struct DiskQuota {
    layer: PathBuf,
    cgroup: String,
    bytes_max: u64,
    /// What was free on the file system when the last walk began.
    free_bytes: u64,
    not_before: Instant,
    at_last: Instant,
    walk: Option<Walk>,
}

/// A walk over the layer, in a thread of its own: the loop relays bytes meanwhile.
struct Walk {
    began: Instant,
    measuring: JoinHandle<io::Result<Measured>>,
}

impl DiskQuota {
    /// Of the layer in the folder `layer` of a container that starts now.
    pub(crate) fn new(layer: PathBuf, cgroup: String, bytes_max: u64) -> Self {
        let now = Instant::now();
        let free_bytes = free_bytes(&layer);
        Self { layer, cgroup, bytes_max, free_bytes, not_before: now, at_last: now, walk: None }
    }

    /// The limit that the layer exceeds, as far as is known. Never blocks.
    pub(crate) fn exceeded(&mut self) -> Option<Exit> {
        let now = Instant::now();
        if let Some(walk) = self.walk.take_if(|walk| walk.measuring.is_finished()) {
            let took = now.saturating_duration_since(walk.began);
            self.not_before = now + took * WALK_SHARE;
            self.at_last = now + WALK_INTERVAL_MAX.max(took * WALK_SHARE);
            let measured = walk.measuring.join().unwrap_or_else(|_| Err(ErrorKind::Other.into()));
            return self.judge(measured);
        }
        let free = free_bytes(&self.layer);
        let written = self.free_bytes.saturating_sub(free) >= WALK_BYTES.min(self.bytes_max / 8);
        if self.walk.is_none() && now >= self.not_before && (written || now >= self.at_last) {
            self.free_bytes = free;
            self.walk = self.start();
        }
        None
    }

    fn start(&self) -> Option<Walk> {
        let (layer, cgroup) = (self.layer.clone(), self.cgroup.clone());
        let walking = move || {
            let mut measured = measure(&layer, LAYER_DEPTH_MAX)?;
            measured.bytes += removed_bytes(&cgroup);
            Ok(measured)
        };
        let thread = std::thread::Builder::new().name("layer-walk".to_owned());
        // Without a thread it is tried again a second later.
        let measuring = thread.stack_size(WALK_STACK_BYTES).spawn(walking).ok()?;
        Some(Walk { began: Instant::now(), measuring })
    }

    fn judge(&self, measured: io::Result<Measured>) -> Option<Exit> {
        match measured {
            Ok(Measured { bytes, .. }) if bytes > self.bytes_max => {
                let max = spec::print_bytes(self.bytes_max);
                Some(Exit::out_of_disk(&format!("more than {max}")))
            }
            Ok(Measured { files, .. }) if files > LAYER_FILES_MAX => {
                Some(Exit::out_of_disk(&format!("more than {LAYER_FILES_MAX} files")))
            }
            Err(error) if error.kind() == ErrorKind::QuotaExceeded => {
                let what = format!("more than {LAYER_DEPTH_MAX} folders in each other");
                Some(Exit::out_of_disk(&what))
            }
            // Something changed during the walk; the next one looks again.
            Ok(_) | Err(_) => None,
        }
    }
}

/// A walk opens at most [`LAYER_DEPTH_MAX`] folders in each other, with a few hundred bytes each.
const WALK_STACK_BYTES: usize = 512 << 10;

/// Zero where that is unknown: then only [`WALK_INTERVAL_MAX`] counts.
fn free_bytes(folder: &Path) -> u64 {
    statvfs(folder).map_or(0, |found| found.f_bfree.saturating_mul(found.f_frsize))
}

/// Files of the root file system that have no name any more and are open in processes of `cgroup`.
fn removed_bytes(cgroup: &str) -> u64 {
    let mut seen = HashSet::new();
    let (mut bytes, mut looked) = (0, 0);
    for pid in cgroup::processes(cgroup) {
        let process = PathBuf::from(format!("/proc/{pid}"));
        for open in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
            looked += 1;
            if looked > OPEN_FILES_SEEN_MAX {
                return bytes;
            }
            let Ok(file) = fs::metadata(open.path()) else { continue };
            let is_removed = file.is_file() && file.nlink() == 0 && is_in_root(&open.path());
            if is_removed && seen.insert(file.ino()) {
                bytes += file.blocks() * 512;
            }
        }
    }
    bytes
}

/// Of its mounts, only a container's root is an overlay.
fn is_in_root(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.f_type == OVERLAYFS)
}

const OVERLAYFS: FsWord = 0x794c_7630;

#[cfg(test)]
mod tests {
    use super::*;

    fn until_walked(quota: &mut DiskQuota) -> Option<Exit> {
        let began = Instant::now();
        loop {
            let exceeded = quota.exceeded();
            if exceeded.is_some() || (quota.walk.is_none() && quota.at_last > began) {
                return exceeded;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    #[test]
    fn a_layer_that_is_too_large_or_has_too_many_folders_is_named() {
        let layer = tempfile::tempdir().unwrap();
        let quota = || DiskQuota::new(layer.path().to_owned(), "none".to_owned(), 1 << 20);
        fs::write(layer.path().join("small"), vec![1; 512 << 10]).unwrap();
        assert_eq!(until_walked(&mut quota()), None);
        fs::write(layer.path().join("large"), vec![1; 600 << 10]).unwrap();
        let message = until_walked(&mut quota()).unwrap().message().unwrap();
        assert!(message.starts_with("E_DISK: its writable layer has more than 1MiB"), "{message}");
        fs::remove_file(layer.path().join("large")).unwrap();
        let mut deep = layer.path().to_owned();
        for _ in 0..LAYER_DEPTH_MAX {
            deep.push("d");
            fs::create_dir(&deep).unwrap();
        }
        let message = until_walked(&mut quota()).unwrap().message().unwrap();
        assert!(message.contains("256 folders in each other"), "{message}");
    }
}
