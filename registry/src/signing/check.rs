use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;
use spec::{Descriptor, Digest};

use super::{
    keys::VerifyingKey,
    payload::{BUNDLE_TYPES, SIGNATURE_KEY, SIGNATURE_MEDIA_TYPE, TYPE},
};

/// What a signature is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Checked {
    /// The key at this position has signed the image.
    By(usize),
    /// Why it says nothing.
    Not(&'static str),
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Image {
    docker_manifest_digest: String,
}

/// A sigstore bundle, as far as it is about a key.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    dsse_envelope: Envelope,
}

/// # Spec
/// DSSE 1.0, "Data Structure".
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    sig: String,
}

/// # Spec
/// in-toto Statement v1.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    subject: Vec<Subject>,
    predicate_type: String,
}

#[derive(Deserialize)]
struct Subject {
    digest: SubjectDigest,
}

#[derive(Deserialize)]
struct SubjectDigest {
    sha256: Option<String>,
    sha512: Option<String>,
}

/// The predicate of a signature; others are attestations, which say something else.
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
const IN_TOTO: &str = "application/vnd.in-toto+json";
/// Signatures in one envelope.
const ENVELOPE_SIGNATURES_MAX: usize = 16;

/// Which of `keys` has signed `image`, by a layer of a manifest with signatures and its bytes. What
/// the payload says about the image counts, and not where it was found.
pub(crate) fn check(
    layer: &Descriptor,
    bytes: &[u8],
    image: &Digest,
    keys: &[VerifyingKey],
) -> Checked {
    match layer.media_type.as_str() {
        SIGNATURE_MEDIA_TYPE => simple(layer, bytes, image, keys),
        other if BUNDLE_TYPES.contains(&other) => bundle(bytes, image, keys),
        _ => Checked::Not("it is no signature that is known here"),
    }
}

fn simple(layer: &Descriptor, bytes: &[u8], image: &Digest, keys: &[VerifyingKey]) -> Checked {
    let signature = layer.annotations.get(SIGNATURE_KEY);
    let Some(signature) = signature.and_then(|text| BASE64_STANDARD.decode(text).ok()) else {
        return Checked::Not("its layer has no signature");
    };
    let Some(key) = keys.iter().position(|key| key.verifies(bytes, &signature)) else {
        return Checked::Not("it is of another key");
    };
    // Read after it is known whose it is.
    match spec::json::from_slice::<Payload>(bytes) {
        Ok(Payload { critical }) if critical.kind != TYPE => {
            Checked::Not("its payload is not that of an image")
        }
        Ok(Payload { critical }) if critical.image.docker_manifest_digest != image.to_string() => {
            Checked::Not("it is of another image")
        }
        Ok(_) => Checked::By(key),
        Err(_) => Checked::Not("its payload is not valid"),
    }
}

