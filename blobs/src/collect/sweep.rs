use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::Marked;
use crate::{error::Error, file::last_used, store::BlobStore};

/// Something that takes space and can be removed alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item<K> {
    /// When it was last used.
    pub used: SystemTime,
    pub key: K,
    pub bytes: u64,
}

/// What may be removed, in order, until enough is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates<K> {
    pub items: Vec<Item<K>>,
    /// So many bytes are too many.
    pub excess_bytes: u64,
}

/// What became of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    Removed,
    /// It stays, and the next candidate is tried.
    InUse,
}

/// What a sweep took away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    pub items: u64,
    pub bytes: u64,
}

/// The items that no root needs: all of them may go.
pub fn unmarked<K>(
    items: impl IntoIterator<Item = Item<K>>,
    is_marked: impl Fn(&K) -> bool,
) -> Candidates<K> {
    let items = items.into_iter().filter(|item| !is_marked(&item.key)).collect();
    Candidates { items, excess_bytes: u64::MAX }
}

/// The items above a limit of bytes, the least recently used first. Items of the same time go in
/// the order of their keys.
pub fn least_recently_used<K: Ord>(
    items: impl IntoIterator<Item = Item<K>>,
    bytes_max: u64,
) -> Candidates<K> {
    let mut items: Vec<_> = items.into_iter().collect();
    items.sort();
    let total = items.iter().fold(0u64, |sum, item| sum.saturating_add(item.bytes));
    Candidates { items, excess_bytes: total.saturating_sub(bytes_max) }
}

/// Removes candidates until enough bytes are gone. Returns what is gone, and the last failure,
/// after all others were tried.
pub fn sweep<K, E>(
    candidates: Candidates<K>,
    mut remove: impl FnMut(&K) -> Result<Removal, E>,
) -> (Swept, Result<(), E>) {
    let (mut swept, mut result) = (Swept::default(), Ok(()));
    for item in candidates.items {
        if swept.bytes >= candidates.excess_bytes {
            break;
        }
        match remove(&item.key) {
            Ok(Removal::Removed) => {
                swept.items += 1;
                swept.bytes = swept.bytes.saturating_add(item.bytes);
            }
            Ok(Removal::InUse) => {}
            Err(error) => result = Err(error),
        }
    }
    (swept, result)
}

/// Removes every blob of `store` that is not marked. No process may write one meanwhile.
pub fn sweep_blobs(
    store: &(impl BlobStore + ?Sized),
    marked: &Marked,
) -> (Swept, Result<(), Error>) {
    let blobs = match store.list() {
        Ok(blobs) => blobs.into_iter(),
        Err(error) => return (Swept::default(), Err(error)),
    };
    let items = blobs.map(|blob| Item { used: blob.used, key: blob.digest, bytes: blob.bytes });
    let candidates = unmarked(items, |digest| marked.blobs.contains(digest));
    sweep(candidates, |digest| store.remove(digest).map(|_| Removal::Removed))
}

/// The files below `folder`, down to `depth` folders deep, without those in folders that `skip`
/// names. What cannot be read counts as absent.
pub fn files_below(folder: &Path, depth: usize, skip: &str) -> Vec<Item<PathBuf>> {
    let mut items = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(found) = entry.metadata() else { continue };
        if found.is_dir() && depth > 0 && entry.file_name() != skip {
            items.extend(files_below(&entry.path(), depth - 1, skip));
        } else if found.is_file() {
            let (key, bytes) = (entry.path(), found.len());
            items.push(Item { used: last_used(&found), key, bytes });
        }
    }
    items
}

/// Removes a file for [`sweep`]. A process that has it open keeps its bytes.
///
/// # Errors
/// When it cannot be removed.
pub fn remove_file(path: &Path) -> io::Result<Removal> {
    disk::remove(path).map(|()| Removal::Removed)
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, time::Duration};

    use super::*;

    fn items(list: &[(&'static str, u64, u64)]) -> Vec<Item<&'static str>> {
        let item = |&(key, used, bytes): &(&'static str, u64, u64)| Item {
            used: SystemTime::UNIX_EPOCH + Duration::from_secs(used),
            key,
            bytes,
        };
        list.iter().map(item).collect()
    }

    /// What is removed when `held` is in use and `stuck` cannot be removed.
    fn removed(candidates: Candidates<&'static str>) -> (String, Swept, bool) {
        let gone = RefCell::new(Vec::new());
        let (swept, result) = sweep(candidates, |key| match *key {
            "held" => Ok(Removal::InUse),
            "stuck" => Err(()),
            key => {
                gone.borrow_mut().push(key);
                Ok(Removal::Removed)
            }
        });
        (gone.into_inner().join(" "), swept, result.is_ok())
    }

    #[test]
    fn above_the_limit_the_least_recently_used_go() {
        let all = &[("b", 3, 100), ("c", 2, 100), ("a", 1, 100), ("d", 0, 50)][..];
        let some = &[("new", 3, 100), ("held", 0, 100), ("stuck", 1, 100), ("old", 2, 100)][..];
        for (list, bytes_max, want, bytes, ok) in [
            (all, 350, "", 0, true),
            (all, 349, "d", 50, true),
            (all, 200, "d a", 150, true),
            (all, 199, "d a c", 250, true),
            (all, 0, "d a c b", 350, true),
            (some, 400, "", 0, true),
            (some, 300, "old", 100, false),
            (some, 0, "old new", 200, false),
            (&[("z", 1, 1), ("y", 1, 1)], 1, "y", 1, true),
            (&[("huge", 1, u64::MAX), ("more", 2, u64::MAX)], 0, "huge", u64::MAX, true),
            (&[], 0, "", 0, true),
        ] {
            let (gone, swept, succeeded) = removed(least_recently_used(items(list), bytes_max));
            assert_eq!((&*gone, swept.bytes, succeeded), (want, bytes, ok), "{list:?} {bytes_max}");
            assert_eq!(swept.items as usize, want.split_whitespace().count(), "{list:?}");
        }
    }

    #[test]
    fn what_is_not_marked_goes_whatever_its_age() {
        let list = items(&[
            ("needed", 0, 1),
            ("left", 9, 2),
            ("stuck", 1, 4),
            ("held", 1, 8),
            ("last", 2, 0),
        ]);
        for (marked, want, bytes, ok) in [
            (&["needed"][..], "left last", 2, false),
            (&["needed", "stuck"], "left last", 2, true),
            (&["needed", "stuck", "left", "last"], "", 0, true),
            (&[], "needed left last", 3, false),
        ] {
            let candidates = unmarked(list.clone(), |key| marked.contains(key));
            let (gone, swept, succeeded) = removed(candidates);
            assert_eq!((&*gone, swept.bytes, succeeded), (want, bytes, ok), "{marked:?}");
        }
    }
}
