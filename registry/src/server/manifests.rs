use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;
use spec::{Digest, Hasher, MediaType, Reference};

use super::{
    app::{App, Asked},
    pull::no_manifest,
    reply::{CONTENT_DIGEST, Refusal, Reply, empty},
    request_body::RequestBody,
    route::Target,
};
use crate::{
    Error, Repository, blocking,
    client::MANIFEST_BYTES_MAX,
    storage::{ManifestRecord, Referrer},
};

/// Blobs that one manifest may name: each is a look-up. Docker stops at 127 layers.
const LINKS_MAX: usize = 8192;
/// Tags that one `PUT` may set; the specification asks for ten.
const TAGS_MAX: usize = 16;
/// What is answered with every list of referrers of a manifest with a subject: its kind and
/// annotations, as JSON.
const REFERRER_BYTES_MAX: usize = 64 << 10;
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const TAG: HeaderName = HeaderName::from_static("oci-tag");

/// What the registry has to understand of a manifest or an index; the rest is its author's business
/// and is kept as it came.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    schema_version: u32,
    media_type: Option<MediaType>,
    artifact_type: Option<String>,
    config: Option<Link>,
    layers: Option<Vec<Link>>,
    manifests: Option<Vec<Link>>,
    subject: Option<Link>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Link {
    media_type: Option<String>,
    digest: Digest,
    size: u64,
}

impl App {
    /// Takes a manifest in: exactly these bytes, under their digest, and under tags.
    ///
    /// An image must name blobs that this repository has. An index may name images that it lacks:
    /// whoever mirrors one platform keeps the digest of the whole.
    ///
    /// # Spec
    /// OCI distribution-spec 1.1, "Pushing Manifests", and its main branch for `?tag=`.
    pub(super) async fn put_manifest(
        &self,
        asked: &Asked,
        repository: &Repository,
        target: &Target,
        body: &mut RequestBody,
    ) -> Result<Reply, Refusal> {
        let tags = tags(asked, target)?;
        let bytes = body.all(MANIFEST_BYTES_MAX as usize).await?;
        let outline = outline(&bytes)?;
        let said =
            asked.head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type(&outline, said)?;
        outline.check(&media_type)?;
        let digest = match target {
            Target::Tag(_) => Digest::of(&bytes),
            Target::Digest(promised) => named(&bytes, promised)?,
        };

        let _together = self.stripe(repository).read().await;
        if !media_type.is_index() {
            self.check_links(repository, &outline).await?;
        }
        let record = ManifestRecord {
            media_type,
            size: bytes.len() as u64,
            subject: outline.subject.as_ref().map(|s| s.digest),
        };
        let referrer = outline.referrer(&digest, &record)?;
        self.keep(bytes, digest).await?;
        self.metadata.put_manifest(repository, &digest, &record, &tags, referrer.as_ref()).await?;

        let name = digest.to_string();
        let headers = [
            (header::LOCATION, &*format!("/v2/{repository}/manifests/{name}")),
            (CONTENT_DIGEST, name.as_str()),
        ];
        let mut reply = empty(StatusCode::CREATED, headers);
        if let Some(subject) = record.subject {
            reply
                .headers_mut()
                .extend(HeaderValue::from_str(&subject.to_string()).map(|value| (SUBJECT, value)));
        }
        for tag in &tags {
            if let Ok(tag) = HeaderValue::from_str(tag) {
                reply.headers_mut().append(TAG, tag);
            }
        }
        Ok(reply)
    }

    /// Every blob that is named is here and as long as is said, so that whoever gets the manifest
    /// gets the image.
    async fn check_links(&self, repository: &Repository, outline: &Outline) -> Result<(), Refusal> {
        for link in outline
            .config
            .iter()
            .chain(outline.layers.iter().flatten())
            .filter(|link| !link.is_foreign())
        {
            let Some(membership) = self.metadata.blob(repository, &link.digest).await? else {
                let message =
                    format!("it names blob `{}`, which this repository does not have", link.digest);
                return Err(Refusal::bad("MANIFEST_BLOB_UNKNOWN", message));
            };
            if membership.size != link.size {
                let (digest, said, size) = (link.digest, link.size, membership.size);
                return Err(invalid(format!(
                    "blob `{digest}` has {size} bytes, and the manifest says {said}"
                )));
            }
        }
        Ok(())
    }

