//! Another registry, as a server calls it: of an upstream or of a replication.

use std::{collections::HashSet, time::Duration};

use http::Uri;
use spec::Reference;

use crate::{
    Auth, Client, ClientOptions, Error, Reach,
    client::Origin,
    limits::{REMOTE_IDLE_TIME_MAX, REMOTE_RETRIES_MAX},
    protocol::RegistryLogin,
};

/// Docker Hub: its name in references, and the hosts that stand for it.
const HUB: &str = "docker.io";
const HUB_HOSTS: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// The longest pause between two tries of one request.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

pub(super) struct RemoteRegistry {
    pub client: Client,
    name: String,
}

/// Where a registry is.
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

impl RemoteRegistry {
    /// The registry at `url`, which is at a public address unless it may be at an internal one, as
    /// is in any case what it sends its clients to.
    pub fn new(url: &str, may_be_internal: bool, login: Option<&RegistryLogin>) -> Option<Self> {
        let Address { registry: name, secure } = address_of(url)?;
        let only = |wanted: bool| HashSet::from_iter(wanted.then(|| name.clone()));
        let mut options = ClientOptions {
            plain_http: only(!secure),
            tls: only(secure),
            reach: Reach::Public { registries: only(may_be_internal), networks: Vec::new() },
            idle_time_max: REMOTE_IDLE_TIME_MAX,
            retries_max: REMOTE_RETRIES_MAX,
            backoff_max: BACKOFF_MAX,
            ..ClientOptions::default()
        };
        if let Some(login) = login {
            let (user, password) = (login.username.clone(), login.password.clone());
            options.auth.insert(name.clone(), Auth::Password { user, password });
        }
        Some(Self { client: Client::new(options), name })
    }

    /// A tag or a digest of a repository there.
    pub fn reference(&self, repository: &str, target: &str) -> Result<Reference, Error> {
        let separator = if target.contains(':') { '@' } else { ':' };
        let text = format!("{}/{repository}{separator}{target}", self.name);
        text.parse().map_err(|_| Error::InvalidRepository { name: repository.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_a_host_and_docker_hub_has_one_name() {
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
