use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use spec::{Reference, Tenant};

use crate::Error;

/// The name of a repository, by the grammar of the distribution-spec. Its first component is its
/// owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Repository(String);

/// What a client can do with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Read blobs, manifests, tags.
    Pull,
    /// Add blobs and manifests.
    Push,
    /// Set a tag that the repository lacks.
    TagCreate,
    /// Let a tag name another manifest.
    TagOverwrite,
    /// Remove blobs, manifests, tags.
    Delete,
    /// Decide what others may do with it.
    Administer,
}

/// A set of actions.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Actions(u8);

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
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Pull,
        Self::Push,
        Self::TagCreate,
        Self::TagOverwrite,
        Self::Delete,
        Self::Administer,
    ];

    /// As it is written in the scope of a token.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::TagCreate => "tag-create",
            Self::TagOverwrite => "tag-overwrite",
            Self::Delete => "delete",
            Self::Administer => "administer",
        }
    }

    /// The action of a scope; other words, `*` among them, are none.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }

    /// What a token with this action in its scope is good for: clients request `pull,push`, and
    /// then set tags, and delete their own uploads and tags.
    pub(crate) fn implied(self) -> Actions {
        match self {
            Self::Push => Actions::CHANGES,
            one => Actions::of([one]),
        }
    }
}

impl Actions {
    pub const NONE: Self = Self(0);
    pub const CHANGES: Self = Self(0b01_1110);
    pub const ALL: Self = Self(0b11_1111);

    pub fn of(actions: impl IntoIterator<Item = Action>) -> Self {
        Self(actions.into_iter().fold(0, |all, action| all | 1 << action as u8))
    }

    pub fn contains(self, action: Action) -> bool {
        self.0 & 1 << action as u8 != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Action> {
        Action::ALL.into_iter().filter(move |action| self.contains(*action))
    }

    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    #[must_use]
    pub fn within(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }
}

impl fmt::Debug for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
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
