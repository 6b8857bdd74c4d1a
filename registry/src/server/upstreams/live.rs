use std::{
    collections::HashSet,
    error::Error as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use http::Uri;
use spec::Reference;

use crate::{
    Auth, Client, ClientOptions, Error, Reach,
    client::Origin,
    limits::{
        UPSTREAM_HOLD_MAX, UPSTREAM_HOLD_MIN, UPSTREAM_IDLE_TIME_MAX, UPSTREAM_RATE_HOLD,
        UPSTREAM_RATE_HOLD_MAX, UPSTREAM_RETRIES_MAX,
    },
    protocol::NewUpstream,
    storage::Upstream,
};

/// Docker Hub: its name in references, and the hosts that stand for it.
const HUB: &str = "docker.io";
const HUB_HOSTS: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// An upstream while it is asked.
pub(super) struct Live {
    pub upstream: Arc<Upstream>,
    pub client: Client,
    registry: String,
    hold: Mutex<Hold>,
}

/// Until when an upstream is not asked.
#[derive(Default)]
struct Hold {
    failures: u32,
    until: Option<Instant>,
}

/// Where an upstream is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// As references name it.
    pub registry: String,
    pub secure: bool,
}

/// The registry at `https://HOST[:PORT]`.
pub(super) fn address_of(url: &str) -> Option<Address> {
    let uri: Uri = url.parse().ok()?;
    if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
        return None;
    }
    let origin = Origin::of_uri(&uri)?;
    let secure = origin.secure;
    let registry = match origin.authority() {
        hub if secure && HUB_HOSTS.contains(&hub.as_str()) => HUB.to_owned(),
        // Without dot and port it would be the name of a repository.
        name if !name.contains(['.', ':']) => format!("{name}:{}", origin.port),
        name => name,
    };
    format!("{registry}/x").parse::<Reference>().ok()?.registry()?;
    Some(Address { registry, secure })
}

impl Live {
    pub fn new(upstream: Arc<Upstream>) -> Option<Self> {
        let NewUpstream { url, private, login, .. } = &upstream.record.wanted;
        let Address { registry, secure } = address_of(url)?;
        let only = |wanted: bool| HashSet::from_iter(wanted.then(|| registry.clone()));
        let mut options = ClientOptions {
            plain_http: only(!secure),
            tls: only(secure),
            // Where it sends its clients is at a public address in any case.
            reach: Reach::Public { registries: only(*private), networks: Vec::new() },
            idle_time_max: UPSTREAM_IDLE_TIME_MAX,
            retries_max: UPSTREAM_RETRIES_MAX,
            ..ClientOptions::default()
        };
        if let Some(login) = login {
            let (user, password) = (login.username.clone(), login.password.clone());
            options.auth.insert(registry.clone(), Auth::Password { user, password });
        }
        Some(Self { client: Client::new(options), registry, upstream, hold: Mutex::default() })
    }

    /// A tag or a digest of a repository there.
    pub fn reference(&self, repository: &str, target: &str) -> Result<Reference, Error> {
        let separator = if target.contains(':') { '@' } else { ':' };
        let text = format!("{}/{repository}{separator}{target}", self.registry);
        text.parse().map_err(|_| Error::InvalidRepository { name: repository.to_owned() })
    }

    /// For how long it is not asked.
    pub fn held(&self) -> Option<Duration> {
        let until = self.lock().until?;
        until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    pub fn has_answered(&self) {
        *self.lock() = Hold::default();
    }

    pub fn has_sent(&self, bytes: u64) {
        self.upstream.counters.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes why something was not fetched, and whether to leave the upstream alone for a while.
    pub fn has_failed(&self, error: &Error) {
        let pause = match error {
            Error::TooManyRequests { after, .. } => {
                Some(after.unwrap_or(UPSTREAM_RATE_HOLD).min(UPSTREAM_RATE_HOLD_MAX))
            }
            error if error.is_transient() => None,
            // It has answered, though not as wanted.
            _ => return self.note(error),
        };
        let mut hold = self.lock();
        let doubled = UPSTREAM_HOLD_MIN.saturating_mul(1 << hold.failures.min(10));
        hold.failures = hold.failures.saturating_add(1);
        hold.until = Some(Instant::now() + pause.unwrap_or(doubled.min(UPSTREAM_HOLD_MAX)));
        drop(hold);
        self.note(error);
    }

    fn note(&self, error: &Error) {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(source) = cause {
            text.push_str(&format!(": {source}"));
            cause = source.source();
        }
        tracing::warn!(upstream = %self.upstream.name, error = text, "an upstream failed");
        self.upstream.note_failure(text);
    }

    fn lock(&self) -> MutexGuard<'_, Hold> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_a_host_and_docker_hub_has_one_name() {
        let address = |registry: &str, secure| Some(Address { registry: registry.into(), secure });
        for (url, want) in [
            ("https://docker.io", address("docker.io", true)),
            ("https://registry-1.docker.io/", address("docker.io", true)),
            ("https://index.docker.io", address("docker.io", true)),
            ("https://ghcr.io", address("ghcr.io", true)),
            ("https://ghcr.io:443", address("ghcr.io", true)),
            ("http://box:5000", address("box:5000", false)),
            ("http://box", address("box:80", false)),
            ("https://127.0.0.1:5000", address("127.0.0.1:5000", true)),
            ("https://ghcr.io/acme", None),
            ("https://ghcr.io/?x=y", None),
            ("https://ann:secret@ghcr.io", None),
            ("ftp://ghcr.io", None),
            ("ghcr.io", None),
            ("", None),
        ] {
            assert_eq!(address_of(url), want, "{url}");
        }
    }
}
