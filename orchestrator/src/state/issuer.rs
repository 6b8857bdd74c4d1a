use std::path::Path;

use ring::hmac;

use super::{ca::Ca, files, now, seal::Seal, tokens};
use crate::Error;

/// The keys of one control plane, and what is issued with them.
pub(crate) struct Issuer {
    pub ca: Ca,
    /// For secrets of tenants.
    pub seal: Seal,
    /// For the keys of their certificates.
    pub certificate_seal: Seal,
    key: hmac::Key,
}

impl Issuer {
    /// From the files in `folder`, made on the first start.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        files::private_folder(folder)?;
        let ca = Ca::open(folder, now())?;
        let key = files::private_file(&folder.join("secret.key"), || {
            Ok(tokens::random_hex().into_bytes())
        })?;
        let (seal, certificate_seal) = (Seal::from(&key), Seal::of_certificates(&key));
        Ok(Self { ca, seal, certificate_seal, key: hmac::Key::new(hmac::HMAC_SHA256, &key) })
    }

    /// A token that only this control plane can make, and make again for the same name: so a
    /// repeated create has the same answer, and the store has neither.
    pub fn token(&self, name: impl AsRef<[u8]>) -> String {
        tokens::hex(hmac::sign(&self.key, name.as_ref()).as_ref())
    }

    /// Whether `token` is the one for `name`, in constant time.
    pub fn verify(&self, name: &str, token: &str) -> bool {
        let tag = tokens::from_hex(token);
        tag.is_some_and(|tag| hmac::verify(&self.key, name.as_bytes(), &tag).is_ok())
    }
}
