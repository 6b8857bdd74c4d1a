//! Which software images have, for clients that may read them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use http::{Method, StatusCode, header};
use spec::{Digest, Timestamp};

use super::{
    error::{ApiError, ErrorCode},
    images::{find, may_read},
    outline::Outline,
    remote::Administrator,
    request_body::RequestBody,
    response::{Response, full, json, with_headers},
    scan_policies,
    scanner::Scanner,
    stored::manifest_bytes,
    vulnerabilities::VulnerabilityEndpoints,
};
use crate::{
    Repository, SbomFormat, blocking,
    limits::{FINDINGS_LISTED_MAX, FINDINGS_LOOKED_AT_MAX, IMAGE_MANIFESTS_MAX, TAGS_LISTED_MAX},
    protocol::{FindingSearch, FoundFinding, FoundFindings, Query, ScanReports},
    scan::{ScannedImage, document},
    storage::{ManifestRecord, Storage},
};

pub(super) struct ScanEndpoints {
    storage: Storage,
    scanner: Scanner,
    vulnerabilities: VulnerabilityEndpoints,
}

impl ScanEndpoints {
    pub fn new(storage: Storage, scanner: Scanner) -> Self {
        let vulnerabilities =
            VulnerabilityEndpoints { scanner: scanner.clone(), import: Mutex::default() };
        Self { storage, scanner, vulnerabilities }
    }

    /// Whether a path is one of these.
    pub fn serves(path: &str) -> bool {
        let of_them = ["sboms/", "scans/", "vulnerabilities", "findings", "scan-policies"];
        let rest = path.strip_prefix("/admin/").unwrap_or_default();
        of_them.iter().any(|start| rest.starts_with(start))
    }

    pub async fn answer(
        &self,
        administrator: &Administrator<'_>,
        method: &Method,
        path: &str,
        query: &Query,
        body: &mut RequestBody,
    ) -> Result<Response, ApiError> {
        if let Some(name) = path.strip_prefix("/admin/sboms/") {
            return self.sbom(administrator, method, name, query).await;
        }
        if let Some(name) = path.strip_prefix("/admin/scans/") {
            return self.scan(administrator, method, name).await;
        }
        if let Some(rest) = path.strip_prefix("/admin/vulnerabilities") {
            let import = rest.strip_prefix('/').unwrap_or_default();
            return self.vulnerabilities.answer(method, import, body).await;
        }
        match path {
            "/admin/findings" => self.findings(administrator, method, query).await,
            "/admin/scan-policies" => {
                scan_policies::answer(&self.storage, administrator, method, query, body).await
            }
            _ => Err(ApiError::no_such_endpoint()),
        }
    }

    /// `/admin/sboms/NAME:TAG` and `/admin/sboms/NAME@DIGEST`.
    async fn sbom(
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
                    None => format!("`{name}` is no image, or not all of it is in the repository"),
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

    /// `/admin/scans/NAME:TAG` and `/admin/scans/NAME@DIGEST`.
    async fn scan(
        &self,
        administrator: &Administrator<'_>,
        method: &Method,
        name: &str,
    ) -> Result<Response, ApiError> {
        if *method != Method::GET {
            return Err(ApiError::no_such_endpoint());
        }
        let (repository, digest, record) = find(&self.storage, administrator, name).await?;
        let rules = self.storage.metadata.rules.scan_rules_of(&repository);
        let mut images = Vec::new();
        for (digest, _) in self.images(&repository, digest, &record).await? {
            let now = Timestamp::of(SystemTime::now());
            let (database, of) = (Arc::clone(&self.scanner.database), repository.clone());
            let report = blocking(move || database.report(&digest, &of, now)).await?;
            images.extend(report.map(|mut report| {
                for finding in &mut report.findings {
                    let waivers = rules.iter().filter_map(|(_, rule)| rule.waiver(finding, now));
                    finding.waived = waivers.min_by_key(|waiver| waiver.expires).cloned();
                }
                report
            }));
        }
        if images.is_empty() {
            let message = format!("`{name}` is no image, or not all of it is in the repository");
            return Err(ApiError::not_found(ErrorCode::ManifestUnknown, message));
        }
        Ok(json(StatusCode::OK, &ScanReports { images }))
    }

    /// `/admin/findings`: those of images that the client may read.
    async fn findings(
        &self,
        administrator: &Administrator<'_>,
        method: &Method,
        query: &Query,
    ) -> Result<Response, ApiError> {
        if *method != Method::GET {
            return Err(ApiError::no_such_endpoint());
        }
        let search = FindingSearch::of(query)
            .map_err(|error| ApiError::bad_request(ErrorCode::Unsupported, error.to_string()))?;
        let database = Arc::clone(&self.scanner.database);
        let found = blocking(move || database.search(&search)).await?;
        let metadata = &self.storage.metadata;
        let mut more = found.len() == FINDINGS_LOOKED_AT_MAX;
        let (mut findings, mut readable) = (Vec::new(), HashMap::new());
        for (digest, repository, finding) in found {
            if findings.len() == FINDINGS_LISTED_MAX {
                more = true;
                break;
            }
            if !readable.contains_key(&repository) {
                let record = metadata.repository(&repository).await?;
                let may = record.is_some_and(|record| {
                    may_read(&self.storage, administrator, &repository, record.public)
                });
                readable.insert(repository.clone(), may);
            }
            if !readable[&repository] || metadata.manifest(&repository, &digest).await?.is_none() {
                continue;
            }
            let tags = metadata.tags_of(&repository, &digest, TAGS_LISTED_MAX).await?;
            let repository = repository.to_string();
            findings.push(FoundFinding { repository, digest, tags, finding });
        }
        Ok(json(StatusCode::OK, &FoundFindings { findings, more }))
    }

    /// The image of a manifest, or those of an index that the repository has.
    async fn images(
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
