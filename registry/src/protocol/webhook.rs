//! Webhooks: which changes a registry tells to which URLs, and how.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use spec::{CredentialName, Digest, ParseError, Tenant, Timestamp};

use super::{policy::RepositoryPattern, vulnerability::SeverityCounts};

/// A webhook of an account: `ACCOUNT/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WebhookName {
    pub account: Tenant,
    pub name: CredentialName,
}

/// What happens in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A manifest was pushed, with the tags that were set.
    ImagePushed,
    /// A manifest was deleted, with every tag that pointed to it.
    ImageDeleted,
    /// A tag was deleted, and its manifest stays.
    TagDeleted,
    /// A repository was deleted, with all that it had.
    RepositoryDeleted,
    /// Vulnerabilities were found in an image: when it was scanned, or when data was imported by
    /// which it has more than before.
    VulnerabilitiesFound,
}

/// The body of `PUT /admin/webhooks/ACCOUNT/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    pub url: String,
    pub repositories: RepositoryPattern,
    /// All when there are none.
    #[serde(default)]
    pub events: BTreeSet<EventKind>,
    /// Whether the URL may be at an internal address, and of plain HTTP: the operator decides.
    #[serde(default)]
    pub private: bool,
}

/// A webhook that was created, with the secret of its signatures, which is shown once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookSecret {
    pub webhook: WebhookName,
    pub secret: String,
}

/// A webhook in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookInfo {
    pub webhook: WebhookName,
    pub url: String,
    pub repositories: RepositoryPattern,
    pub events: BTreeSet<EventKind>,
    pub private: bool,
    pub created: Timestamp,
    /// Events that wait for their delivery.
    pub pending: u64,
    /// Events that were not kept since the registry has started, because too many waited.
    pub dropped: u64,
    /// The last try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Delivery>,
}

/// A try to deliver an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    pub at: Timestamp,
    /// The `id` of the event.
    pub event: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub outcome: DeliveryOutcome,
    /// The status of the answer, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What became of the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeliveryOutcome {
    Delivered,
    /// It is tried again.
    Failed,
    /// It was tried for too long.
    GivenUp,
}

/// An event on its way.
///
/// # Spec
/// CloudEvents 1.0, JSON format, structured mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CloudEvent {
    pub specversion: String,
    pub id: String,
    pub source: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub subject: String,
    pub time: Timestamp,
    pub datacontenttype: String,
    pub data: EventData,
}

/// What an event is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventData {
    pub repository: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub findings: Option<SeverityCounts>,
}

/// The type of the event that a test sends.
pub(crate) const TESTED: &str = "margay.registry.webhook-tested";

/// The type of the event at which a replication compares everything.
pub(crate) const SYNCHRONISED: &str = "margay.registry.synchronised";

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::ImagePushed,
        Self::ImageDeleted,
        Self::TagDeleted,
        Self::RepositoryDeleted,
        Self::VulnerabilitiesFound,
    ];

    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::ImagePushed => "image-pushed",
            Self::ImageDeleted => "image-deleted",
            Self::TagDeleted => "tag-deleted",
            Self::RepositoryDeleted => "repository-deleted",
            Self::VulnerabilitiesFound => "vulnerabilities-found",
        }
    }

    /// The `type` of its events.
    pub(crate) fn type_name(self) -> String {
        format!("margay.registry.{}", self.name())
    }
}

impl CloudEvent {
    pub fn new(kind: String, id: String, time: Timestamp, data: EventData) -> Self {
        let subject = match (&data.digest, data.tags.as_slice()) {
            (None, []) => data.repository.clone(),
            (Some(digest), _) => format!("{}@{digest}", data.repository),
            (None, [tag, ..]) => format!("{}:{tag}", data.repository),
        };
        Self {
            specversion: "1.0".to_owned(),
            id,
            source: format!("/v2/{}", data.repository),
            kind,
            subject,
            time,
            datacontenttype: "application/json".to_owned(),
            data,
        }
    }
}

impl FromStr for EventKind {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let names = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| ParseError::about(text, format!("is no event: {names}")))
    }
}

impl FromStr for WebhookName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let invalid = || ParseError::about(text, "is not ACCOUNT/NAME, as in acme/ci");
        let (account, name) = text.split_once('/').ok_or_else(invalid)?;
        let (account, name) = (account.parse().ok(), name.parse().ok());
        let (account, name) = account.zip(name).ok_or_else(invalid)?;
        Ok(Self { account, name })
    }
}

impl fmt::Display for WebhookName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.account, self.name)
    }
}

impl Serialize for WebhookName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WebhookName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
