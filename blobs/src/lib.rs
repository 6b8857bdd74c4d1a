//! Bytes by digest: what a store of blobs promises, and which of them may be deleted.
//!
//! Enter at [`BlobStore`], which states the promises; [`FileBlobStore`] keeps them in files and
//! [`MemoryBlobStore`] in none, and both run [`conformance`]. [`closure`] follows an image from its
//! manifest to its blobs. [`collect`] is the garbage collection of images: roots, mark, sweep.
//! Absent on purpose: access to a blob (a question of repositories and tenants), names of
//! images, and the network.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::too_many_lines, reason = "tables of cases"))]

mod store; // what every store of blobs promises
mod writer; // bytes on their way in, hashed in one place for every store
mod file; // blobs as files
mod uploads; // half-written blobs that are continued after a restart
mod memory; // blobs in memory
mod walk; // from an index or a manifest to everything below it

pub mod collect; // garbage collection: which parts of images may be deleted
pub mod conformance; // the promises as checks that every store runs

mod limits;
mod error;

pub use error::{Error, Result};
pub use file::FileBlobStore;
pub use limits::{DOCUMENT_BYTES_MAX, INDEX_DEPTH_MAX};
pub use memory::MemoryBlobStore;
pub use store::{BlobStore, OpenBlob, StoredBlob, is_intact, read, write};
pub use uploads::{PendingUpload, UploadEnd, UploadStore};
pub use walk::{Document, closure, documents};
pub use writer::{BlobWriter, Staged};
