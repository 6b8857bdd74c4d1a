//! What accounts and repositories may have.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use spec::{ParseError, parse_bytes, print_bytes};

/// One kind of thing that a quota limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuotaResource {
    /// Bytes of blobs and manifests, each counted once in each repository that has it.
    Bytes,
    /// Repositories of an account.
    Repositories,
    /// Tags.
    Tags,
    /// Uploads that are open at once.
    Uploads,
}

/// How much an account or a repository may have; without limit where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Quota(BTreeMap<QuotaResource, u64>);

/// What changes in a quota; `None` takes a limit away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct QuotaChange(BTreeMap<QuotaResource, Option<u64>>);

/// A quota that does not allow a change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the quota of `{name}` for {resource} is exceeded: {} of {} are used, and this takes {}",
    .resource.print(*.used), .resource.print(*.limit), .resource.print(*.more)
)]
pub struct Exceeded {
    name: String,
    resource: QuotaResource,
    used: u64,
    limit: u64,
    more: u64,
}

impl QuotaResource {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Bytes, Self::Repositories, Self::Tags, Self::Uploads];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Repositories => "repositories",
            Self::Tags => "tags",
            Self::Uploads => "uploads",
        }
    }

    /// An amount of it.
    pub fn print(self, amount: u64) -> String {
        match self {
            Self::Bytes => print_bytes(amount),
            Self::Repositories | Self::Tags | Self::Uploads => amount.to_string(),
        }
    }
}

impl fmt::Display for QuotaResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Quota {
    pub fn of(&self, resource: QuotaResource) -> Option<u64> {
        self.0.get(&resource).copied()
    }

    pub fn is_unlimited(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn set(&mut self, resource: QuotaResource, limit: Option<u64>) {
        match limit {
            Some(limit) => drop(self.0.insert(resource, limit)),
            None => drop(self.0.remove(&resource)),
        }
    }

    /// With `change`.
    #[must_use]
    pub(crate) fn with(mut self, change: &QuotaChange) -> Self {
        change.0.iter().for_each(|(resource, limit)| self.set(*resource, *limit));
        self
    }

    /// Whether `more` may come to what is used. Nothing more is always allowed.
    pub(crate) fn check(
        &self,
        name: &str,
        resource: QuotaResource,
        used: u64,
        more: u64,
    ) -> Result<(), Exceeded> {
        match self.of(resource) {
            Some(limit) if more > 0 && used.saturating_add(more) > limit => {
                Err(Exceeded { name: name.to_owned(), resource, used, limit, more })
            }
            _ => Ok(()),
        }
    }
}

impl QuotaChange {
    /// Takes `NAME=VALUE`, as in `bytes=10GiB` or `tags=none`.
    ///
    /// # Errors
    /// When it is not that.
    pub fn set(&mut self, text: &str) -> Result<(), ParseError> {
        let unknown = || {
            ParseError::about(text, "is not bytes=, repositories=, tags= or uploads= with a value")
        };
        let (name, value) = text.split_once('=').ok_or_else(unknown)?;
        let mut all = QuotaResource::ALL.into_iter();
        let resource = all.find(|resource| resource.name() == name).ok_or_else(unknown)?;
        let limit = match (value, resource) {
            ("none", _) => None,
            (_, QuotaResource::Bytes) => Some(parse_bytes(value)?),
            (_, _) => Some(value.parse().map_err(|_| {
                ParseError::about(text, "has no number after `=`: use one, or none")
            })?),
        };
        self.0.insert(resource, limit);
        Ok(())
    }

    /// Whether it says something about a resource.
    pub(crate) fn concerns(&self, resource: QuotaResource) -> bool {
        self.0.contains_key(&resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_changes_by_name_and_is_exceeded_by_name() {
        let mut change = QuotaChange::default();
        for text in ["bytes=1KiB", "tags=3", "uploads=none"] {
            change.set(text).unwrap();
        }
        for text in ["bytes", "bytes=", "tags=1KiB", "tags=-1", "cats=1", ""] {
            assert!(change.clone().set(text).is_err(), "{text}");
        }
        let quota = Quota::default().with(&change);
        assert_eq!(serde_json::to_string(&quota).unwrap(), r#"{"bytes":1024,"tags":3}"#);
        let text = serde_json::to_string(&change).unwrap();
        assert_eq!(serde_json::from_str::<QuotaChange>(&text).unwrap(), change);
        for (resource, used, more, want) in [
            (QuotaResource::Tags, 2, 1, None),
            (QuotaResource::Tags, 3, 0, None),
            (QuotaResource::Tags, 9, 0, None),
            (QuotaResource::Uploads, 9, 9, None),
            (
                QuotaResource::Tags,
                3,
                1,
                Some("tags is exceeded: 3 of 3 are used, and this takes 1"),
            ),
            (QuotaResource::Bytes, 1000, 25, Some("1000 of 1KiB are used")),
            (QuotaResource::Bytes, 1, u64::MAX, Some("bytes is exceeded")),
        ] {
            let found =
                quota.check("ann", resource, used, more).err().map(|error| error.to_string());
            let matches = match (&found, want) {
                (Some(found), Some(want)) => found.contains(want) && found.contains("`ann`"),
                (None, None) => true,
                _ => false,
            };
            assert!(matches, "{resource} {used} {more}: {found:?}");
        }
    }
}
