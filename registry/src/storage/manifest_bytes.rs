use std::{
    collections::HashMap,
    mem::take,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use spec::Digest;

use crate::limits::{CACHED_MANIFEST_BYTES_MAX, CACHED_MANIFESTS_BYTES_MAX};

/// What an entry costs beside its bytes, about.
const ENTRY_BYTES: usize = 256;

/// Bytes of manifests that were read and verified, for the next client. They are those of their
/// digest, whatever becomes of the file; whether a client may have them is asked before.
///
/// Two generations: what is used is in the young one, and when that has half of what there may be,
/// it takes the place of the old one.
#[derive(Default)]
pub(crate) struct ManifestBytes(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<Digest, Bytes>,
    young_bytes: usize,
    old: HashMap<Digest, Bytes>,
}

impl ManifestBytes {
    pub fn get(&self, digest: &Digest) -> Option<Bytes> {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = generations.young.get(digest) {
            return Some(bytes.clone());
        }
        let bytes = generations.old.remove(digest)?;
        generations.keep(*digest, bytes.clone());
        Some(bytes)
    }

    /// Keeps `bytes`, which have this digest.
    pub fn keep(&self, digest: Digest, bytes: Bytes) {
        if bytes.len() <= CACHED_MANIFEST_BYTES_MAX {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).keep(digest, bytes);
        }
    }
}

impl Generations {
    fn keep(&mut self, digest: Digest, bytes: Bytes) {
        let size = bytes.len() + ENTRY_BYTES;
        if self.young_bytes + size > CACHED_MANIFESTS_BYTES_MAX / 2 {
            self.old = take(&mut self.young);
            self.young_bytes = 0;
        }
        if self.young.insert(digest, bytes).is_none() {
            self.young_bytes += size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_goes_at_the_limit() {
        let cache = ManifestBytes::default();
        let used = Digest::of(b"used");
        cache.keep(used, Bytes::from_static(b"used"));
        let piece = Bytes::from(vec![0; CACHED_MANIFEST_BYTES_MAX]);
        let digests: Vec<_> = (0_u32..1000).map(|n| Digest::of(&n.to_le_bytes())).collect();
        for digest in &digests {
            cache.keep(*digest, piece.clone());
            assert_eq!(cache.get(&used).as_deref(), Some(&b"used"[..]));
        }
        let held = digests.iter().filter(|digest| cache.get(digest).is_some()).count();
        let max = CACHED_MANIFESTS_BYTES_MAX / CACHED_MANIFEST_BYTES_MAX;
        assert!(held > max / 4 && held <= max, "{held} of {max}");
        let large = Digest::of(b"large");
        cache.keep(large, vec![0; CACHED_MANIFEST_BYTES_MAX + 1].into());
        assert!(cache.get(&large).is_none());
    }
}
