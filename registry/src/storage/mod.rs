//! What a registry keeps: bytes as files, everything else as records.

mod locks; // no deletion while a manifest is added
mod metadata; // users, repositories, and which repository has which blob
mod accounts; // robots, revocation, and the owners of repositories
mod uploads; // blobs that are being pushed

pub(crate) use {
    locks::RepositoryLocks,
    metadata::{ListPage, ManifestRecord, Membership, Metadata, Referrer, RepositoryRecord, User},
    uploads::{Upload, UploadError, UploadWriter, Uploads},
};
