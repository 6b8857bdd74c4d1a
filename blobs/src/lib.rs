//! Bytes by digest: what a store of blobs promises, and which of them may be deleted.
