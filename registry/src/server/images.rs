//! What the registry knows about images: of one that is named, and of those that are looked for.
//! A client learns what it could read.

use http::{Method, StatusCode};
use spec::{Digest, Reference};
use tokio::sync::Semaphore;

use super::{
    error::{ApiError, ErrorCode},
    outline::Outline,
    remote::Administrator,
    response::{Response, json},
    stored::manifest_bytes,
    survey::Surveyor,
};
use crate::{
    Action, Error, Repository,
    access::{Situation, rights},
    limits::{
        FOUND_IMAGES_MAX, IMAGE_MANIFESTS_MAX, LIST_PAGE_MAX, SEARCHED_MANIFESTS_MAX, SEARCHES_MAX,
        TAGS_LISTED_MAX,
    },
    protocol::{FoundImage, FoundImages, ImageContents, ImageEntry, ImageInfo, ImageSearch, Query},
    storage::{ManifestRecord, Storage},
};

pub(super) struct ImageEndpoints {
    storage: Storage,
    surveyor: Surveyor,
    searches: Semaphore,
}

/// What a search has come to.
struct Search {
    wanted: ImageSearch,
    found: Vec<FoundImage>,
    looked_at: usize,
}

impl ImageEndpoints {
    pub fn new(storage: Storage, surveyor: Surveyor) -> Self {
        Self { storage, surveyor, searches: Semaphore::new(SEARCHES_MAX) }
    }

    /// `/admin/images/NAME:TAG` and `/admin/images/NAME@DIGEST`; without a name those that the
    /// query is about.
    pub async fn answer(
        &self,
        administrator: &Administrator<'_>,
        method: &Method,
        name: &str,
        query: &Query,
    ) -> Result<Response, ApiError> {
        match (method, name) {
            (&Method::GET, "") => self.search(administrator, query).await,
            (&Method::GET, name) => self.inspect(administrator, name).await,
            _ => Err(ApiError::no_such_endpoint()),
        }
    }

    async fn inspect(
        &self,
        administrator: &Administrator<'_>,
        name: &str,
    ) -> Result<Response, ApiError> {
        let (repository, digest, record) = find(&self.storage, administrator, name).await?;
        let metadata = &self.storage.metadata;
        let info = ImageInfo {
            repository: repository.to_string(),
            digest,
            media_type: record.media_type.to_string(),
            tags: metadata.tags_of(&repository, &digest, TAGS_LISTED_MAX).await?,
            pushed: record.pushed,
            images: self.images(&repository, digest, &record).await?,
        };
        Ok(json(StatusCode::OK, &info))
    }

    /// The image of a manifest, or those of an index that the repository has.
    async fn images(
        &self,
        repository: &Repository,
        digest: Digest,
        record: &ManifestRecord,
    ) -> Result<Vec<ImageEntry>, ApiError> {
        if !record.media_type.is_index() {
            let contents = self.surveyor.contents(repository, &digest, record).await?;
            return Ok(contents
                .map(|contents| ImageEntry { digest, contents })
                .into_iter()
                .collect());
        }
        let bytes = manifest_bytes(&self.storage.blobs, digest, record.size).await?;
        let mut images = Vec::new();
        for digest in Outline::parse(&bytes)?.manifests().take(IMAGE_MANIFESTS_MAX) {
            let record = self.storage.metadata.manifest(repository, digest).await?;
            let Some(record) = record else { continue };
            if let Some(contents) = self.surveyor.contents(repository, digest, &record).await? {
                images.push(ImageEntry { digest: *digest, contents });
            }
        }
        Ok(images)
    }

