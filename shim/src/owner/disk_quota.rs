//! The limit of what a container writes to its root, on any file system and without its help: the
//! layer is measured when the disk has lost space, and a container that has too much is ended.

use std::{
    collections::HashSet,
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use engine::Exit;
use rustix::fs::{FsWord, statfs, statvfs};

use crate::{
    limits::{
        LAYER_DEPTH_MAX, LAYER_FILES_MAX, OPEN_FILES_SEEN_MAX, SAMPLE_INTERVAL, WALK_BYTES,
        WALK_INTERVAL_MAX, WALK_STEP_FILES, WALK_STEP_INTERVAL,
    },
    owner::members::Members,
    unpack::disk_usage::{Measured, Walk},
};

/// What a container may have in its writable layer, and the last look at it. In steps of the shim's
/// loop: a thread would share its locks with the programs that the shim forks.
pub(crate) struct DiskQuota {
    layer: PathBuf,
    members: Members,
    bytes_max: u64,
    /// What was free on the file system when the last walk began.
    free_bytes: u64,
    /// When the layer is walked again without a sign of writing: what one task frees hides what
    /// another takes.
    at_last: Instant,
    next_look: Instant,
    walk: Option<Walk>,
}

impl DiskQuota {
    /// Of the layer in the folder `layer` of a container that starts now.
    pub(crate) fn new(layer: PathBuf, members: Members, bytes_max: u64) -> Self {
        let now = Instant::now();
        let free_bytes = free_bytes(&layer);
        let next_look = now + SAMPLE_INTERVAL;
        Self { layer, members, bytes_max, free_bytes, at_last: next_look, next_look, walk: None }
    }

    /// Until the next look is due.
    pub(crate) fn timeout(&self) -> Duration {
        self.next_look.saturating_duration_since(Instant::now())
    }

    /// The limit that the layer exceeds, as far as is known. Blocks no longer than one step takes.
    pub(crate) fn exceeded(&mut self) -> Option<Exit> {
        let now = Instant::now();
        if now < self.next_look {
            return None;
        }
        self.next_look = now + SAMPLE_INTERVAL;
        let Some(walk) = &mut self.walk else {
            self.begin(now);
            return None;
        };
        let stepped = walk.step(WALK_STEP_FILES);
        let mut measured = walk.measured;
        match stepped {
            Ok(true) => self.next_look = Instant::now() + WALK_STEP_INTERVAL,
            Ok(false) => {
                measured.bytes += removed_bytes(&self.members);
                self.walk = None;
            }
            // Where something changed during the walk, the next one looks again.
            Err(_) => self.walk = None,
        }
        self.judge(stepped.map(|_| measured))
    }

    fn begin(&mut self, now: Instant) {
        let free = free_bytes(&self.layer);
        let written = self.free_bytes.saturating_sub(free) >= WALK_BYTES.min(self.bytes_max / 8);
        if written || now >= self.at_last {
            self.free_bytes = free;
            self.at_last = now + WALK_INTERVAL_MAX;
            self.walk = Walk::of(&self.layer, LAYER_DEPTH_MAX).ok();
            self.next_look = now;
        }
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
            Ok(_) | Err(_) => None,
        }
    }
}

/// Zero where that is unknown: then only [`WALK_INTERVAL_MAX`] counts.
fn free_bytes(folder: &Path) -> u64 {
    statvfs(folder).map_or(0, |found| found.f_bfree.saturating_mul(found.f_frsize))
}

/// Files of the root file system that have no name any more and are open in these processes.
fn removed_bytes(members: &Members) -> u64 {
    let mut seen = HashSet::new();
    let (mut bytes, mut looked) = (0, 0);
    for pid in members.processes() {
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
        quota.begin(quota.at_last);
        while quota.walk.is_some() {
            quota.next_look = Instant::now();
            if let Some(exit) = quota.exceeded() {
                return Some(exit);
            }
        }
        None
    }

    #[test]
    fn a_layer_that_is_too_large_or_has_too_many_folders_is_named() {
        let layer = tempfile::tempdir().unwrap();
        let none = || Members::Cgroup("none".to_owned());
        let quota = || DiskQuota::new(layer.path().to_owned(), none(), 1 << 20);
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
