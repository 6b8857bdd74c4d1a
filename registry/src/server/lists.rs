use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use spec::{Digest, MediaType, Reference};

use super::{
    app::{App, Asked},
    query::Query,
    reply::{Refusal, Reply, json},
};
use crate::{
    Error, Repository,
    access::Principal,
    storage::{Referrer, RepositoryRecord},
};

/// Entries of one page, asked for or not: a page is one answer from memory.
const PAGE_MAX: usize = 1000;
/// Referrers of one page, and their bytes, because annotations can be long: every reader of a list
/// may hold one page.
const REFERRERS_PAGE_MAX: usize = 200;
const REFERRERS_PAGE_BYTES_MAX: usize = 1 << 20;
/// Repositories looked at for one page of the catalogue, whoever they belong to.
const LOOKED_AT_MAX: usize = 10_000;
const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");

impl App {
    /// # Spec
    /// OCI distribution-spec 1.1, "Listing Tags".
    pub(super) async fn list_tags(
        &self,
        asked: &Asked,
        repository: &Repository,
    ) -> Result<Reply, Refusal> {
        #[derive(Serialize)]
        struct Page<'a> {
            name: &'a str,
            tags: &'a [String],
        }
        let size = page_size(&asked.query)?;
        let last = asked.query.get("last").unwrap_or_default();
        if !last.is_empty() && !Reference::is_tag(last) {
            return Err(Refusal::bad("TAG_INVALID", "`last` is no tag"));
        }
        if self.metadata.repository(repository).await?.is_none() {
            return Err(Refusal::absent(
                "NAME_UNKNOWN",
                format!("there is no repository `{repository}`"),
            ));
        }
        let (tags, more) = match size {
            0 => (Vec::new(), false),
            size => self.metadata.tags(repository, last, size).await?,
        };
        let reply = json(StatusCode::OK, &Page { name: repository.as_str(), tags: &tags });
        let next = tags
            .last()
            .filter(|_| more)
            .map(|last| format!("/v2/{repository}/tags/list?n={size}&last={last}"));
        Ok(linked(reply, next))
    }

    /// The repositories that the asker may read.
    pub(super) async fn catalog(&self, asked: &Asked) -> Result<Reply, Refusal> {
        #[derive(Serialize)]
        struct Page<'a> {
            repositories: &'a [Repository],
        }
        let size = page_size(&asked.query)?;
        let last = asked.query.get("last").unwrap_or_default();
        if !last.is_empty() && !Reference::is_repository(last) {
            return Err(Refusal::bad("NAME_INVALID", "`last` is no repository"));
        }
        let (found, next) = self.readable(&asked.principal, last, size).await?;
        let reply = json(StatusCode::OK, &Page { repositories: &found });
        Ok(linked(reply, next.map(|last| format!("/v2/_catalog?n={size}&last={last}"))))
    }

    /// At most `size` repositories after `last`, and where to go on if there could be more.
    async fn readable(
        &self,
        principal: &Principal,
        last: &str,
        size: usize,
    ) -> Result<(Vec<Repository>, Option<Repository>), Error> {
        let (mut found, mut last, mut looked_at) = (Vec::new(), last.to_owned(), 0);
        while found.len() < size {
            let (page, more) = self.metadata.repositories("", &last, PAGE_MAX).await?;
            for (repository, record) in page {
                repository.as_str().clone_into(&mut last);
                looked_at += 1;
                if may_list(principal, &repository, record) {
                    found.push(repository.clone());
                }
                if found.len() == size || looked_at == LOOKED_AT_MAX {
                    return Ok((found, Some(repository)));
                }
            }
            if !more {
                return Ok((found, None));
            }
        }
        Ok((found, None))
    }

    /// What says something about `subject`: signatures, bills of material. Nothing known is an
    /// empty list.
    ///
    /// # Spec
    /// OCI distribution-spec 1.1, "Listing Referrers".
    pub(super) async fn list_referrers(
        &self,
        asked: &Asked,
        repository: &Repository,
        subject: &Digest,
    ) -> Result<Reply, Refusal> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Page {
            schema_version: u32,
            media_type: &'static str,
            manifests: Vec<Referrer>,
        }
        let last = asked.query.get("last").unwrap_or_default();
        if !last.is_empty() && last.parse::<Digest>().is_err() {
            return Err(Refusal::bad("DIGEST_INVALID", "`last` is no digest"));
        }
        let limits = (REFERRERS_PAGE_MAX, REFERRERS_PAGE_BYTES_MAX);
        let (mut manifests, more) =
            self.metadata.referrers(repository, subject, last, limits).await?;
        let filter = asked.query.get("artifactType").filter(|filter| !filter.is_empty());
        let next = manifests.last().filter(|_| more).map(|referrer| {
            let filter = filter
                .map(|f| format!("&artifactType={}", crate::client::escaped(f)))
                .unwrap_or_default();
            format!("/v2/{repository}/referrers/{subject}?last={}{filter}", referrer.digest)
        });
        if let Some(filter) = filter {
            manifests.retain(|referrer| referrer.artifact_type.as_deref() == Some(filter));
        }
        let page = Page { schema_version: 2, media_type: MediaType::OCI_INDEX, manifests };
        let mut reply = json(StatusCode::OK, &page);
        reply
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(MediaType::OCI_INDEX));
        if filter.is_some() {
            reply.headers_mut().insert(FILTERS, HeaderValue::from_static("artifactType"));
        }
        Ok(linked(reply, next))
    }
}

/// A name is shown to whoever may read what is behind it. A token for one repository shows that its
/// holder is known, and names are all that is given here.
fn may_list(principal: &Principal, repository: &Repository, record: RepositoryRecord) -> bool {
    match principal {
        _ if record.public => true,
        Principal::User { name, .. } => repository.belongs_to(name),
        Principal::Nobody | Principal::Machine { .. } => false,
    }
}

/// `n`, capped: asking for two billion is answered with a thousand and a link to the rest.
fn page_size(query: &Query) -> Result<usize, Refusal> {
    match query.get("n") {
        None => Ok(PAGE_MAX),
        Some(text)
            if !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit()) =>
        {
            Ok(text.parse().unwrap_or(PAGE_MAX).min(PAGE_MAX))
        }
        Some(_) => Err(Refusal::bad("PAGINATION_NUMBER_INVALID", "`n` is not a number of entries")),
    }
}

fn linked(mut reply: Reply, next: Option<String>) -> Reply {
    let link = next.and_then(|next| HeaderValue::from_str(&format!("<{next}>; rel=\"next\"")).ok());
    reply.headers_mut().extend(link.map(|link| (header::LINK, link)));
    reply
}
