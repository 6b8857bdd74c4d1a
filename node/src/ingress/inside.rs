//! Requests of guests of this node for services on others: by a socket that the agent alone opens,
//! which says first for which tenant.

use std::{collections::BTreeMap, io};

use spec::Tenant;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What the agent says before a guest has the connection: this and a tenant, in one line.
const PREFACE: &str = "margay inside 1 ";
/// A preface with the longest name of a tenant.
const PREFACE_BYTES_MAX: usize = PREFACE.len() + 64;

/// What goes before the first byte of a guest of `tenant`.
pub(crate) fn inside_preface(tenant: &str) -> Vec<u8> {
    format!("{PREFACE}{tenant}\n").into_bytes()
}

/// Reads it, and nothing of what follows.
pub(super) async fn read_preface(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Tenant> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "the agent named no tenant");
    let mut line = Vec::with_capacity(PREFACE_BYTES_MAX);
    loop {
        match stream.read_u8().await? {
            b'\n' => break,
            _ if line.len() >= PREFACE_BYTES_MAX => return Err(bad()),
            byte => line.push(byte),
        }
    }
    let line = String::from_utf8(line).map_err(|_| bad())?;
    line.strip_prefix(PREFACE).and_then(|name| name.parse().ok()).ok_or_else(bad)
}

/// The host of a service by its name inside, `SERVICE.CLUSTER`: what its host name begins with. The
/// names of two tenants may begin alike, and `is_its` tells them apart.
pub(crate) fn named_inside<'a, T>(
    hosts: &'a BTreeMap<String, T>,
    name: &str,
    is_its: impl Fn(&T) -> bool,
) -> Option<(&'a str, &'a T)> {
    let is_whole = name.split('.').count() == 2 && name.split('.').all(|label| !label.is_empty());
    if !is_whole {
        return None;
    }
    let start = format!("{name}.");
    let named = hosts.range(start.clone()..).take_while(|(host, _)| host.starts_with(&start));
    let mut named = named.map(|(host, known)| (host.as_str(), known));
    named.find(|(_, known)| is_its(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_preface_names_a_tenant_and_ends_before_the_request() {
        let mut bytes = inside_preface("ann");
        bytes.extend(b"GET / HTTP/1.1\r\n");
        let mut stream = &bytes[..];
        assert_eq!(read_preface(&mut stream).await.unwrap().as_str(), "ann");
        assert_eq!(stream, b"GET / HTTP/1.1\r\n");
        let long = format!("{PREFACE}{}\n", "a".repeat(100));
        for bad in
            ["", "GET / HTTP/1.1\r\n\r\n", "margay inside 1 A b\n", "margay inside 2 a\n", &long]
        {
            assert!(read_preface(&mut bad.as_bytes()).await.is_err(), "{bad}");
        }
    }
}
