//! What both ends of the distribution API, and of the admin socket, put on the wire.

mod pattern; // in which a star stands for any characters
mod manifest; // what both ends read in a manifest
mod message; // JSON bodies
mod snapshot; // a copy of everything at one moment
mod retention; // which tags and manifests stay
mod policy; // organisations, teams, and what policies allow
mod images; // what is in images, and which are looked for
mod scan; // which software is in images
mod vulnerability; // which vulnerabilities images have
mod signature; // which keys must have signed what
mod webhook; // which changes are told to which URLs
mod upstream; // registries whose images are fetched when they are pulled
mod replication; // which repositories are pushed to other registries
mod rates; // how many requests clients may send
mod query; // percent-encoded parameters
mod range; // which bytes of a blob or an upload

pub use images::{FoundImage, FoundImages, ImageContents, ImageEntry, ImageInfo, ImageSearch};
pub use message::{
    Collected, DamagedBlob, Existing, Fault, Immutable, ImmutableInfo, ManifestInfo, QuotaInfo,
    Repositories, RepositoryInfo, RobotCredential, RobotInfo, Scrubbed, Switch, TagInfo,
    UploadInfo, Visibility,
};
pub use policy::{
    OrganisationInfo, PolicyCheck, PolicyInfo, RepositoryPattern, Role, Subject, TeamChange,
    TeamInfo, TeamName,
};
pub use rates::RateLimits;
pub use replication::{NewReplication, Replica, ReplicationInfo, ReplicationName};
pub use retention::{Expired, Retained, Retention, RetentionChange, RetentionInfo, RetentionRule};
pub use scan::SbomFormat;
pub use signature::SignaturePolicy;
pub use upstream::{NewUpstream, RegistryLogin, UpstreamCounts, UpstreamFailure, UpstreamInfo};
pub use vulnerability::{
    Advisory, Affected, EcosystemData, Event, Finding, FindingSearch, FoundFinding, FoundFindings,
    Imported, ScanPolicy, ScanReport, ScanReports, ScanRule, ScanStatus, Severity, SeverityCounts,
    VulnerabilityData, Waiver,
};
pub use webhook::{
    Delivery, DeliveryOutcome, EventKind, NewWebhook, WebhookInfo, WebhookName, WebhookSecret,
};
pub(crate) use {
    manifest::{DeclaredMediaType, is_foreign_layer},
    message::{
        ADMIN, ADMIN_SOCKET, ErrorBody, MACHINES, Page, PasswordBody, TagList, VisibilityBody,
    },
    pattern::matches,
    policy::RolesBody,
    query::{Query, encode_query},
    range::{BlobRange, ChunkRange, UploadRange},
    signature::KeysBody,
    snapshot::{RecordLine, SNAPSHOTS, SnapshotInfo, is_sealed, named_by},
    vulnerability::{AdvisoriesBody, ImportInfo, ImportedBody},
    webhook::{CloudEvent, EventData, SYNCHRONISED, TESTED},
};
