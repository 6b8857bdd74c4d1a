use spec::Tenant;

use crate::{
    Action, Repository,
    account::{Account, Holder},
    repository::Actions,
};

/// The client of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Principal {
    /// A client without a token, or with an anonymous one.
    Anonymous,
    /// A user of this registry, or a robot account of a user or an organisation.
    User {
        /// The user or organisation.
        name: Tenant,
        account: Account,
        /// What the account is by now. Nothing is allowed before it is looked up.
        holder: Option<Holder>,
        /// What the token was fetched for. A user may hold less than their rights, never more.
        scopes: Scopes,
    },
    /// A process of the platform, with a token that was minted for these scopes at a second of the
    /// clock.
    Machine {
        name: String,
        minted: u64,
        scopes: Scopes,
        /// For whose tasks it is: then it holds no more than that user's rights.
        tenant: Option<Tenant>,
    },
    /// The control plane, on behalf of which machines get their tokens: it takes them back, and
    /// does nothing else under this name.
    ControlPlane,
}

/// What a token allows, within the rights of its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scopes {
    /// Everything: what a password proves.
    All,
    Only {
        repositories: Vec<(Repository, Vec<Action>)>,
        /// Whether a push may take blobs from any of the user's own repositories (scope
        /// `repository:USER/*:pull`).
        own: bool,
    },
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
    /// What they allow in a repository.
    pub fn actions(&self, repository: &Repository) -> Actions {
        match self {
            Self::All => Actions::ALL,
            Self::Only { repositories, .. } => {
                let of_it = repositories.iter().filter(|(name, _)| name == repository);
                let actions = of_it.flat_map(|(_, actions)| actions.iter());
                actions.fold(Actions::NONE, |all, action| all.and(action.implied()))
            }
        }
    }
}
