use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use spec::{Descriptor, Digest, Timestamp};

use super::{super::remote_registry::RemoteRegistry, source::RepositoryBlobs};
use crate::{
    Error, PushOptions, Repository,
    limits::{LIST_PAGE_MAX, REPLICATED_TAGS_MAX},
    protocol::{CloudEvent, EventData, EventKind, Replica, ReplicationName, SYNCHRONISED},
    storage::{ManifestRecord, Storage, Webhook},
};

/// Carries changes out at other registries.
pub(crate) struct Replicator {
    storage: Storage,
    remotes: Mutex<HashMap<ReplicationName, (Timestamp, Arc<RemoteRegistry>)>>,
}

/// A replication while a change is carried out.
struct Target<'a> {
    hook: &'a Webhook,
    replica: &'a Replica,
    remote: Arc<RemoteRegistry>,
}

impl Replicator {
    pub fn new(storage: Storage) -> Self {
        Self { storage, remotes: Mutex::default() }
    }

    /// Carries out one change, again if need be.
    ///
    /// # Errors
    /// As for every request of a client.
    pub async fn carry_out(&self, hook: &Webhook, event: &CloudEvent) -> Result<(), Error> {
        let Some(replica) = &hook.record.replica else { return Ok(()) };
        let target = Target { hook, replica, remote: self.remote(hook, replica)? };
        if event.kind == SYNCHRONISED {
            return self.synchronise(&target).await;
        }
        let EventData { repository, digest, tags, .. } = &event.data;
        let repository: Repository = repository.parse()?;
        let kind = EventKind::ALL.into_iter().find(|kind| kind.type_name() == event.kind);
        match (kind, digest) {
            (Some(EventKind::ImagePushed), Some(digest)) => {
                self.push(&target, &repository, digest, tags).await
            }
            (Some(EventKind::ImageDeleted), Some(digest)) => {
                target.delete(&repository, &digest.to_string()).await
            }
            (Some(EventKind::TagDeleted), _) => {
                for tag in tags {
                    target.delete(&repository, tag).await?;
                }
                Ok(())
            }
            (Some(EventKind::RepositoryDeleted), _) => target.delete_all(&repository).await,
            // The other registry scans what it has by itself.
            (Some(EventKind::VulnerabilitiesFound), _)
            | (Some(EventKind::ImagePushed | EventKind::ImageDeleted), None)
            | (None, _) => Ok(()),
        }
    }

    /// The client of a replication, with the connections and tokens of the last change.
    fn remote(&self, hook: &Webhook, replica: &Replica) -> Result<Arc<RemoteRegistry>, Error> {
        let record = &hook.record;
        let mut remotes = self.remotes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((created, remote)) = remotes.get(&hook.name)
            && *created == record.created
        {
            return Ok(Arc::clone(remote));
        }
        let remote = RemoteRegistry::new(&record.url, record.private, replica.login.as_ref());
        let invalid = || Error::InvalidRegistry { registry: record.url.clone() };
        let remote = Arc::new(remote.ok_or_else(invalid)?);
        remotes.insert(hook.name.clone(), (record.created, Arc::clone(&remote)));
        Ok(remote)
    }

    /// Brings a manifest and all that it names under those of `tags` that point to it still.
    async fn push(
        &self,
        target: &Target<'_>,
        repository: &Repository,
        digest: &Digest,
        tags: &[String],
    ) -> Result<(), Error> {
        let metadata = &self.storage.metadata;
        let Some(record) = metadata.manifest(repository, digest).await? else { return Ok(()) };
        let mut names = Vec::new();
        for tag in tags {
            if metadata.tag(repository, tag).await? == Some(*digest) {
                names.push(tag.clone());
            }
        }
        if tags.is_empty() {
            names.push(digest.to_string());
        }
        for name in names {
            let reference = target.remote.reference(&target.name_of(repository), &name)?;
            // Also what came from there: two registries that replicate to each other come to rest.
            match target.remote.client.digest(&reference).await {
                Ok(Some(there)) if there == *digest => continue,
                Ok(_)
                | Err(Error::NotFound { .. } | Error::Denied { .. } | Error::LoginNeeded { .. }) => {
                }
                Err(error) => return Err(error),
            }
            let ManifestRecord { media_type, size, .. } = &record;
            let mut root = Descriptor::of(spec::MediaType::OCI_MANIFEST, b"");
            (root.media_type, root.digest, root.size) = (media_type.clone(), *digest, *size);
            let source = RepositoryBlobs::below(&self.storage, repository, *digest).await?;
            let options = PushOptions::default();
            target.remote.client.push(&reference, &root, Arc::new(source), &options).await?;
        }
        Ok(())
    }

    /// Compares everything that the replication is about.
    async fn synchronise(&self, target: &Target<'_>) -> Result<(), Error> {
        let (metadata, name) = (&self.storage.metadata, &target.hook.name);
        // What finds no place from now on asks for another one.
        target.hook.dropped.store(0, Ordering::SeqCst);
        let mut last = String::new();
        loop {
            let prefix = format!("{}/", name.account);
            let page = metadata.repositories(&prefix, &last, LIST_PAGE_MAX).await?;
            for (repository, _) in &page.entries {
                if target.hook.record.repositories.covers(repository) {
                    self.synchronise_repository(target, repository).await?;
                }
            }
            match page.entries.last().filter(|_| page.more) {
                Some((repository, _)) => repository.as_str().clone_into(&mut last),
                None => return Ok(()),
            }
        }
    }

    async fn synchronise_repository(
        &self,
        target: &Target<'_>,
        repository: &Repository,
    ) -> Result<(), Error> {
        let (metadata, mut last) = (&self.storage.metadata, String::new());
        loop {
            let page = metadata.manifests(repository, &last, LIST_PAGE_MAX).await?;
            for (digest, record) in &page.entries {
                if metadata.webhooks.get(&target.hook.name).is_none() {
                    return Ok(()); // removed meanwhile
                }
                let tags = metadata.tags_of(repository, digest, REPLICATED_TAGS_MAX).await?;
                // What has neither is part of an index, or of no use.
                if !tags.is_empty() || record.subject.is_some() {
                    self.push(target, repository, digest, &tags).await?;
                }
            }
            match page.entries.last().filter(|_| page.more) {
                Some((digest, _)) => last = digest.to_string(),
                None => return Ok(()),
            }
        }
    }
}

impl Target<'_> {
    /// The name of a repository there.
    fn name_of(&self, repository: &Repository) -> String {
        let name = repository.as_str();
        match (&self.replica.to, name.split_once('/')) {
            (Some(to), Some((_, rest))) => format!("{to}/{rest}"),
            _ => name.to_owned(),
        }
    }

    async fn delete(&self, repository: &Repository, name: &str) -> Result<(), Error> {
        let reference = self.remote.reference(&self.name_of(repository), name)?;
        self.remote.client.delete(&reference).await
    }

    /// No registry deletes a repository by the distribution API: everything that has a tag goes.
    async fn delete_all(&self, repository: &Repository) -> Result<(), Error> {
        let name = self.name_of(repository);
        let reference = self.remote.reference(&name, "latest")?;
        let tags = match self.remote.client.tags(&reference).await {
            Err(Error::NotFound { .. }) => return Ok(()),
            tags => tags?,
        };
        let mut digests = BTreeSet::new();
        for tag in tags {
            let reference = self.remote.reference(&name, &tag)?;
            digests.extend(self.remote.client.digest(&reference).await?);
        }
        for digest in digests {
            self.delete(repository, &digest.to_string()).await?;
        }
        Ok(())
    }
}
