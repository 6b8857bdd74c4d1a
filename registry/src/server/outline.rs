use std::collections::BTreeMap;

use serde::Deserialize;
use spec::{Digest, MediaType};

use super::error::ApiError;
use crate::{
    limits::{MANIFEST_LINKS_MAX, REFERRER_BYTES_MAX},
    protocol::is_foreign_layer,
    storage::{Links, ManifestRecord, Referrer},
};

/// The fields of a manifest or an index that a registry has to read. The document itself is kept as
/// it was pushed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Outline {
    schema_version: u32,
    media_type: Option<MediaType>,
    artifact_type: Option<String>,
    config: Option<Link>,
    layers: Option<Vec<Link>>,
    manifests: Option<Vec<Link>>,
    subject: Option<Link>,
    annotations: Option<BTreeMap<String, String>>,
}

/// A descriptor, of which only digest and size have to be well formed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Link {
    media_type: Option<String>,
    pub digest: Digest,
    pub size: u64,
}

impl Outline {
    /// Serde alone would also accept the fields as an array, in which no other reader finds them.
    pub fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        match bytes.trim_ascii_start().first() {
            Some(b'{') => spec::json::from_slice(bytes)
                .map_err(|error| ApiError::invalid_manifest(error.to_string())),
            _ => Err(ApiError::invalid_manifest("it is not a JSON object")),
        }
    }

    /// The media type that the document declares, else that of the request; they must not disagree.
    pub fn media_type(&self, content_type: Option<&str>) -> Result<MediaType, ApiError> {
        let content_type = content_type
            .and_then(|text| text.split(';').next())
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .map(str::parse::<MediaType>)
            .transpose()
            .map_err(|_| ApiError::invalid_manifest("its Content-Type is not a media type"))?;
        let media_type = match (&self.media_type, content_type) {
            (Some(declared), Some(requested)) if *declared != requested => {
                return Err(ApiError::invalid_manifest(format!(
                    "it declares `{declared}`, and the Content-Type is `{requested}`"
                )));
            }
            (Some(declared), _) => declared.clone(),
            (None, Some(requested)) => requested,
            (None, None) => return Err(ApiError::invalid_manifest("it has no media type")),
        };
        match media_type.is_index() || media_type.is_manifest() {
            true => Ok(media_type),
            false => Err(ApiError::invalid_manifest(format!(
                "`{media_type}` is not a manifest or index of OCI or of Docker's schema 2"
            ))),
        }
    }

    /// Whether the document is consistent in itself.
    pub fn check(&self, media_type: &MediaType) -> Result<(), ApiError> {
        if self.schema_version != 2 {
            return Err(ApiError::invalid_manifest("its schemaVersion is not 2"));
        }
        let links = self.layers.iter().flatten().chain(self.manifests.iter().flatten()).count();
        let has_manifests = self.manifests.is_some();
        let has_blobs = self.layers.is_some() || self.config.is_some();
        // A document that is an image to one reader and an index to another has been an attack
        // (CVE-2021-41190).
        let fault = match (has_manifests, has_blobs, media_type.is_index()) {
            (true, true, _) => "it is a manifest and an index in one",
            (true, _, false) => "it is an index, and its media type is that of a manifest",
            (_, true, true) => "it is a manifest, and its media type is that of an index",
            _ if links > MANIFEST_LINKS_MAX => {
                let message = format!("it names more than {MANIFEST_LINKS_MAX} blobs or manifests");
                return Err(ApiError::invalid_manifest(message));
            }
            _ => return Ok(()),
        };
        Err(ApiError::invalid_manifest(fault))
    }

    /// The blobs that have to be in the repository.
    pub fn blobs(&self) -> impl Iterator<Item = &Link> {
        let all = self.config.iter().chain(self.layers.iter().flatten());
        all.filter(|link| !link.media_type.as_deref().is_some_and(is_foreign_layer))
    }

    /// Everything that has to stay for as long as the document does: blobs and manifests.
    pub fn links(&self) -> Links {
        let all = self.config.iter().chain(self.layers.iter().flatten());
        Links::of(all.chain(self.manifests.iter().flatten()).map(|link| &link.digest))
    }

    /// Whether it can be an image that has something in it.
    pub fn has_layers(&self) -> bool {
        self.layers.as_ref().is_some_and(|layers| !layers.is_empty())
    }

    /// The manifests that an index names.
    pub fn manifests(&self) -> impl Iterator<Item = &Digest> {
        self.manifests.iter().flatten().map(|link| &link.digest)
    }

    pub fn subject(&self) -> Option<Digest> {
        self.subject.as_ref().map(|subject| subject.digest)
    }

    /// Its entry in the list of referrers of its subject.
    pub fn referrer(
        &self,
        digest: &Digest,
        record: &ManifestRecord,
    ) -> Result<Option<Referrer>, ApiError> {
        if record.subject.is_none() {
            return Ok(None);
        }
        let annotations = self.annotations.clone().unwrap_or_default();
        let of_config = || self.config.as_ref().and_then(|config| config.media_type.clone());
        let artifact_type =
            self.artifact_type.clone().filter(|text| !text.is_empty()).or_else(of_config);
        let (media_type, size) = (record.media_type.clone(), record.size);
        let referrer = Referrer { media_type, digest: *digest, size, artifact_type, annotations };
        match referrer.record_bytes() > REFERRER_BYTES_MAX {
            false => Ok(Some(referrer)),
            true => Err(ApiError::invalid_manifest(format!(
                "the artifactType and annotations of a manifest with a subject have at most \
                 {REFERRER_BYTES_MAX} bytes as JSON"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MANIFEST_BYTES_MAX;

    #[test]
    fn a_manifest_is_an_object() {
        for (text, want) in [
            (r#" {"schemaVersion": 2}"#, true),
            ("[2, null, null, null, null, null, null, null]", false),
            ("[]", false),
            ("2", false),
            ("", false),
        ] {
            assert_eq!(Outline::parse(text.as_bytes()).is_ok(), want, "{text}");
        }
    }

    #[test]
    fn the_links_of_a_manifest_have_a_limit() {
        let link = format!(r#"{{"digest":"{}","size":2}}"#, Digest::of(b"{}"));
        for (list, media_type) in
            [("layers", MediaType::OCI_MANIFEST), ("manifests", MediaType::OCI_INDEX)]
        {
            let media_type: MediaType = media_type.parse().unwrap();
            for (count, want) in [(MANIFEST_LINKS_MAX, true), (MANIFEST_LINKS_MAX + 1, false)] {
                let links = vec![link.as_str(); count].join(",");
                let text = format!(r#"{{"schemaVersion":2,"{list}":[{links}]}}"#);
                assert!(text.len() < MANIFEST_BYTES_MAX as usize, "another limit would come first");
                let checked =
                    Outline::parse(text.as_bytes()).and_then(|outline| outline.check(&media_type));
                assert_eq!(checked.is_ok(), want, "{count} {list}");
            }
        }
    }
}
