//! Images that are signed, and those that have to be.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use spec::{Descriptor, Digest, MediaType};

use super::{deletion::manifest_of, fixture::TestRegistry};
use crate::{Action, Repositories, RepositoryPattern, SigningKey};

pub fn key() -> SigningKey {
    let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
    let body = BASE64_STANDARD.encode(der.unwrap().as_ref());
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
    SigningKey::read(&pem, "").unwrap()
}

#[tokio::test]
async fn an_image_is_signed_by_several_keys_and_each_signature_is_of_its_key() {
    let registry = TestRegistry::open().await;
    let client = registry.client("ann");
    let digest = registry.push_image("ann/cats", "v1", &[b"{}", b"one"]).await;
    registry.push_image("ann/cats", "v2", &[b"{}", b"two"]).await;
    let image = registry.reference("ann/cats:v1");
    let (ours, other) = (key(), key());
    let keys = [ours.verifying_key()];
    let none = client.verify(&image, &keys).await.unwrap();
    assert!(none.keys.is_empty() && none.others.is_empty(), "{none:?}");
    assert_eq!(client.sign(&image, &other).await.unwrap(), digest);
    let foreign = client.verify(&image, &keys).await.unwrap();
    assert!(foreign.keys.is_empty(), "{foreign:?}");
    assert_eq!(foreign.others, ["it is of another key"].into());
    for _ in 0..2 {
        client.sign(&image, &ours).await.unwrap();
    }
    let both = [ours.verifying_key(), other.verifying_key()];
    let signed = client.verify(&image, &both).await.unwrap();
    assert_eq!(signed.keys, both.iter().map(|key| key.fingerprint()).collect(), "{signed:?}");
    let tag = registry.reference(&format!("ann/cats:sha256-{}.sig", digest.hex()));
    let manifest = client.resolve(&tag).await.unwrap();
    let manifest: spec::Manifest = serde_json::from_slice(&manifest.bytes).unwrap();
    assert_eq!(manifest.layers.len(), 2, "the third would be of a key that has signed it");
    assert_eq!(manifest.subject.unwrap().digest, digest);
    // A signature that was copied to another image says nothing about it.
    let bytes = client.resolve(&tag).await.unwrap().bytes;
    let v2 = client.resolve(&registry.reference("ann/cats:v2")).await.unwrap().descriptor.digest;
    let bearer = format!("Bearer {}", registry.token("ann/cats"));
    let headers = [("authorization", bearer.as_str()), ("content-type", MediaType::OCI_MANIFEST)];
    let request = format!("PUT /v2/ann/cats/manifests/sha256-{}.sig", v2.hex());
    assert_eq!(registry.request(&request, &headers, bytes).await.status, 201);
    let copied = client.verify(&registry.reference("ann/cats:v2"), &both).await.unwrap();
    assert!(copied.keys.is_empty(), "{copied:?}");
    assert!(copied.others.contains("it is of another image"), "{copied:?}");
    registry.close().await;
}

#[tokio::test]
async fn what_has_to_be_signed_is_not_served_before_it_is() {
    let registry = TestRegistry::open().await;
    let client = registry.client("ann");
    let first = registry.push_image("ann/cats", "v1", &[b"{}", b"one"]).await;
    let second = registry.push_image("ann/cats", "v2", &[b"{}", b"two"]).await;
    // An index of the second, and an image that says it is about the first, as a signature does.
    let entry = |digest: &Digest| {
        let size = manifest_of(&[b"{}", b"two"]).len();
        serde_json::json!({"mediaType": MediaType::OCI_MANIFEST, "digest": digest, "size": size})
    };
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": [entry(&second)],
    });
    let bearer = format!("Bearer {}", registry.token("ann/cats"));
    let put = async |tag: &str, media_type: &str, body: String| {
        let headers = [("authorization", bearer.as_str()), ("content-type", media_type)];
        let request = format!("PUT /v2/ann/cats/manifests/{tag}");
        assert_eq!(registry.request(&request, &headers, body).await.status, 201, "{tag}");
    };
    put("all", MediaType::OCI_INDEX, index.to_string()).await;
    let disguised = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "artifactType": "application/vnd.dev.cosign.artifact.sig.v1+json",
        "config": Descriptor::of(MediaType::OCI_CONFIG, b"{}"),
        "layers": [Descriptor::of(MediaType::OCI_LAYER_TAR, b"one")],
        "subject": Descriptor::of(MediaType::OCI_MANIFEST, manifest_of(&[b"{}", b"one"]).as_bytes()),
    });
    put("sha256-00.sig", MediaType::OCI_MANIFEST, disguised.to_string()).await;
    let (ours, other) = (key(), key());
    let pattern: RepositoryPattern = "ann/*".parse().unwrap();
    registry.admin.set_signature_policy(&pattern, &[ours.verifying_key()]).await.unwrap();
    let pull = async |target: &str| {
        let scope = [("ann/cats".parse().unwrap(), vec![Action::Pull])];
        let token = registry.tokens.mint("node", &scope, Duration::from_secs(60));
        let bearer = format!("Bearer {token}");
        let request = format!("GET /v2/ann/cats/manifests/{target}");
        registry.request(&request, &[("authorization", &bearer)], "").await.status.as_u16()
    };
    let (first, second) = (first.to_string(), second.to_string());
    for target in ["v1", "v2", &first, &second, "all", "sha256-00.sig"] {
        assert_eq!(pull(target).await, 403, "{target}");
    }
    // The owner reads it, and signs it.
    client.resolve(&registry.reference("ann/cats:v1")).await.unwrap();
    client.sign(&registry.reference("ann/cats:v1"), &other).await.unwrap();
    assert_eq!(pull("v1").await, 403, "signed with another key");
    client.sign(&registry.reference("ann/cats:v1"), &ours).await.unwrap();
    client.sign(&registry.reference("ann/cats:all"), &ours).await.unwrap();
    let signature = format!("{}.sig", first.replace(':', "-"));
    for (target, want) in [
        ("v1", 200),
        (&*first, 200),
        ("all", 200),
        ("v2", 200),
        (&signature, 200),
        ("sha256-00.sig", 403),
    ] {
        assert_eq!(pull(target).await, want, "{target}");
    }
    let dir = registry.close().await;
    let registry = TestRegistry::open_in(dir, |_| ()).await;
    let policies = registry.admin.signature_policies().await.unwrap();
    assert_eq!(policies[0].keys, [ours.verifying_key()]);
    registry.admin.remove_signature_policy(&pattern).await.unwrap();
    assert!(registry.admin.remove_signature_policy(&pattern).await.is_err());
    assert!(registry.admin.set_signature_policy(&pattern, &[]).await.is_err());
    registry.admin.set_signature_policy(&pattern, &[ours.verifying_key()]).await.unwrap();
    registry.admin.remove_user(&"ann".parse().unwrap(), &Repositories::Delete).await.unwrap();
    assert_eq!(registry.admin.signature_policies().await.unwrap(), [], "of the next ann");
    registry.close().await;
}
