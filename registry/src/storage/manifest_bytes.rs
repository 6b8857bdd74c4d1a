use bytes::Bytes;
use spec::Digest;

use super::recent::Recent;
use crate::limits::{CACHED_MANIFEST_BYTES_MAX, CACHED_MANIFESTS_BYTES_MAX};

/// Bytes of manifests that were read and verified, for the next client. They are those of their
/// digest, whatever becomes of the file; whether a client may have them is asked before.
pub(crate) struct ManifestBytes(Recent<Digest, Bytes>);

impl Default for ManifestBytes {
    fn default() -> Self {
        Self(Recent::new(CACHED_MANIFESTS_BYTES_MAX, CACHED_MANIFEST_BYTES_MAX))
    }
}

impl ManifestBytes {
    pub fn get(&self, digest: &Digest) -> Option<Bytes> {
        self.0.get(digest)
    }

    /// Keeps `bytes`, which have this digest.
    pub fn keep(&self, digest: Digest, bytes: Bytes) {
        let size = bytes.len();
        self.0.keep(digest, bytes, size);
    }
}
