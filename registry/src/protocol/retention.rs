use std::time::Duration;

use serde::{Deserialize, Serialize};
use spec::Digest;

use super::pattern::matches;

/// Which tags and manifests of some repositories stay: whatever a rule covers and none keeps is
/// deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// A tag stays when one of the rules that cover it keeps it, and when no rule covers it.
    #[serde(default)]
    pub rules: Vec<RetentionRule>,
    /// For how long a manifest without a tag stays after its last push or pull; for ever if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untagged_seconds: Option<u64>,
}

/// Which tags of a pattern stay: those of any of the fields. With none of them all stay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionRule {
    /// The pattern, in which `*` stands for any characters.
    pub tags: String,
    /// So many, those that were set last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u32>,
    /// Those that were set within this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_seconds: Option<u64>,
    /// Those whose manifest was pulled within this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulled_within_seconds: Option<u64>,
}

/// What an account, a repository or, as `*`, the registry retains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionInfo {
    pub name: String,
    #[serde(flatten)]
    pub retention: Retention,
}

/// A change of what a name retains.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionChange {
    /// In place of the rule of the same pattern, or besides those of others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RetentionRule>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untagged_seconds: Option<u64>,
}

/// A tag, or a manifest with all of its tags, that retention has deleted or would delete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expired {
    pub repository: String,
    /// The tag; absent when it is a manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    pub digest: Digest,
}

/// What retention has found and deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retained {
    pub tags: u64,
    pub manifests: u64,
    /// The first of them.
    pub expired: Vec<Expired>,
    /// Tags and manifests that no rule keeps, and that were pushed or pulled within the grace time.
    pub waiting: u64,
    /// Repositories that were left as they are, because a manifest of theirs cannot be read.
    pub unclear: u64,
    /// Repositories in which something changed meanwhile: the rest is for the next time.
    pub changed: u64,
    pub dry_run: bool,
}

impl Retention {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.untagged_seconds.is_none()
    }

    /// Replaces the rule of the same pattern, or adds one.
    pub fn set(&mut self, rule: RetentionRule) {
        match self.rules.iter_mut().find(|known| known.tags == rule.tags) {
            Some(known) => *known = rule,
            None => self.rules.push(rule),
        }
    }

    pub fn untagged(&self) -> Option<Duration> {
        self.untagged_seconds.map(Duration::from_secs)
    }
}

impl RetentionRule {
    pub fn covers(&self, tag: &str) -> bool {
        matches(&self.tags, tag)
    }

    /// Whether it keeps every tag that it covers.
    pub fn keeps_all(&self) -> bool {
        self.last.is_none() && self.within_seconds.is_none() && self.pulled_within_seconds.is_none()
    }
}
