//! Blobs and manifests named by their digest: a registry that serves the OCI distribution API, and
//! a client of that API.
//!
//! Enter at [`Server`] to serve images, at [`Client`] to move them, at [`Admin`] to manage users
//! and visibility, at [`Tokens`] to give a process of the platform access for some minutes. All of
//! them speak in [`spec::Digest`]. The server looks inside a layer for two reasons: to say what the
//! program of an image imports, exports and wants, and which software is in it.
//!
//! A blob is a file named by its digest; everything else (users, repositories, tags, which
//! repository has which blob) is in one [`store`]. Nothing is acknowledged before it is durable:
//! the file, its name, the record, and then the answer. Absent on purpose: building and scheduling.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::too_many_lines, reason = "tables of cases"))]

mod limits; // every number, with its reason
mod error;
mod repository; // the name of a repository, and what can be done with it
mod quota; // what accounts and repositories may have
mod account; // a user, or one of a user's robot accounts
mod blocking; // work that waits for a disk
mod key_file; // keys in the data folder

mod signing; // signatures of images by keys
mod protocol; // what both ends put on the wire
mod storage; // blobs as files, everything else as records
mod access; // users, tokens, and what each may do

mod scan; // packages of images, and which vulnerabilities they have

mod server; // one file for each family of endpoints
mod client; // push, pull, and what they need
mod admin; // the client of the admin socket
mod backup; // everything in a folder, and back

#[cfg(test)]
mod tests; // client and server against each other, and against faults

pub use access::{Cost, Tokens};
pub use account::RobotScope;
pub use admin::{Admin, VulnerabilityImport};
pub use backup::{BackedUp, Restored, back_up, restore};
pub(crate) use blocking::blocking;
pub use client::{
    Auth, BlobSink, Client, ClientOptions, Entries, Event, Outcome, Progress, PullOptions,
    PushOptions, Reach, Resolved, Verification, no_progress,
};
pub use error::{Error, ManifestFault, ProtocolFault};
pub use limits::Limits;
pub use protocol::{
    Advisory, Affected, Collected, DamagedBlob, Delivery, DeliveryOutcome, EcosystemData,
    Event as VersionEvent, EventKind, Existing, Expired, Fault, Finding, FindingSearch,
    FoundFinding, FoundFindings, FoundImage, FoundImages, ImageContents, ImageEntry, ImageInfo,
    ImageSearch, Immutable, ImmutableInfo, Imported, ManifestInfo, NewReplication, NewUpstream,
    NewWebhook, OrganisationInfo, PolicyCheck, PolicyInfo, QuotaInfo, RateLimits, RegistryLogin,
    Replica, ReplicationInfo, ReplicationName, Repositories, RepositoryInfo, RepositoryPattern,
    Retained, Retention, RetentionChange, RetentionInfo, RetentionRule, RobotCredential, RobotInfo,
    Role, SbomFormat, ScanPolicy, ScanReport, ScanReports, ScanRule, ScanStatus, Scrubbed,
    Severity, SeverityCounts, SignaturePolicy, Subject, Switch, TagInfo, TeamChange, TeamInfo,
    TeamName, UploadInfo, UpstreamCounts, UpstreamFailure, UpstreamInfo, Visibility,
    VulnerabilityData, Waiver, WebhookInfo, WebhookName, WebhookSecret,
};
pub use quota::{Exceeded, Quota, QuotaChange, QuotaResource};
pub use repository::{Action, Repository};
pub use scan::{OsvCounts, read_osv};
pub use server::{Config, Server};
pub use signing::{KeyFault, SigningKey, VerifyingKey};
