//! Retention: tags and manifests that no rule keeps go, while requests go on.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use audit::{AuditLog, Event};
use spec::{Digest, Timestamp};
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval, interval_at, sleep},
};

use super::{
    expiry::{self, Manifest, Tag, Verdict},
    outline::Outline,
    stored::{links_of, manifest_bytes},
};
use crate::{
    Error, Repository, blocking,
    limits::{
        COLLECT_BATCH, COLLECT_PAUSE, EXPIRED_LISTED_MAX, LIST_PAGE_MAX, PULLS_NOTED_EVERY,
        TAGS_LISTED_MAX,
    },
    protocol::{Expired, Retained, Retention, Switch},
    storage::{Deciding, ManifestRecord, Storage, TagRecord},
};

/// Applies the rules at times, and when the administrator asks for it.
pub(super) struct Retainer {
    storage: Storage,
    audit: Arc<AuditLog>,
    asked: mpsc::Receiver<Asked>,
}

/// Asks the retainer of a registry.
#[derive(Clone)]
pub(super) struct RetainerHandle(mpsc::Sender<Asked>);

/// Where and how to apply the rules.
#[derive(Debug, Clone)]
pub(super) struct RetainOptions {
    /// An account or a repository; empty for all.
    pub name: String,
    /// How long what goes must not have been used.
    pub grace: Duration,
    /// Whether to say what would go, and leave it.
    pub dry_run: bool,
}

type Asked = (RetainOptions, oneshot::Sender<Result<Retained, Error>>);

impl RetainerHandle {
    /// The result of a pass, or `None` when the registry is shutting down.
    pub async fn retain(&self, options: RetainOptions) -> Option<Result<Retained, Error>> {
        let (answer, retained) = oneshot::channel();
        self.0.send((options, answer)).await.ok()?;
        retained.await.ok()
    }
}

impl Retainer {
    pub fn new(storage: Storage, audit: Arc<AuditLog>) -> (Self, RetainerHandle) {
        let (ask, asked) = mpsc::channel(1);
        (Self { storage, audit, asked }, RetainerHandle(ask))
    }

    /// Applies the rules, and writes down pulls, until it is dropped.
    pub async fn run(mut self, every: Duration, grace: Duration) {
        let mut passes = interval_at(tokio::time::Instant::now() + every, every);
        passes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut notes = interval(PULLS_NOTED_EVERY);
        notes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = passes.tick() => self.retain_all(grace).await,
                _ = notes.tick() => {
                    if let Err(error) = self.storage.note_pulls().await {
                        tracing::warn!(%error, "cannot write down when manifests were pulled");
                    }
                }
                Some((options, answer)) = self.asked.recv() => {
                    // The administrator may have stopped waiting.
                    let _ = answer.send(retain(&self.storage, &self.audit, &options).await);
                }
            }
        }
    }

    async fn retain_all(&self, grace: Duration) {
        // Nothing changes for clients of a read-only registry, and nothing unrecorded.
        if self.storage.metadata.rules.is_on(Switch::ReadOnly) || !self.audit.has_space() {
            return;
        }
        let options = RetainOptions { name: String::new(), grace, dry_run: false };
        match retain(&self.storage, &self.audit, &options).await {
            Ok(Retained { tags, manifests, .. }) if tags + manifests > 0 => {
                tracing::info!(tags, manifests, "retention has deleted");
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "cannot apply the retention rules"),
        }
    }
}

/// One pass over every repository that has rules.
async fn retain(
    storage: &Storage,
    audit: &AuditLog,
    options: &RetainOptions,
) -> Result<Retained, Error> {
    // From here on it is known what requests ask for, and then what they asked for before.
    let deciding = storage.pulls.begin();
    storage.note_pulls().await?;
    let rules: HashMap<_, _> = storage.metadata.retentions().await?.into_iter().collect();
    let retained = Retained { dry_run: options.dry_run, ..Retained::default() };
    let mut pass = Pass { storage, audit, options, deciding, retained };
    let mut last = String::new();
    while !rules.is_empty() {
        let page = storage.metadata.repositories("", &last, LIST_PAGE_MAX).await?;
        for (repository, _) in &page.entries {
            if let Some(retention) = rules_of(&rules, repository)
                && is_within(repository, &options.name)
            {
                pass.repository(repository, retention).await?;
            }
        }
        match page.entries.last().filter(|_| page.more) {
            Some((repository, _)) => repository.as_str().clone_into(&mut last),
            None => break,
        }
    }
    Ok(pass.retained)
}

/// The rules of a repository are its own, else those of its account, else those of the registry.
fn rules_of<'a>(
    rules: &'a HashMap<String, Retention>,
    repository: &Repository,
) -> Option<&'a Retention> {
    let name = repository.as_str();
    let account = name.split_once('/').map_or(name, |(account, _)| account);
    [name, account, "*"].into_iter().find_map(|name| rules.get(name))
}

