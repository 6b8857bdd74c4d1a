//! What a client may do in a repository: the only place where this is decided.

use super::principal::{Principal, Scopes};
use crate::{
    Action, Error, Repository,
    account::Holder,
    protocol::{Subject, Switch},
    repository::Actions,
    storage::{Metadata, PolicyTable},
};

/// Why a client may not do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A login could allow it.
    LoginNeeded,
    /// Another token of the same client allows it.
    InsufficientScope,
    /// No policy gives the client a role for it.
    NoRole,
    /// The registry is read-only.
    ReadOnly,
}

/// What the registry knows about a repository.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Situation<'a> {
    pub repository: &'a Repository,
    /// One that does not exist is not: it cannot be told from a private one.
    pub is_public: bool,
    /// Whether clients without a login may do everything, for development.
    pub is_open: bool,
    pub is_read_only: bool,
    pub policies: &'a PolicyTable,
}

/// Whether `principal` may do `action`.
pub(crate) fn decide(
    principal: &Principal,
    action: Action,
    situation: &Situation,
) -> Result<(), Refusal> {
    match allowed(principal, situation).contains(action) {
        true => Ok(()),
        false => Err(refusal(principal, action, situation)),
    }
}

/// What a principal may do with its token, as the registry is.
pub(crate) fn allowed(principal: &Principal, situation: &Situation) -> Actions {
    let allowed = rights(principal, situation).within(scope(principal, situation));
    match situation.is_read_only {
        true => allowed.within(Actions::of([Action::Pull])),
        false => allowed,
    }
}

/// Why it may not do `action`.
fn refusal(principal: &Principal, action: Action, situation: &Situation) -> Refusal {
    let has_right = rights(principal, situation).contains(action);
    match principal {
        Principal::Anonymous if !has_right => Refusal::LoginNeeded,
        _ if !has_right => Refusal::NoRole,
        _ if !scope(principal, situation).contains(action) => Refusal::InsufficientScope,
        _ => Refusal::ReadOnly,
    }
}

/// What a principal may do in a repository with some token.
pub(crate) fn rights(principal: &Principal, situation: &Situation) -> Actions {
    let all = Actions::of(situation.reads().then_some(Action::Pull));
    all.and(match principal {
        Principal::Anonymous if situation.is_open => {
            Actions::of([Action::Pull]).and(Actions::CHANGES)
        }
        Principal::Anonymous | Principal::ControlPlane => Actions::NONE,
        Principal::Machine { scopes, tenant: None, .. } => scopes.actions(situation.repository),
        Principal::Machine { scopes, tenant: Some(tenant), .. } => {
            let own = match situation.repository.belongs_to(tenant) {
                true => Actions::ALL,
                false => Actions::NONE,
            };
            let rights = own.and(given(principal, situation));
            rights.within(scopes.actions(situation.repository))
        }
        Principal::User { holder: None, .. } => Actions::NONE,
        Principal::User { name, holder: Some(holder), .. } => {
            let own = match situation.repository.belongs_to(name) {
                true => holder.in_own(situation.repository),
                false => Actions::NONE,
            };
            own.and(given(principal, situation).within(holder.anywhere()))
        }
    })
}

/// What policies give to a principal.
fn given(principal: &Principal, situation: &Situation) -> Actions {
    situation
        .policies
        .of(situation.repository)
        .filter(|(_, subject, _)| applies(subject, principal, situation.policies))
        .flat_map(|(_, _, roles)| roles)
        .fold(Actions::NONE, |all, role| all.and(role.actions()))
}

/// What the token of a principal allows.
fn scope(principal: &Principal, situation: &Situation) -> Actions {
    let all = Actions::of(situation.reads().then_some(Action::Pull));
    match principal {
        Principal::User { scopes, .. } | Principal::Machine { scopes, .. } => {
            all.and(scopes.actions(situation.repository))
        }
        Principal::Anonymous | Principal::ControlPlane => Actions::ALL,
    }
}

/// Whether a policy with this subject is about the principal.
pub(crate) fn applies(subject: &Subject, principal: &Principal, policies: &PolicyTable) -> bool {
    let (name, account, holder) = match principal {
        Principal::User { name, account, holder: Some(holder), .. } => (name, account, holder),
        Principal::Machine { tenant: Some(tenant), .. } => {
            return match subject {
                Subject::Logins => true,
                Subject::User(user) => user == tenant,
                Subject::Team(team) => policies.is_member(tenant, team),
                Subject::Robot(..) => false,
            };
        }
        Principal::Anonymous
        | Principal::User { holder: None, .. }
        | Principal::Machine { tenant: None, .. }
        | Principal::ControlPlane => return false,
    };
    match (subject, holder) {
        (Subject::Logins, Holder::User | Holder::Robot(_)) => true,
        (Subject::User(user), Holder::User) => user == name,
        (Subject::Team(team), Holder::User) => policies.is_member(name, team),
        (Subject::Robot(user, robot), Holder::Robot(_)) => {
            user == name && account.robot().as_ref() == Some(robot)
        }
        (Subject::User(_) | Subject::Team(_), Holder::Robot(_))
        | (Subject::Robot(..), Holder::User) => false,
    }
}

impl Situation<'_> {
    fn reads(&self) -> bool {
        self.is_public || self.is_open
    }
}

impl Principal {
    /// Whether a push may take blobs from all repositories of the principal's account.
    pub fn mounts_own(&self) -> bool {
        match self {
            Self::User { scopes, holder: Some(holder), .. } => {
                let asked = matches!(scopes, Scopes::All | Scopes::Only { own: true, .. });
                asked && holder.is_unlimited()
            }
            Self::User { holder: None, .. }
            | Self::Anonymous
            | Self::Machine { .. }
            | Self::ControlPlane => false,
        }
    }
}

impl Metadata {
    /// Calls `decision` with what is known about a repository.
    pub async fn situation<T>(
        &self,
        repository: &Repository,
        decision: impl FnOnce(&Situation) -> T,
    ) -> Result<T, Error> {
        let is_public = self.is_public(repository).await?;
        Ok(self.situation_of(repository, is_public, decision))
    }

    /// The same for a repository whose record was read.
    pub fn situation_of<T>(
        &self,
        repository: &Repository,
        is_public: bool,
        decision: impl FnOnce(&Situation) -> T,
    ) -> T {
        decision(&Situation {
            repository,
            is_public,
            is_open: self.rules.is_on(Switch::AnonymousPush),
            is_read_only: self.rules.is_on(Switch::ReadOnly),
            policies: &self.policies(),
        })
    }
}

#[cfg(test)]
mod tests;
