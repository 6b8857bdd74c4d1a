//! The user and group ids of containers on this machine: one range while files lie on disk, and
//! another one for each container that runs.
//!
//! Layers, writable layers and volumes are kept with the ids of [`HostIds::ON_DISK`]. A container
//! sees them through mounts that show its own range instead, so no file ever has the ids of a
//! range that is taken again, and none is changed when a container starts. Where a file system
//! cannot be shown in that way, containers have the range of the disk, and those of one owner only
//! at a time.
//!
//! Where margay is run by an ordinary user, containers have the ids of a user namespace that is
//! made for each of them: its root is that user, and all others are of the user's subordinate ids.
//! They have the same on disk, because an ordinary user may not show files with other ids.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use disk::Lock;
use engine::mount::IdRange;
use rustix::fs::{Gid, Uid};
use serde::{Deserialize, Serialize};

use crate::limits::{FIRST_ID, ID_COUNT, ID_RANGES_MAX};

/// Which ranges are taken: of the whole machine, because users are. Gone with a boot, as processes
/// are.
const CLAIMS: &str = "/run/margay/ids";
/// The same for an ordinary user, beside the folders of containers: of one home, because no other
/// user has the ids of its namespaces.
const CLAIMS_OF_USER: &str = ".users";
/// Claims of a range that is shared begin so.
const SHARED: &str = "shared";

/// The ids that a container has on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct HostIds {
    first: u32,
}

impl Default for HostIds {
    fn default() -> Self {
        Self::ON_DISK
    }
}

impl HostIds {
    /// Of files that no container uses, and of the processes that only handle those.
    pub const ON_DISK: Self = Self { first: FIRST_ID };

    /// In the user namespace of an ordinary user's container, where the shim itself is its root.
    pub const OF_NAMESPACE: Self = Self { first: 0 };

    /// As a container that runs may have them.
    pub const EXAMPLE: Self = Self { first: FIRST_ID + ID_COUNT };

    fn nth(index: u32) -> Self {
        Self { first: FIRST_ID + index * ID_COUNT }
    }

    fn index(self) -> u32 {
        self.first.saturating_sub(FIRST_ID) / ID_COUNT
    }

    pub fn first(self) -> u32 {
        self.first
    }

    /// Whether no other container has them.
    pub fn are_own(self) -> bool {
        !self.are_of_namespace() && self != Self::ON_DISK
    }

    /// Whether this process is in a user namespace that has these and no others.
    pub fn are_of_namespace(self) -> bool {
        self == Self::OF_NAMESPACE
    }

    /// Those that its files have on disk.
    pub fn of_files(self) -> Self {
        if self.are_of_namespace() { self } else { Self::ON_DISK }
    }

    /// The ids in the container, the ids here that they are, and how many. Each lies within one
    /// line of the map of this process's own namespace, as the kernel wants it.
    pub fn map(self) -> Vec<(u32, u32, u32)> {
        match self.are_of_namespace() {
            true => vec![(0, 0, 1), (1, 1, ID_COUNT - 1)],
            false => vec![(0, self.first, ID_COUNT)],
        }
    }

    /// The container's root.
    pub fn root(self) -> (Uid, Gid) {
        self.user(0, 0)
    }

    /// A user and a group of the container.
    pub fn user(self, uid: u32, gid: u32) -> (Uid, Gid) {
        (Uid::from_raw(self.first + uid), Gid::from_raw(self.first + gid))
    }

    /// The id on disk of what a mount with these ids shows as `id`.
    pub fn on_disk(self, id: u32) -> u32 {
        match id.checked_sub(self.first) {
            Some(inner) if inner < ID_COUNT => self.of_files().first + inner,
            _ => id,
        }
    }

    /// How files are shown: the range of the disk as this one, and every other id as itself, so
    /// that what the host's root makes is the host's root's.
    pub fn shown(self) -> Vec<IdRange> {
        let end = |first: u32| first + ID_COUNT;
        let same = |from: u32, to: u32| IdRange { on_disk: from, shown: from, count: to - from };
        let swap = |on_disk, shown| IdRange { on_disk, shown, count: ID_COUNT };
        let ranges = [
            same(0, FIRST_ID),
            swap(FIRST_ID, self.first),
            same(end(FIRST_ID), self.first.max(end(FIRST_ID))),
            swap(self.first, FIRST_ID),
            same(end(self.first), u32::MAX), // the last id means none
        ];
        ranges.into_iter().filter(|range| range.count > 0).collect()
    }

