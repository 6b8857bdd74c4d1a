use std::path::Path;

use crate::{
    Error,
    state::{ca::Ca, files, shared::now},
};

/// A certificate of the platform's CA, in PEM.
#[derive(Debug, Clone)]
pub struct ServerCertificate {
    /// The certificate, and the CA behind it.
    pub chain: String,
    pub key: String,
    pub ca: String,
}

/// Makes a certificate for a server that clients know by `names` (DNS names and addresses), signed
/// by the CA of the control plane whose folder is `data_dir`. The CA is made when there is none.
///
/// # Errors
/// When the CA cannot be read, or a name is none.
pub fn issue_certificate(data_dir: &Path, names: &[String]) -> Result<ServerCertificate, Error> {
    files::private_folder(data_dir)?;
    let ca = Ca::open(data_dir, now())?;
    let (leaf, key) = ca.named(names, now())?;
    Ok(ServerCertificate { chain: leaf + &ca.pem, key, ca: ca.pem })
}

/// The certificate of that CA, in PEM.
///
/// # Errors
/// When it cannot be read or made.
pub fn certificate_authority(data_dir: &Path) -> Result<String, Error> {
    files::private_folder(data_dir)?;
    Ok(Ca::open(data_dir, now())?.pem)
}

#[cfg(test)]
mod tests {
    use net::tls;

    use super::*;

    #[test]
    fn a_server_gets_a_certificate_of_the_ca_for_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["registry.example.com", "10.0.0.5", "::1"].map(str::to_owned);
        let issued = issue_certificate(dir.path(), &names).unwrap();
        let again = issue_certificate(dir.path(), &names).unwrap();
        assert_eq!(issued.ca, again.ca, "the CA stays");
        assert_ne!(issued.key, again.key);
        let chain = tls::certificates(&issued.chain).unwrap();
        assert_eq!(chain.len(), 2);
        let leaf = rustls::server::ParsedCertificate::try_from(&chain[0]).unwrap();
        for (name, want) in names
            .iter()
            .map(|name| (name.as_str(), true))
            .chain([("evil.example.com", false), ("10.0.0.6", false)])
        {
            let name = rustls::pki_types::ServerName::try_from(name).unwrap();
            let is_named = rustls::client::verify_server_name(&leaf, &name).is_ok();
            assert_eq!(is_named, want, "{name:?}");
        }
        assert!(issue_certificate(dir.path(), &["n\u{e4}me".to_owned()]).is_err());
    }
}
