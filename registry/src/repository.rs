use std::{fmt, str::FromStr};

use serde::Serialize;
use spec::{Reference, Tenant};

use crate::Error;

/// The name of a repository, as the grammar of the distribution-spec has it. Its first component is
/// its owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Repository(String);

/// What somebody wants to do with a repository. Who may push may also delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Read blobs, manifests, tags.
    Pull,
    /// Add blobs, manifests, tags.
    Push,
    /// Take them away again.
    Delete,
}

impl Repository {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is one of `user`'s: below `user/`.
    pub fn belongs_to(&self, user: &Tenant) -> bool {
        self.0.strip_prefix(user.as_str()).is_some_and(|rest| rest.starts_with('/'))
    }
}

impl Action {
    /// The word in a token's scope.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }

    /// The action that a scope's word means; words of others (`*` is one of them) mean nothing
    /// here.
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
            false => Err(Error::Name {
                message: format!(
                    "`{}` is not the name of a repository",
                    text.chars().take(100).collect::<String>()
                ),
            }),
        }
    }
}
