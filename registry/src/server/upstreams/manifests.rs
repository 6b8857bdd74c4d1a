use std::time::Duration;

use spec::Digest;
use tokio::time::timeout;

use super::{
    super::{
        error::{ApiError, ErrorCode},
        incoming::IncomingManifest,
        route::Target,
    },
    PullThrough,
    live::Live,
    refusal::Refusal,
};
use crate::{
    Error, Repository,
    client::Resolved,
    limits::{UPSTREAM_MANIFEST_TIME_MAX, UPSTREAM_RECHECK_TIME_MAX},
    repository::Actions,
    storage::UpstreamCounters,
};

/// What there is of what a client asks for.
enum Kept {
    /// It need not be asked for.
    Fresh,
    /// The tag may point to something else by now.
    Stale(Digest),
    Missing,
}

/// Why nothing was fetched.
enum Fault {
    Upstream(Error),
    /// A failure of this registry, or a manifest that it does not take.
    Own(ApiError),
}

impl PullThrough {
    /// Sees to it that a manifest of an upstream is there, as far as it can be.
    ///
    /// # Errors
    /// When it is not kept and the upstream does not give it.
    pub async fn manifest(&self, repository: &Repository, target: &Target) -> Result<(), ApiError> {
        let Some((live, name)) = self.of(repository) else { return Ok(()) };
        let counters = &live.upstream.counters;
        if self.is_fresh(&live, repository, target).await? {
            UpstreamCounters::count(&counters.hits);
            return Ok(());
        }
        if self.is_read_only() {
            return Ok(());
        }
        let subject = subject(repository, target);
        let asking = self.checked.asking(&subject);
        let _one = asking.lock().await;
        // Another request may have fetched it meanwhile.
        let kept = match self.kept(&live, repository, target).await? {
            Kept::Fresh => {
                UpstreamCounters::count(&counters.hits);
                return Ok(());
            }
            Kept::Stale(digest) => Some(digest),
            Kept::Missing => None,
        };
        let refusal = match live.held() {
            Some(wait) => Refusal::held(&live.upstream.name, wait),
            None => match self.ask(&live, (repository, name), target, kept.as_ref()).await {
                Ok(()) => {
                    live.has_answered();
                    self.checked.note(&subject);
                    UpstreamCounters::count(&counters.misses);
                    return Ok(());
                }
                Err(Fault::Own(error)) if kept.is_none() => return Err(error),
                Err(Fault::Own(error)) => {
                    tracing::warn!(subject, ?error, "what an upstream sent is not kept");
                    UpstreamCounters::count(&counters.stale);
                    return Ok(());
                }
                Err(Fault::Upstream(error)) => {
                    live.has_failed(&error);
                    if let (Error::NotFound { .. }, Some(_), Target::Tag(tag)) =
                        (&error, kept, target)
                    {
                        let _exclusive = self.storage.locks.exclusive(repository).await;
                        self.storage.metadata.remove_tag(repository, tag).await?;
                        return Ok(());
                    }
                    Refusal::of(&live.upstream.name, &error)
                }
            },
        };
        match kept {
            Some(_) => {
                UpstreamCounters::count(&counters.stale);
                Ok(())
            }
            None => {
                if !refusal.is_absence() {
                    UpstreamCounters::count(&counters.failed);
                }
                Err(refusal.answer(ErrorCode::ManifestUnknown))
            }
        }
    }

    async fn is_fresh(
        &self,
        live: &Live,
        repository: &Repository,
        target: &Target,
    ) -> Result<bool, ApiError> {
        Ok(matches!(self.kept(live, repository, target).await?, Kept::Fresh))
    }

    async fn kept(
        &self,
        live: &Live,
        repository: &Repository,
        target: &Target,
    ) -> Result<Kept, ApiError> {
        let metadata = &self.storage.metadata;
        let digest = match target {
            Target::Digest(digest) => Some(*digest),
            Target::Tag(tag) => metadata.tag(repository, tag).await?,
        };
        let Some(digest) = digest else { return Ok(Kept::Missing) };
        self.storage.pulls.ask_for(repository, &digest);
        let record = metadata.manifest(repository, &digest).await?;
        if record.is_none() || metadata.is_damaged(&digest) {
            return Ok(Kept::Missing);
        }
        let ttl = Duration::from_secs(live.upstream.record.wanted.ttl_seconds);
        Ok(match target {
            Target::Tag(_) if !self.checked.is_fresh(&subject(repository, target), ttl) => {
                Kept::Stale(digest)
            }
            Target::Tag(_) | Target::Digest(_) => Kept::Fresh,
        })
    }

    /// Asks the upstream. The bytes of a manifest that is kept do not come again.
    async fn ask(
        &self,
        live: &Live,
        (repository, name): (&Repository, &str),
        target: &Target,
        kept: Option<&Digest>,
    ) -> Result<(), Fault> {
        let reference =
            live.remote.reference(name, &target.to_string()).map_err(Fault::Upstream)?;
        let fetched = async {
            // Docker Hub counts what is sent, and not what is asked for.
            if let Some(kept) = kept
                && live.remote.client.digest(&reference).await? == Some(*kept)
            {
                return Ok(None);
            }
            live.remote.client.resolve(&reference).await.map(Some)
        };
        let time_max = match kept {
            Some(_) => UPSTREAM_RECHECK_TIME_MAX,
            None => UPSTREAM_MANIFEST_TIME_MAX,
        };
        let fetched = timeout(time_max, fetched).await.unwrap_or_else(|_| {
            let (registry, subject) = (live.upstream.name.to_string(), reference.to_string());
            Err(Error::TimedOut { registry, subject, after: time_max })
        });
        match fetched.map_err(Fault::Upstream)? {
            None => Ok(()),
            Some(resolved) => self.keep(live, repository, target, resolved).await,
        }
    }

    async fn keep(
        &self,
        live: &Live,
        repository: &Repository,
        target: &Target,
        resolved: Resolved,
    ) -> Result<(), Fault> {
        let Resolved { descriptor, bytes } = resolved;
        let size = bytes.len() as u64;
        let media_type = descriptor.media_type.to_string();
        let manifest = IncomingManifest::parse(bytes, Some(&media_type), Some(&descriptor.digest));
        let manifest = manifest.map_err(Fault::Own)?;
        let own = |error: Error| Fault::Own(error.into());
        self.make_room(repository, size).await.map_err(own)?;
        let tags = match target {
            Target::Tag(tag) => vec![tag.clone()],
            Target::Digest(_) => Vec::new(),
        };
        let _adding = self.storage.unused.adding(&descriptor.digest).await;
        let _shared = self.storage.locks.shared(repository).await;
        let stored = manifest.store(&self.storage, repository, (&tags, Actions::ALL)).await;
        stored.map_err(Fault::Own)?;
        live.has_sent(size);
        Ok(())
    }
}

/// What is asked for, as one name.
fn subject(repository: &Repository, target: &Target) -> String {
    match target {
        Target::Tag(tag) => format!("{repository}:{tag}"),
        Target::Digest(digest) => format!("{repository}@{digest}"),
    }
}
