use std::{ops::ControlFlow, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::join_all};
use serde::de::DeserializeOwned;
use spec::Timestamp;
use store::{Compare, Delivery, Kv, Query, Range, Rev, Txn, Watch};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::{
    api::Volume,
    app::{App, now},
    error::Refusal,
    handle::ledger::CURSOR_KEPT_FOR,
    keys,
    model::Model,
    plan::{Desired, Observed, Plan, Step, plan},
    records::{CursorRecord, IdempotencyRecord, JoinRecord, Kept, encode},
};

/// Nodes fall silent and waits pass without any event.
const TICK: Duration = Duration::from_secs(1);
/// Steps that are written at one time: what the store commits together.
const STEPS_AT_ONCE: usize = 128;
/// How long a create may be repeated with the same answer (the rule of ECS).
pub(crate) const REMEMBERED_FOR: Duration = Duration::from_secs(24 * 3600);
/// How often what has expired is looked for.
const SWEEP: Duration = Duration::from_secs(600);
/// Keys that one transaction deletes: what the store takes.
const SWEPT_AT_ONCE: usize = 100;

/// Follows the store, and moves what is there towards what was asked for, until the store writes no
/// more. Every pass looks at everything, so an event that got lost costs a second at most.
pub(crate) async fn reconcile(app: Arc<App>) -> store::Error {
    loop {
        match follow(&app).await {
            Ok(()) => tracing::warn!("the watch on the store was lost: listing again"),
            Err(refusal) if matches!(refusal.cause.as_deref(), Some(store::Error::Broken)) => {
                return store::Error::Broken;
            }
            Err(refusal) => {
                tracing::error!(fault = %refusal.fault, cause = ?refusal.cause, "cannot reconcile")
            }
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
    let mut tick = interval(TICK);
    loop {
        news.mark_unchanged(); // before the look, so that what changes during it is looked at again
        if pass(app, &mut watch).await?.is_break() {
            return Ok(());
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

/// Plans and writes until there is nothing left to do now. The bound is for a plan that does not
/// settle: then the next tick goes on, and no other work starves. Breaks when the watch was lost.
async fn pass(app: &App, watch: &mut Watch) -> Result<ControlFlow<()>, Refusal> {
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
            // The watch buffers a thousand revisions: it is drained while the steps are written,
            // or a large plan would overflow it by its own writes.
            let writing = join_all(group.iter().map(|step| write(app, step)));
            tokio::pin!(writing);
            let written = loop {
                tokio::select! {
                    written = &mut writing => break written,
                    delivery = watch.next() => match delivery {
                        Some(Delivery::Batch(batch)) => {
                            app.model.write().apply(batch.rev, &batch.events);
                        }
                        Some(Delivery::Lost(_)) | None => return Ok(ControlFlow::Break(())),
                    },
                }
            };
            written.into_iter().collect::<Result<(), _>>()?;
            // A write is in the queue before it is acknowledged.
            catch_up(app, watch);
        }
        app.touch();
    }
    Ok(ControlFlow::Continue(()))
}

/// One step, in one transaction that comes to nothing when the step is stale or this control plane
/// is not the newest.
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
            with_volumes(
                txn.when(Compare::Absent(key.clone())).put(key, encode(task)),
                &task.tenant,
                volumes,
            )
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

/// Looks for what has expired, now and then, until `end`. In a task of its own: a day's answers to
/// creates are tens of thousands of keys, and no plan waits for them.
pub(crate) async fn sweep(app: Arc<App>, end: CancellationToken) {
    let mut next = interval(SWEEP);
    while end.run_until_cancelled(next.tick()).await.is_some() {
        if let Some(Err(refusal)) = end.run_until_cancelled(sweep_once(&app, now())).await {
            tracing::warn!(fault = %refusal.fault, cause = ?refusal.cause, "cannot sweep");
        }
    }
}

/// Deletes what has expired: answers to creates, join tokens that nobody used, and how far the
/// usage logs of removed nodes were read.
async fn sweep_once(app: &App, now: Timestamp) -> Result<(), Refusal> {
    let answers: Vec<_> = app.model.read().idempotency.iter().cloned().collect();
    for group in answers.chunks(SWEPT_AT_ONCE) {
        let mut old = Vec::new();
        for key in group {
            let found = app.store.range(Query::key(&**key)).await?;
            old.extend(found.first().and_then(|kv| {
                expired(kv, |answer: &IdempotencyRecord| now.since(answer.at) > REMEMBERED_FOR)
            }));
        }
        delete(app, old).await?;
        tokio::task::yield_now().await; // the store answers from memory: without this nobody else had a turn
    }
    let joins = app.store.range(Query::prefix(keys::JOINS)).await?;
    let old = joins.kvs.iter().filter_map(|kv| expired(kv, |join: &JoinRecord| !join.is_good(now)));
    delete(app, old.collect()).await?;
    let cursors = app.store.range(Query::prefix(keys::CURSORS)).await?;
    let old: Vec<_> = {
        let model = app.model.read();
        let left = |cursor: &CursorRecord| {
            !model.nodes.contains_key(&cursor.node) && now.since(cursor.at) > CURSOR_KEPT_FOR
        };
        cursors.kvs.iter().filter_map(|kv| expired(kv, left)).collect()
    };
    delete(app, old).await
}

/// The key of a record that is old, and its revision. One that cannot be read is nobody's to delete
/// and keeps no other from going.
fn expired<T: DeserializeOwned>(kv: &Kv, is_old: impl Fn(&T) -> bool) -> Option<(String, Rev)> {
    match Kept::<T>::of(kv) {
        Ok(kept) => is_old(&kept.value).then(|| (kv.key.to_string(), kv.mod_rev)),
        Err(error) => {
            tracing::warn!(key = %kv.key, %error, "a stored object cannot be read and is not swept");
            None
        }
    }
}

/// Those that have not changed since. When one of a transaction has, the others wait for the next
/// sweep.
async fn delete(app: &App, old: Vec<(String, Rev)>) -> Result<(), Refusal> {
    for group in old.chunks(SWEPT_AT_ONCE) {
        let mut txn = Txn::new();
        for (key, mod_rev) in group {
            txn = txn.when(Compare::ModRev(key.clone(), *mod_rev)).delete(key.clone());
        }
        app.store.txn(txn).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use serde_json::json;
    use store::{MemoryStore, Store};

    use super::*;
    use crate::journeys::world::config;

    #[tokio::test]
    async fn a_sweep_takes_what_is_old_and_steps_over_what_it_cannot_read() {
        let (acme, begin) = ("acme".parse().unwrap(), Timestamp::from_millis(1_000_000_000_000));
        let (old, new) = (begin, Timestamp::from_millis(begin.millis() + 23 * 3_600_000));
        let now = Timestamp::from_millis(begin.millis() + 25 * 3_600_000);
        let answer = |at| {
            encode(&IdempotencyRecord { request: "r".into(), at, status: 201, answer: json!({}) })
        };
        let cursor = |node: &str, days: u64| {
            let at = Timestamp::from_millis(now.millis() - days * 24 * 3_600_000);
            encode(&CursorRecord { seq: 7, node: node.parse().unwrap(), at })
        };
        let join = |expires| encode(&JoinRecord { tenant: None, pool: true, expires });
        let node = json!({
            "id": "here", "tenant": null, "joined": begin, "drain": false, "certificates": [],
            "spec": crate::journeys::world::node_spec(),
        });
        let store = Arc::new(MemoryStore::new());
        let mut kept: Vec<(String, Arc<[u8]>)> = vec![
            (keys::node(&"here".parse().unwrap()), encode(&node)),
            (keys::idempotency(&acme, "a-newer-margay"), vec![9, 9].into()),
            (keys::idempotency(&acme, "new"), answer(new)),
            (keys::join("unreadable"), vec![9].into()),
            (keys::join("new"), join(Timestamp::from_millis(now.millis() + 1))),
            (keys::cursor("here"), cursor("here", 31)),
            (keys::cursor("left"), cursor("gone", 29)),
        ];
        let gone = (0..250).map(|n| (keys::idempotency(&acme, &format!("old-{n}")), answer(old)));
        let gone =
            gone.chain([(keys::join("old"), join(old)), (keys::cursor("old"), cursor("gone", 31))]);
        for (key, value) in kept.iter().cloned().chain(gone) {
            store.txn(Txn::new().put(key, value)).await.unwrap();
        }
        let (folder, listener) =
            (tempfile::tempdir().unwrap(), TcpListener::bind(("127.0.0.1", 0)).unwrap());
        let app = App::start(config(folder.path(), listener), store.clone(), None).await.unwrap();
        let before = store.status().await.unwrap().rev;
        sweep_once(&app, now).await.unwrap();
        let found = store.range(Query::prefix("")).await.unwrap();
        let mut left: Vec<_> =
            found.kvs.iter().map(|kv| (kv.key.to_string(), kv.value.clone())).collect();
        left.retain(|(key, _)| key != keys::EPOCH);
        kept.sort();
        left.sort();
        assert_eq!(left, kept);
        assert_eq!(
            store.status().await.unwrap().rev - before,
            3 + 1 + 1,
            "a hundred keys in one transaction"
        );
    }

    /// Two services of 600 replicas each, on four nodes that are ready: 1,200 steps in one plan.
    #[tokio::test]
    async fn a_plan_of_more_steps_than_the_watch_buffers_loses_no_event() {
        let (acme, main): (spec::Tenant, spec::ClusterName) =
            ("acme".parse().unwrap(), "main".parse().unwrap());
        let store = Arc::new(MemoryStore::new());
        let put = async |key: String, value: serde_json::Value| {
            store.txn(Txn::new().put(key, encode(&value))).await.unwrap();
        };
        let at = now();
        put(keys::cluster(&acme, &main), json!({ "name": "main", "created": at })).await;
        put(
            keys::definition(&acme, &"cats:1".parse().unwrap()),
            json!({
                "id": "cats:1", "registered": at, "active": true, "runs": ["wasm"],
                "definition": crate::journeys::world::definition("cats", "cats"),
            }),
        )
        .await;
        for name in ["n1", "n2", "n3", "n4"] {
            let capacity = spec::Resources { cpu_millis: 1_000_000, memory_bytes: 1 << 40 };
            let node = json!({
                "id": name, "tenant": "acme", "joined": at, "drain": false, "certificates": [],
                "spec": spec::NodeSpec { capacity, ..crate::journeys::world::node_spec() },
            });
            put(keys::node(&name.parse().unwrap()), node).await;
        }
        for name in ["s1", "s2"] {
            let service = spec::Service {
                name: name.parse().unwrap(),
                cluster: main.clone(),
                created: at,
                spec: spec::ServiceSpec {
                    task_definition: "cats:1".parse().unwrap(),
                    count: 600,
                    launch_type: spec::LaunchType::Node,
                },
                generation: 1,
                status: spec::ServiceStatus::default(),
            };
            let key = keys::service(&acme, &main, &service.name);
            put(key, json!({ "service": service })).await;
        }
        let (folder, listener) =
            (tempfile::tempdir().unwrap(), TcpListener::bind(("127.0.0.1", 0)).unwrap());
        let app = App::start(config(folder.path(), listener), store.clone(), None).await.unwrap();
        for name in ["n1", "n2", "n3", "n4"] {
            app.live.heard(&name.parse().unwrap());
        }
        let list = store.range(Query::prefix("")).await.unwrap();
        let mut watch = store.watch(Range::Prefix(String::new()), list.rev).await.unwrap();
        assert!(pass(&app, &mut watch).await.unwrap().is_continue());
        assert_eq!(app.model.read().tasks.len(), 1_200);
        let rev = store.status().await.unwrap().rev;
        assert_eq!(app.model.read().rev, rev);
        assert!(watch.next().now_or_never().is_none(), "the watch goes on");
    }
}
