use std::{cell::Cell, collections::HashSet, fs, path::PathBuf, time::SystemTime};

use image::{FileIndex, Wasi, WasmFacts, World};
use serde::{Deserialize, Serialize};
use spec::{Algorithm, Descriptor, Hasher};

use crate::{
    attributes::Attributes,
    layer::tarball::Written,
    layout::Layout,
    limits::{CACHE_BYTES_MAX, CACHE_ENTRIES_MAX, CACHE_ENTRY_BYTES_MAX},
};

/// Results of earlier builds, beside the blobs. Losing it costs time and nothing else, so every
/// error here counts as a miss.
pub(crate) struct Cache {
    dir: PathBuf,
    layout: Layout,
    /// Whether entries are read; they are written in any case.
    reuse: bool,
    /// Whether an entry was added.
    grew: Cell<bool>,
}

/// Part of every key: entries that another version's rules made are not found.
const VERSION: &str = "1";
/// What the smallest file takes on a disk.
const BLOCK_BYTES: u64 = 4096;
/// A file that changed less than this before it was looked at may change again without a new time
/// (a tick of the kernel's clock is at most 10 ms).
pub(crate) const RACE_NS: i128 = 20_000_000;

/// One file of the cache.
struct CacheEntry {
    path: PathBuf,
    size: u64,
    used: SystemTime,
}

/// A program that was inspected and can be run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StoredFacts {
    component: bool,
    http: bool,
    imports: Vec<String>,
    exports: Vec<String>,
}

impl Cache {
    pub(crate) fn of(layout: &Layout, reuse: bool) -> Self {
        Self {
            dir: layout.dir().join("cache"),
            layout: layout.clone(),
            reuse,
            grew: Cell::new(false),
        }
    }

    /// A key from everything that `feed` takes in.
    pub(crate) fn key(&self, kind: &str, feed: impl FnOnce(&mut Hasher)) -> String {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(format!("{VERSION} {kind}\n").as_bytes());
        feed(&mut hasher);
        format!("{kind}-{}", hasher.finish().hex())
    }

