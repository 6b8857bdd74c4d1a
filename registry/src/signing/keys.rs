use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use poly1305::{Poly1305, universal_hash::KeyInit};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair,
        UnparsedPublicKey,
    },
};
use salsa20::{
    XSalsa20,
    cipher::{KeyIvInit, StreamCipher},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use spec::Digest;

use super::pem;
use crate::limits::{KEY_DERIVATION_BYTES_MAX, KEY_FILE_BYTES_MAX};

/// A private key that signs images.
pub struct SigningKey(EcdsaKeyPair);

/// A public key: a point on P-256, uncompressed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerifyingKey([u8; POINT_BYTES]);

/// Why a file is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFault {
    #[error("it is no PEM file with a key")]
    NoPem,
    #[error("it is a `{0}`, and not a key of ECDSA on P-256")]
    Kind(String),
    #[error("the key is not one of ECDSA on P-256")]
    Curve,
    #[error("the password is wrong")]
    Password,
    #[error("it is encrypted in another way than cosign encrypts keys")]
    Encryption,
    #[error("decrypting it would take more than {} MiB", KEY_DERIVATION_BYTES_MAX >> 20)]
    TooExpensive,
}

const POINT_BYTES: usize = 65;

/// What DER has before the point of a public key on P-256.
///
/// # Spec
/// RFC 5480, "Subject Public Key Information".
const SPKI_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A private key as cosign writes it to a file: scrypt, and the secretbox of NaCl.
#[derive(Deserialize)]
struct Encrypted {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Deserialize)]
struct Kdf {
    name: String,
    params: KdfParams,
    salt: String,
}

#[derive(Deserialize)]
struct KdfParams {
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
}

#[derive(Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

impl SigningKey {
    /// Whether `text` is a key that takes a password.
    pub fn is_encrypted(text: &str) -> bool {
        pem::first_block(text).is_some_and(|(label, _)| is_encrypted_label(label))
    }

    /// Reads a private key from PEM: PKCS 8 as openssl writes it, or the encrypted one of
    /// `cosign generate-key-pair`.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub fn read(text: &str, password: &str) -> Result<Self, KeyFault> {
        if text.len() > KEY_FILE_BYTES_MAX {
            return Err(KeyFault::NoPem);
        }
        let (label, bytes) = pem::first_block(text).ok_or(KeyFault::NoPem)?;
        let pkcs8 = match label {
            "PRIVATE KEY" => bytes,
            label if is_encrypted_label(label) => decrypted(&bytes, password)?,
            other => return Err(KeyFault::Kind(other.to_owned())),
        };
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8, &random);
        pair.map(Self).map_err(|_| KeyFault::Curve)
    }

    pub fn verifying_key(&self) -> VerifyingKey {
        let point: Result<[u8; POINT_BYTES], _> = self.0.public_key().as_ref().try_into();
        VerifyingKey(point.expect("a public key on P-256 has 65 bytes"))
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.0.sign(&SystemRandom::new(), message);
        signature.expect("the system has random numbers").as_ref().to_vec()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.verifying_key().fingerprint())
    }
}

impl VerifyingKey {
    /// Reads a public key from PEM.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub fn read(text: &str) -> Result<Self, KeyFault> {
        if text.len() > KEY_FILE_BYTES_MAX {
            return Err(KeyFault::NoPem);
        }
        let (label, bytes) = pem::first_block(text).ok_or(KeyFault::NoPem)?;
        if label != "PUBLIC KEY" {
            return Err(KeyFault::Kind(label.to_owned()));
        }
        let point = bytes.strip_prefix(&SPKI_HEAD).ok_or(KeyFault::Curve)?;
        point.try_into().map(Self).map_err(|_| KeyFault::Curve)
    }

    /// As PEM.
    pub fn pem(&self) -> String {
        pem::written("PUBLIC KEY", &self.der())
    }

    /// The digest of the key, by which it is named.
    pub fn fingerprint(&self) -> String {
        Digest::of(&self.der()).to_string()
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.0);
        key.verify(message, signature).is_ok()
    }

    fn der(&self) -> Vec<u8> {
        [&SPKI_HEAD[..], &self.0].concat()
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", self.fingerprint())
    }
}

impl Serialize for VerifyingKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.pem())
    }
}

impl<'de> Deserialize<'de> for VerifyingKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

fn is_encrypted_label(label: &str) -> bool {
    matches!(label, "ENCRYPTED SIGSTORE PRIVATE KEY" | "ENCRYPTED COSIGN PRIVATE KEY")
}

