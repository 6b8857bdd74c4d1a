//! The distribution API from the side of somebody who wants bytes moved.

mod origin; // scheme, host, port
mod transport; // connections, and how long to wait for what
mod challenge; // what a 401 asks for
mod session; // one conversation, with its credentials
mod transfer; // where bytes come from and go to
mod pull;
mod push;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{StatusCode, header};
use serde::Deserialize;
use spec::{Descriptor, Digest, Forbidden, Hasher, Host, MediaType, Reference};

pub(crate) use session::escaped;
pub use {
    pull::{Entries, PullOptions},
    push::PushOptions,
    transfer::{BlobSink, BlobSource, BlobWriter, Event, Outcome, Progress, unwatched},
};

use crate::Error;
use {
    origin::{Origin, is_loopback, repository_of},
    session::{Call, Session},
    transport::{Patience, Transport},
};

/// The distribution-spec asks registries to take manifests of 4 MiB; larger ones are nobody's.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 4 << 20;
const USER_AGENT: &str = concat!("margay/", env!("CARGO_PKG_VERSION"));
/// A page of tags has at most this many bytes: 1,000 tags of 128 characters, with room.
const PAGE_BYTES_MAX: usize = 1 << 20;
/// Pages of one list: a million tags.
const PAGES_MAX: usize = 1000;

/// How to present ourselves to one registry.
#[derive(Clone, Default)]
pub enum Auth {
    /// Without a name: enough for public repositories.
    #[default]
    Anonymous,
    /// As a user, after `margay login`.
    Password {
        /// Who.
        user: String,
        /// The secret.
        password: String,
    },
    /// With a token that somebody minted for us: how nodes pull.
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

/// Which registries a [`Client`] may speak to, redirects and token servers included.
#[derive(Debug, Clone, Default)]
pub enum Reach {
    /// All of them: for a person, who can reach them anyway.
    #[default]
    Anywhere,
    /// Those at public addresses: for a platform that fetches what strangers name.
    Public {
        /// Registries (`HOST:PORT`) that may be anywhere: the platform's own.
        registries: HashSet<String>,
        /// Internal addresses that may be reached all the same.
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

    /// Why nobody may be spoken to at `address`.
    fn forbids(&self, address: IpAddr) -> Option<Forbidden> {
        match self {
            Self::Anywhere => None,
            Self::Public { networks, .. } => spec::forbidden(address).filter(|_| {
                !networks.iter().any(|network| network.includes(&Host::Address(address)))
            }),
        }
    }
}

/// How a [`Client`] behaves.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Who we are, by registry (`HOST:PORT` as it stands in references). Everywhere else:
    /// anonymous.
    pub auth: BTreeMap<String, Auth>,
    /// Registries (`HOST:PORT`) that are spoken to without TLS although they are not on this
    /// machine.
    pub plain_http: HashSet<String>,
    /// Registries (`HOST:PORT`) on this machine that are spoken to over TLS nevertheless.
    pub tls: HashSet<String>,
    /// Hosts beside the registry's own to which, over TLS, a password may be sent for a token.
    pub realms: HashSet<String>,
    /// Certificate authorities (DER) to trust beside the public ones: the house's own.
    pub authorities: Vec<Vec<u8>>,
    /// Where registries may be.
    pub reach: Reach,
    /// How long nothing may move, or next to nothing, before a registry counts as too slow.
    pub quiet_time_max: Duration,
    /// How often in a row a transfer may break without 64 KiB moved before it is given up.
    pub retries_max: u32,
    /// The longest pause before another try; the first is a tenth of a second and each doubles.
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
/// Every byte is checked against its digest before anybody sees it. Credentials go to the origin
/// they belong to and nowhere else. A registry on this machine is spoken to in plain HTTP, any
/// other over TLS unless the options name it.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    options: ClientOptions,
    transport: Transport,
    /// What to put into `Authorization`, by origin and scopes.
    known: Mutex<HashMap<(Origin, String), (String, Instant)>>,
}

impl Inner {
    fn auth(&self, registry: &str) -> Auth {
        self.options.auth.get(registry).cloned().unwrap_or_default()
    }
}

/// What a name means right now.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Media type, digest and size of the manifest or index.
    pub descriptor: Descriptor,
    /// Its bytes, checked against the digest.
    pub bytes: Bytes,
}

impl Client {
    /// A client that opens connections when it needs them.
    pub fn new(options: ClientOptions) -> Self {
        let transport = Transport::new(
            Patience::new(options.quiet_time_max),
            &options.authorities,
            options.reach.clone(),
        );
        Self(Arc::new(Inner { options, transport, known: Mutex::default() }))
    }

    /// Whether `registry` (`HOST:PORT`) is there and takes our credentials: what `login` asks.
    ///
    /// # Errors
    /// [`Error::WrongPassword`], [`Error::Down`], and the other ways in which a registry can fail.
    pub async fn check(&self, registry: &str) -> Result<(), Error> {
        let session = self.session(registry, Vec::new())?;
        let response = session.call(Call::get("/v2/".to_owned(), "the API")).await?;
        match session.expect("the API", response, &[StatusCode::OK]).await {
            Err(Error::NotFound { registry, .. }) => {
                Err(Error::NotARegistry { registry, message: "it has no `/v2/`".to_owned() })
            }
            other => other.map(drop),
        }
    }

