//! Certificate authorities of registries: `certs.d/HOST:PORT/ca.crt` in the home, as other engines
//! lay them out, beside those that this machine and the web trust.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};

use crate::{
    failure::{Advice, USAGE_ERROR},
    home::{Home, write_private},
    text_file::text_file,
};

/// Where distributions keep what they trust; the first that is there counts.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// A bundle of a distribution has a quarter of it.
const BUNDLE_BYTES_MAX: u64 = 1 << 20;

/// Certificates in DER.
pub type Authorities = Vec<Vec<u8>>;

/// The authorities of `registry`: those of this home, and of this machine.
pub fn of(home: &Home, registry: &str) -> anyhow::Result<Authorities> {
    let own = file(home, registry);
    let mut authorities = if own.exists() { read(&own)? } else { Vec::new() };
    authorities.extend(system());
    Ok(authorities)
}

/// Keeps the authorities in the PEM text `pem` as those of `registry`.
pub fn keep(home: &Home, registry: &str, pem: &str) -> anyhow::Result<()> {
    let path = file(home, registry);
    let folder = path.parent().context("the file lies in a folder")?;
    disk::private_folder(folder)
        .with_context(|| format!("cannot make the folder `{}`", folder.display()))?;
    write_private(&path, pem.as_bytes())
}

/// The authorities in the PEM file at `path`.
pub fn read(path: &Path) -> anyhow::Result<Authorities> {
    let shown = path.display();
    let text = text(path).with_context(|| format!("cannot read `{shown}`"))?;
    let authorities = parse(&text);
    ensure!(
        !authorities.is_empty(),
        Advice::new(format!("there is no certificate in `{shown}`"))
            .hint("--ca takes the certificate of the authority in a PEM file")
            .code(USAGE_ERROR)
    );
    Ok(authorities)
}

fn file(home: &Home, registry: &str) -> PathBuf {
    home.path().join("certs.d").join(registry).join("ca.crt")
}

fn system() -> Authorities {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let usual = || SYSTEM_BUNDLES.iter().map(PathBuf::from).find(|path| path.exists());
    let bundle = named.or_else(usual);
    bundle.and_then(|path| text(&path).ok()).map(|text| parse(&text)).unwrap_or_default()
}

pub fn text(path: &Path) -> std::io::Result<String> {
    match fs::metadata(path)?.len() > BUNDLE_BYTES_MAX {
        true => Err(std::io::Error::other("it is larger than any list of authorities")),
        false => text_file(path, BUNDLE_BYTES_MAX),
    }
}

fn parse(text: &str) -> Authorities {
    let certificates = net::tls::certificates(text).unwrap_or_default();
    certificates.into_iter().map(|certificate| certificate.to_vec()).collect()
}
