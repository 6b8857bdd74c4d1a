//! What stands between a server and its clients: a certificate, and proxies.

use std::path::{Path, PathBuf};

use net::tls::{CertificateError, CertificateFiles};
use node::{PrivateNetwork, ingress::AccessLogFormat};
use spec::PortRange;

use super::copies::{Copies, Holder};
use crate::{failure::Advice, home::Home};

#[derive(Debug, Clone, Default, clap::Args)]
pub struct Certificate {
    /// Speak TLS with the certificate in this PEM file, which is read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert, in a PEM file too
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, clap::Args)]
pub struct Proxies {
    /// Believe proxies in this network what they say of their clients (X-Forwarded-For, -Proto and
    /// -Host); repeat it for more
    #[arg(long, value_name = "ADDRESS/BITS")]
    pub trusted_proxy: Vec<PrivateNetwork>,
}

#[derive(Debug, Clone, Default, clap::Args)]
pub struct IngressFront {
    #[command(flatten)]
    pub certificate: Certificate,
    #[command(flatten)]
    pub proxies: Proxies,
    /// Connections of trusted proxies begin with a header of the PROXY protocol, version 1 or 2
    #[arg(long, requires = "trusted_proxy")]
    pub proxy_protocol: bool,
    /// Keep a line for each request of a client in `ingress/access.log` of the home: json, or
    /// combined as nginx and Apache write it
    #[arg(long, value_name = "FORMAT")]
    pub access_log: Option<AccessLogFormat>,
    /// Set these ports of the ingress aside for services that speak no HTTP (service create
    /// --listener), as in 20000-20100
    #[arg(long, value_name = "FIRST-LAST")]
    pub ingress_ports: Option<PortRange>,
}

/// How clients reach the registry, beside where it listens.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RegistryFront {
    #[command(flatten)]
    pub certificate: Certificate,
    #[command(flatten)]
    pub proxies: Proxies,
    #[command(flatten)]
    pub url: PublicUrl,
    /// The URL of the token endpoint, where it is not /token below --public-url
    #[arg(long, value_name = "URL", value_parser = url)]
    realm: Option<String>,
}

#[derive(Debug, Clone, Default, clap::Args)]
pub struct PublicUrl {
    /// Where clients reach the registry, when a proxy in front does not say it
    #[arg(long, value_name = "URL", value_parser = url)]
    public_url: Option<String>,
    /// Let other machines speak plain HTTP with the registry, in which passwords travel as they are
    #[arg(long)]
    pub insecure: bool,
}

/// Parses `https://HOST[:PORT][/PATH]`, which is sent to clients in quotes.
fn url(text: &str) -> Result<String, &'static str> {
    let wrong = "use an URL of http or https, as in https://registry.example.com";
    let uri: http::Uri = text.parse().map_err(|_| wrong)?;
    let is_web = matches!(uri.scheme_str(), Some("https" | "http"));
    let is_plain = !text.contains(['@', '"', '\\', '?', '#']);
    match is_web && is_plain && uri.host().is_some_and(|host| !host.is_empty()) {
        true => Ok(text.trim_end_matches('/').to_owned()),
        false => Err(wrong),
    }
}

impl PublicUrl {
    /// As arguments of the process `margay registry`.
    pub fn arguments(&self) -> impl Iterator<Item = String> {
        let url = self.public_url.iter().flat_map(|url| ["--public-url".to_owned(), url.clone()]);
        url.chain(self.insecure.then(|| "--insecure".to_owned()))
    }
}

impl RegistryFront {
    /// As arguments of the process `margay registry`, beside its certificate.
    pub fn arguments(&self) -> impl Iterator<Item = String> {
        let realm = self.realm.iter().flat_map(|url| ["--realm".to_owned(), url.clone()]);
        self.proxies.arguments().chain(self.url.arguments()).chain(realm)
    }

    /// The URL of the token endpoint, where it is fixed.
    pub fn realm(&self) -> Option<String> {
        let below = |url: &String| format!("{url}/token");
        self.realm.clone().or_else(|| self.url.public_url.as_ref().map(below))
    }
}

impl Certificate {
    /// Certificate and key, as they were given.
    pub fn paths(&self) -> Option<(&Path, &Path)> {
        self.tls_cert.as_deref().zip(self.tls_key.as_deref())
    }

    /// Copies of it for `holders`, where there is one.
    pub fn copies(&self, home: &Home, holders: &[Holder]) -> anyhow::Result<Option<Copies>> {
        self.open()?.map(|files| Copies::make(files, home, holders)).transpose()
    }

    pub fn open(&self) -> anyhow::Result<Option<CertificateFiles>> {
        // A server enters its own folder later.
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let files = self
            .paths()
            .map(|(chain, key)| CertificateFiles::open(&absolute(chain), &absolute(key)));
        Ok(files.transpose().map_err(|error| advice(&error))?)
    }
}

fn advice(error: &CertificateError) -> Advice {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    Advice::new(format!("{error}{}", cause.unwrap_or_default())).hint(error.hint())
}

impl Proxies {
    pub fn trusted(&self) -> net::TrustedProxies {
        net::TrustedProxies::new(self.trusted_proxy.iter().map(|network| network.host()))
    }

    /// As arguments of another process.
    pub fn arguments(&self) -> impl Iterator<Item = String> {
        let networks = self.trusted_proxy.iter();
        networks.flat_map(|network| ["--trusted-proxy".to_owned(), network.to_string()])
    }
}

impl IngressFront {
    /// As arguments of the process `margay ingress`, beside its certificate.
    pub fn arguments(&self) -> impl Iterator<Item = String> {
        let protocol = self.proxy_protocol.then(|| "--proxy-protocol".to_owned());
        let log = self.access_log.iter();
        let log = log.flat_map(|format| ["--access-log".to_owned(), format.to_string()]);
        self.proxies.arguments().chain(protocol).chain(log).chain(self.ports())
    }

    /// Of these, the ones that the control plane takes too.
    pub fn ports(&self) -> impl Iterator<Item = String> {
        let ports = self.ingress_ports.iter();
        ports.flat_map(|ports| ["--ingress-ports".to_owned(), ports.to_string()])
    }
}