    /// How files of the host are shown: its users 0 to 65,535 as the same users of the container,
    /// as by an engine without user namespaces.
    pub fn of_host(self) -> Vec<IdRange> {
        vec![IdRange { on_disk: 0, shown: self.first, count: ID_COUNT }]
    }
}

/// The ranges that containers have. One process at a time holds this.
pub(crate) struct Claims {
    folder: PathBuf,
    _lock: Lock,
}

impl Claims {
    pub fn open() -> io::Result<Self> {
        Self::open_at(Path::new(CLAIMS))
    }

    /// Those of an ordinary user, for the container of `holder`.
    pub fn open_beside(holder: &Path) -> io::Result<Self> {
        Self::open_at(&beside(holder))
    }

    fn open_at(folder: &Path) -> io::Result<Self> {
        disk::private_folder(folder)?;
        let lock = Lock::exclusive(&folder.join("lock"))?;
        Ok(Self { folder: folder.to_owned(), _lock: lock })
    }

    /// A range for the container of `holder` alone. `is_held` says whether the container of a
    /// folder has one: what a killed process has left is looked for when none is free.
    pub fn own(
        &self,
        holder: &Path,
        is_held: impl Fn(&Path, HostIds) -> bool,
    ) -> io::Result<HostIds> {
        let free = match self.free()? {
            Some(free) => free,
            None => {
                self.remove_unheld(is_held)?;
                let why = || format!("each of {ID_RANGES_MAX} ranges of users is taken");
                self.free()?.ok_or_else(|| io::Error::other(why()))?
            }
        };
        symlink(holder, self.folder.join(free.index().to_string()))?;
        Ok(free)
    }

    /// The range `ids`, which those of one owner share, for the container of `holder`, which is
    /// `owner`'s. The other owner that has it where it is taken.
    pub fn shared(
        &self,
        ids: HostIds,
        holder: &Path,
        owner: &str,
        is_held: impl Fn(&Path, HostIds) -> bool,
    ) -> io::Result<Result<HostIds, String>> {
        for (name, target) in self.links()? {
            let other = name.strip_prefix(SHARED).and_then(|rest| rest.rsplit_once('-'));
            let Some((other, _)) = other.filter(|(other, _)| &other[1..] != owner) else {
                continue;
            };
            if is_held(&target, ids) {
                return Ok(Err(other[1..].to_owned()));
            }
            fs::remove_file(self.folder.join(name))?;
        }
        let name = shared_name(owner, holder);
        match symlink(holder, self.folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(Ok(ids)),
        }
    }

    fn free(&self) -> io::Result<Option<HostIds>> {
        let taken: BTreeSet<u32> =
            self.links()?.into_iter().filter_map(|(name, _)| name.parse().ok()).collect();
        Ok((1..=ID_RANGES_MAX).find(|index| !taken.contains(index)).map(HostIds::nth))
    }

    fn remove_unheld(&self, is_held: impl Fn(&Path, HostIds) -> bool) -> io::Result<()> {
        for (name, target) in self.links()? {
            let ids = name.parse().map_or(HostIds::ON_DISK, HostIds::nth);
            if !is_held(&target, ids) {
                fs::remove_file(self.folder.join(name))?;
            }
        }
        Ok(())
    }

    /// Each claim and the folder of its container.
    fn links(&self) -> io::Result<Vec<(String, PathBuf)>> {
        let mut links = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if let (Ok(name), Ok(target)) =
                (entry.file_name().into_string(), fs::read_link(entry.path()))
            {
                links.push((name, target));
            }
        }
        Ok(links)
    }
}

/// Gives back what the container of `holder` had, of which no process is left.
pub(crate) fn release(holder: &Path, ids: HostIds) -> io::Result<()> {
    match ids.are_of_namespace() {
        true => release_at(&beside(holder), holder, ids),
        false => release_at(Path::new(CLAIMS), holder, ids),
    }
}

fn beside(holder: &Path) -> PathBuf {
    holder.with_file_name(CLAIMS_OF_USER)
}

