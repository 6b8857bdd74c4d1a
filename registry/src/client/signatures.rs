use std::{collections::BTreeSet, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use blobs::{BlobStore, MemoryBlobStore};
use http::StatusCode;
use spec::{Descriptor, Digest, Index, Manifest, MediaType, Reference};

use super::{
    Client,
    graph::Resolved,
    pull::{self, PullOptions},
    push::{self, PushOptions},
    repository::RemoteRepository,
    session::Call,
    transfer::BlobSink,
};
use crate::{
    Error, ManifestFault, SigningKey, VerifyingKey,
    limits::{MANIFEST_BYTES_MAX, SIGNATURE_BYTES_MAX, SIGNATURE_MANIFESTS_MAX, SIGNATURES_MAX},
    signing::{
        Checked, SIGNATURE_KEY, SIGNATURE_MEDIA_TYPE, check, config_of, is_signature_layer,
        payload_of, signature_tag,
    },
};

/// What the signatures of an image are worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// The manifest or index that was asked for.
    pub digest: Digest,
    /// Of the keys that have signed it, the fingerprints.
    pub keys: BTreeSet<String>,
    /// Why other signatures say nothing, each reason once.
    pub others: BTreeSet<&'static str>,
}

/// The kind of a manifest with signatures, as a referrer.
const ARTIFACT_TYPE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";

impl Client {
    /// Signs the image behind `reference` where it is, unless this key has signed it already, and
    /// returns its digest. The signature is beside those of other keys, under the tag that cosign
    /// gives it and among the referrers of the image.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`] and others, as for a push.
    pub async fn sign(&self, reference: &Reference, key: &SigningKey) -> Result<Digest, Error> {
        let repository = self.repository(reference, "pull,push")?;
        let image = repository.manifest(&reference.target()).await?.descriptor;
        let tag = signature_tag(&image.digest);
        let mut layers = match repository.manifest(&tag).await {
            Ok(there) => {
                let keys = [key.verifying_key()];
                let (layers, blobs) = small_blobs(&repository, there).await?;
                let is_ours = |layer: &Descriptor| {
                    blobs.get(&layer.digest).is_some_and(|bytes| {
                        check(layer, &bytes, &image.digest, &keys) == Checked::By(0)
                    })
                };
                if layers.iter().any(is_ours) {
                    return Ok(image.digest);
                }
                layers
            }
            Err(Error::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        let name = format!("{}/{}", repository.session.registry, repository.name);
        let payload = payload_of(&name, &image.digest);
        let mut layer = Descriptor::of(SIGNATURE_MEDIA_TYPE, &payload);
        let signature = BASE64_STANDARD.encode(key.sign(&payload));
        layer.annotations.insert(SIGNATURE_KEY.to_owned(), signature);
        layers.push(layer);
        let config = config_of(layers.iter().map(|layer| &layer.digest));
        let store = MemoryBlobStore::default();
        let manifest = manifest_of(&image, &config, layers);
        for bytes in [&payload, &config, &manifest] {
            blobs::write(&store, bytes)?;
        }
        let root = Descriptor::of(MediaType::OCI_MANIFEST, &manifest);
        let source: Arc<dyn BlobStore> = Arc::new(store);
        push::push(&repository, Some(&tag), &root, &source, &PushOptions::default()).await?;
        Ok(image.digest)
    }

    /// What the signatures of the image behind `reference` are worth: those that cosign finds by
    /// their tag, and those among its referrers.
    ///
    /// # Errors
    /// [`Error::NotFound`] and others, as for a pull.
    pub async fn verify(
        &self,
        reference: &Reference,
        keys: &[VerifyingKey],
    ) -> Result<Verification, Error> {
        let repository = self.repository(reference, "pull")?;
        let digest = repository.manifest(&reference.target()).await?.descriptor.digest;
        let mut manifests = match repository.manifest(&signature_tag(&digest)).await {
            Ok(manifest) => vec![manifest],
            Err(Error::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        for referrer in referrers(&repository, &digest).await? {
            if manifests.iter().all(|known| known.descriptor.digest != referrer) {
                manifests.push(repository.manifest(&referrer.to_string()).await?);
            }
        }
        let (mut by, mut others) = (BTreeSet::new(), BTreeSet::new());
        for manifest in manifests {
            let (layers, blobs) = small_blobs(&repository, manifest).await?;
            for layer in layers {
                let Some(bytes) = blobs.get(&layer.digest) else { continue };
                match check(&layer, &bytes, &digest, keys) {
                    Checked::By(key) => by.extend([keys[key].fingerprint()]),
                    Checked::Not(why) => others.extend([why]),
                }
            }
        }
        Ok(Verification { digest, keys: by, others })
    }
}

fn manifest_of(image: &Descriptor, config: &[u8], layers: Vec<Descriptor>) -> Vec<u8> {
    let subject = Descriptor {
        media_type: image.media_type.clone(),
        ..Descriptor::of(MediaType::OCI_MANIFEST, b"")
    };
    let subject = Descriptor { digest: image.digest, size: image.size, ..subject };
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MediaType::OCI_MANIFEST.into()),
        artifact_type: Some(ARTIFACT_TYPE.to_owned()),
        config: Some(Descriptor::of(MediaType::OCI_CONFIG, config)),
        layers,
        subject: Some(subject),
        annotations: std::collections::BTreeMap::new(),
    };
    serde_json::to_vec(&manifest).expect("a manifest has string keys")
}

/// Manifests with signatures among the referrers of an image; none where the registry has no such
/// list.
async fn referrers(
    repository: &RemoteRepository<'_>,
    image: &Digest,
) -> Result<Vec<Digest>, Error> {
    let subject = repository.subject(&image.to_string());
    let call = Call::get(repository.target(&format!("referrers/{image}")), &subject);
    let response = repository.session.call(call).await?;
    if response.status() != StatusCode::OK {
        return Ok(Vec::new());
    }
    let bytes = repository.session.read(&subject, response, MANIFEST_BYTES_MAX as usize).await?;
    let Ok(list) = spec::json::from_slice::<Index>(&bytes) else { return Ok(Vec::new()) };
    let of_signatures = |entry: &Descriptor| {
        let kind = entry.artifact_type.as_deref().unwrap_or_default();
        kind == ARTIFACT_TYPE || is_signature_layer(kind)
    };
    let found = list.manifests.into_iter().filter(of_signatures).map(|entry| entry.digest);
    Ok(found.take(SIGNATURE_MANIFESTS_MAX).collect())
}

/// The layers of a manifest with signatures, and their bytes, in memory.
async fn small_blobs(
    repository: &RemoteRepository<'_>,
    manifest: Resolved,
) -> Result<(Vec<Descriptor>, MemoryBlobStore), Error> {
    let digest = manifest.descriptor.digest;
    let unusable = |source| Error::Manifest { subject: digest.to_string(), source };
    let parsed: Manifest =
        spec::json::from_slice(&manifest.bytes).map_err(|e| unusable(ManifestFault::Json(e)))?;
    let bytes: u64 = parsed.config.iter().chain(&parsed.layers).map(|blob| blob.size).sum();
    if parsed.layers.len() > SIGNATURES_MAX || bytes > SIGNATURE_BYTES_MAX {
        return Err(unusable(ManifestFault::TooManySignatures));
    }
    let store = MemoryBlobStore::default();
    let sink: Arc<dyn BlobSink> = Arc::new(store.clone());
    pull::pull(repository, &digest.to_string(), &sink, &PullOptions::default()).await?;
    Ok((parsed.layers, store))
}
