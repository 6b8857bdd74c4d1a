use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Arc,
};

use futures_util::{FutureExt, future::join_all};
use spec::NodeId;
use store::{Delivery, Query, Txn, Watch};
use tokio::time::{interval, sleep_until};

use super::{NodeWatch, Observed, Plan, Step, Subject, Waiting, plan, scaling};
use crate::{
    limits::{PASSES_MAX, STEPS_AT_ONCE, TICK},
    state::{
        Shared, State, keys, now,
        records::{Guarded, ServiceKey},
    },
};

/// Follows the store, and moves what is there towards what was asked for.
pub(crate) struct Reconciler {
    state: Arc<State>,
    node_watch: Arc<NodeWatch>,
    waiting: Shared<BTreeMap<Subject, Waiting>>,
    desired: Shared<BTreeMap<ServiceKey, u32>>,
}

/// Why the reconciler stops following.
#[derive(Debug)]
enum Interrupted {
    /// Deliveries were lost: everything is listed again.
    WatchLost,
    Store(store::Error),
}

impl From<store::Error> for Interrupted {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

/// The watch on the store, whose deliveries become the model.
struct Follower<'a> {
    state: &'a State,
    watch: Watch,
    /// Nodes that deliveries were about, since nodes were last woken.
    touched: BTreeSet<NodeId>,
}

impl Reconciler {
    pub fn new(state: Arc<State>, node_watch: Arc<NodeWatch>) -> Self {
        Self { state, node_watch, waiting: Shared::default(), desired: Shared::default() }
    }

    /// Why a service or a task waits, as of the last plan.
    pub fn waiting(&self, subject: &Subject) -> Option<Waiting> {
        self.waiting.read().get(subject).cloned()
    }

    /// How many replicas a service should have, as of the last plan.
    pub fn desired(&self, service: &ServiceKey) -> Option<u32> {
        self.desired.read().get(service).copied()
    }

    /// Runs until the store writes no more. Every pass looks at everything, so an event that got
    /// lost costs a second at most.
    pub async fn run(&self) -> store::Error {
        loop {
            match self.follow().await {
                Err(Interrupted::WatchLost) => {
                    tracing::warn!("the watch on the store was lost: listing again");
                }
                Err(Interrupted::Store(error @ store::Error::Broken)) => return error,
                Err(Interrupted::Store(error)) => tracing::error!(?error, "cannot reconcile"),
            }
            tokio::time::sleep(TICK).await;
        }
    }

    async fn follow(&self) -> Result<Infallible, Interrupted> {
        let mut follower = self.list().await?;
        let mut news = self.state.subscribe();
        let mut tick = interval(TICK);
        loop {
            news.mark_unchanged(); // before the look, so that what changes during it is seen
            self.pass(&mut follower).await?;
            let silent = self.state.reports.next_disconnection();
            tokio::select! {
                delivery = follower.watch.next() => {
                    follower.apply(delivery)?;
                    follower.catch_up()?;
                }
                _ = tick.tick() => {}
                // At once, not with the next tick: until then its tasks are not replaced.
                () = until(silent) => {}
                _ = news.changed() => {}
            }
        }
    }

    /// The model as of now, and a watch from there. Every node may have news.
    async fn list(&self) -> Result<Follower<'_>, Interrupted> {
        let list = self.state.range(Query::prefix("")).await?;
        let watch = self.state.watch(list.rev).await?;
        self.state.replace_model(&list);
        let touched = self.state.model().nodes.keys().cloned().collect();
        Ok(Follower { state: &self.state, watch, touched })
    }

    /// Plans and writes until there is nothing left to do now.
    async fn pass(&self, follower: &mut Follower<'_>) -> Result<(), Interrupted> {
        self.state.reports.attend();
        for _ in 0..PASSES_MAX {
            self.node_watch.wake(&std::mem::take(&mut follower.touched));
            let Plan { steps, waiting, desired } = {
                let model = self.state.model();
                let reports = &self.state.reports;
                let observed = Observed {
                    conditions: reports.conditions(model.nodes.keys()),
                    under_pressure: reports.under_pressure(),
                    idle: reports.idle(),
                    requests: reports.requests(),
                    loads: scaling::loads(&model, reports, &self.state.metrics),
                    waiting: self.waiting.read().clone(),
                };
                plan(&model, &observed, now())
            };
            (*self.waiting.write(), *self.desired.write()) = (waiting, desired);
            if steps.is_empty() {
                return Ok(());
            }
            for group in steps.chunks(STEPS_AT_ONCE) {
                follower.write(group).await?;
            }
        }
        self.node_watch.wake(&std::mem::take(&mut follower.touched));
        Ok(())
    }
}

async fn until(time: Option<std::time::Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

impl Follower<'_> {
    /// Writes a part of a plan. The watch buffers a thousand revisions: it is drained meanwhile, or
    /// a large plan would overflow it by its own writes.
    async fn write(&mut self, steps: &[Step]) -> Result<(), Interrupted> {
        let writing = join_all(steps.iter().map(|step| write(self.state, step)));
        tokio::pin!(writing);
        let written = loop {
            tokio::select! {
                written = &mut writing => break written,
                delivery = self.watch.next() => self.apply(delivery)?,
            }
        };
        written.into_iter().collect::<Result<(), _>>()?;
        self.catch_up() // a write is in the queue before it is acknowledged
    }

    fn apply(&mut self, delivery: Option<Delivery>) -> Result<(), Interrupted> {
        match delivery {
            Some(Delivery::Batch(batch)) => {
                self.touched.extend(self.state.apply(&batch));
                Ok(())
            }
            Some(Delivery::Lost(_)) | None => Err(Interrupted::WatchLost),
        }
    }

    /// Applies what has been delivered already.
    fn catch_up(&mut self) -> Result<(), Interrupted> {
        while let Some(delivery) = self.watch.next().now_or_never() {
            self.apply(delivery)?;
        }
        Ok(())
    }
}

/// One step, in one transaction that comes to nothing when the step is stale or this control plane
/// is not the newest.
async fn write(state: &State, step: &Step) -> Result<(), store::Error> {
    let mut txn = Txn::new().when(state.epoch.fence());
    txn = match step {
        Step::Start { task, .. } => txn.create(keys::task(&task.tenant, task.id()), task),
        Step::Change { task, based_on, .. } => {
            txn.update(keys::task(&task.tenant, task.id()), *based_on, task)
        }
        Step::Service { key: (tenant, cluster, name), service, based_on } => {
            txn.update(keys::service(tenant, cluster, name), *based_on, service)
        }
        Step::NodeGroup { group, based_on } => {
            txn.update(keys::node_group(&group.name), *based_on, group)
        }
        Step::Forget { key: (tenant, id), based_on } => {
            txn.remove(keys::task(tenant, id), *based_on)
        }
    };
    if let Step::Start { task, volumes } | Step::Change { task, volumes, .. } = step {
        for volume in volumes {
            txn = txn.create(keys::volume(&task.tenant, &volume.name), volume);
        }
    }
    let written = state.commit(txn).await?;
    tracing::info!(%step, written, "step");
    Ok(())
}

#[cfg(test)]
mod tests;
