//! What a registry keeps: bytes as files, everything else as records.

mod locks; // no deletion while a manifest is added
mod reserve; // space for deletions on a full disk
mod records; // what is stored of users, repositories and what they have
mod usage; // what accounts have, and may have
mod pulls; // which manifests were pulled, until it is written down
mod recent; // what was used recently, in memory
mod manifest_bytes; // what was read of manifests
mod unused; // what collection and requests tell each other
mod rules; // what the operator does not allow to change
mod damaged; // what a disk has lost or changed
mod policy_table; // organisations, teams and policies in memory
mod webhook_table; // webhooks in memory
mod upstream_table; // upstreams in memory
mod metadata; // users and repositories, and how records are read and written
mod sealed; // secrets in records
mod contents; // which repository has which blob, manifest and tag
mod images; // what was read in the bytes of images
mod webhooks; // and the events that wait for them
mod upstreams; // registries whose images are fetched when they are pulled
mod removal; // of tags and manifests
mod retaining; // which tags and manifests stay
mod healing; // what is damaged, until a push brings it again
mod ruling; // switches and immutable tags
mod quotas; // of accounts and repositories
mod heirs; // what becomes of the rules of a removed user
mod policies; // organisations, teams, and what policies allow
mod accounts; // robots, revocation, and the owners of repositories
mod uploads; // blobs that are being pushed

use std::sync::Arc;

use blobs::BlobStore;

use crate::Error;

/// All that a registry keeps, as its endpoints use it.
#[derive(Clone)]
pub(crate) struct Storage {
    pub metadata: Metadata,
    pub blobs: Arc<dyn BlobStore>,
    pub uploads: Arc<Uploads>,
    pub locks: RepositoryLocks,
    pub unused: Arc<UnusedBlobs>,
    pub pulls: Arc<Pulls>,
    pub manifests: Arc<ManifestBytes>,
}

impl Storage {
    /// Writes down which manifests were pulled since the last time.
    pub async fn note_pulls(&self) -> Result<(), Error> {
        self.metadata.note_pulls(self.pulls.take()).await
    }
}

pub(crate) use {
    contents::Use,
    locks::RepositoryLocks,
    manifest_bytes::ManifestBytes,
    metadata::{ListPage, Metadata},
    policies::PolicyError,
    policy_table::PolicyTable,
    pulls::{Deciding, Pulls},
    recent::Recent,
    records::{
        BlobRecord, Link, Links, ManifestRecord, Membership, Referrer, TagRecord, User, start_of,
    },
    unused::{Pass, UnusedBlobs, Watch},
    uploads::{Upload, UploadError, UploadLimits, UploadWriter, Uploads},
    upstream_table::{Upstream, UpstreamCounters, UpstreamRecord},
    webhook_table::{Webhook, WebhookRecord},
    webhooks::{Pending, new_event},
};