    async fn search(
        &self,
        administrator: &Administrator<'_>,
        query: &Query,
    ) -> Result<Response, ApiError> {
        let busy = || ApiError::too_many_requests("other searches are under way");
        let _one = self.searches.try_acquire().map_err(|_| busy())?;
        let of = |name| query.get(name).map(str::to_owned);
        let wanted = ImageSearch {
            text: of("text"),
            imports: of("imports"),
            exports: of("exports"),
            label: of("label"),
            digest: of("digest"),
        };
        let mut search = Search { wanted, found: Vec::new(), looked_at: 0 };
        let (mut last, mut more) = (String::new(), true);
        'pages: while more {
            let page = self.storage.metadata.repositories("", &last, LIST_PAGE_MAX).await?;
            for (repository, record) in page.entries {
                if may_read(&self.storage, administrator, &repository, record.public)
                    && !self.search_in(&repository, &mut search).await?
                {
                    break 'pages;
                }
                repository.as_str().clone_into(&mut last);
            }
            more = page.more;
            tokio::task::yield_now().await;
        }
        Ok(json(StatusCode::OK, &FoundImages { images: search.found, more }))
    }

    /// Whether the search goes on after this repository.
    async fn search_in(&self, repository: &Repository, search: &mut Search) -> Result<bool, Error> {
        let metadata = &self.storage.metadata;
        let mut last = String::new();
        loop {
            let page = metadata.manifest_digests(repository, &last, LIST_PAGE_MAX).await?;
            for digest in &page.entries {
                search.looked_at += 1;
                if search.looked_at > SEARCHED_MANIFESTS_MAX
                    || search.found.len() == FOUND_IMAGES_MAX
                {
                    return Ok(false);
                }
                if let Some(found) = self.found(repository, digest, &search.wanted).await? {
                    search.found.push(found);
                }
            }
            match page.entries.last().filter(|_| page.more) {
                Some(digest) => last = digest.to_string(),
                None => return Ok(true),
            }
            tokio::task::yield_now().await;
        }
    }

    async fn found(
        &self,
        repository: &Repository,
        digest: &Digest,
        wanted: &ImageSearch,
    ) -> Result<Option<FoundImage>, Error> {
        if !wanted.takes_digest(digest) {
            return Ok(None);
        }
        let metadata = &self.storage.metadata;
        let contents: Option<ImageContents> = metadata.image(repository, digest).await?;
        if contents.is_none() && !wanted.is_met_by_names() {
            return Ok(None);
        }
        let found = FoundImage {
            repository: repository.to_string(),
            digest: *digest,
            tags: metadata.tags_of(repository, digest, TAGS_LISTED_MAX).await?,
            contents: contents.unwrap_or_default(),
        };
        Ok(wanted.takes(&found).then_some(found))
    }
}

/// An image that the client may read, by `NAME:TAG` or `NAME@DIGEST`.
pub(super) async fn find(
    storage: &Storage,
    administrator: &Administrator<'_>,
    name: &str,
) -> Result<(Repository, Digest, ManifestRecord), ApiError> {
    let absent = || ApiError::not_found(ErrorCode::ManifestUnknown, format!("no image `{name}`"));
    let (metadata, repository) = (&storage.metadata, repository_of(name)?);
    let record = metadata.repository(&repository).await?.ok_or_else(absent)?;
    if !may_read(storage, administrator, &repository, record.public) {
        return Err(absent());
    }
    let digest = match &name[repository.as_str().len()..] {
        rest if rest.starts_with('@') => rest[1..].parse().map_err(ApiError::invalid_digest)?,
        rest => metadata.tag(&repository, &rest[1..]).await?.ok_or_else(absent)?,
    };
    let record = metadata.manifest(&repository, &digest).await?.ok_or_else(absent)?;
    Ok((repository, digest, record))
}

/// Whether the client may read a repository.
pub(super) fn may_read(
    storage: &Storage,
    administrator: &Administrator<'_>,
    repository: &Repository,
    is_public: bool,
) -> bool {
    match administrator {
        Administrator::Owner => true,
        Administrator::Client(principal) => {
            let reads =
                |situation: &Situation<'_>| rights(principal, situation).contains(Action::Pull);
            storage.metadata.situation_of(repository, is_public, reads)
        }
    }
}

/// The repository of `NAME:TAG` or `NAME@DIGEST`.
fn repository_of(name: &str) -> Result<Repository, ApiError> {
    let (repository, is_well_formed) = match (name.split_once('@'), name.split_once(':')) {
        (Some((repository, _)), _) => (repository, true),
        (None, Some((repository, tag))) => (repository, Reference::is_tag(tag)),
        (None, None) => (name, false),
    };
    match is_well_formed {
        true => repository.parse().map_err(ApiError::invalid_name),
        false => {
            let message = format!("`{name}` is neither REPOSITORY:TAG nor REPOSITORY@DIGEST");
            Err(ApiError::bad_request(ErrorCode::NameInvalid, message))
        }
    }
}
