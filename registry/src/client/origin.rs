use std::{borrow::Cow, fmt, net::IpAddr};

use http::Uri;
use spec::Reference;

/// Docker Hub, as it is named in references.
const HUB: &str = "docker.io";

/// Scheme, host and port. Credentials belong to exactly one origin.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Origin {
    pub secure: bool,
    /// A name or an address, without brackets.
    pub host: String,
    pub port: u16,
}

impl Origin {
    /// From `HOST[:PORT]` as it stands in a reference.
    pub fn of_registry(registry: &str, secure: bool) -> Option<Self> {
        // The API of Docker Hub has another host name.
        let registry = if registry == HUB { "registry-1.docker.io" } else { registry };
        let scheme = if secure { "https" } else { "http" };
        Self::of_uri(&format!("{scheme}://{registry}/").parse().ok()?)
    }

    /// From an absolute URL; `None` when it is relative, of another scheme, or has user
    /// information.
    pub fn of_uri(uri: &Uri) -> Option<Self> {
        let secure = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        if uri.authority()?.as_str().contains('@') {
            return None;
        }
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        (!host.is_empty()).then_some(Self { secure, host, port })
    }

    /// `HOST:PORT` for the `Host` header, as it was asked for.
    pub fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.secure, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

/// The name of the repository of `reference` at its registry: at Docker Hub, a name of one word
/// belongs to `library/`.
pub(crate) fn repository_of(reference: &Reference) -> Cow<'_, str> {
    match reference.repository() {
        name if reference.registry() == Some(HUB) && !name.contains('/') => {
            format!("library/{name}").into()
        }
        name => name.into(),
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority())
    }
}

/// Whether bytes for `registry` (`HOST[:PORT]`) never leave this machine, so that plain HTTP
/// discloses nothing.
pub(crate) fn is_loopback(registry: &str) -> bool {
    let Some(origin) = Origin::of_registry(registry, false) else { return false };
    match origin.host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => origin.host == "localhost" || origin.host.ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for (registry, want) in [
            ("localhost:5000", true),
            ("registry.localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.8.8.8", true),
            ("[::1]:5000", true),
            ("localhost.example.com", false),
            ("box.local:5000", false),
            ("10.0.0.1:5000", false),
            ("a@localhost", false),
        ] {
            assert_eq!(is_loopback(registry), want, "{registry}");
        }
    }

    #[test]
    fn a_name_of_one_word_belongs_to_library_at_docker_hub_only() {
        for (reference, want) in [
            ("docker.io/nginx:1", "library/nginx"),
            ("docker.io/me/nginx", "me/nginx"),
            ("docker.io/library/nginx", "library/nginx"),
            ("ghcr.io/nginx", "nginx"),
            ("localhost:5000/nginx", "nginx"),
        ] {
            assert_eq!(repository_of(&reference.parse().unwrap()), want, "{reference}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        for (url, want) in [
            ("https://Example.com/a", Some("example.com")),
            ("https://example.com:443/a", Some("example.com")),
            ("http://example.com:443/a", Some("example.com:443")),
            ("http://[::1]:5000/", Some("[::1]:5000")),
            ("ftp://example.com/", None),
            ("/v2/", None),
            ("https://user:password@example.com/", None),
        ] {
            let got = Origin::of_uri(&url.parse().unwrap()).map(|o| o.to_string());
            assert_eq!(got.as_deref(), want, "{url}");
        }
    }
}
