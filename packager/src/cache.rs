use std::{fs, path::PathBuf};

use image::{FileIndex, Wasi, WasmFacts, World};
use serde::{Deserialize, Serialize};
use spec::{Algorithm, Digest, Hasher};

use crate::{
    blobs::{Blobs, read_file},
    layout::Layout,
    tarball::Written,
};

/// What earlier builds found out, beside the blobs. Losing it costs time and nothing else, so every error here means
/// that nothing is known.
pub(crate) struct Cache {
    dir: PathBuf,
    blobs: Blobs,
    /// Whether anything may be looked up; what is found out is written down in any case.
    reuse: bool,
}

/// Part of every key: what was found out by another version's rules is not found.
const VERSION: &str = "1";
/// A million nodes.
const ENTRY_BYTES_MAX: u64 = 128 << 20;
/// A file that changed less than this before it was looked at may change again without a new time (a tick of the
/// kernel's clock is at most 10 ms).
pub(crate) const RACE_NS: i128 = 20_000_000;

#[derive(Serialize, Deserialize)]
struct StoredLayer {
    digest: Digest,
    size: u64,
    diff_id: Digest,
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
        Self { dir: layout.dir().join("cache"), blobs: layout.blobs().clone(), reuse }
    }

    /// A key from everything that `feed` takes in.
    pub(crate) fn key(&self, kind: &str, feed: impl FnOnce(&mut Hasher)) -> String {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(format!("{VERSION} {kind}\n").as_bytes());
        feed(&mut hasher);
        format!("{kind}-{}", hasher.finish().hex())
    }

    /// The layer with this key, if its blob is still there.
    pub(crate) fn layer(&self, layout: &Layout, key: &str) -> Option<Written> {
        let stored: StoredLayer = serde_json::from_slice(&self.read(key)?).ok()?;
        let StoredLayer { digest, size, diff_id } = stored;
        layout.has_blob(&digest, size).then_some(Written { digest, size, diff_id })
    }

    pub(crate) fn put_layer(&self, key: &str, written: &Written) {
        let Written { digest, size, diff_id } = *written;
        self.write(key, &serde_json::to_vec(&StoredLayer { digest, size, diff_id }).unwrap_or_default());
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

    pub(crate) fn put_index(&self, key: &str, index: &FileIndex) {
        self.write(key, &index.to_bytes());
    }

    fn read(&self, key: &str) -> Option<Vec<u8>> {
        self.reuse.then(|| read_file(&self.dir.join(key), ENTRY_BYTES_MAX).ok()).flatten()
    }

    fn write(&self, key: &str, bytes: &[u8]) {
        let stored =
            fs::create_dir_all(&self.dir).is_ok() && self.blobs.replace_file(&self.dir.join(key), bytes).is_ok();
        if !stored {
            tracing::debug!(key, "the build cache cannot be written");
        }
    }
}