fn decrypted(json: &[u8], password: &str) -> Result<Vec<u8>, KeyFault> {
    let Encrypted { kdf, cipher, ciphertext } =
        spec::json::from_slice(json).map_err(|_| KeyFault::Encryption)?;
    if kdf.name != "scrypt" || cipher.name != "nacl/secretbox" {
        return Err(KeyFault::Encryption);
    }
    let decode = |text: &str| BASE64_STANDARD.decode(text).map_err(|_| KeyFault::Encryption);
    let KdfParams { n, r, p } = kdf.params;
    let bytes = u64::from(r).saturating_mul(n).saturating_mul(128);
    if bytes.saturating_mul(u64::from(p)) > KEY_DERIVATION_BYTES_MAX {
        return Err(KeyFault::TooExpensive);
    }
    if !n.is_power_of_two() {
        return Err(KeyFault::Encryption);
    }
    let params = scrypt::Params::new(n.trailing_zeros() as u8, r, p);
    let params = params.map_err(|_| KeyFault::Encryption)?;
    let mut key = [0; 32];
    scrypt::scrypt(password.as_bytes(), &decode(&kdf.salt)?, &params, &mut key)
        .map_err(|_| KeyFault::Encryption)?;
    let nonce: [u8; 24] = decode(&cipher.nonce)?.try_into().map_err(|_| KeyFault::Encryption)?;
    opened(&key, &nonce, &decode(&ciphertext)?).ok_or(KeyFault::Password)
}

/// What is in a secretbox of NaCl: an authentication tag, and the message in the key stream behind
/// the 32 bytes that are the key of the tag.
fn opened(key: &[u8; 32], nonce: &[u8; 24], sealed: &[u8]) -> Option<Vec<u8>> {
    let (tag, text) = sealed.split_at_checked(16)?;
    let mut stream = [&[0; 32][..], text].concat();
    XSalsa20::new(key.into(), nonce.into()).apply_keystream(&mut stream);
    let message = stream.split_off(32);
    let tag_key: [u8; 32] = stream.try_into().ok()?;
    let expected = Poly1305::new(&tag_key.into()).compute_unpadded(text);
    // What differs is told by no time: the key of the tag is used once.
    (expected.as_slice() == tag).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secretbox_of_nacl_is_opened_with_its_key_alone() {
        // The example of NaCl's own tests, tests/secretbox.c.
        let key = hex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
        let nonce = hex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37");
        let sealed = hex(
            "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c5\
             31a1186ac0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8a\
             b932164548e526ae90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622\
             a43d14a6599b1f654cb45a74e355a5",
        );
        let key: [u8; 32] = key.try_into().unwrap();
        let nonce: [u8; 24] = nonce.try_into().unwrap();
        let message = opened(&key, &nonce, &sealed).expect("it opens");
        assert!(
            message.starts_with(&hex(
                "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffc"
            ))
        );
        let mut other = sealed.clone();
        other[20] ^= 1;
        assert_eq!(opened(&key, &nonce, &other), None);
        assert_eq!(opened(&[0; 32], &nonce, &sealed), None);
        assert_eq!(opened(&key, &nonce, &sealed[..15]), None);
    }

    fn hex(text: &str) -> Vec<u8> {
        let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
        text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }

    #[test]
    fn a_key_of_cosign_is_read_with_its_password() {
        // Of `cosign generate-key-pair`, 2.6.1.
        let (key, public) = (include_str!("cosign/cosign.key"), include_str!("cosign/cosign.pub"));
        assert!(SigningKey::is_encrypted(key));
        let read = SigningKey::read(key, "secret").unwrap().verifying_key();
        assert_eq!(read, VerifyingKey::read(public).unwrap());
        assert_eq!(read.pem(), public);
        let fault = SigningKey::read(key, "Secret").unwrap_err();
        assert!(matches!(fault, KeyFault::Password), "{fault}");
    }

    #[test]
    fn what_is_no_key_is_named() {
        for (text, want) in [
            ("", "it is no PEM file with a key"),
            ("-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----", "it is no PEM file"),
            (
                "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----",
                "`EC PRIVATE KEY`",
            ),
            (
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
                "not one of ECDSA on P-256",
            ),
            (
                "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAAAA\n\
                 -----END ENCRYPTED SIGSTORE PRIVATE KEY-----",
                "in another way than cosign",
            ),
        ] {
            let fault = SigningKey::read(text, "").unwrap_err().to_string();
            assert!(fault.contains(want), "{text}: {fault}");
        }
        let costly = r#"{"kdf":{"name":"scrypt","params":{"N":1073741824,"r":8,"p":1},"salt":""},
            "cipher":{"name":"nacl/secretbox","nonce":""},"ciphertext":""}"#;
        let fault = decrypted(costly.as_bytes(), "").unwrap_err();
        assert!(matches!(fault, KeyFault::TooExpensive), "{fault}");
    }
}
