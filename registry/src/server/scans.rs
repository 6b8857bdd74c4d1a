//! Which software images have, for clients that may read them.

use http::{Method, StatusCode, header};
use spec::Digest;

use super::{
    error::{ApiError, ErrorCode},
    images::find,
    outline::Outline,
    remote::Administrator,
    response::{Response, full, with_headers},
    scanner::Scanner,
    stored::manifest_bytes,
};
use crate::{
    Repository, SbomFormat, blocking,
    limits::IMAGE_MANIFESTS_MAX,
    protocol::Query,
    scan::{ScannedImage, document},
    storage::{ManifestRecord, Storage},
};

pub(super) struct ScanEndpoints {
    pub storage: Storage,
    pub scanner: Scanner,
}

impl ScanEndpoints {
    /// `/admin/sboms/NAME:TAG` and `/admin/sboms/NAME@DIGEST`.
    pub async fn sbom(
        &self,
        administrator: &Administrator<'_>,
        method: &Method,
        name: &str,
        query: &Query,
    ) -> Result<Response, ApiError> {
        if *method != Method::GET {
            return Err(ApiError::no_such_endpoint());
        }
        let unsupported = |message: String| ApiError::bad_request(ErrorCode::Unsupported, message);
        let format: SbomFormat = query
            .get("format")
            .unwrap_or("spdx")
            .parse()
            .map_err(|error: spec::ParseError| unsupported(error.to_string()))?;
        let (repository, digest, record) = find(&self.storage, administrator, name).await?;
        let mut images = self.images(&repository, digest, &record).await?;
        if let Some(platform) = query.get("platform") {
            images.retain(|(_, image)| image.platform == platform);
        }
        let (digest, image) = match images.len() {
            1 => images.remove(0),
            0 => {
                let message = match query.get("platform") {
                    Some(platform) => format!("`{name}` has no image of the platform `{platform}`"),
                    None => format!("`{name}` is no image"),
                };
                return Err(ApiError::not_found(ErrorCode::ManifestUnknown, message));
            }
            _ => {
                let all: Vec<_> = images.iter().map(|(_, image)| &*image.platform).collect();
                let all = all.join(", ");
                return Err(unsupported(format!(
                    "`{name}` has several platforms, name one: {all}"
                )));
            }
        };
        let bytes = blocking(move || {
            let name = format!("{repository}@{digest}");
            document(format, (&name, &digest), &image.inventory, image.read)
        });
        let headers = [(header::CONTENT_TYPE, format.media_type())];
        Ok(with_headers(StatusCode::OK, full(bytes.await), headers))
    }

    /// The image of a manifest, or those of an index that the repository has.
    pub async fn images(
        &self,
        repository: &Repository,
        digest: Digest,
        record: &ManifestRecord,
    ) -> Result<Vec<(Digest, ScannedImage)>, ApiError> {
        if !record.media_type.is_index() {
            let image = self.scanner.scanned(repository, &digest, record).await?;
            return Ok(image.map(|image| (digest, image)).into_iter().collect());
        }
        let bytes = manifest_bytes(&self.storage.blobs, digest, record.size).await?;
        let mut images = Vec::new();
        for digest in Outline::parse(&bytes)?.manifests().take(IMAGE_MANIFESTS_MAX) {
            let record = self.storage.metadata.manifest(repository, digest).await?;
            let Some(record) = record else { continue };
            let image = self.scanner.scanned(repository, digest, &record).await;
            images.extend(image?.map(|image| (*digest, image)));
        }
        Ok(images)
    }
}
