/// distribution-spec: manifests have at most 4 MiB; configs are kept to the same.
pub const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// An index in an index in …: as deep as a pull follows them, so that every image that was pulled
/// can be collected.
pub const INDEX_DEPTH_MAX: usize = 4;

/// Manifests and indexes below one name: far more platforms than there are, and as many as a pull
/// takes.
pub(crate) const DOCUMENTS_MAX: usize = 1000;

/// Blobs with wrong bytes that are kept for a look at them; of more, the bytes are removed.
pub(crate) const ASIDE_MAX: usize = 1000;

/// Read at once when bytes are hashed again.
pub(crate) const READ_BYTES: usize = 256 << 10;
