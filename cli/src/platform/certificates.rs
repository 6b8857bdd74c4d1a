//! Certificates of the platform's own authority, for its servers on addresses that other machines
//! reach.

use std::net::IpAddr;

use anyhow::Context as _;
use orchestrator::{ServerCertificate, certificate_authority, issue_certificate};

use crate::home::Home;

/// A certificate for the server at `address`, and at the other addresses and names in `names`.
pub fn issue(home: &Home, address: IpAddr, names: &[String]) -> anyhow::Result<ServerCertificate> {
    let own = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let address = (!address.is_unspecified()).then(|| address.to_string());
    let machine = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let is_name =
        |name: &String| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    let machine = Some(machine).filter(|name| !name.is_empty() && is_name(name));
    let mut all: Vec<String> =
        own.into_iter().chain(address).chain(machine).chain(names.iter().cloned()).collect();
    all.sort_unstable();
    all.dedup();
    Ok(issue_certificate(&home.folder("server")?, &all)?)
}

/// The authority of this platform, in DER.
pub fn authorities(home: &Home) -> anyhow::Result<Vec<Vec<u8>>> {
    let pem = certificate_authority(&home.folder("server")?)?;
    let certificates = net::tls::certificates(&pem).context("cannot read the platform's CA")?;
    Ok(certificates.into_iter().map(|certificate| certificate.to_vec()).collect())
}

/// Whether a control plane has this home, and so an authority.
pub fn has_authority(home: &Home) -> bool {
    home.path().join("server/ca.key").exists()
}
