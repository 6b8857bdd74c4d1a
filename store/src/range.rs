use std::{ops::Bound, sync::Arc};

use crate::{Error, Kv, Rev};

/// A set of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Range {
    /// This one.
    Key(String),
    /// All that start with this.
    Prefix(String),
    /// All that start with `prefix` and sort after `after`: the next page.
    PrefixAfter {
        /// What they start with.
        prefix: String,
        /// The last one of the page before.
        after: String,
    },
}

impl Range {
    /// Whether `key` is in the range.
    pub fn contains(&self, key: &str) -> bool {
        match self {
            Self::Key(this) => key == this,
            Self::Prefix(prefix) => key.starts_with(prefix.as_str()),
            Self::PrefixAfter { prefix, after } => {
                key.starts_with(prefix.as_str()) && key > after.as_str()
            }
        }
    }

    /// The key, or what the keys start with.
    pub fn stem(&self) -> &str {
        match self {
            Self::Key(stem) | Self::Prefix(stem) | Self::PrefixAfter { prefix: stem, .. } => stem,
        }
    }

    /// Where in the order of keys the search starts; it ends with the first key that is not
    /// [`contained`](Self::contains).
    pub(crate) fn start(&self) -> Bound<&str> {
        match self {
            Self::Key(key) => Bound::Included(key),
            Self::Prefix(prefix) => Bound::Included(prefix),
            Self::PrefixAfter { prefix, after } if after > prefix => Bound::Excluded(after),
            Self::PrefixAfter { prefix, .. } => Bound::Included(prefix),
        }
    }

    /// Whether some key could be in both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Key(key), range) | (range, Self::Key(key)) => range.contains(key),
            (a, b) => a.stem().starts_with(b.stem()) || b.stem().starts_with(a.stem()),
        }
    }

    /// R9: no key is empty. An empty prefix means all keys.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self {
            Self::Key(key) if key.is_empty() => Err(Error::EmptyKey),
            Self::Key(_) | Self::Prefix(_) | Self::PrefixAfter { .. } => Ok(()),
        }
    }
}

/// A range, and how much of it to answer with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The keys to read.
    pub range: Range,
    /// At most so many; all when `None`.
    pub limit: Option<usize>,
    /// Leave the values out.
    pub keys_only: bool,
    /// Say how many there are beyond the limit, too, which costs a walk over all of them.
    pub counted: bool,
}

impl Query {
    /// One key.
    pub fn key(key: impl Into<String>) -> Self {
        Self::from(Range::Key(key.into()))
    }

    /// All keys that start with `prefix`.
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self::from(Range::Prefix(prefix.into()))
    }

    /// At most `limit` of them.
    pub fn limit(self, limit: usize) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// Without their values.
    pub fn keys_only(self) -> Self {
        Self { keys_only: true, ..self }
    }

    /// With the number of all of them.
    pub fn counted(self) -> Self {
        Self { counted: true, ..self }
    }
}

impl From<Range> for Query {
    fn from(range: Range) -> Self {
        Self { range, limit: None, keys_only: false, counted: false }
    }
}

/// The answer to a [`Query`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranged {
    /// The revision at which this was true: what to watch from.
    pub rev: Rev,
    /// In the order of their keys.
    pub kvs: Vec<Arc<Kv>>,
    /// Whether the limit cut some off.
    pub more: bool,
    /// How many there are in the whole range, if that was asked.
    pub count: Option<usize>,
}

impl Ranged {
    /// The first key, for queries of one.
    pub fn first(&self) -> Option<&Arc<Kv>> {
        self.kvs.first()
    }
}
