use std::{collections::BTreeSet, sync::Arc};

use serde::de::DeserializeOwned;
use spec::Timestamp;
use store::{Kv, Query, Rev, Txn};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use super::{
    State, keys, now,
    objects::{DayUsage, DisputedUsage},
    records::{CursorRecord, DefinitionRecord, Guarded, IdempotencyRecord, JoinRecord, Stored},
};
use crate::limits::{
    CURSOR_KEPT_FOR, REMEMBERED_FOR, SWEEP_EVERY, SWEPT_AT_ONCE, USAGE_DAYS_KEPT_FOR,
};

/// Deletes what has expired, now and then, until `end`. In a task of its own: a day's answers to
/// creates are tens of thousands of keys, and no plan waits for them.
pub(crate) async fn sweep(state: Arc<State>, end: CancellationToken) {
    let mut next = interval(SWEEP_EVERY);
    while end.run_until_cancelled(next.tick()).await.is_some() {
        if let Some(Err(error)) = end.run_until_cancelled(sweep_once(&state, now())).await {
            tracing::warn!(?error, "cannot sweep");
        }
    }
}

/// Deletes what has expired: answers to creates, join tokens that were not used, of removed nodes
/// how far their usage logs were read and what of them was disputed, days of usage, and
/// deregistered definitions that nothing names any more.
async fn sweep_once(state: &State, now: Timestamp) -> Result<(), store::Error> {
    let answers: Vec<_> = state.model().idempotency.iter().cloned().collect();
    for group in answers.chunks(SWEPT_AT_ONCE) {
        let mut old = Vec::new();
        for key in group {
            let found = state.range(Query::key(&**key)).await?;
            old.extend(found.first().and_then(|kv| {
                expired(kv, |answer: &IdempotencyRecord| now.since(answer.at) > REMEMBERED_FOR)
            }));
        }
        delete(state, old).await?;
        // The store answers from memory: without this no other task would run.
        tokio::task::yield_now().await;
    }
    let joins = state.range(Query::prefix(keys::JOINS)).await?;
    let old = joins.kvs.iter().filter_map(|kv| expired(kv, |join: &JoinRecord| !join.is_good(now)));
    delete(state, old.collect()).await?;
    let cursors = state.range(Query::prefix(keys::CURSORS)).await?;
    let old: Vec<_> = {
        let model = state.model();
        let left = |cursor: &CursorRecord| {
            !model.nodes.contains_key(&cursor.node) && now.since(cursor.at) > CURSOR_KEPT_FOR
        };
        cursors.kvs.iter().filter_map(|kv| expired(kv, left)).collect()
    };
    delete(state, old).await?;
    let disputes = state.range(Query::prefix(keys::USAGE_DISPUTES)).await?;
    let old: Vec<_> = {
        let model = state.model();
        let left = |dispute: &DisputedUsage| {
            !model.nodes.contains_key(&dispute.node) && now.since(dispute.until) > CURSOR_KEPT_FOR
        };
        disputes.kvs.iter().filter_map(|kv| expired(kv, left)).collect()
    };
    delete(state, old).await?;
    let tenants = state.model().tenants();
    for tenant in tenants {
        let days = state.range(Query::prefix(keys::usage_days(&tenant))).await?;
        let is_old = |day: &DayUsage| now.since(day.day) > USAGE_DAYS_KEPT_FOR;
        delete(state, days.kvs.iter().filter_map(|kv| expired(kv, is_old)).collect()).await?;
        tokio::task::yield_now().await;
    }
    delete(state, unused_definitions(state).await?).await
}

