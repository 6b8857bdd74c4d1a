//! The limits of what a container writes to its root and to its volumes, on any file system and
//! without its help: a folder is measured when its disk has lost space, and a container that has
//! too much there is ended. A volume is measured as a whole, whichever containers write to it.

use std::{
    collections::HashSet,
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use engine::{Exit, VolumeMount, VolumeSource};
use rustix::fs::{FsWord, statfs, statvfs};

use crate::{
    Assignment, RootAccess,
    bundle::root,
    limits::{
        LAYER_DEPTH_MAX, LAYER_FILES_MAX, OPEN_FILES_SEEN_MAX, SAMPLE_INTERVAL, VOLUME_FILE_BYTES,
        WALK_BYTES, WALK_INTERVAL_MAX, WALK_STEP_FILES, WALK_STEP_INTERVAL,
    },
    owner::members::Members,
    unpack::disk_usage::{Measured, Walk},
};

/// What a container may have in its writable layer and in each volume with a limit. One folder is
/// walked at a time: each walk has descriptors of its own.
pub(crate) struct DiskQuotas(Vec<DiskQuota>);

impl DiskQuotas {
    /// Of a container that starts now.
    pub(crate) fn of(assignment: &Assignment, members: &Members) -> Self {
        let layer = (assignment.program.root == RootAccess::Writable).then(|| {
            let bytes_max = assignment.limits.writable_bytes_max;
            DiskQuota::new(root::upper(&assignment.folder), Place::Layer, members, bytes_max)
        });
        let volume = |mount: &VolumeMount| match (&mount.source, mount.bytes_max) {
            (VolumeSource::Folder(folder), Some(bytes_max)) if mount.rights.write => {
                let place = Place::Volume(mount.path.clone());
                Some(DiskQuota::new(folder.clone(), place, members, bytes_max))
            }
            _ => None,
        };
        Self(layer.into_iter().chain(assignment.volumes.iter().filter_map(volume)).collect())
    }

    /// Until the next look is due, where one ever is.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        let walked = self.0.iter().find(|quota| quota.walk.is_some());
        walked.map(DiskQuota::timeout).or_else(|| self.0.iter().map(DiskQuota::timeout).min())
    }

    /// The first limit that is exceeded, as far as is known. Blocks no longer than one step takes.
    pub(crate) fn exceeded(&mut self) -> Option<Exit> {
        if let Some(walked) = self.0.iter_mut().find(|quota| quota.walk.is_some()) {
            return walked.exceeded();
        }
        for quota in &mut self.0 {
            let exceeded = quota.exceeded();
            if exceeded.is_some() || quota.walk.is_some() {
                return exceeded;
            }
        }
        None
    }
}

/// Where the bytes are that are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Layer,
    /// A volume, by the path at which the container sees it.
    Volume(String),
}

impl Place {
    fn name(&self) -> String {
        match self {
            Self::Layer => "writable layer".to_owned(),
            Self::Volume(path) => format!("volume at `{path}`"),
        }
    }
}

/// What a container may have in one of them, and the last look at it. In steps of the shim's loop:
/// a thread would share its locks with the programs that the shim forks.
struct DiskQuota {
    folder: PathBuf,
    place: Place,
    members: Members,
    bytes_max: u64,
    files_max: u64,
    /// What was free on the file system when the last walk began.
    free_bytes: u64,
    /// When the folder is walked again without a sign of writing: what one task frees hides what
    /// another takes.
    at_last: Instant,
    next_look: Instant,
    walk: Option<Walk>,
}

impl DiskQuota {
    fn new(folder: PathBuf, place: Place, members: &Members, bytes_max: u64) -> Self {
        let next_look = Instant::now() + SAMPLE_INTERVAL;
        let files_max = match place {
            Place::Layer => LAYER_FILES_MAX,
            Place::Volume(_) => LAYER_FILES_MAX.max(bytes_max / VOLUME_FILE_BYTES),
        };
        Self {
            free_bytes: free_bytes(&folder),
            folder,
            place,
            members: members.clone(),
            bytes_max,
            files_max,
            at_last: next_look,
            next_look,
            walk: None,
        }
    }

    /// Until the next look is due.
    fn timeout(&self) -> Duration {
        self.next_look.saturating_duration_since(Instant::now())
    }

    fn exceeded(&mut self) -> Option<Exit> {
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
                measured.bytes += self.removed_bytes();
                self.walk = None;
            }
            // Where something changed during the walk, the next one looks again.
            Err(_) => self.walk = None,
        }
        self.judge(stepped.map(|_| measured))
    }

    fn begin(&mut self, now: Instant) {
        let free = free_bytes(&self.folder);
        let written = self.free_bytes.saturating_sub(free) >= WALK_BYTES.min(self.bytes_max / 8);
        if written || now >= self.at_last {
            self.free_bytes = free;
            self.at_last = now + WALK_INTERVAL_MAX;
            self.walk = Walk::of(&self.folder, LAYER_DEPTH_MAX).ok();
            self.next_look = now;
        }
    }

    fn judge(&self, measured: io::Result<Measured>) -> Option<Exit> {
        let too_much = |what: String| Some(Exit::out_of_disk(&self.place.name(), &what));
        match measured {
            Ok(Measured { bytes, .. }) if bytes > self.bytes_max => {
                too_much(format!("more than {}", spec::print_bytes(self.bytes_max)))
            }
            Ok(Measured { files, .. }) if files > self.files_max => {
                too_much(format!("more than {} files", self.files_max))
            }
            Err(error) if error.kind() == ErrorKind::QuotaExceeded => {
                too_much(format!("more than {LAYER_DEPTH_MAX} folders in each other"))
            }
            Ok(_) | Err(_) => None,
        }
    }

    /// Files there that have no name any more and that processes of the container have open.
    fn removed_bytes(&self) -> u64 {
        let device = fs::metadata(&self.folder).map(|folder| folder.dev());
        removed_bytes(&self.members, |path, file| match self.place {
            Place::Layer => is_in_root(path),
            Place::Volume(_) => device.as_ref().is_ok_and(|device| *device == file.dev()),
        })
    }
}

/// Zero where that is unknown: then only [`WALK_INTERVAL_MAX`] counts.
fn free_bytes(folder: &Path) -> u64 {
    statvfs(folder).map_or(0, |found| found.f_bfree.saturating_mul(found.f_frsize))
}

/// Files that have no name any more, are open in these processes and lie where it `is_there`.
fn removed_bytes(members: &Members, is_there: impl Fn(&Path, &fs::Metadata) -> bool) -> u64 {
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
            let is_removed = file.is_file() && file.nlink() == 0 && is_there(&open.path(), &file);
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
        let none = Members::Cgroup("none".to_owned());
        let of = |place| DiskQuota::new(layer.path().to_owned(), place, &none, 1 << 20);
        let quota = || of(Place::Layer);
        fs::write(layer.path().join("small"), vec![1; 512 << 10]).unwrap();
        assert_eq!(until_walked(&mut quota()), None);
        fs::write(layer.path().join("large"), vec![1; 600 << 10]).unwrap();
        let message = until_walked(&mut quota()).unwrap().message().unwrap();
        assert!(message.starts_with("E_DISK: its writable layer has more than 1MiB"), "{message}");
        let message =
            until_walked(&mut of(Place::Volume("/data".to_owned()))).unwrap().message().unwrap();
        assert!(message.starts_with("E_DISK: its volume at `/data` has more than"), "{message}");
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
