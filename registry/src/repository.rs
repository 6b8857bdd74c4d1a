use std::{fmt, str::FromStr};

use serde::Serialize;
use spec::{Reference, Tenant};

use crate::Error;

/// The name of a repository, by the grammar of the distribution-spec. Its first component is its
/// owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Repository(String);

/// What a client can do with a repository. The right to push includes the right to delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Read blobs, manifests, tags.
    Pull,
    /// Add blobs, manifests, tags.
    Push,
    /// Remove them.
    Delete,
}

impl Repository {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `user` owns it: the name starts with `user/`.
    pub fn belongs_to(&self, user: &Tenant) -> bool {
        self.0.strip_prefix(user.as_str()).is_some_and(|rest| rest.starts_with('/'))
    }
}

impl Action {
    /// As it is written in the scope of a token.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }

    /// The action of a scope; other words, `*` among them, are none.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Pull, Self::Push, Self::Delete].into_iter().find(|action| action.name() == name)
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Repository {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match Reference::is_repository(text) {
            true => Ok(Self(text.to_owned())),
            false => Err(Error::InvalidRepository { name: text.chars().take(100).collect() }),
        }
    }
}
