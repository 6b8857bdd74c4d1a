use serde::Serialize;
use spec::Digest;

/// Of the layers of a manifest with signatures.
pub(crate) const SIGNATURE_MEDIA_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The annotation of such a layer that has its signature.
pub(crate) const SIGNATURE_KEY: &str = "dev.cosignproject.cosign/signature";
/// Of the layers of a manifest with a sigstore bundle.
pub(crate) const BUNDLE_TYPES: [&str; 2] = [
    "application/vnd.dev.sigstore.bundle.v0.3+json",
    "application/vnd.dev.sigstore.bundle+json;version=0.3",
];
pub(super) const TYPE: &str = "cosign container image signature";

/// What is signed of an image.
///
/// # Spec
/// containers/image, "Simple Signing", in the form of cosign.
#[derive(Serialize)]
struct Payload<'a> {
    critical: Critical<'a>,
    optional: Option<()>,
}

#[derive(Serialize)]
struct Critical<'a> {
    identity: Identity<'a>,
    image: Image,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Identity<'a> {
    docker_reference: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Image {
    docker_manifest_digest: String,
}

/// What is signed of the image `digest` of a repository.
pub(crate) fn payload_of(repository: &str, digest: &Digest) -> Vec<u8> {
    let payload = Payload {
        critical: Critical {
            identity: Identity { docker_reference: repository },
            image: Image { docker_manifest_digest: digest.to_string() },
            kind: TYPE,
        },
        optional: None,
    };
    serde_json::to_vec(&payload).expect("a payload has string keys")
}

/// The config of a manifest with signatures, whose layers are payloads.
pub(crate) fn config_of<'a>(payloads: impl Iterator<Item = &'a Digest>) -> Vec<u8> {
    let layers: Vec<_> = payloads.collect();
    let config = serde_json::json!({
        "architecture": "",
        "config": {},
        "created": "0001-01-01T00:00:00Z",
        "history": vec![serde_json::json!({"created": "0001-01-01T00:00:00Z"}); layers.len()],
        "os": "",
        "rootfs": {"type": "layers", "diff_ids": layers},
    });
    serde_json::to_vec(&config).expect("a config has string keys")
}

/// The tag of the manifest with the signatures of an image.
pub(crate) fn signature_tag(digest: &Digest) -> String {
    format!("{}-{}.sig", digest.algorithm().name(), digest.hex())
}

/// Whether a layer of this media type is a signature and nothing that runs.
pub(crate) fn is_signature_layer(media_type: &str) -> bool {
    media_type == SIGNATURE_MEDIA_TYPE || BUNDLE_TYPES.contains(&media_type)
}
