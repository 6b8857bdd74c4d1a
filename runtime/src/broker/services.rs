//! Services of the platform, which have names that no resolver outside of it knows.

use std::{fmt, os::fd::OwnedFd};

use futures_util::future::BoxFuture;

/// The end of names of services inside a platform: `SERVICE.CLUSTER.internal`. ICANN keeps it for
/// private use, so that no name of the Internet ends with it.
pub const DOMAIN: &str = ".internal";

/// Connects to services by their names inside the platform.
pub trait Services: fmt::Debug + Send + Sync {
    /// A connection of a guest of `tenant` to the service that `host` names, which speaks plain
    /// HTTP. What is not a service of that tenant does not exist.
    fn connect<'a>(
        &'a self,
        tenant: &'a str,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, Result<OwnedFd, NotConnected>>;
}

/// Why there is no connection to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotConnected {
    /// The tenant has no such service.
    NoSuchService,
    /// It has, and cannot be reached now.
    Unreachable(String),
}

/// Whether `host` is a name inside the platform.
pub(super) fn is_internal(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    host.len() > DOMAIN.len()
        && host.as_bytes()[host.len() - DOMAIN.len()..].eq_ignore_ascii_case(DOMAIN.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_inside_ends_with_one_label() {
        for (host, want) in [
            ("cats.allthecats.internal", true),
            ("Cats.Allthecats.INTERNAL.", true),
            ("internal", false),
            (".internal", false),
            ("internal.example.com", false),
            ("notinternal", false),
            ("é.internal", true),
            ("xinternal", false),
            ("", false),
        ] {
            assert_eq!(is_internal(host), want, "{host}");
        }
    }
}