    /// What `reference` means right now: the manifest or index behind its tag, or the one that its
    /// digest pins.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::LoginNeeded`], [`Error::WrongBytes`] if a pinned manifest is
    /// not what came, and others.
    pub async fn resolve(&self, reference: &Reference) -> Result<Resolved, Error> {
        let session = self.session_for(reference, "pull")?;
        self.manifest(&session, &repository_of(reference), &reference.target()).await
    }

    /// All tags of the repository of `reference`, in the registry's order.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::LoginNeeded`] and others.
    pub async fn tags(&self, reference: &Reference) -> Result<Vec<String>, Error> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let session = self.session_for(reference, "pull")?;
        let repository = &*repository_of(reference);
        let mut tags: Vec<String> = Vec::new();
        for _ in 0..PAGES_MAX {
            let after =
                tags.last().map(|last| format!("&last={}", escaped(last))).unwrap_or_default();
            let path = format!("/v2/{repository}/tags/list?n=1000{after}");
            let response = session.call(Call::get(path, repository)).await?;
            let response = session.expect(repository, response, &[StatusCode::OK]).await?;
            let more = response.headers().contains_key(header::LINK);
            let bytes = session.read(repository, response, PAGE_BYTES_MAX).await?;
            let page: Page = serde_json::from_slice(&bytes)
                .map_err(|_| session.odd("its list of tags is none".to_owned()))?;
            let page = page.tags.unwrap_or_default();
            let progress = !page.is_empty();
            tags.extend(page.into_iter().filter(|tag| Reference::is_tag(tag)));
            if !(more && progress) {
                break;
            }
        }
        Ok(tags)
    }

    async fn manifest(
        &self,
        session: &Session<'_>,
        repository: &str,
        target: &str,
    ) -> Result<Resolved, Error> {
        let what = match target.contains(':') {
            true => format!("{repository}@{target}"),
            false => format!("{repository}:{target}"),
        };
        let accept = [
            MediaType::OCI_INDEX,
            MediaType::OCI_MANIFEST,
            MediaType::DOCKER_INDEX,
            MediaType::DOCKER_MANIFEST,
            "application/json;q=0.5",
        ]
        .join(", ");
        let call = Call::get(format!("/v2/{repository}/manifests/{target}"), &what)
            .header(header::ACCEPT, accept);
        let response = session.follow(call).await?;
        let response = session.expect(&what, response, &[StatusCode::OK]).await?;
        let header =
            |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let media_type =
            header("content-type").and_then(|text| text.split(';').next()?.trim().parse().ok());
        let promised = header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
        let bytes = session.read(&what, response, MANIFEST_BYTES_MAX as usize).await?;
        let expected = target.parse::<Digest>().ok().or(promised);
        let digest = digest_like(expected, &bytes);
        match expected {
            Some(expected) if expected != digest => {
                return Err(session.wrong_bytes(expected, digest));
            }
            _ => {}
        }
        let media_type =
            media_type_of(&bytes).or(media_type).unwrap_or_else(|| MediaType::OCI_MANIFEST.into());
        let mut descriptor = Descriptor::of(MediaType::OCI_MANIFEST, &bytes);
        (descriptor.media_type, descriptor.digest) = (media_type, digest);
        Ok(Resolved { descriptor, bytes })
    }

    fn session_for(&self, reference: &Reference, actions: &str) -> Result<Session<'_>, Error> {
        let registry = reference
            .registry()
            .ok_or_else(|| Error::NoRegistry { reference: reference.to_string() })?;
        self.session(registry, vec![format!("repository:{}:{actions}", repository_of(reference))])
    }

    fn session(&self, registry: &str, scopes: Vec<String>) -> Result<Session<'_>, Error> {
        let ClientOptions { plain_http, tls, .. } = &self.0.options;
        let plain =
            plain_http.contains(registry) || is_loopback(registry) && !tls.contains(registry);
        let origin = Origin::of_registry(registry, !plain).ok_or_else(|| Error::Name {
            message: format!("`{registry}` is not the HOST:PORT of a registry"),
        })?;
        Ok(Session { client: &self.0, origin, registry: registry.to_owned(), scopes })
    }

    fn backoff(&self, failures: u32) -> Duration {
        Duration::from_millis(100 << failures.min(10)).min(self.0.options.backoff_max)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("options", &self.0.options).finish_non_exhaustive()
    }
}

/// The digest of `bytes` in the algorithm of the one that was expected.
fn digest_like(expected: Option<Digest>, bytes: &[u8]) -> Digest {
    match expected {
        None => Digest::of(bytes),
        Some(expected) => {
            let mut hasher = Hasher::new(expected.algorithm());
            hasher.update(bytes);
            hasher.finish()
        }
    }
}

/// What a manifest says about itself; the header is only the registry's word.
fn media_type_of(bytes: &[u8]) -> Option<MediaType> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: Option<MediaType>,
    }
    serde_json::from_slice::<Typed>(bytes).ok()?.media_type
}
