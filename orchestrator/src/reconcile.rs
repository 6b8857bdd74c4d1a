use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::join_all};
use store::{Compare, Delivery, Op, Query, Range, Txn, Watch};
use tokio::time::{Instant, interval};

use crate::{
    api::Volume,
    app::{App, now},
    error::Refusal,
    keys,
    model::Model,
    plan::{Desired, Observed, Plan, Step, plan},
    records::{IdempotencyRecord, JoinRecord, Kept, encode},
};

/// Nodes fall silent and waits pass without any event.
const TICK: Duration = Duration::from_secs(1);
/// Steps that are written at one time: what the store commits together.
const STEPS_AT_ONCE: usize = 128;
/// How long a create may be repeated with the same answer (the rule of ECS).
pub(crate) const REMEMBERED_FOR: Duration = Duration::from_secs(24 * 3600);
/// How often what has expired is looked for.
const SWEEP: Duration = Duration::from_secs(600);

/// Follows the store, and moves what is there towards what was asked for, until the store writes no more. Every pass
/// looks at everything, so an event that got lost costs a second at most.
pub(crate) async fn reconcile(app: Arc<App>) -> store::Error {
    loop {
        match follow(&app).await {
            Ok(()) => tracing::warn!("the watch on the store was lost: listing again"),
            Err(refusal) if matches!(refusal.cause.as_deref(), Some(store::Error::Broken)) => {
                return store::Error::Broken;
            }
            Err(refusal) => tracing::error!(fault = %refusal.fault, cause = ?refusal.cause, "cannot reconcile"),
        }
        tokio::time::sleep(TICK).await;
    }
}

async fn follow(app: &App) -> Result<(), Refusal> {
    let list = app.store.range(Query::prefix("")).await?;
    let mut watch = app.store.watch(Range::Prefix(String::new()), list.rev).await?;
    *app.model.write() = Model::of(&list);
    app.touch();
    let mut news = app.changed.subscribe();
    let (mut tick, mut swept) = (interval(TICK), None::<Instant>);
    loop {
        news.mark_unchanged(); // before the look, so that what changes during it is looked at again
        pass(app, &mut watch).await?;
        if swept.is_none_or(|then| then.elapsed() > SWEEP) {
            swept = Some(Instant::now());
            sweep(app).await?;
        }
        tokio::select! {
            delivery = watch.next() => match delivery {
                Some(Delivery::Batch(batch)) => {
                    app.model.write().apply(batch.rev, &batch.events);
                    catch_up(app, &mut watch);
                    app.touch();
                }
                Some(Delivery::Lost(_)) | None => return Ok(()),
            },
            _ = tick.tick() => {}
            _ = news.changed() => {}
        }
    }
}

/// Applies what has been delivered already.
fn catch_up(app: &App, watch: &mut Watch) {
    let mut model = app.model.write();
    while let Some(Some(Delivery::Batch(batch))) = watch.next().now_or_never() {
        model.apply(batch.rev, &batch.events);
    }
}

/// Plans and writes until there is nothing left to do now. The bound is for a plan that does not settle: then the next
/// tick goes on, and nobody else starves.
async fn pass(app: &App, watch: &mut Watch) -> Result<(), Refusal> {
    const PASSES_MAX: usize = 4;
    for _ in 0..PASSES_MAX {
        let Plan { steps, waiting } = {
            let model = app.model.read();
            let conditions = app.live.conditions(model.nodes.keys());
            plan(&Desired::of(&model), &Observed::of(&model, &conditions), now())
        };
        let told = std::mem::replace(&mut *app.waiting.write(), waiting);
        if steps.is_empty() {
            drop(told);
            break;
        }
        for group in steps.chunks(STEPS_AT_ONCE) {
            for written in join_all(group.iter().map(|step| write(app, step))).await {
                written?;
            }
        }
        catch_up(app, watch); // our own writes are in the queue before we are told that they happened
        app.touch();
    }
    Ok(())
}

/// One step, in one transaction that comes to nothing when the step is stale or this control plane is not the newest.
async fn write(app: &App, step: &Step) -> Result<(), Refusal> {
    let txn = Txn::new().when(app.epoch.fence());
    let with_volumes = |mut txn: Txn, tenant: &spec::Tenant, volumes: &[Volume]| {
        for volume in volumes {
            let key = keys::volume(tenant, &volume.name);
            txn = txn.when(Compare::Absent(key.clone())).put(key, encode(volume));
        }
        txn
    };
    let txn = match step {
        Step::Start { task, volumes } => {
            let key = keys::task(&task.tenant, task.id());
            with_volumes(txn.when(Compare::Absent(key.clone())).put(key, encode(task)), &task.tenant, volumes)
        }
        Step::Change { task, based_on, volumes } => {
            let key = keys::task(&task.tenant, task.id());
            let txn = txn.when(Compare::ModRev(key.clone(), *based_on)).put(key, encode(task));
            with_volumes(txn, &task.tenant, volumes)
        }
        Step::Forget { key: (tenant, id), based_on } => {
            let key = keys::task(tenant, id);
            txn.when(Compare::ModRev(key.clone(), *based_on)).delete(key)
        }
    };
    let committed = app.store.txn(txn).await?;
    tracing::info!(%step, written = committed.succeeded, "step");
    Ok(())
}

/// Deletes what has expired: answers to creates, and join tokens that nobody used.
async fn sweep(app: &App) -> Result<(), Refusal> {
    let answers: Vec<_> = app.model.read().idempotency.iter().cloned().collect();
    for key in answers {
        if let Some(kept) = app.get::<IdempotencyRecord>(&*key).await?
            && now().since(kept.value.at) > REMEMBERED_FOR
        {
            delete(app, &key, &kept).await?;
        }
    }
    let joins = app.store.range(Query::prefix(keys::JOINS)).await?;
    for kv in &joins.kvs {
        let kept = Kept::<JoinRecord>::of(kv)?;
        if now() > kept.value.expires {
            delete(app, &kv.key, &kept).await?;
        }
    }
    Ok(())
}

async fn delete<T>(app: &App, key: &str, kept: &Kept<T>) -> Result<(), Refusal> {
    let same = Compare::ModRev(key.to_owned(), kept.mod_rev);
    app.store.txn(Txn::new().when(same).then(Op::Delete(Range::Key(key.to_owned())))).await?;
    Ok(())
}
