//! What stands between a server and its clients: a certificate, and proxies.

use std::{
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use net::tls::{CertificateError, CertificateFiles};
use node::{
    PrivateNetwork,
    ingress::{CERTIFICATE_FILE, KEY_FILE},
};

use crate::{failure::Advice, home::Home, output::notice};

/// Between two looks at the files that the ingress has a copy of.
const LOOK_EVERY: Duration = Duration::from_secs(2);

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

    pub fn open(&self) -> anyhow::Result<Option<CertificateFiles>> {
        // A server enters its own folder later.
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let files = self
            .paths()
            .map(|(chain, key)| CertificateFiles::open(&absolute(chain), &absolute(key)));
        Ok(files.transpose().map_err(|error| advice(&error))?)
    }

    /// The folders of the files, unless that is `folder`.
    pub fn folders_outside(&self, folder: &Path) -> Vec<PathBuf> {
        let files = self.paths().map(|(chain, key)| [chain, key]);
        let folders = files
            .into_iter()
            .flatten()
            .filter_map(|path| std::path::absolute(path).ok()?.parent().map(Path::to_owned));
        folders.filter(|found| found != folder).collect()
    }

    /// As arguments of a server that reads its copy of it in `folder`.
    fn copied(&self, folder: &Path) -> Vec<String> {
        let files = || arguments(&folder.join(CERTIFICATE_FILE), &folder.join(KEY_FILE));
        self.paths().map_or_else(Vec::new, |_| files())
    }
}

fn arguments(chain: &Path, key: &Path) -> Vec<String> {
    let text = |path: &Path| path.display().to_string();
    vec!["--tls-cert".to_owned(), text(chain), "--tls-key".to_owned(), text(key)]
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
    /// As arguments of the process `margay ingress`, which reads a copy of the certificate in its
    /// own folder: no other file is open to its user.
    pub fn arguments(&self, home: &Home) -> Vec<String> {
        let certificate = self.certificate.copied(&home.node().ingress());
        let protocol = self.proxy_protocol.then(|| "--proxy-protocol".to_owned());
        certificate.into_iter().chain(self.proxies.arguments()).chain(protocol).collect()
    }

    /// As arguments of the process `margay registry`, which reads a copy as well.
    pub fn registry_arguments(&self, home: &Home) -> Vec<String> {
        let certificate = self.certificate.copied(&registry_folder(home));
        certificate.into_iter().chain(self.proxies.arguments()).collect()
    }

    /// Gives the ingress its copy, before it is started, and the registry when there is one.
    pub fn copy(&self, home: &Home, registry: bool) -> anyhow::Result<Option<Copies>> {
        let Some(files) = self.certificate.open()? else { return Ok(None) };
        let certificate = self.certificate.clone();
        let copies = Copies { files, certificate, home: home.clone(), registry };
        copies.write()?;
        Ok(Some(copies))
    }
}

/// Beside the data of the registry, in a folder that belongs to its user.
fn registry_folder(home: &Home) -> PathBuf {
    home.path().join("registry")
}

/// Keeps the copies of the servers like their original: their users read no other file.
pub struct Copies {
    files: CertificateFiles,
    certificate: Certificate,
    home: Home,
    registry: bool,
}

impl Copies {
    fn write(&self) -> anyhow::Result<()> {
        let Some((chain, key)) = self.certificate.paths() else { return Ok(()) };
        node::ingress::copy_certificate(self.home.node(), chain, key)?;
        if self.registry {
            let folder = registry_folder(&self.home);
            write_for_owner(&folder, CERTIFICATE_FILE, &std::fs::read(chain)?)?;
            write_for_owner(&folder, KEY_FILE, &std::fs::read(key)?)?;
        }
        Ok(())
    }

    async fn keep_up(&self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.files.refresh()
                && let Err(error) = self.write()
            {
                notice(format_args!("The servers keep their certificate: {error:#}"));
            }
        }
    }
}

/// Replaces a file in the folder of a server, for the user that the folder belongs to.
pub fn write_for_owner(folder: &Path, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    disk::private_folder(folder)?;
    let owner = std::fs::metadata(folder)?;
    let path = folder.join(name);
    let fill = |file: &mut disk::NewFile| {
        file.write_all(bytes)?;
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::fchown(file.file(), Some(owner.uid()), Some(owner.gid()))?;
        }
        file.set_mode(0o600)
    };
    disk::write_with(&path, disk::Survives::Crash, fill)
        .with_context(|| format!("cannot write `{}`", path.display()))
}

/// Keeps the copies like their original, if there is one.
pub async fn keep_up(copies: Option<&Copies>) -> std::convert::Infallible {
    match copies {
        Some(copies) => copies.keep_up().await,
        None => std::future::pending().await,
    }
}