/// Deregistered revisions that no service and no task names: nothing can name one again.
async fn unused_definitions(state: &State) -> Result<Vec<(String, Rev)>, store::Error> {
    let unused: Vec<String> = {
        let model = state.model();
        let services = model.services.iter().map(|((tenant, ..), stored)| {
            (tenant.clone(), stored.value.service.spec.task_definition.clone())
        });
        let tasks = model.tasks.iter().map(|((tenant, _), stored)| {
            (tenant.clone(), stored.value.task.spec.task_definition.clone())
        });
        let named: BTreeSet<_> = services.chain(tasks).collect();
        let inactive = model.definitions.iter().filter(|(_, record)| !record.active);
        let unused = inactive.filter(|(key, _)| !named.contains(*key));
        unused.map(|((tenant, id), _)| keys::definition(tenant, id)).collect()
    };
    let mut old = Vec::new();
    for key in unused {
        let found = state.range(Query::key(key)).await?;
        old.extend(
            found.first().and_then(|kv| expired(kv, |known: &DefinitionRecord| !known.active)),
        );
    }
    Ok(old)
}

/// The key of a record that is old, and its revision. One that cannot be read stays, and keeps no
/// other from being deleted.
fn expired<T: DeserializeOwned>(kv: &Kv, is_old: impl Fn(&T) -> bool) -> Option<(String, Rev)> {
    match Stored::<T>::of(kv) {
        Ok(stored) => is_old(&stored.value).then(|| (kv.key.to_string(), kv.mod_rev)),
        Err(error) => {
            tracing::warn!(key = %kv.key, %error, "an unreadable object is not swept");
            None
        }
    }
}

/// Those that have not changed since. When one of a transaction has, the others wait for the next
/// sweep.
async fn delete(state: &State, old: Vec<(String, Rev)>) -> Result<(), store::Error> {
    for group in old.chunks(SWEPT_AT_ONCE) {
        let mut txn = Txn::new();
        for (key, mod_rev) in group {
            txn = txn.remove(key.clone(), *mod_rev);
        }
        state.commit(txn).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use store::{MemoryStore, Store};

    use super::*;
    use crate::journeys::fixture::node_spec;

    #[tokio::test]
    async fn a_sweep_deletes_what_is_old_and_skips_what_it_cannot_read() {
        let (acme, begin) = ("acme".parse().unwrap(), Timestamp::from_millis(1_000_000_000_000));
        let (old, new) = (begin, Timestamp::from_millis(begin.millis() + 23 * 3_600_000));
        let now = Timestamp::from_millis(begin.millis() + 25 * 3_600_000);
        let answer = |at| {
            crate::state::records::encode(&IdempotencyRecord {
                request: "r".into(),
                at,
                status: 201,
                answer: json!({}),
            })
        };
        let cursor = |node: &str, days: u64| {
            let at = Timestamp::from_millis(now.millis() - days * 24 * 3_600_000);
            crate::state::records::encode(&CursorRecord { seq: 7, node: node.parse().unwrap(), at })
        };
        let join = |expires| {
            crate::state::records::encode(&JoinRecord {
                tenant: None,
                pool: true,
                expires,
                machine: None,
            })
        };
        let node = json!({
            "id": "here", "tenant": null, "joined": begin, "drain": false, "certificates": [],
            "spec": node_spec(),
        });
        let store = Arc::new(MemoryStore::new());
        let mut stored: Vec<(String, Arc<[u8]>)> = vec![
            (keys::node(&"here".parse().unwrap()), crate::state::records::encode(&node)),
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
        for (key, value) in stored.iter().cloned().chain(gone) {
            store.txn(Txn::new().put(key, value)).await.unwrap();
        }
        let state = State::open(store.clone()).await.unwrap();
        let before = store.status().await.unwrap().rev;
        sweep_once(&state, now).await.unwrap();
        let found = store.range(Query::prefix("")).await.unwrap();
        let mut left: Vec<_> =
            found.kvs.iter().map(|kv| (kv.key.to_string(), kv.value.clone())).collect();
        left.retain(|(key, _)| key != keys::EPOCH);
        stored.sort();
        left.sort();
        assert_eq!(left, stored);
        assert_eq!(
            store.status().await.unwrap().rev - before,
            3 + 1 + 1,
            "a hundred keys in one transaction"
        );
    }
}
