//! Organisations, teams, and what policies allow.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use spec::{CredentialName, ParseError, Tenant, Timestamp};

use super::pattern::matches;
use crate::{
    Action, Repository, account::robot_of, limits::PATTERN_CHARS_MAX, repository::Actions,
};

/// What a policy lets its subject do in the repositories that it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Read.
    Pull,
    /// Read, add blobs and manifests, and set and move tags.
    Push,
    /// Push, and move no tag that is set.
    TagCreate,
    /// Read, and set and move tags among the manifests that are there.
    TagOverwrite,
    /// Read, and remove tags, manifests and blobs.
    Delete,
    /// Everything, and decide what others may do.
    Admin,
}

/// A team of an account: `ACCOUNT/TEAM`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TeamName {
    pub account: Tenant,
    pub team: CredentialName,
}

/// To which clients a policy applies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// `*`: every client with a login.
    Logins,
    /// `USER`.
    User(Tenant),
    /// `USER+ROBOT`.
    Robot(Tenant, CredentialName),
    /// `ACCOUNT/TEAM`.
    Team(TeamName),
}

/// Some repositories: a name in which `*` stands for any characters. One without `/` covers names
/// without `/` alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryPattern(String);

/// An account that owns repositories, and has teams and no password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrganisationInfo {
    pub name: Tenant,
    pub created: Timestamp,
}

/// A team and its members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TeamInfo {
    pub team: TeamName,
    pub members: BTreeSet<Tenant>,
}

/// Which users become members of a team, or are none any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeamChange {
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub add: BTreeSet<Tenant>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub remove: BTreeSet<Tenant>,
}

/// A policy: what its subject may do in some repositories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInfo {
    pub repositories: RepositoryPattern,
    pub subject: Subject,
    pub roles: BTreeSet<Role>,
}

/// The body of `PUT /admin/policies`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RolesBody {
    pub roles: BTreeSet<Role>,
}

/// What a user or robot account may do in a repository, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyCheck {
    pub allowed: Vec<Action>,
    pub is_owner: bool,
    pub is_public: bool,
    /// The policies that apply.
    pub policies: Vec<PolicyInfo>,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Pull, Self::Push, Self::TagCreate, Self::TagOverwrite, Self::Delete, Self::Admin];

    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::TagCreate => "tag-create",
            Self::TagOverwrite => "tag-overwrite",
            Self::Delete => "delete",
            Self::Admin => "admin",
        }
    }

    pub(crate) fn actions(self) -> Actions {
        use Action::{Delete, Pull, Push, TagCreate, TagOverwrite};
        match self {
            Self::Pull => Actions::of([Pull]),
            Self::Push => Actions::of([Pull, Push, TagCreate, TagOverwrite]),
            Self::TagCreate => Actions::of([Pull, Push, TagCreate]),
            Self::TagOverwrite => Actions::of([Pull, TagCreate, TagOverwrite]),
            Self::Delete => Actions::of([Pull, Delete]),
            Self::Admin => Actions::ALL,
        }
    }
}

impl FromStr for Role {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let names = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|role| role.name() == text);
        found.ok_or_else(|| ParseError::about(text, format!("is no role: {names}")))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TeamName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let invalid = || ParseError::about(text, "is not ACCOUNT/TEAM, as in acme/dev");
        let (account, team) = text.split_once('/').ok_or_else(invalid)?;
        let (account, team) = (account.parse().ok(), team.parse().ok());
        let (account, team) = account.zip(team).ok_or_else(invalid)?;
        Ok(Self { account, team })
    }
}

impl fmt::Display for TeamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.account, self.team)
    }
}

impl FromStr for Subject {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let invalid = "is neither USER, USER+ROBOT, ACCOUNT/TEAM nor `*`";
        let invalid = || ParseError::about(text, invalid);
        Ok(match text {
            "*" => Self::Logins,
            _ if text.contains('/') => Self::Team(text.parse().map_err(|_| invalid())?),
            _ if text.contains('+') => {
                let (user, robot) = robot_of(text).ok_or_else(invalid)?;
                Self::Robot(user, robot)
            }
            _ => Self::User(text.parse().map_err(|_| invalid())?),
        })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Logins => f.write_str("*"),
            Self::User(user) => user.fmt(f),
            Self::Robot(user, robot) => write!(f, "{user}+{robot}"),
            Self::Team(team) => team.fmt(f),
        }
    }
}

