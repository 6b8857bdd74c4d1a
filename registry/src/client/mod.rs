//! The client of the distribution API.

mod origin; // scheme, host, port
mod transport; // connections and timeouts
mod challenge; // what a 401 asks for
mod session; // requests to one registry, and what their responses mean
mod credentials; // tokens, and who may see a password
mod repository; // manifests and tags of one repository
mod graph; // the manifests and blobs of one reference
mod retry; // how often, and how soon
mod transfer; // where blobs come from and go to
mod pull;
mod push;

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use spec::{Descriptor, Forbidden, Host, Reference};

pub use {
    pull::{Entries, PullOptions},
    push::PushOptions,
    transfer::{BlobSink, BlobSource, BlobWriter, Event, Outcome, Progress, unwatched},
};

use crate::{Error, ProtocolFault};
use {
    credentials::Credentials,
    origin::{Origin, is_loopback, repository_of},
    repository::RemoteRepository,
    session::{Call, Session, Target},
    transport::{Timeouts, Transport},
};

const USER_AGENT: &str = concat!("margay/", env!("CARGO_PKG_VERSION"));

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

/// Which registries a [`Client`] may call, redirects and token servers included.
#[derive(Debug, Clone, Default)]
pub enum Reach {
    /// All of them: for a user, who can reach them anyway.
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
    fn names(&self, origin: &Origin) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Public { registries, .. } => registries.iter().any(|registry| {
                Origin::of_registry(registry, origin.secure).as_ref() == Some(origin)
            }),
        }
    }

    /// Why `address` may not be called.
    fn forbids(&self, address: IpAddr) -> Option<Forbidden> {
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
    pub quiet_time_max: Duration,
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
            quiet_time_max: Duration::from_secs(30),
            retries_max: 5,
            backoff_max: Duration::from_secs(2),
        }
    }
}

/// Moves images to and from registries.
///
/// Every blob is checked against its digest before it is visible. Credentials go to the origin that
/// they belong to and nowhere else. A registry on this machine is called in plain HTTP, any other
/// over TLS unless the options name it.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    options: ClientOptions,
    transport: Transport,
    credentials: Credentials,
}

/// A manifest or an index as a registry or a local image has it.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub descriptor: Descriptor,
    /// Checked against the digest.
    pub bytes: Bytes,
}

impl Client {
    /// A client that opens connections when it needs them.
    pub fn new(options: ClientOptions) -> Self {
        let timeouts = Timeouts::new(options.quiet_time_max);
        let transport = Transport::new(timeouts, &options.authorities, options.reach.clone());
        Self(Arc::new(Inner { options, transport, credentials: Credentials::default() }))
    }

    /// Whether `registry` (`HOST:PORT`) answers and accepts the credentials: what `login` does.
    ///
    /// # Errors
    /// [`Error::WrongPassword`], [`Error::Unreachable`], and others.
    pub async fn check(&self, registry: &str) -> Result<(), Error> {
        let session = self.session(registry, Vec::new())?;
        let call = Call::get(Target::Path("/v2/".to_owned()), "the API");
        match session.call_for(call, &[StatusCode::OK]).await {
            Err(Error::NotFound { .. }) => Err(session.fault(ProtocolFault::NoApi)),
            other => other.map(drop),
        }
    }

    /// The manifest or index that the tag of `reference` points to now, or that its digest pins.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::LoginNeeded`], [`Error::WrongDigest`] if the bytes are not
    /// those that were pinned, and others.
    pub async fn resolve(&self, reference: &Reference) -> Result<Resolved, Error> {
        self.repository(reference, "pull")?.manifest(&reference.target()).await
    }

    /// All tags of the repository of `reference`, in the registry's order.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::LoginNeeded`] and others.
    pub async fn tags(&self, reference: &Reference) -> Result<Vec<String>, Error> {
        self.repository(reference, "pull")?.tags().await
    }

    fn repository(
        &self,
        reference: &Reference,
        actions: &str,
    ) -> Result<RemoteRepository<'_>, Error> {
        let registry = reference
            .registry()
            .ok_or_else(|| Error::NoRegistry { reference: reference.to_string() })?;
        let name = repository_of(reference).into_owned();
        let session = self.session(registry, vec![format!("repository:{name}:{actions}")])?;
        Ok(RemoteRepository { session, name })
    }

    fn session(&self, registry: &str, scopes: Vec<String>) -> Result<Session<'_>, Error> {
        let ClientOptions { plain_http, tls, .. } = &self.0.options;
        let plain =
            plain_http.contains(registry) || is_loopback(registry) && !tls.contains(registry);
        let registry = registry.to_owned();
        match Origin::of_registry(&registry, !plain) {
            Some(origin) => Ok(Session { client: &self.0, origin, registry, scopes }),
            None => Err(Error::InvalidRegistry { registry }),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("options", &self.0.options).finish_non_exhaustive()
    }
}
