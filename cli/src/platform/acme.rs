//! The authority that is asked for certificates of hosts.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use orchestrator::{AcmeConfig, ExternalAccount};
use spec::SecretValue;

use crate::{failure::Advice, text_file::text_file};

/// A key or a few certificates.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Clone, Default, clap::Args)]
pub struct AcmeFlags {
    /// Have certificates for the hosts of services from this authority, by ACME: the URL of its
    /// directory, or letsencrypt, or letsencrypt-staging to try it out
    #[arg(long, value_name = "URL", value_parser = directory, requires = "acme_agree")]
    acme: Option<String>,
    /// Agree to the terms of service of the authority
    #[arg(long, requires = "acme")]
    acme_agree: bool,
    /// Where the authority writes to
    #[arg(long, value_name = "ADDRESS", value_parser = email, requires = "acme")]
    acme_email: Option<String>,
    /// Trust the server of the authority by the certificates in this PEM file alone
    #[arg(long, value_name = "FILE", requires = "acme")]
    acme_ca: Option<PathBuf>,
    /// The id of the account that you have with the authority, where it asks for one (external
    /// account binding)
    #[arg(long, value_name = "ID", requires = "acme_eab_key")]
    acme_eab_key_id: Option<String>,
    /// The key of that account, in base64 in this file
    #[arg(long, value_name = "FILE", requires_all = ["acme", "acme_eab_key_id"])]
    acme_eab_key: Option<PathBuf>,
}

fn directory(text: &str) -> Result<String, &'static str> {
    let wrong = "use a URL of https, as in https://acme.example.com/directory, or letsencrypt";
    match text {
        "letsencrypt" => Ok("https://acme-v02.api.letsencrypt.org/directory".to_owned()),
        "letsencrypt-staging" => {
            Ok("https://acme-staging-v02.api.letsencrypt.org/directory".to_owned())
        }
        _ => {
            let uri: http::Uri = text.parse().map_err(|_| wrong)?;
            let has_host = uri.host().is_some_and(|host| !host.is_empty());
            let is_plain = !text.contains('@') && text.len() <= 1024;
            match uri.scheme_str() == Some("https") && has_host && is_plain {
                true => Ok(text.to_owned()),
                false => Err(wrong),
            }
        }
    }
}

fn email(text: &str) -> Result<String, &'static str> {
    let is_text = text.len() <= 254 && text.bytes().all(|byte| byte.is_ascii_graphic());
    let is_address = text
        .split_once('@')
        .is_some_and(|(user, host)| !user.is_empty() && host.contains('.') && !host.contains('@'));
    match is_text && is_address && !text.contains([',', '?', '<', '>', ':']) {
        true => Ok(text.to_owned()),
        false => Err("use one address, as in ops@example.com"),
    }
}

impl AcmeFlags {
    /// What the control plane is told. The files are read here: later it may not.
    pub fn config(&self) -> anyhow::Result<Option<AcmeConfig>> {
        let Some(directory) = self.acme.clone() else { return Ok(None) };
        let roots_pem = self.acme_ca.as_deref().map(roots).transpose()?;
        let external_account = match self.acme_eab_key_id.clone().zip(self.acme_eab_key.as_deref())
        {
            Some((id, file)) => Some(ExternalAccount { id, key: eab_key(file)? }),
            None => None,
        };
        let email = self.acme_email.clone();
        Ok(Some(AcmeConfig { directory, email, roots_pem, external_account }))
    }

    /// As arguments of the process `margay server`, which may begin in another folder.
    pub fn arguments(&self) -> impl Iterator<Item = String> {
        let file = |path: &Option<PathBuf>| {
            let path = path.as_ref()?;
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            Some(path.display().to_string())
        };
        let flags = [
            ("--acme", self.acme.clone()),
            ("--acme-email", self.acme_email.clone()),
            ("--acme-ca", file(&self.acme_ca)),
            ("--acme-eab-key-id", self.acme_eab_key_id.clone()),
            ("--acme-eab-key", file(&self.acme_eab_key)),
        ];
        let flags = flags.into_iter().filter_map(|(flag, value)| Some([flag.to_owned(), value?]));
        flags.flatten().chain(self.acme_agree.then(|| "--acme-agree".to_owned()))
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    let named = || format!("cannot read `{}`", path.display());
    let size = fs::metadata(path).with_context(named)?.len();
    ensure!(size <= FILE_BYTES_MAX, "`{}` has {size} bytes: too many", path.display());
    text_file(path, FILE_BYTES_MAX).with_context(named)
}

fn roots(path: &Path) -> anyhow::Result<String> {
    let pem = read(path)?;
    let roots = net::tls::certificates(&pem).unwrap_or_default();
    match !roots.is_empty() && net::tls::roots(roots).is_ok() {
        true => Ok(pem),
        false => Err(Advice::new(format!("there is no certificate in `{}`", path.display()))
            .hint(
                "--acme-ca takes a PEM file with the certificate of the authority's server, or of \
                 its issuer",
            )
            .into()),
    }
}

fn eab_key(path: &Path) -> anyhow::Result<SecretValue> {
    let text = read(path)?;
    let key = URL_SAFE_NO_PAD.decode(text.trim().trim_end_matches('='));
    match key.ok().filter(|key| !key.is_empty()).map(SecretValue::new) {
        Some(Ok(key)) => Ok(key),
        _ => Err(Advice::new(format!("there is no key in base64 in `{}`", path.display()))
            .hint(
                "--acme-eab-key takes a file with the HMAC key that the authority has shown, as it \
                 is",
            )
            .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_has_a_url_of_https_or_a_name_that_is_known() {
        for (text, want) in [
            ("letsencrypt", Some("https://acme-v02.api.letsencrypt.org/directory")),
            ("https://127.0.0.1:14000/dir", Some("https://127.0.0.1:14000/dir")),
            ("http://acme.example.com/dir", None),
            ("https://", None),
            ("https://user@acme.example.com/", None),
            ("acme.example.com", None),
            ("", None),
        ] {
            assert_eq!(directory(text).ok().as_deref(), want, "{text}");
        }
        for (text, want) in [
            ("ops@example.com", true),
            ("ops", false),
            ("@example.com", false),
            ("a@b@c.d", false),
            ("a@b.c,d@e.f", false),
            ("ops@example.com\n", false),
            ("a@b.c?subject=x", false),
        ] {
            assert_eq!(email(text).is_ok(), want, "{text}");
        }
    }
}