fn is_within(repository: &Repository, name: &str) -> bool {
    let rest = repository.as_str().strip_prefix(name);
    name.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A pass of retention, of which there is one at a time.
struct Pass<'a> {
    storage: &'a Storage,
    audit: &'a AuditLog,
    options: &'a RetainOptions,
    deciding: Deciding<'a>,
    retained: Retained,
}

/// What there is in a repository, as it was when the decision was made.
struct Contents {
    tags: BTreeMap<String, TagRecord>,
    manifests: BTreeMap<Digest, ManifestRecord>,
}

/// Whether what was decided still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removed {
    Yes,
    /// A request was faster.
    Changed,
}

impl Pass<'_> {
    async fn repository(
        &mut self,
        repository: &Repository,
        retention: &Retention,
    ) -> Result<(), Error> {
        let contents = self.contents(repository).await?;
        let judged = match self.judge(repository, retention, &contents).await? {
            Some(verdict) => self.doomed(repository, &contents, &verdict).await?.zip(Some(verdict)),
            None => None,
        };
        let Some((doomed, verdict)) = judged else {
            tracing::warn!(%repository, "an index cannot be read: its repository is left as it is");
            self.retained.unclear += 1;
            return Ok(());
        };
        self.retained.waiting += verdict.waiting;
        if self.remove(repository, &contents, &verdict, doomed).await? == Removed::Changed {
            self.retained.changed += 1;
        }
        Ok(())
    }

    async fn remove(
        &mut self,
        repository: &Repository,
        contents: &Contents,
        verdict: &Verdict,
        doomed: Vec<Digest>,
    ) -> Result<Removed, Error> {
        let mut of_doomed: HashMap<_, Vec<&Tag>> =
            doomed.iter().map(|digest| (*digest, Vec::new())).collect();
        let mut removed = 0;
        for tag in &verdict.tags {
            if let Some(tags) = of_doomed.get_mut(&tag.digest) {
                tags.push(tag);
                continue;
            }
            if self.remove_tag(repository, tag, contents).await? == Removed::Changed {
                return Ok(Removed::Changed);
            }
            self.note(repository, Some(&tag.name), tag.digest);
            self.pause(&mut removed).await;
        }
        // What names others comes before them, and none goes when one before it had to stay.
        for digest in doomed {
            let tags = of_doomed.remove(&digest).unwrap_or_default();
            let going: HashSet<_> = tags.iter().map(|tag| tag.name.as_str()).collect();
            let ended = self.remove_manifest(repository, digest, contents, &going).await?;
            if ended == Removed::Changed {
                return Ok(Removed::Changed);
            }
            tags.iter().for_each(|tag| self.note(repository, Some(&tag.name), digest));
            self.note(repository, None, digest);
            self.pause(&mut removed).await;
        }
        Ok(Removed::Yes)
    }

    async fn contents(&self, repository: &Repository) -> Result<Contents, Error> {
        let metadata = &self.storage.metadata;
        let mut contents = Contents { tags: BTreeMap::new(), manifests: BTreeMap::new() };
        let mut last = String::new();
        loop {
            let page = metadata.tag_records(repository, &last, LIST_PAGE_MAX).await?;
            let next = page.entries.last().filter(|_| page.more).map(|(tag, _)| tag.clone());
            contents.tags.extend(page.entries);
            let Some(next) = next else { break };
            last = next;
            tokio::task::yield_now().await;
        }
        last.clear();
        loop {
            let page = metadata.manifests(repository, &last, LIST_PAGE_MAX).await?;
            let next = page.entries.last().filter(|_| page.more).map(|(name, _)| name.to_string());
            contents.manifests.extend(page.entries);
            let Some(next) = next else { return Ok(contents) };
            last = next;
            tokio::task::yield_now().await;
        }
    }

    /// `None` when an index does not tell what it names.
    async fn judge(
        &self,
        repository: &Repository,
        retention: &Retention,
        contents: &Contents,
    ) -> Result<Option<Verdict>, Error> {
        let mut manifests = Vec::new();
        for (digest, record) in &contents.manifests {
            let children = match record.media_type.is_index() {
                true => match links_of(&self.storage.blobs, digest, record).await {
                    Ok(links) => Some(links),
                    Err(error) => {
                        tracing::debug!(%repository, %digest, ?error, "cannot read an index");
                        return Ok(None);
                    }
                },
                false => None,
            };
            let ManifestRecord { subject, pushed, pulled, .. } = record;
            let (subject, pushed, pulled) = (*subject, *pushed, *pulled);
            manifests.push(Manifest { digest: *digest, children, subject, pushed, pulled });
        }
        let tag = |(name, record): (&String, &TagRecord)| {
            let TagRecord { digest, set } = *record;
            Tag { name: name.clone(), digest, set }
        };
        let tags: Vec<_> = contents.tags.iter().map(tag).collect();
        let (retention, grace) = (retention.clone(), self.options.grace);
        let now = Timestamp::of(SystemTime::now());
        // A hundred thousand tags take a while.
        let judged = move || expiry::judge(&retention, &tags, &manifests, now, grace);
        Ok(Some(blocking(judged).await))
    }

    /// The manifests that go: first what goes by itself, then what that names and what refers to
    /// it. `None` when an index cannot be read.
    async fn doomed(
        &self,
        repository: &Repository,
        contents: &Contents,
        verdict: &Verdict,
    ) -> Result<Option<Vec<Digest>>, Error> {
        let mut referrers: HashMap<Digest, Vec<Digest>> = HashMap::new();
        for (digest, record) in &contents.manifests {
            if let Some(subject) = record.subject {
                referrers.entry(subject).or_default().push(*digest);
            }
        }
        let (mut doomed, mut seen) = (Vec::new(), HashSet::new());
        let mut left: VecDeque<_> = verdict.roots.iter().copied().collect();
        while let Some(digest) = left.pop_front() {
            let Some(record) = contents.manifests.get(&digest) else { continue };
            if verdict.kept.contains(&digest) || !seen.insert(digest) {
                continue;
            }
            doomed.push(digest);
            left.extend(referrers.get(&digest).into_iter().flatten());
            if record.media_type.is_index() {
                let bytes = manifest_bytes(&self.storage.blobs, digest, record.size).await;
                let outline = bytes.map_err(Into::into).and_then(|bytes| Outline::parse(&bytes));
                let Ok(outline) = outline else {
                    tracing::debug!(%repository, %digest, "cannot read an index");
                    return Ok(None);
                };
                left.extend(outline.manifests());
            }
        }
        Ok(Some(doomed))
    }

    async fn remove_tag(
        &self,
        repository: &Repository,
        tag: &Tag,
        contents: &Contents,
    ) -> Result<Removed, Error> {
        if self.options.dry_run {
            return Ok(Removed::Yes);
        }
        let metadata = &self.storage.metadata;
        let _exclusive = self.storage.locks.exclusive(repository).await;
        let is_same = metadata.tag_record(repository, &tag.name).await?.as_ref()
            == contents.tags.get(&tag.name);
        if !is_same || self.deciding.is_asked_for(repository, &tag.digest) {
            return Ok(Removed::Changed);
        }
        metadata.remove_tag(repository, &tag.name).await?;
        self.record(repository, &tag.name);
        Ok(Removed::Yes)
    }

    /// Removes a manifest with its tags, if all of them are `going`.
    async fn remove_manifest(
        &self,
        repository: &Repository,
        digest: Digest,
        contents: &Contents,
        going: &HashSet<&str>,
    ) -> Result<Removed, Error> {
        if self.options.dry_run {
            return Ok(Removed::Yes);
        }
        let metadata = &self.storage.metadata;
        let _exclusive = self.storage.locks.exclusive(repository).await;
        let record = metadata.manifest(repository, &digest).await?;
        if record.as_ref() != contents.manifests.get(&digest)
            || self.deciding.is_asked_for(repository, &digest)
        {
            return Ok(Removed::Changed);
        }
        loop {
            let tags = metadata.tags_of(repository, &digest, TAGS_LISTED_MAX).await?;
            if tags.iter().any(|tag| !going.contains(tag.as_str())) {
                return Ok(Removed::Changed);
            }
            if tags.len() < TAGS_LISTED_MAX {
                break;
            }
            for tag in tags {
                metadata.remove_tag(repository, &tag).await?;
            }
        }
        metadata.remove_manifest(repository, &digest).await?;
        self.record(repository, &digest.to_string());
        Ok(Removed::Yes)
    }

    fn note(&mut self, repository: &Repository, tag: Option<&str>, digest: Digest) {
        match tag {
            Some(_) => self.retained.tags += 1,
            None => self.retained.manifests += 1,
        }
        if self.retained.expired.len() < EXPIRED_LISTED_MAX {
            let (repository, tag) = (repository.to_string(), tag.map(str::to_owned));
            self.retained.expired.push(Expired { repository, tag, digest });
        }
    }

    fn record(&self, repository: &Repository, target: &str) {
        self.audit.record(Event {
            principal: "retention".to_owned(),
            address: String::new(),
            action: "DELETE".to_owned(),
            object: format!("/v2/{repository}/manifests/{target}"),
            status: 202,
            code: String::new(),
        });
    }

    /// Requests wait for the disk no longer than for the commits of a few others.
    async fn pause(&self, removed: &mut usize) {
        *removed += 1;
        if !self.options.dry_run && (*removed).is_multiple_of(COLLECT_BATCH) {
            sleep(COLLECT_PAUSE).await;
        }
    }
}
