use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf,
};
use serde::{Deserialize, Serialize};
use spec::{SecretValue, Tenant};

/// Closes the values of secrets before they come into the store, and opens them again. The store
/// without `secret.key` reveals nothing; and what was sealed for one name of one tenant opens for
/// no other, so records that were swapped in the store do not lead a secret to the wrong task.
pub(crate) struct Seal(LessSafeKey);

/// A value as it is stored.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Sealed {
    /// Random: with 96 bits of it, no two secrets of a store meet.
    nonce: String,
    /// With its tag at the end.
    value: String,
}

impl Seal {
    /// The key is made from the one in `secret.key`, and good for nothing else that is made from
    /// it.
    pub fn from(key: &[u8]) -> Self {
        Self::with_label(key, b"secrets at rest, version 1")
    }

    /// The same for the keys of certificates: neither opens what the other has sealed.
    pub fn of_certificates(key: &[u8]) -> Self {
        Self::with_label(key, b"keys of certificates at rest, version 1")
    }

    fn with_label(key: &[u8], label: &[u8]) -> Self {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"margay").extract(key);
        let label = [label];
        let key =
            root.expand(&label, &CHACHA20_POLY1305).expect("32 bytes are no more than HKDF gives");
        Self(LessSafeKey::new(UnboundKey::from(key)))
    }

    pub fn close(&self, tenant: &Tenant, name: &impl fmt::Display, value: &SecretValue) -> Sealed {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).expect("the kernel gives random numbers");
        let mut bytes = value.expose().to_vec();
        self.0
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                whose(tenant, name),
                &mut bytes,
            )
            .expect("a secret is shorter than a cipher allows");
        Sealed { nonce: STANDARD.encode(nonce), value: STANDARD.encode(bytes) }
    }

    /// Nothing when it was sealed with another key, for another name or tenant, or has changed
    /// since.
    pub fn open(
        &self,
        tenant: &Tenant,
        name: &impl fmt::Display,
        sealed: &Sealed,
    ) -> Option<SecretValue> {
        let nonce = STANDARD.decode(&sealed.nonce).ok()?;
        let nonce = Nonce::try_assume_unique_for_key(&nonce).ok()?;
        let mut bytes = STANDARD.decode(&sealed.value).ok()?;
        let opened = self.0.open_in_place(nonce, whose(tenant, name), &mut bytes).ok()?;
        SecretValue::new(opened.to_vec()).ok()
    }
}

/// Neither has a `/` in it.
fn whose(tenant: &Tenant, name: &impl fmt::Display) -> Aad<Vec<u8>> {
    Aad::from(format!("{tenant}/{name}").into_bytes())
}

#[cfg(test)]
mod tests {
    use spec::SecretName;

    use super::*;

    #[test]
    fn a_sealed_secret_opens_for_its_own_name_tenant_and_key_and_for_nothing_else() {
        let seal = Seal::from(b"one key");
        let (acme, other): (Tenant, Tenant) = ("acme".parse().unwrap(), "other".parse().unwrap());
        let (key, twin): (SecretName, SecretName) =
            ("key".parse().unwrap(), "twin".parse().unwrap());
        let value = SecretValue::new(b"hunter2".to_vec()).unwrap();
        let sealed = seal.close(&acme, &key, &value);
        assert_eq!(seal.open(&acme, &key, &sealed), Some(value.clone()));
        assert_eq!(seal.open(&other, &key, &sealed), None);
        assert_eq!(seal.open(&acme, &twin, &sealed), None);
        assert_eq!(Seal::from(b"another key").open(&acme, &key, &sealed), None);
        assert_eq!(Seal::of_certificates(b"one key").open(&acme, &key, &sealed), None);
        let again = seal.close(&acme, &key, &value);
        assert!(
            again.nonce != sealed.nonce && again.value != sealed.value,
            "the same value does not show twice"
        );
        let mut bytes = STANDARD.decode(&sealed.value).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            let broken = Sealed { value: STANDARD.encode(&bytes), ..sealed.clone() };
            assert_eq!(seal.open(&acme, &key, &broken), None, "byte {at}");
            bytes[at] ^= 1;
        }
        for text in ["", "A", "AAAA", "é"] {
            let broken = Sealed { nonce: text.to_owned(), value: text.to_owned() };
            assert_eq!(seal.open(&acme, &key, &broken), None, "{text}");
        }
    }
}
