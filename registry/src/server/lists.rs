use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use spec::{Digest, MediaType, Reference};

use super::{
    auth::RepositoryRequest,
    error::{ApiError, ErrorCode},
    response::{Response, json},
};
use crate::{
    Action, Error, Repository,
    access::{Principal, Situation, rights},
    limits::{CATALOG_SCANNED_MAX, LIST_PAGE_MAX, REFERRERS_PAGE_BYTES_MAX, REFERRERS_PAGE_MAX},
    protocol::{Query, TagList, encode_query},
    storage::{ListPage, Metadata, Referrer},
};

const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");

/// Lists of tags, repositories and referrers, by page.
pub(super) struct ListEndpoints {
    pub metadata: Metadata,
}

#[derive(Serialize)]
struct RepositoryList {
    repositories: Vec<Repository>,
}

/// An image index.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReferrerList {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Referrer>,
}

impl ListEndpoints {
    /// # Spec
    /// OCI distribution-spec 1.1, "Listing Tags".
    pub async fn tags(&self, request: &RepositoryRequest) -> Result<Response, ApiError> {
        let repository = &request.repository;
        let size = page_size(&request.query)?;
        let last = request.query.get("last").unwrap_or_default();
        if !last.is_empty() && !Reference::is_tag(last) {
            return Err(ApiError::bad_request(ErrorCode::TagInvalid, "`last` is not a tag"));
        }
        if self.metadata.repository(repository).await?.is_none() {
            let message = format!("there is no repository `{repository}`");
            return Err(ApiError::not_found(ErrorCode::NameUnknown, message));
        }
        let page = match size {
            0 => ListPage::default(),
            size => self.metadata.tags(repository, last, size).await?,
        };
        let next = page.entries.last().filter(|_| page.more);
        let next = next.map(|last| format!("/v2/{repository}/tags/list?n={size}&last={last}"));
        let list = TagList { name: repository.to_string(), tags: Some(page.entries) };
        Ok(linked(json(StatusCode::OK, &list), next))
    }

    /// The repositories that the principal may read.
    pub async fn catalog(
        &self,
        principal: &Principal,
        query: &Query,
    ) -> Result<Response, ApiError> {
        let size = page_size(query)?;
        let last = query.get("last").unwrap_or_default();
        if !last.is_empty() && !Reference::is_repository(last) {
            return Err(ApiError::bad_request(
                ErrorCode::NameInvalid,
                "`last` is not a repository",
            ));
        }
        let (repositories, next) = self.readable(principal, last, size).await?;
        let response = json(StatusCode::OK, &RepositoryList { repositories });
        Ok(linked(response, next.map(|last| format!("/v2/_catalog?n={size}&last={last}"))))
    }

    /// At most `size` repositories after `last`, and where the next page starts if there could be
    /// one.
    async fn readable(
        &self,
        principal: &Principal,
        last: &str,
        size: usize,
    ) -> Result<(Vec<Repository>, Option<Repository>), Error> {
        let (mut readable, mut last, mut scanned) = (Vec::new(), last.to_owned(), 0);
        while readable.len() < size {
            let page = self.metadata.repositories("", &last, LIST_PAGE_MAX).await?;
            for (repository, record) in page.entries {
                repository.as_str().clone_into(&mut last);
                scanned += 1;
                // A token for one repository proves its user, which is enough for names.
                let is_readable =
                    |situation: &Situation<'_>| rights(principal, situation).contains(Action::Pull);
                if self.metadata.situation_of(&repository, record.public, is_readable) {
                    readable.push(repository.clone());
                }
                if readable.len() == size || scanned == CATALOG_SCANNED_MAX {
                    return Ok((readable, Some(repository)));
                }
            }
            if !page.more {
                break;
            }
        }
        Ok((readable, None))
    }

    /// The manifests whose subject is `subject`: signatures, bills of material. For a subject that
    /// is not in the repository the list is empty or early, not an error.
    ///
    /// # Spec
    /// OCI distribution-spec 1.1, "Listing Referrers".
    pub async fn referrers(
        &self,
        request: &RepositoryRequest,
        subject: &Digest,
    ) -> Result<Response, ApiError> {
        let RepositoryRequest { repository, query, .. } = request;
        let last = query.get("last").unwrap_or_default();
        if !last.is_empty() && last.parse::<Digest>().is_err() {
            return Err(ApiError::bad_request(ErrorCode::DigestInvalid, "`last` is not a digest"));
        }
        let limits = (REFERRERS_PAGE_MAX, REFERRERS_PAGE_BYTES_MAX);
        let page = self.metadata.referrers(repository, subject, last, limits).await?;
        let filter = query.get("artifactType").filter(|filter| !filter.is_empty());
        let next = page.entries.last().filter(|_| page.more).map(|referrer| {
            let filter = filter.map(|filter| format!("&artifactType={}", encode_query(filter)));
            let (last, filter) = (referrer.digest, filter.unwrap_or_default());
            format!("/v2/{repository}/referrers/{subject}?last={last}{filter}")
        });
        let mut manifests = page.entries;
        if let Some(filter) = filter {
            manifests.retain(|referrer| referrer.artifact_type.as_deref() == Some(filter));
        }
        let media_type = MediaType::OCI_INDEX;
        let list = ReferrerList { schema_version: 2, media_type, manifests };
        let mut response = json(StatusCode::OK, &list);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        if filter.is_some() {
            headers.insert(FILTERS, HeaderValue::from_static("artifactType"));
        }
        Ok(linked(response, next))
    }
}

/// `n`, capped: a request for two billion entries gets a thousand and a link to the rest.
fn page_size(query: &Query) -> Result<usize, ApiError> {
    let is_number = |text: &str| {
        (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    match query.get("n") {
        None => Ok(LIST_PAGE_MAX),
        Some(text) if is_number(text) => {
            Ok(text.parse().unwrap_or(LIST_PAGE_MAX).min(LIST_PAGE_MAX))
        }
        Some(_) => Err(ApiError::bad_request(
            ErrorCode::PaginationNumberInvalid,
            "`n` is not a number of entries",
        )),
    }
}

fn linked(mut response: Response, next: Option<String>) -> Response {
    let link = next.and_then(|next| HeaderValue::from_str(&format!("<{next}>; rel=\"next\"")).ok());
    response.headers_mut().extend(link.map(|link| (header::LINK, link)));
    response
}