    /// The key of the merged layers of an image.
    pub(crate) fn index_key<'a>(&self, layers: impl Iterator<Item = &'a Descriptor>) -> String {
        self.key("index", |hasher| {
            layers.for_each(|layer| hasher.update(format!("{}\n", layer.digest).as_bytes()))
        })
    }

    /// The key of what the merged layers of an image have beyond that.
    pub(crate) fn attributes_key<'a>(
        &self,
        layers: impl Iterator<Item = &'a Descriptor>,
    ) -> String {
        self.key("attributes", |hasher| {
            layers.for_each(|layer| hasher.update(format!("{}\n", layer.digest).as_bytes()))
        })
    }

    /// The layer with this key, if its blob is still there.
    pub(crate) fn layer(&self, key: &str) -> Option<Written> {
        let stored: Written = serde_json::from_slice(&self.read(key)?).ok()?;
        self.layout.has_blob(&stored.digest, stored.size).then_some(stored)
    }

    pub(crate) fn put_layer(&self, key: &str, written: &Written) {
        self.write(key, &serde_json::to_vec(written).unwrap_or_default());
    }

    pub(crate) fn facts(&self, key: &str) -> Option<WasmFacts> {
        let stored: StoredFacts = serde_json::from_slice(&self.read(key)?).ok()?;
        Some(WasmFacts {
            component: stored.component,
            world: if stored.http { World::Http } else { World::Command },
            wasi: if stored.component { Wasi::P2 } else { Wasi::P1 },
            imports: stored.imports,
            exports: stored.exports,
        })
    }

    /// Only for programs that can be run: these are of one of two worlds, and of one WASI each.
    pub(crate) fn put_facts(&self, key: &str, facts: &WasmFacts) {
        let stored = StoredFacts {
            component: facts.component,
            http: facts.world == World::Http,
            imports: facts.imports.clone(),
            exports: facts.exports.clone(),
        };
        self.write(key, &serde_json::to_vec(&stored).unwrap_or_default());
    }

    pub(crate) fn index(&self, key: &str) -> Option<FileIndex> {
        FileIndex::from_bytes(&self.read(key)?).ok()
    }

    pub(crate) fn attributes(&self, key: &str) -> Option<Attributes> {
        serde_json::from_slice(&self.read(key)?).ok()
    }

    pub(crate) fn put_attributes(&self, key: &str, attributes: &Attributes) {
        self.write(key, &serde_json::to_vec(attributes).unwrap_or_default());
    }

    pub(crate) fn put_index(&self, key: &str, index: &FileIndex) {
        self.write(key, &index.to_bytes());
    }

    fn read(&self, key: &str) -> Option<Vec<u8>> {
        if !self.reuse {
            return None;
        }
        let path = self.dir.join(key);
        let bytes = disk::read(&path, CACHE_ENTRY_BYTES_MAX).ok()?;
        // What was used last goes last.
        let _ = fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(bytes)
    }

    /// Keeps it below its limits, when it has grown.
    pub(crate) fn trim(&self) {
        if self.grew.replace(false) {
            self.trim_to(CACHE_BYTES_MAX, CACHE_ENTRIES_MAX);
        }
    }

    /// Removes what was not used for longest, until what stays is within both limits.
    fn trim_to(&self, bytes_max: u64, entries_max: usize) {
        let mut entries = self.entries();
        entries.sort_unstable_by(|a, b| (b.used, &b.path).cmp(&(a.used, &a.path)));
        let mut bytes = 0;
        for (number, entry) in entries.iter().enumerate() {
            bytes += entry.size.next_multiple_of(BLOCK_BYTES);
            if bytes > bytes_max || number >= entries_max {
                // Another build may have been faster.
                let _ = fs::remove_file(&entry.path);
            }
        }
    }

    /// Removes what no image with a name can profit from: layers that are gone, and indexes other
    /// than `indexes`. Says how many bytes that were. What programs import is small, and only
    /// [`Cache::trim`] removes it.
    pub(crate) fn prune(&self, indexes: &HashSet<String>) -> u64 {
        let mut freed = 0;
        for entry in self.entries() {
            let name = entry.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let kept = match name.split_once('-') {
                Some(("index" | "attributes", _)) => indexes.contains(name),
                Some(("layer" | "raw", _)) => self.layer(name).is_some(),
                Some(("facts", _)) => true,
                _ => false,
            };
            if !kept && fs::remove_file(&entry.path).is_ok() {
                freed += entry.size;
            }
        }
        freed
    }

    fn entries(&self) -> Vec<CacheEntry> {
        let files = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let entries = files.filter_map(|file| {
            let found = file.metadata().ok().filter(fs::Metadata::is_file)?;
            Some(CacheEntry { path: file.path(), size: found.len(), used: found.modified().ok()? })
        });
        entries.collect()
    }

    fn write(&self, key: &str, bytes: &[u8]) {
        self.grew.set(true);
        let stored = fs::create_dir_all(&self.dir).is_ok()
            && self.layout.replace_file(&self.dir.join(key), bytes).is_ok();
        if !stored {
            tracing::debug!(key, "the build cache cannot be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_full_cache_evicts_the_least_recently_used() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        let cache = Cache::of(&layout, true);
        let now = SystemTime::now();
        for (minutes, name) in [(4, "a"), (3, "b"), (2, "c"), (1, "d")] {
            cache.write(name, b"x");
            let file = fs::File::open(cache.dir.join(name)).unwrap();
            file.set_modified(now - Duration::from_secs(60 * minutes)).unwrap();
        }
        let there = || {
            let mut names: Vec<_> = cache.entries().into_iter().map(|entry| entry.path).collect();
            names.sort();
            names
                .iter()
                .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
                .collect::<String>()
        };
        cache.trim();
        assert_eq!(there(), "abcd");
        assert!(cache.read("a").is_some());
        cache.trim_to(3 * BLOCK_BYTES, 10);
        assert_eq!(there(), "acd");
        cache.trim_to(3 * BLOCK_BYTES, 2);
        assert_eq!(there(), "ad");
        cache.trim_to(0, 10);
        assert_eq!(there(), "");
    }
}
