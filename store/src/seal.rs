use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf,
};
use serde::{Deserialize, Serialize};

/// Closes secrets before they come into a store, and opens them again. The store without the file
/// of the key reveals nothing; and what was sealed for one owner opens for no other, so records
/// that were swapped in the store lead no secret to the wrong place.
pub struct Seal(LessSafeKey);

/// A secret as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Random: with 96 bits of it, no two secrets of a store meet.
    nonce: String,
    /// With its tag at the end.
    value: String,
}

impl Seal {
    /// The key is made from `key`, and good for nothing else that is made from it under another
    /// label.
    pub fn new(key: &[u8], label: &'static str) -> Self {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"margay").extract(key);
        let label = [label.as_bytes()];
        let key =
            root.expand(&label, &CHACHA20_POLY1305).expect("32 bytes are no more than HKDF gives");
        Self(LessSafeKey::new(UnboundKey::from(key)))
    }

    /// Seals `secret` for `owner`, the name of the only record that it may be opened for.
    pub fn close(&self, owner: &str, secret: &[u8]) -> Sealed {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).expect("the kernel gives random numbers");
        let mut bytes = secret.to_vec();
        self.0
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(owner.as_bytes()),
                &mut bytes,
            )
            .expect("a secret is shorter than a cipher allows");
        Sealed { nonce: STANDARD.encode(nonce), value: STANDARD.encode(bytes) }
    }

    /// `None` when it was sealed with another key or for another owner, or has changed since.
    pub fn open(&self, owner: &str, sealed: &Sealed) -> Option<Vec<u8>> {
        let nonce = STANDARD.decode(&sealed.nonce).ok()?;
        let nonce = Nonce::try_assume_unique_for_key(&nonce).ok()?;
        let mut bytes = STANDARD.decode(&sealed.value).ok()?;
        let opened = self.0.open_in_place(nonce, Aad::from(owner.as_bytes()), &mut bytes).ok()?;
        Some(opened.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_secret_opens_for_its_own_owner_key_and_label_and_for_nothing_else() {
        let seal = Seal::new(b"one key", "label");
        let sealed = seal.close("acme/key", b"hunter2");
        assert_eq!(seal.open("acme/key", &sealed).as_deref(), Some(&b"hunter2"[..]));
        assert_eq!(seal.open("acme/twin", &sealed), None);
        assert_eq!(Seal::new(b"another key", "label").open("acme/key", &sealed), None);
        assert_eq!(Seal::new(b"one key", "other").open("acme/key", &sealed), None);
        let again = seal.close("acme/key", b"hunter2");
        assert!(
            again.nonce != sealed.nonce && again.value != sealed.value,
            "the same value does not show twice"
        );
        let mut bytes = STANDARD.decode(&sealed.value).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            let broken = Sealed { value: STANDARD.encode(&bytes), ..sealed.clone() };
            assert_eq!(seal.open("acme/key", &broken), None, "byte {at}");
            bytes[at] ^= 1;
        }
        for text in ["", "A", "AAAA", "é"] {
            let broken = Sealed { nonce: text.to_owned(), value: text.to_owned() };
            assert_eq!(seal.open("acme/key", &broken), None, "{text}");
        }
    }
}