fn release_at(folder: &Path, holder: &Path, ids: HostIds) -> io::Result<()> {
    let mut names = vec![ids.index().to_string()];
    if !ids.are_own() {
        let suffix = shared_suffix(holder);
        let found = fs::read_dir(folder).into_iter().flatten().flatten();
        let found = found.filter_map(|entry| entry.file_name().into_string().ok());
        names = found.filter(|n| n.starts_with(SHARED) && n.ends_with(&suffix)).collect();
    }
    for path in names.into_iter().map(|name| folder.join(name)) {
        // Another container may have it by now, where this is not the first time.
        if fs::read_link(&path).is_ok_and(|target| target == holder) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn shared_name(owner: &str, holder: &Path) -> String {
    format!("{SHARED}-{owner}{}", shared_suffix(holder))
}

fn shared_suffix(holder: &Path) -> String {
    format!("-{}", spec::Digest::of(holder.as_os_str().as_encoded_bytes()).short())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_shown_as_one_and_no_two_as_the_same() {
        for ids in [HostIds::nth(1), HostIds::nth(2), HostIds::nth(ID_RANGES_MAX)] {
            let mut shown = ids.shown();
            assert!(shown.iter().all(|range| range.count > 0), "{shown:?}");
            for side in [|range: &IdRange| range.on_disk, |range: &IdRange| range.shown] {
                shown.sort_by_key(side);
                let mut next = 0;
                for range in &shown {
                    assert_eq!(side(range), next, "{shown:?}");
                    next += range.count;
                }
                assert_eq!(next, u32::MAX);
            }
            for (id, want) in [(0, 0), (1000, 1000), (ids.first + 33, FIRST_ID + 33)] {
                assert_eq!(ids.on_disk(id), want);
            }
            assert_eq!(ids.map(), [(0, ids.first, ID_COUNT)]);
            // What systemd gives to disk images of other machines.
            assert!(ids.first + ID_COUNT <= 0x7FFE_0000, "{ids:?}");
        }
    }

    #[test]
    fn a_namespace_has_the_same_ids_as_its_files() {
        let ids = HostIds::OF_NAMESPACE;
        assert!(!ids.are_own());
        assert_eq!(ids.of_files(), ids);
        assert_eq!([0, 33, 65_535].map(|id| ids.on_disk(id)), [0, 33, 65_535]);
        let covered: u32 = ids.map().iter().map(|(_, _, count)| count).sum();
        assert_eq!(covered, ID_COUNT);
    }

    #[test]
    fn a_range_has_one_holder_and_is_taken_again_when_it_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let take = |holder: &str| {
            Claims::open_at(folder.path()).unwrap().own(Path::new(holder), |_, _| true).unwrap()
        };
        let (first, second) = (take("/tasks/a"), take("/tasks/b"));
        assert!(first.are_own() && second.are_own() && first != second);
        release_at(folder.path(), Path::new("/tasks/b"), first).unwrap();
        assert_ne!(take("/tasks/c"), first, "only its holder gives it back");
        release_at(folder.path(), Path::new("/tasks/a"), first).unwrap();
        assert_eq!(take("/tasks/d"), first);
    }

    #[test]
    fn what_a_killed_process_left_is_taken_when_no_range_is_free() {
        let folder = tempfile::tempdir().unwrap();
        for index in 1..=ID_RANGES_MAX {
            symlink(format!("/tasks/{index}"), folder.path().join(index.to_string())).unwrap();
        }
        let claims = Claims::open_at(folder.path()).unwrap();
        let error = claims.own(Path::new("/tasks/new"), |_, _| true).unwrap_err();
        assert!(error.to_string().contains("ranges of users is taken"), "{error}");
        let held =
            |holder: &Path, ids: HostIds| (holder, ids) != (Path::new("/tasks/7"), HostIds::nth(7));
        assert_eq!(claims.own(Path::new("/tasks/new"), held).unwrap(), HostIds::nth(7));
    }

    #[test]
    fn two_owners_never_have_the_range_of_the_disk_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let claims = Claims::open_at(folder.path()).unwrap();
        let share = |holder: &str, owner: &str, held| {
            claims.shared(HostIds::ON_DISK, Path::new(holder), owner, |_, _| held).unwrap()
        };
        for holder in ["/tasks/a", "/tasks/b", "/tasks/b"] {
            assert_eq!(share(holder, "acme", true), Ok(HostIds::ON_DISK));
        }
        assert_eq!(share("/tasks/c", "bob-and-co", true), Err("acme".to_owned()));
        for holder in ["/tasks/a", "/tasks/b"] {
            release_at(folder.path(), Path::new(holder), HostIds::ON_DISK).unwrap();
        }
        assert_eq!(share("/tasks/c", "bob-and-co", true), Ok(HostIds::ON_DISK));
        assert_eq!(share("/tasks/d", "acme", true), Err("bob-and-co".to_owned()));
        assert_eq!(share("/tasks/d", "acme", false), Ok(HostIds::ON_DISK), "its holder is gone");
    }
}
