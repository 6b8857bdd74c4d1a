//! Accounts: a user, or one of a user's robot accounts, which is called `USER+NAME`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use spec::{CredentialName, Digest, ParseError, Tenant, Timestamp};

use crate::{
    Action, Repository,
    limits::{ROBOT_TIME_DEFAULT, ROBOT_TIME_MAX, ROBOT_TIME_MIN},
    repository::Actions,
};

/// What a client has logged in as. Its tokens hold for as long as the record of the account has the
/// same serial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    /// `USER`, or `USER+ROBOT`.
    pub login: String,
    pub serial: String,
}

/// What a robot account may do in the repositories of its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RobotScope {
    /// Read them.
    #[default]
    Pull,
    /// And add to them and remove from them.
    Push,
}

/// A robot account as it is stored: its secret is not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RobotRecord {
    pub scope: RobotScope,
    /// The only repositories that it may use; all of its user's when there are none.
    pub repositories: Vec<String>,
    pub created: Timestamp,
    pub expires: Timestamp,
    /// To the minute.
    pub last_used: Option<Timestamp>,
    pub serial: String,
    /// Of 256 random bits, so that a plain hash is enough.
    pub secret_hash: String,
}

/// What an account is, as long as its tokens hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    User,
    Robot(RobotLimits),
}

/// What a robot account may do at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RobotLimits {
    pub scope: RobotScope,
    /// The only ones of its user that it may use; all of them when there are none.
    pub repositories: Vec<String>,
}

/// What a robot account is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewRobot {
    pub scope: RobotScope,
    #[serde(default)]
    pub repositories: Vec<String>,
    #[serde(default)]
    pub lifetime_seconds: Option<u64>,
}

impl fmt::Display for RobotScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pull => "pull",
            Self::Push => "push",
        })
    }
}

impl FromStr for RobotScope {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let scopes = [Self::Pull, Self::Push];
        let found = scopes.into_iter().find(|scope| scope.to_string() == text);
        found.ok_or_else(|| ParseError::about(text, "is neither `pull` nor `push`"))
    }
}

/// The user and the name of a robot account that logs in as `login`.
pub(crate) fn robot_of(login: &str) -> Option<(Tenant, CredentialName)> {
    let (user, robot) = login.split_once('+')?;
    Some((user.parse().ok()?, robot.parse().ok()?))
}

impl Account {
    pub fn of_user(user: &Tenant, serial: &str) -> Self {
        Self { login: user.to_string(), serial: serial.to_owned() }
    }

    pub fn of_robot(user: &Tenant, robot: &CredentialName, record: &RobotRecord) -> Self {
        Self { login: format!("{user}+{robot}"), serial: record.serial.clone() }
    }

    pub fn robot(&self) -> Option<CredentialName> {
        robot_of(&self.login).map(|(_, robot)| robot)
    }

    /// Whether it is `user`, or a robot account of them.
    pub fn belongs_to(login: &str, user: &Tenant) -> bool {
        let rest = login.strip_prefix(user.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('+'))
    }
}

impl RobotRecord {
    /// One with a fresh secret, and that.
    pub fn new(wanted: NewRobot, now: Timestamp) -> (Self, String) {
        let lifetime = wanted.lifetime();
        let record = Self {
            scope: wanted.scope,
            repositories: wanted.repositories,
            created: now,
            expires: Timestamp::from_millis(now.millis() + lifetime.as_millis() as u64),
            last_used: None,
            serial: String::new(),
            secret_hash: String::new(),
        };
        record.with_fresh_secret(now)
    }

    /// This one with another secret, and a lifetime as long as before.
    pub fn with_fresh_secret(self, now: Timestamp) -> (Self, String) {
        let lifetime = self.expires.since(self.created);
        let secret = disk::random_hex::<32>();
        let record = Self {
            created: now,
            expires: Timestamp::from_millis(now.millis() + lifetime.as_millis() as u64),
            serial: disk::random_hex::<8>(),
            secret_hash: Digest::of(secret.as_bytes()).hex(),
            ..self
        };
        (record, secret)
    }

    pub fn is_valid(&self, now: Timestamp) -> bool {
        now < self.expires
    }

    pub fn accepts(&self, secret: &str) -> bool {
        self.secret_hash == Digest::of(secret.as_bytes()).hex()
    }

    pub fn holder(self) -> Holder {
        Holder::Robot(RobotLimits { scope: self.scope, repositories: self.repositories })
    }
}

impl Holder {
    /// What it may do in a repository of its own user.
    pub fn in_own(&self, repository: &Repository) -> Actions {
        match self {
            Self::User => Actions::ALL,
            Self::Robot(limits) => {
                let named = |name: &String| name == repository.as_str();
                let covers =
                    limits.repositories.is_empty() || limits.repositories.iter().any(named);
                if covers { self.anywhere() } else { Actions::NONE }
            }
        }
    }

    /// What it may do at most.
    pub fn anywhere(&self) -> Actions {
        match self {
            Self::User => Actions::ALL,
            Self::Robot(limits) => match limits.scope {
                RobotScope::Pull => Actions::of([Action::Pull]),
                RobotScope::Push => Actions::of([Action::Pull]).and(Actions::CHANGES),
            },
        }
    }

    /// Whether it may use all repositories of its user.
    pub fn is_unlimited(&self) -> bool {
        match self {
            Self::User => true,
            Self::Robot(limits) => limits.repositories.is_empty(),
        }
    }
}

impl NewRobot {
    fn lifetime(&self) -> Duration {
        self.lifetime_seconds.map_or(ROBOT_TIME_DEFAULT, Duration::from_secs)
    }

    pub fn has_valid_lifetime(&self) -> bool {
        (ROBOT_TIME_MIN..=ROBOT_TIME_MAX).contains(&self.lifetime())
    }
}
