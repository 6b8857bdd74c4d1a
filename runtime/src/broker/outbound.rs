//! Whether a connection is granted, before anything is resolved.

use spec::{Capability, Host, OutboundGrant, Scheme};

use crate::frame::{Refusal, Target};

/// A connection that a grant allows, before anything is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowed {
    pub private: bool,
}

/// Whether some grant allows `target`. Pure: names, not addresses.
pub(crate) fn decide(grants: &[OutboundGrant], target: &Target) -> Result<Allowed, Refusal> {
    let scheme = Scheme::from(target.scheme);
    let Some(host) = host(&target.host) else { return Err(Refusal::NoSuchName) };
    let matching = grants.iter().filter(|grant| grant.allows(scheme, &host, target.port));
    match matching.map(|grant| grant.private).reduce(|one, other| one || other) {
        Some(private) => Ok(Allowed { private }),
        None => Err(Refusal::Denied { line: line_for(target) }),
    }
}

/// The line that would grant `target`.
pub(crate) fn line_for(target: &Target) -> String {
    let scheme = Scheme::from(target.scheme).name();
    let host = match target.host.parse::<std::net::Ipv6Addr>() {
        Ok(v6) => format!("[{v6}]"),
        Err(_) => target.host.clone(),
    };
    format!("net.out:{scheme}://{host}:{}", target.port)
}

/// A host as a guest writes it, read with the grammar of the grants.
fn host(text: &str) -> Option<Host> {
    let bracketed = if text.contains(':') { format!("[{text}]") } else { text.to_owned() };
    let line = format!("net.out:http://{bracketed}:80").parse::<Capability>().ok()?;
    match line {
        Capability::Outbound(OutboundGrant {
            host: h @ (Host::Name(_) | Host::Address(_)),
            ..
        }) => Some(h),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::frame::SchemeName;

    pub fn target(host: &str, port: u16) -> Target {
        Target { scheme: SchemeName::Http, host: host.to_owned(), port }
    }

    pub fn grants(lines: &[&str]) -> Vec<OutboundGrant> {
        let lines = lines.iter().map(|line| line.parse::<Capability>().unwrap());
        lines.collect::<spec::Capabilities>().outbound
    }

    #[test]
    fn what_no_line_grants_is_denied_with_the_line_that_would() {
        let held =
            grants(&["net.out:http://api.example.com:80", "net.out:https://api.example.com:443"]);
        assert_eq!(decide(&held, &target("api.example.com", 80)), Ok(Allowed { private: false }));
        for (host, port, line) in [
            ("api.example.com", 443, "net.out:http://api.example.com:443"),
            ("example.com", 80, "net.out:http://example.com:80"),
            ("10.0.0.1", 80, "net.out:http://10.0.0.1:80"),
            ("::1", 80, "net.out:http://[::1]:80"),
        ] {
            let denied = decide(&held, &target(host, port));
            assert_eq!(denied, Err(Refusal::Denied { line: line.to_owned() }), "{host}:{port}");
            line.parse::<Capability>().expect("the line that is offered parses");
        }
    }

    #[test]
    fn a_host_that_is_neither_name_nor_address_is_no_host() {
        let held = grants(&["net.out:http://*.example.com:80"]);
        for host in [
            "127.1",
            "0x7f.1",
            "2130706433",
            "a@b.example.com",
            "*.example.com",
            "",
            "a b",
            "127.0.0.1:80",
        ] {
            assert!(decide(&held, &target(host, 80)).is_err(), "{host}");
        }
    }
}