    /// Writes the bytes of a manifest where blobs are, as durably.
    async fn keep(&self, bytes: Bytes, digest: Digest) -> Result<(), Error> {
        let (blobs, aside) = (Arc::clone(&self.blobs), self.uploads.aside());
        blocking(move || {
            let written = fs::write(&aside, &bytes);
            let failed = |path: &PathBuf, source| Error::File {
                action: "write",
                path: path.clone(),
                source,
            };
            match written {
                Ok(()) => blobs.adopt(&aside, &digest),
                Err(source) => {
                    fs::remove_file(&aside).ok();
                    Err(failed(&aside, source))
                }
            }
        })
        .await
    }

    /// Takes away a tag, or a manifest and every tag that means it.
    pub(super) async fn delete_manifest(
        &self,
        repository: &Repository,
        target: &Target,
    ) -> Result<Reply, Refusal> {
        let _alone = self.stripe(repository).write().await;
        let (there, name) = match target {
            Target::Tag(tag) => (self.metadata.remove_tag(repository, tag).await?, tag.clone()),
            Target::Digest(digest) => {
                (self.metadata.remove_manifest(repository, digest).await?, digest.to_string())
            }
        };
        if there { Ok(empty(StatusCode::ACCEPTED, [])) } else { Err(no_manifest(&name)) }
    }
}

impl Outline {
    /// What is wrong with it in itself.
    fn check(&self, media_type: &MediaType) -> Result<(), Refusal> {
        if self.schema_version != 2 {
            return Err(invalid("its schemaVersion is not 2"));
        }
        let links = self.layers.iter().flatten().chain(self.manifests.iter().flatten()).count();
        // One document that is an image to one reader and an index to another has been an attack
        // (CVE-2021-41190).
        match (
            self.manifests.is_some(),
            self.layers.is_some() || self.config.is_some(),
            media_type.is_index(),
        ) {
            (true, true, _) => Err(invalid("it is a manifest and an index in one")),
            (true, _, false) => {
                Err(invalid("it is an index, and its media type is that of a manifest"))
            }
            (_, true, true) => {
                Err(invalid("it is a manifest, and its media type is that of an index"))
            }
            _ if links > LINKS_MAX => {
                Err(invalid(format!("it names more than {LINKS_MAX} things")))
            }
            _ => Ok(()),
        }
    }

    /// Its line among the referrers of its subject.
    fn referrer(
        &self,
        digest: &Digest,
        record: &ManifestRecord,
    ) -> Result<Option<Referrer>, Refusal> {
        if record.subject.is_none() {
            return Ok(None);
        }
        let annotations = self.annotations.clone().unwrap_or_default();
        let of_config = || self.config.as_ref().and_then(|config| config.media_type.clone());
        let artifact_type =
            self.artifact_type.clone().filter(|text| !text.is_empty()).or_else(of_config);
        let (media_type, size) = (record.media_type.clone(), record.size);
        let referrer = Referrer { media_type, digest: *digest, size, artifact_type, annotations };
        if referrer.record_bytes() > REFERRER_BYTES_MAX {
            return Err(invalid(format!(
                "with a subject, its artifactType and annotations have at most {REFERRER_BYTES_MAX} bytes as JSON"
            )));
        }
        Ok(Some(referrer))
    }
}

impl Link {
    /// Layers that their license keeps at their maker's are named and never here. What they say
    /// about where, we don't fetch.
    fn is_foreign(&self) -> bool {
        self.media_type
            .as_deref()
            .is_some_and(|text| text.contains(".nondistributable.") || text.contains(".foreign."))
    }
}

