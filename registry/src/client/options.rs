use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    net::IpAddr,
    time::Duration,
};

use spec::{Forbidden, Host};

use super::origin::Origin;

/// The credentials for one registry.
#[derive(Clone, Default)]
pub enum Auth {
    /// None: enough for public repositories.
    #[default]
    Anonymous,
    /// As a user, after `margay login`.
    Password { user: String, password: String },
    /// A token that the control plane minted: how nodes pull.
    Token(String),
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Password { user, .. } => {
                f.debug_struct("Password").field("user", user).finish_non_exhaustive()
            }
            Self::Token(_) => f.write_str("Token(…)"),
        }
    }
}

/// Which registries a [`Client`](super::Client) may call, redirects and token servers included.
#[derive(Debug, Clone, Default)]
pub enum Reach {
    /// All of them: for a user, that can reach them anyway.
    #[default]
    Anywhere,
    /// Those at public addresses: for a platform that fetches images that its tenants name.
    Public {
        /// Registries (`HOST:PORT`) that may have any address: the platform's own.
        registries: HashSet<String>,
        /// Internal addresses that may be called nevertheless.
        networks: Vec<Host>,
    },
}

impl Reach {
    /// Whether `origin` may have any address.
    pub(super) fn names(&self, origin: &Origin) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Public { registries, .. } => registries.iter().any(|registry| {
                Origin::of_registry(registry, origin.secure).as_ref() == Some(origin)
            }),
        }
    }

    /// Why `address` may not be called.
    pub(super) fn forbids(&self, address: IpAddr) -> Option<Forbidden> {
        match self {
            Self::Anywhere => None,
            Self::Public { networks, .. } => spec::forbidden(address).filter(|_| {
                !networks.iter().any(|network| network.includes(&Host::Address(address)))
            }),
        }
    }
}

#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// By registry (`HOST:PORT` as it stands in references); for all others [`Auth::Anonymous`].
    pub auth: BTreeMap<String, Auth>,
    /// Registries (`HOST:PORT`) that are called without TLS although they are not on this machine.
    pub plain_http: HashSet<String>,
    /// Registries (`HOST:PORT`) on this machine that are called over TLS nevertheless.
    pub tls: HashSet<String>,
    /// Hosts beside the registry's own to which, over TLS, a password may be sent for a token.
    pub realms: HashSet<String>,
    /// Certificate authorities (DER) to trust beside the public ones: the cluster's own.
    pub authorities: Vec<Vec<u8>>,
    pub reach: Reach,
    /// How long a transfer may go without progress, or almost none, before it has timed out.
    pub idle_time_max: Duration,
    /// How often in a row a transfer may break, without 64 KiB of progress, before it fails.
    pub retries_max: u32,
    /// The longest pause between two tries; the first is a tenth of a second and each doubles.
    pub backoff_max: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            auth: BTreeMap::new(),
            plain_http: HashSet::new(),
            tls: HashSet::new(),
            realms: HashSet::from(["auth.docker.io".to_owned()]),
            authorities: Vec::new(),
            reach: Reach::Anywhere,
            idle_time_max: Duration::from_secs(30),
            retries_max: 5,
            backoff_max: Duration::from_secs(2),
        }
    }
}
