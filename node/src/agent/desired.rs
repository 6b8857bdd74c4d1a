//! The desired set of the control plane, and how what is here is moved towards it.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use disk::Survives;
use serde::{Deserialize, Serialize};
use spec::wire::{self, DesiredSet};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    adoption::AdoptableTask,
    control::{POLL_TIME_MAX, RETRY_AFTER},
    converge::{Step, TaskKey, converge},
    limits::{REMOVED_AFTER, REPORT_EVERY},
    process::Agent,
    task::TaskHandle,
};
use crate::{
    error::{Error, Result, chain},
    files,
};

/// `desired.json`: what the control plane last said, and the highest epoch that it said it in.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    pub version: u32,
    pub epoch: u64,
    pub set: Option<DesiredSet>,
}

impl Agent {
    /// What the control plane last said, as an earlier agent has kept it.
    pub(super) fn last_desired(&self) -> Result<Kept> {
        let kept: Kept = files::read_json(&self.folder.desired())?.unwrap_or_default();
        if kept.version > 1 {
            wire::check_version("the desired set", kept.version)
                .map_err(|source| Error::Newer { path: self.folder.desired(), source })?;
        }
        Ok(kept)
    }

    /// Asks the control plane what should run, again and again, until it does not know us any more.
    /// What it says is on disk before it is acted on.
    pub(super) async fn listen(
        &self,
        mut epoch: u64,
        tell: &watch::Sender<Option<Arc<DesiredSet>>>,
    ) {
        let mut control = self.control();
        let mut unknown_since: Option<Instant> = None;
        // Nothing is known of what this control plane last said: the first answer comes at once.
        let mut after: Option<i64> = None;
        loop {
            let path = after.map_or("/v1/node/desired".to_owned(), |rev| {
                format!("/v1/node/desired?after={rev}")
            });
            let answer = match &control {
                Ok(control) => control.get::<DesiredSet>(&path, POLL_TIME_MAX).await,
                Err(error) => Err(Error::Identity(chain(error))),
            };
            match &answer {
                Err(error) if error.is_unknown_node() => {
                    let since = *unknown_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= REMOVED_AFTER {
                        return;
                    }
                    tracing::warn!("the control plane does not know this node");
                }
                Ok(_) => unknown_since = None,
                Err(_) => {} // no answer says nothing about this node
            }
            self.note_outdated(&answer);
            match answer.and_then(|set| self.accept(set, &mut epoch, tell)) {
                Ok(Some(revision)) => after = Some(revision),
                Ok(None) => sleep(REPORT_EVERY).await,
                Err(error) => {
                    tracing::debug!(error = chain(&error), "the control plane is away");
                    sleep(RETRY_AFTER).await;
                    control = self.control();
                    after = None;
                }
            }
        }
    }

    /// A control plane that is newer than this agent may ask for what it does not know. What runs
    /// stays as it is then, and the next report tells of it.
    fn note_outdated(&self, answer: &Result<DesiredSet>) {
        let is_outdated = match answer {
            Ok(set) => wire::check_version("the desired set", set.version).is_err(),
            Err(Error::NotUnderstood { .. }) => true,
            Err(_) => return,
        };
        let was = self.host.outdated.swap(is_outdated, Ordering::Relaxed);
        if let (true, false, Err(error)) = (is_outdated, was, answer) {
            tracing::error!(
                error = chain(error),
                "what runs here stays as it is until this node is upgraded"
            );
        }
    }

    /// Takes a set, unless it is from a stale epoch.
    pub(super) fn accept(
        &self,
        mut set: DesiredSet,
        epoch: &mut u64,
        tell: &watch::Sender<Option<Arc<DesiredSet>>>,
    ) -> Result<Option<i64>> {
        if let Err(error) = wire::check_version("the desired set", set.version) {
            tracing::error!(%error, "the control plane is newer than this node");
            return Ok(None);
        }
        if set.epoch < *epoch {
            tracing::warn!(
                "ignoring desired set from stale epoch {} (current: {epoch})",
                set.epoch
            );
            return Ok(None);
        }
        let revision = set.revision;
        // Tokens are new with every answer: they are no news, and a task that waits or tries again
        // takes the newest.
        self.host.renew_tokens(take_tokens(&mut set));
        let news = tell.borrow().as_ref().is_none_or(|known| **known != set);
        if news {
            *epoch = set.epoch;
            let kept = Kept { version: 1, epoch: set.epoch, set: Some(set.clone()) };
            files::write_json(&self.folder.desired(), &kept, Survives::PowerLoss)?;
            // What is acknowledged is served: it does not wait for tasks that start or stop.
            self.serve_routes(&set);
            tell.send_replace(Some(Arc::new(set)));
        }
        Ok(Some(revision))
    }

    /// Moves what is here towards the last desired set, whenever either has changed.
    pub(super) async fn follow(&self, mut sets: watch::Receiver<Option<Arc<DesiredSet>>>) {
        loop {
            let set = sets.borrow_and_update().clone();
            if let Some(set) = set {
                self.converge(&set).await;
            }
            tokio::select! {
                changed = sets.changed() => if changed.is_err() { return },
                () = self.host.ended.notified() => {}
            }
        }
    }

    /// Has the ingress and the guests of this node know the routes of `set`.
    pub(super) fn serve_routes(&self, set: &DesiredSet) {
        self.host.services.replace(&set.routes);
        if let Err(error) = self.host.ingress.write_shared(&self.shared(set.routes.clone())) {
            tracing::error!(error = chain(&error), "the ingress does not get its routes");
        }
    }

    async fn converge(&self, set: &DesiredSet) {
        let seen = self.tasks().iter().map(|(key, task)| (key.clone(), task.seen())).collect();
        for step in converge(set, &seen) {
            match step {
                Step::Stop(key) => {
                    tracing::info!(task = %key.1, "stop");
                    self.tasks().get(&key).into_iter().for_each(TaskHandle::stop);
                }
                Step::Forget(key) => self.forget(&key).await,
                Step::Start(key) => {
                    let task =
                        set.tasks.iter().find(|task| (&task.tenant, &task.id) == (&key.0, &key.1));
                    if let Some(task) = task {
                        tracing::info!(task = %key.1, "start");
                        let handle =
                            TaskHandle::start(&self.host, task.clone(), AdoptableTask::new());
                        self.tasks().insert(key, handle);
                    }
                }
            }
        }
        self.host.changed.notify_one();
    }

    async fn forget(&self, key: &TaskKey) {
        let Some(task) = self.tasks().remove(key) else { return };
        let meters: Vec<_> = task.reports.iter().map(|report| report.meter.clone()).collect();
        task.reports.iter().for_each(|report| report.forget());
        let forgotten = self.host.with_usage(move |log| {
            meters.iter().for_each(|meter| log.forget(meter));
            Ok(())
        });
        if let Err(error) = forgotten.await {
            tracing::warn!(error = chain(&error), "a meter could not be forgotten");
        }
    }
}

/// Tokens are secret and last for minutes: they are not kept with the set.
fn take_tokens(set: &mut DesiredSet) -> BTreeMap<TaskKey, String> {
    let tokens = set.tasks.iter_mut().filter_map(|task| {
        let token = task.pull_token.take()?;
        Some(((task.tenant.clone(), task.id.clone()), token))
    });
    tokens.collect()
}