/// What a manifest says. Serde alone would take the fields from an array, too, in which no other
/// reader finds them.
fn outline(bytes: &[u8]) -> Result<Outline, Refusal> {
    match bytes.trim_ascii_start().first() {
        Some(b'{') => serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string())),
        _ => Err(invalid("it is no JSON object")),
    }
}

/// The tag in the path, or those in the query beside a digest.
fn tags(asked: &Asked, target: &Target) -> Result<Vec<String>, Refusal> {
    let mut tags: Vec<String> = match target {
        Target::Tag(tag) => vec![tag.clone()],
        Target::Digest(_) => asked.query.all("tag").map(str::to_owned).collect(),
    };
    tags.sort_unstable();
    tags.dedup();
    match tags.iter().find(|tag| !Reference::is_tag(tag)) {
        Some(_) => Err(Refusal::bad("TAG_INVALID", "a `tag` of the query is no tag")),
        None if tags.len() > TAGS_MAX => {
            Err(Refusal::bad("TAG_INVALID", format!("at most {TAGS_MAX} tags at once")))
        }
        None => Ok(tags),
    }
}

/// What the document says it is, else what the header says; they must not disagree.
fn media_type(outline: &Outline, said: Option<&str>) -> Result<MediaType, Refusal> {
    let said =
        said.and_then(|text| text.split(';').next()).map(str::trim).filter(|text| !text.is_empty());
    let said: Option<MediaType> = said
        .map(str::parse)
        .transpose()
        .map_err(|_| invalid("its Content-Type is no media type"))?;
    let media_type = match (&outline.media_type, said) {
        (Some(own), Some(said)) if *own != said => {
            return Err(invalid(format!(
                "it says that it is `{own}`, and the request says `{said}`"
            )));
        }
        (Some(own), _) => own.clone(),
        (None, Some(said)) => said,
        (None, None) => return Err(invalid("it has no media type")),
    };
    if media_type.is_index() || media_type.is_manifest() {
        Ok(media_type)
    } else {
        Err(invalid(format!(
            "`{media_type}` is no manifest or index of OCI or of Docker's schema 2"
        )))
    }
}

fn named(bytes: &[u8], promised: &Digest) -> Result<Digest, Refusal> {
    let mut hasher = Hasher::new(promised.algorithm());
    hasher.update(bytes);
    let actual = hasher.finish();
    match actual == *promised {
        true => Ok(actual),
        false => Err(Refusal::bad(
            "DIGEST_INVALID",
            format!("the bytes are not `{promised}` but `{actual}`"),
        )),
    }
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::bad("MANIFEST_INVALID", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_an_object() {
        for (text, want) in [
            (r#" {"schemaVersion": 2}"#, true),
            ("[2, null, null, null, null, null, null, null]", false),
            ("[]", false),
            ("2", false),
            ("", false),
        ] {
            assert_eq!(outline(text.as_bytes()).is_ok(), want, "{text}");
        }
    }

    #[test]
    fn a_manifest_names_no_more_than_can_be_looked_up() {
        let link = format!(r#"{{"digest":"{}","size":2}}"#, Digest::of(b"{}"));
        for list in ["layers", "manifests"] {
            let media_type =
                if list == "layers" { MediaType::OCI_MANIFEST } else { MediaType::OCI_INDEX };
            let media_type: MediaType = media_type.parse().unwrap();
            for (count, want) in [(LINKS_MAX, true), (LINKS_MAX + 1, false)] {
                let text = format!(
                    r#"{{"schemaVersion":2,"{list}":[{}]}}"#,
                    vec![link.as_str(); count].join(",")
                );
                assert!(text.len() < MANIFEST_BYTES_MAX as usize, "another limit would come first");
                let taken = outline(text.as_bytes()).and_then(|outline| outline.check(&media_type));
                assert_eq!(taken.is_ok(), want, "{count} {list}");
            }
        }
    }
}
