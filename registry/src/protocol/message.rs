use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use spec::{Digest, Tenant, Timestamp};

use super::pattern::matches;
use crate::{
    account::RobotScope,
    quota::{Quota, QuotaResource},
};

/// The body of an error response.
///
/// # Spec
/// OCI distribution-spec 1.1, "Error Codes".
#[derive(Deserialize)]
pub(crate) struct ErrorBody {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl ErrorBody {
    /// The message of the first error, or its code when it has no message.
    pub fn first_message(body: &[u8]) -> Option<String> {
        let first = serde_json::from_slice::<Self>(body).ok()?.errors.into_iter().next()?;
        Some(if first.message.is_empty() { first.code } else { first.message })
    }
}

/// One page of the tags of a repository.
///
/// # Spec
/// OCI distribution-spec 1.1, "Listing Tags".
#[derive(Serialize, Deserialize)]
pub(crate) struct TagList {
    #[serde(default)]
    pub name: String,
    /// Some registries write `null` for none.
    pub tags: Option<Vec<String>>,
}

/// The name of the admin socket in the data folder of a registry.
pub(crate) const ADMIN_SOCKET: &str = "admin.sock";

/// Where the control plane takes back the tokens of a machine: `DELETE /v2/_margay/machines/NAME`.
///
/// # Spec
/// OCI distribution-spec 1.1, "API discovery": extensions have a name with `_` in front, which no
/// repository has.
pub(crate) const MACHINES: &str = "/v2/_margay/machines/";

/// Where a registry is administered over the network, as over its admin socket at `/admin/`.
pub(crate) const ADMIN: &str = "/v2/_margay/admin/";

/// The visibility of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Its owner, and holders of a token for it.
    Private,
    /// Every client, with or without credentials.
    Public,
}

/// A repository in the list for the administrator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryInfo {
    pub name: String,
    pub visibility: Visibility,
}

/// One page of a list for the administrator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Page<T> {
    pub entries: Vec<T>,
    /// The last entry, when there are more after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A tag in the list for the administrator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagInfo {
    pub tag: String,
    pub digest: Digest,
    /// When it was set, the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<Timestamp>,
}

/// A manifest in the list for the administrator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestInfo {
    pub digest: Digest,
    pub media_type: String,
    /// Of the manifest itself.
    pub bytes: u64,
    /// Some of the tags that point to it.
    pub tags: Vec<String>,
    /// The manifest that it refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
    /// When it was pushed, the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed: Option<Timestamp>,
    /// When it was pulled, the last time, to the hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulled: Option<Timestamp>,
}

/// What an account or a repository may have, and has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaInfo {
    pub name: String,
    pub used: BTreeMap<QuotaResource, u64>,
    pub limits: Quota,
}

/// An upload that is not finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadInfo {
    pub id: String,
    pub repository: String,
    /// The login that began it.
    pub owner: String,
    /// Unknown while a request is writing to it.
    pub bytes: Option<u64>,
    /// Since its last request.
    pub idle_seconds: u64,
}

/// What the operator switches on or off for all clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Switch {
    /// Clients change nothing.
    ReadOnly,
    /// A manifest may name blobs that its repository lacks.
    Sparse,
    /// A client without a login may do everything: for development.
    AnonymousPush,
    /// Each request has a line in the access log.
    AccessLog,
    /// What a scan has found is attached to the image.
    AttachScans,
}

impl Switch {
    pub const ALL: [Self; 5] =
        [Self::ReadOnly, Self::Sparse, Self::AnonymousPush, Self::AccessLog, Self::AttachScans];

    /// In paths of the admin socket and as the key of its record.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReadOnly => "read-only",
            Self::Sparse => "sparse",
            Self::AnonymousPush => "anonymous-push",
            Self::AccessLog => "access-log",
            Self::AttachScans => "attach-scans",
        }
    }
}

/// The tags of a repository stay as they were set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Immutable {
    /// But not those of these patterns, in which `*` stands for any characters.
    #[serde(default)]
    pub except: Vec<String>,
}

/// A repository whose tags are immutable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImmutableInfo {
    pub repository: String,
    #[serde(flatten)]
    pub rule: Immutable,
}

impl Immutable {
    /// Whether a tag must not be set to anything else.
    pub fn holds(&self, tag: &str) -> bool {
        !self.except.iter().any(|pattern| matches(pattern, tag))
    }
}

/// What is wrong with the bytes of a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The file is gone.
    Missing,
    /// It has more or fewer bytes than were committed.
    WrongSize,
    /// They are not those of the digest.
    WrongBytes,
    /// The disk does not give them.
    Unreadable,
}

/// A blob or manifest that is not vouched for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedBlob {
    pub digest: Digest,
    pub fault: Fault,
    pub found: Timestamp,
}

/// What a scrub has read and found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// Blobs and manifests, and their bytes.
    pub checked: u64,
    pub bytes: u64,
    /// All that is damaged, found now or before.
    pub damaged: Vec<DamagedBlob>,
}

/// What a collection has found and removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Blobs whose files were removed, or would have been.
    pub blobs: u64,
    pub bytes: u64,
    /// Unused blobs whose grace time is not over.
    pub waiting: u64,
    pub waiting_bytes: u64,
    /// Repositories that were left as they are, because a manifest of theirs cannot be read.
    pub unclear: u64,
    /// Whether it stopped before its end, because another change went first.
    pub interrupted: bool,
    pub dry_run: bool,
}

/// The body of `PUT /admin/users/NAME`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PasswordBody {
    #[serde(default)]
    pub password: String,
    /// A hash of it by bcrypt, in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bcrypt: Option<String>,
    /// Which users it is for.
    #[serde(default)]
    pub user: Existing,
}

/// Whether a user has to be there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Existing {
    /// A user is added, or has another password from now on.
    #[default]
    Any,
    /// A user is added.
    New,
    /// A user has another password from now on.
    Known,
}

/// What becomes of the repositories of a user that is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repositories {
    /// The user is not removed while it has any.
    Keep,
    /// They are another user's from now on.
    TransferTo(Tenant),
    /// They are deleted.
    Delete,
}

impl Repositories {
    /// As the query of the request that removes their owner.
    pub(crate) fn query(&self) -> String {
        match self {
            Self::Keep => String::new(),
            Self::TransferTo(to) => format!("?transfer_to={to}"),
            Self::Delete => "?repositories=delete".to_owned(),
        }
    }
}

/// What may be known of a robot account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RobotInfo {
    /// `USER+ROBOT`: what it logs in as.
    pub login: String,
    pub scope: RobotScope,
    /// The only ones that it may use; all of its user's when there are none.
    pub repositories: Vec<String>,
    /// When its secret was made.
    pub created: Timestamp,
    pub expires: Timestamp,
    /// To the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
}

/// A robot account and its secret, which no later answer has.
#[derive(Clone, Serialize, Deserialize)]
pub struct RobotCredential {
    pub login: String,
    pub secret: String,
    pub expires: Timestamp,
}

/// The body of `PUT /admin/repositories/NAME/visibility`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VisibilityBody {
    pub visibility: Visibility,
}
