use spec::Tenant;

use crate::{Action, Error, Repository, account::Account, protocol::Switch, storage::Metadata};

/// The client of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Principal {
    /// A client without a token, or with an anonymous one.
    Anonymous,
    /// A user of this registry, or a robot account of theirs.
    User {
        name: Tenant,
        account: Account,
        /// What the token was fetched for. A user may hold less than their rights, never more.
        scopes: Scopes,
    },
    /// A process of the platform, with a token that was minted for these scopes at a second of the
    /// clock.
    Machine { name: String, minted: u64, scopes: Scopes },
    /// The control plane, on behalf of which machines get their tokens: it takes them back, and
    /// does nothing else under this name.
    ControlPlane,
}

/// What a token allows, within the rights of its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scopes {
    /// Everything: what a password proves, before it is exchanged for a token.
    All,
    Only {
        repositories: Vec<(Repository, Vec<Action>)>,
        /// Whether a push may take blobs from any of the user's own repositories (scope
        /// `repository:USER/*:pull`).
        own: bool,
    },
}

/// The decision about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed,
    /// Another token could allow it: the answer is a challenge.
    Challenge,
    /// No token of this principal allows it.
    Denied,
}

/// What clients may do in a repository without a right of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing. So is one that does not exist: it cannot be told from a private one.
    Private,
    /// Pull.
    Public,
    /// Everything, without a login: for development.
    Open,
}

impl Access {
    pub async fn of(metadata: &Metadata, repository: &Repository) -> Result<Self, Error> {
        let is_open = metadata.rules.is_on(Switch::AnonymousPush);
        Ok(match (is_open, metadata.is_public(repository).await?) {
            (true, _) => Self::Open,
            (false, true) => Self::Public,
            (false, false) => Self::Private,
        })
    }
}

/// Whether `principal` may do `action` in `repository`: the only place where this is decided.
pub(crate) fn authorize(
    principal: &Principal,
    repository: &Repository,
    access: Access,
    action: Action,
) -> Verdict {
    let is_public = access != Access::Private && action == Action::Pull;
    match principal {
        _ if is_public => Verdict::Allowed,
        Principal::Anonymous if access == Access::Open => Verdict::Allowed,
        Principal::Anonymous => Verdict::Challenge,
        Principal::User { name, .. } if !repository.belongs_to(name) => Verdict::Denied,
        Principal::User { scopes, .. } if scopes.cover(repository, action) => Verdict::Allowed,
        Principal::User { .. } => Verdict::Challenge,
        Principal::Machine { scopes, .. } if scopes.cover(repository, action) => Verdict::Allowed,
        Principal::Machine { .. } | Principal::ControlPlane => Verdict::Denied,
    }
}

impl Principal {
    /// For logs, and as the owner of open uploads.
    pub fn name(&self) -> &str {
        match self {
            Self::Anonymous => "anonymous",
            Self::User { account, .. } => &account.login,
            Self::Machine { name, .. } => name,
            Self::ControlPlane => "control plane",
        }
    }
}

impl Scopes {
    pub fn cover(&self, repository: &Repository, action: Action) -> bool {
        match self {
            Self::All => true,
            Self::Only { repositories, .. } => repositories.iter().any(|(name, actions)| {
                // Clients request `pull,push` and then delete their own uploads and tags.
                let implied = action == Action::Delete && actions.contains(&Action::Push);
                name == repository && (actions.contains(&action) || implied)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_owns_the_repositories_below_their_name_and_public_ones_are_readable() {
        let user = |name: &str, scopes| {
            let name = name.parse().unwrap();
            Principal::User { account: Account::of_user(&name, "1"), name, scopes }
        };
        let only = |repository: &str, actions: &[Action]| Scopes::Only {
            repositories: vec![(repository.parse().unwrap(), actions.to_vec())],
            own: false,
        };
        let machine = |scopes| Principal::Machine { name: "node".to_owned(), minted: 0, scopes };
        use {Access::*, Action::*, Verdict::*};
        for (principal, repository, access, action, want) in [
            (Principal::Anonymous, "ann/cats", Private, Pull, Challenge),
            (Principal::Anonymous, "ann/cats", Public, Pull, Allowed),
            (Principal::Anonymous, "ann/cats", Public, Push, Challenge),
            (user("ann", Scopes::All), "ann/cats", Private, Push, Allowed),
            (user("ann", Scopes::All), "ann", Private, Push, Denied),
            (user("ann", Scopes::All), "anna/cats", Private, Pull, Denied),
            (user("bob", Scopes::All), "ann/cats", Private, Pull, Denied),
            (user("bob", Scopes::All), "ann/cats", Public, Pull, Allowed),
            (user("bob", Scopes::All), "ann/cats", Public, Delete, Denied),
            (user("bob", only("ann/cats", &[Pull, Push])), "ann/cats", Private, Pull, Denied),
            (user("ann", only("ann/cats", &[Pull])), "ann/cats", Private, Push, Challenge),
            (user("ann", only("ann/cats", &[Push])), "ann/cats", Private, Delete, Allowed),
            (user("ann", only("ann/cats", &[Pull])), "ann/dogs", Private, Pull, Challenge),
            (machine(only("ann/cats", &[Pull])), "ann/cats", Private, Pull, Allowed),
            (machine(only("ann/cats", &[Pull])), "ann/cats", Private, Push, Denied),
            (machine(only("ann/cats", &[Pull])), "ann/dogs", Private, Pull, Denied),
            (machine(only("ann/cats", &[Pull])), "ann/dogs", Public, Pull, Allowed),
            (Principal::ControlPlane, "ann/cats", Private, Pull, Denied),
            (Principal::Anonymous, "ann/cats", Open, Push, Allowed),
            (Principal::Anonymous, "ann/cats", Open, Delete, Allowed),
            (user("bob", Scopes::All), "ann/cats", Open, Push, Denied),
            (Principal::ControlPlane, "ann/cats", Open, Push, Denied),
        ] {
            let got = authorize(&principal, &repository.parse().unwrap(), access, action);
            assert_eq!(got, want, "{principal:?} {action:?} {repository}, {access:?}");
        }
    }
}