fn bundle(bytes: &[u8], image: &Digest, keys: &[VerifyingKey]) -> Checked {
    let Ok(Bundle { dsse_envelope }) = spec::json::from_slice::<Bundle>(bytes) else {
        return Checked::Not("it is not a bundle with a key's signature");
    };
    let Envelope { payload, payload_type, signatures } = dsse_envelope;
    let Ok(payload) = BASE64_STANDARD.decode(payload) else {
        return Checked::Not("its payload is not valid");
    };
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    let message = [head.as_bytes(), &payload].concat();
    let mut by = signatures.iter().take(ENVELOPE_SIGNATURES_MAX).filter_map(|signature| {
        let signature = BASE64_STANDARD.decode(&signature.sig).ok()?;
        keys.iter().position(|key| key.verifies(&message, &signature))
    });
    let Some(key) = by.next() else { return Checked::Not("it is of another key") };
    let statement = spec::json::from_slice::<Statement>(&payload).ok();
    let Some(statement) = statement.filter(|_| payload_type == IN_TOTO) else {
        return Checked::Not("its payload is not valid");
    };
    let is_image = |Subject { digest }: &Subject| {
        let hex = match image {
            Digest::Sha256(_) => &digest.sha256,
            Digest::Sha512(_) => &digest.sha512,
        };
        hex.as_ref().is_some_and(|hex| *hex == image.hex())
    };
    match () {
        () if statement.predicate_type != SIGNED => Checked::Not("it is an attestation"),
        () if !statement.subject.iter().any(is_image) => Checked::Not("it is of another image"),
        () => Checked::By(key),
    }
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
    };

    use super::super::{SigningKey, payload_of, pem};
    use super::*;

    fn key() -> SigningKey {
        let der =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        SigningKey::read(&pem::written("PRIVATE KEY", der.unwrap().as_ref()), "").unwrap()
    }

    fn layer(media_type: &'static str, bytes: &[u8], signature: &str) -> Descriptor {
        let mut layer = Descriptor::of(media_type, bytes);
        layer.annotations.insert(SIGNATURE_KEY.to_owned(), signature.to_owned());
        layer
    }

    #[test]
    fn a_signature_is_of_one_image_by_one_key() {
        let (ours, other) = (key(), key());
        let (image, another) = (Digest::of(b"image"), Digest::of(b"another"));
        let payload = payload_of("localhost/ann/cats", &image);
        let signed = |key: &SigningKey, bytes: &[u8]| BASE64_STANDARD.encode(key.sign(bytes));
        let good = signed(&ours, &payload);
        let foreign =
            br#"{"critical":{"image":{"docker-manifest-digest":"sha256:00"},"type":"x"}}"#;
        let keys = [other.verifying_key(), ours.verifying_key()];
        for (bytes, signature, image, keys, want) in [
            (&payload[..], good.clone(), image, &keys[..], Checked::By(1)),
            (&payload, good.clone(), another, &keys, Checked::Not("it is of another image")),
            (&payload, good.clone(), image, &keys[..1], Checked::Not("it is of another key")),
            (&payload, good.clone(), image, &[], Checked::Not("it is of another key")),
            (&payload[1..], good.clone(), image, &keys, Checked::Not("it is of another key")),
            (&payload, "AAAA".into(), image, &keys, Checked::Not("it is of another key")),
            (&payload, "!".into(), image, &keys, Checked::Not("its layer has no signature")),
            (
                &foreign[..],
                signed(&ours, foreign),
                image,
                &keys,
                Checked::Not("its payload is not that of an image"),
            ),
            (b"{}", signed(&ours, b"{}"), image, &keys, Checked::Not("its payload is not valid")),
        ] {
            let layer = layer(SIGNATURE_MEDIA_TYPE, bytes, &signature);
            assert_eq!(check(&layer, bytes, &image, keys), want, "{bytes:?} {signature}");
        }
        let layer = layer("application/json", &payload, &good);
        let unknown = Checked::Not("it is no signature that is known here");
        assert_eq!(check(&layer, &payload, &image, &keys), unknown);
    }

    #[test]
    fn what_cosign_has_signed_is_signed() {
        // Of `cosign sign --key`, 2.6.1, without and with --new-bundle-format.
        let keys = [VerifyingKey::read(include_str!("cosign/cosign.pub")).unwrap()];
        let signature = "MEQCIBlx+o7Alw9kGmS+GfJJTNbjS/7/OIs06AHZpxJLgVMYAiAUgP0lIl3X7hMjyxSDxDa8\
                         nfavegZOgrIl23JLBaTYvg==";
        let payload = include_bytes!("cosign/payload.json");
        let hello = "sha256:107e5574be1aed95ae03949540ccf5f3c7f715eb146ae1ccb67c56a8919177bf";
        let image = hello.parse().unwrap();
        let simple = layer(SIGNATURE_MEDIA_TYPE, payload, signature);
        assert_eq!(check(&simple, payload, &image, &keys), Checked::By(0));
        assert_eq!(payload_of("localhost:7801/ann/hello", &image), payload, "ours is the same");
        let bundle = include_bytes!("cosign/bundle.json");
        let adopt = "sha256:f3cf62904cd739dc5d4c027b89a4e6bdd712850b44343441f3dd617d9a169301";
        let described = Descriptor::of(BUNDLE_TYPES[0], bundle);
        assert_eq!(check(&described, bundle, &adopt.parse().unwrap(), &keys), Checked::By(0));
        let other = Checked::Not("it is of another image");
        assert_eq!(check(&described, bundle, &image, &keys), other);
    }

    #[test]
    fn a_bundle_is_a_signature_and_no_attestation() {
        let (ours, image) = (key(), Digest::of(b"image"));
        let bundle = |predicate: &str, digest: &Digest, kind: &str| {
            let statement = serde_json::json!({
                "_type": "https://in-toto.io/Statement/v1",
                "subject": [{"digest": {"sha256": digest.hex()}}],
                "predicateType": predicate,
            })
            .to_string();
            let message = format!("DSSEv1 {} {kind} {} {statement}", kind.len(), statement.len());
            let sig = BASE64_STANDARD.encode(ours.sign(message.as_bytes()));
            serde_json::json!({
                "mediaType": BUNDLE_TYPES[0],
                "dsseEnvelope": {
                    "payload": BASE64_STANDARD.encode(statement),
                    "payloadType": kind,
                    "signatures": [{"sig": sig}],
                },
            })
            .to_string()
        };
        let another = Digest::of(b"another");
        for (bytes, want) in [
            (bundle(SIGNED, &image, IN_TOTO), Checked::By(0)),
            (bundle(SIGNED, &another, IN_TOTO), Checked::Not("it is of another image")),
            (
                bundle("https://slsa.dev/provenance/v1", &image, IN_TOTO),
                Checked::Not("it is an attestation"),
            ),
            (bundle(SIGNED, &image, "text/plain"), Checked::Not("its payload is not valid")),
            ("{}".to_owned(), Checked::Not("it is not a bundle with a key's signature")),
        ] {
            let layer = Descriptor::of(BUNDLE_TYPES[0], bytes.as_bytes());
            let keys = [ours.verifying_key()];
            assert_eq!(check(&layer, bytes.as_bytes(), &image, &keys), want, "{bytes}");
            let keys = [key().verifying_key()];
            assert!(matches!(check(&layer, bytes.as_bytes(), &image, &keys), Checked::Not(_)));
        }
    }
}