impl RepositoryPattern {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// All repositories of an account.
    pub fn all_of(account: &Tenant) -> Self {
        Self(format!("{account}/*"))
    }

    /// The first component of the names that it covers; empty when these have no other.
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(first, _)| first)
    }

    /// Whether it covers all that `other` covers.
    pub fn includes(&self, other: &Self) -> bool {
        // A star of `other` is a character that no name has: only a star takes it.
        self.namespace() == other.namespace() && matches(&self.0, &other.0)
    }

    pub fn covers(&self, repository: &Repository) -> bool {
        let name = repository.as_str();
        (self.0.contains('/') || !name.contains('/')) && matches(&self.0, name)
    }
}

impl FromStr for RepositoryPattern {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let invalid = |why: &str| Err(ParseError::about(text, why));
        if text.len() > PATTERN_CHARS_MAX {
            return invalid("is longer than the name of a repository");
        }
        // Where a name can have what stands for any characters, it has something that can.
        let example = text.replace('*', "a");
        if example.parse::<Repository>().is_err() {
            return invalid("covers no repository: as in acme/app, acme/* or acme/web-*");
        }
        match text.split_once('/') {
            Some((first, _)) if first.contains('*') => {
                invalid("covers repositories of several accounts: name one, as in acme/*")
            }
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl From<&Repository> for RepositoryPattern {
    fn from(repository: &Repository) -> Self {
        Self(repository.to_string())
    }
}

impl fmt::Display for RepositoryPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! written_as_text {
    ($($type:ident)+) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )+};
}

written_as_text!(TeamName Subject RepositoryPattern);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_names_of_one_account_or_names_without_one() {
        for (pattern, repository, want) in [
            ("acme/app", "acme/app", true),
            ("acme/app", "acme/app/sub", false),
            ("acme/*", "acme/app", true),
            ("acme/*", "acme/app/sub", true),
            ("acme/*", "acme", false),
            ("acme/*", "acmes/app", false),
            ("acme/web-*", "acme/web-1", true),
            ("acme/web-*", "acme/api", false),
            ("*", "alpine", true),
            ("*", "acme/app", false),
            ("base-*", "base-1", true),
            ("base-*", "base-1/x", false),
        ] {
            let covered = pattern.parse::<RepositoryPattern>().unwrap();
            assert_eq!(
                covered.covers(&repository.parse().unwrap()),
                want,
                "{pattern} {repository}"
            );
        }
        for (pattern, other, want) in [
            ("acme/*", "acme/web-*", true),
            ("acme/*", "acme/*", true),
            ("acme/web-*", "acme/*", false),
            ("acme/web-*", "acme/web-1", true),
            ("acme/web-*", "acme/w*", false),
            ("acme/*-a", "acme/*-b", false),
            ("acme/api", "acme/api", true),
            ("*", "base-*", true),
            ("*", "acme/*", false),
            ("base-*", "*", false),
        ] {
            let (pattern, other): (RepositoryPattern, RepositoryPattern) =
                (pattern.parse().unwrap(), other.parse().unwrap());
            assert_eq!(pattern.includes(&other), want, "{pattern} {other}");
        }
        for bad in ["", "/", "acme/", "*/app", "a*/app", "**/x", "Acme/*", "acme/../*", "acme//*"] {
            assert!(bad.parse::<RepositoryPattern>().is_err(), "{bad}");
        }
        assert!(format!("a/{}", "*".repeat(300)).parse::<RepositoryPattern>().is_err());
    }

    #[test]
    fn a_subject_is_written_as_it_is_read() {
        for text in ["*", "bob", "ann+ci", "acme/dev"] {
            assert_eq!(text.parse::<Subject>().unwrap().to_string(), text);
        }
        for bad in ["", "**", "Bob", "acme/", "/dev", "a/b/c", "+ci", "ann+", "ann+ci/dev"] {
            assert!(bad.parse::<Subject>().is_err(), "{bad}");
        }
    }
}
