//! What each task used on each day in UTC: for bills of a period, and for those of a service.

use std::collections::BTreeMap;

use spec::{Tenant, Timestamp, Usage, UsageRecord};
use store::{Query, Txn};

use crate::{
    api::{
        call::{Call, Reply},
        error::ApiError,
        principal::Principal,
        query,
    },
    limits::USAGE_TASKS_PER_DAY_MAX,
    state::{
        State, keys,
        objects::DayUsage,
        records::{Guarded, Stored, TaskRecord},
    },
};

/// What one transaction adds to each day.
#[derive(Debug, Default)]
pub(super) struct Days(BTreeMap<(Tenant, String), DayUsage>);

const DAY_MILLIS: u64 = 24 * 3600 * 1000;

/// When the day of `at` began.
fn day_of(at: Timestamp) -> Timestamp {
    Timestamp::from_millis(at.millis() / DAY_MILLIS * DAY_MILLIS)
}

impl Days {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// A node is believed about the day, but not that a task used anything before it was made, or
    /// in times to come.
    pub fn take(&mut self, record: &UsageRecord, usage: Usage, task: &TaskRecord, now: Timestamp) {
        let day = day_of(record.at.max(task.task.created).min(now));
        let spec = &task.task.spec;
        let key = (record.tenant.clone(), keys::usage_day_of(day, &spec.cluster, &record.task));
        let sum = self.0.entry(key).or_insert_with(|| DayUsage {
            day,
            cluster: spec.cluster.clone(),
            service: spec.service.clone(),
            task: Some(record.task.clone()),
            usage: Usage::default(),
        });
        sum.usage = sum.usage.plus(usage);
    }

    pub async fn write(&self, state: &State, mut txn: Txn) -> Result<Txn, ApiError> {
        let mut rest: BTreeMap<String, DayUsage> = BTreeMap::new();
        for ((tenant, of_day), sum) in &self.0 {
            let key = format!("{}{of_day}", keys::usage_days(tenant));
            let before: Option<Stored<DayUsage>> = state.get(key.clone()).await?;
            match before {
                Some(before) => txn = txn.update(key, before.mod_rev, &plus(before.value, sum)),
                None if is_full(state, tenant, sum.day).await? => {
                    let all = DayUsage { service: None, task: None, ..sum.clone() };
                    let key = keys::usage_day_rest(tenant, sum.day, &sum.cluster);
                    let sum = rest.remove(&key).map_or(all.clone(), |sum| plus(sum, &all));
                    rest.insert(key, sum);
                }
                None => txn = txn.update(key, 0, sum),
            }
        }
        for (key, sum) in rest {
            let before: Option<Stored<DayUsage>> = state.get(key.clone()).await?;
            let mod_rev = before.as_ref().map_or(0, |before| before.mod_rev);
            let all = before.map_or(sum.clone(), |before| plus(before.value, &sum));
            txn = txn.update(key, mod_rev, &all);
        }
        Ok(txn)
    }
}

fn plus(one: DayUsage, other: &DayUsage) -> DayUsage {
    DayUsage { usage: one.usage.plus(other.usage), ..one }
}

/// Whether a tenant has as many tasks on a day as are told apart.
async fn is_full(state: &State, tenant: &Tenant, day: Timestamp) -> Result<bool, ApiError> {
    let prefix = keys::usage_day(tenant, day);
    let found = state.range(Query::prefix(prefix).limit(USAGE_TASKS_PER_DAY_MAX)).await?;
    Ok(found.kvs.len() >= USAGE_TASKS_PER_DAY_MAX)
}

/// Days from the one of `from` to the one of `to`, of the caller or, for the operator, of `tenant`.
pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    let time = |name: &str| -> Result<Option<Timestamp>, ApiError> {
        let Some(text) = call.query(name) else { return Ok(None) };
        Ok(Some(day_of(query::decoded(text)?.parse()?)))
    };
    let (from, to) = (time("from")?, time("to")?);
    let named = call.query("tenant").map(str::parse::<Tenant>).transpose()?;
    let tenant = match (named, &call.principal) {
        (None, _) => call.tenant()?.clone(),
        (Some(named), Principal::Operator(_)) => named,
        (Some(named), _) if call.tenant()? == &named => named,
        (Some(_), _) => return Err(ApiError::forbidden()),
    };
    call.page(keys::usage_days(&tenant), |day: DayUsage| {
        let is_meant = from.is_none_or(|from| day.day >= from) && to.is_none_or(|to| day.day <= to);
        is_meant.then_some(day)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_that_of_the_record_within_the_life_of_its_task() {
        let task: TaskRecord = serde_json::from_value(serde_json::json!({
            "tenant": "acme", "copy": null, "ended": null,
            "task": {
                "id": "cats-1", "created": "2026-11-20T12:00:00.000Z",
                "spec": { "cluster": "main", "task_definition": "cats:1", "launch_type": "node",
                    "service": "cats", "node": "n1", "stop": false },
                "status": { "phase": "running" },
            },
        }))
        .unwrap();
        let now = "2026-11-27T10:00:00.000Z".parse().unwrap();
        let mut days = Days::default();
        for (at, want) in [
            ("2026-11-19T23:59:59.999Z", "2026-11-20"),
            ("2026-11-20T23:59:59.999Z", "2026-11-20"),
            ("2026-11-21T00:00:00.000Z", "2026-11-21"),
            ("2026-11-27T09:00:00.000Z", "2026-11-27"),
            ("2026-11-28T09:00:00.000Z", "2026-11-27"),
        ] {
            let record: UsageRecord = serde_json::from_value(serde_json::json!({
                "seq": 1, "tenant": "acme", "task": "cats-1", "container": "app",
                "image": spec::Digest::of(b"cats"), "at": at, "usage": Usage::default(),
            }))
            .unwrap();
            let usage = Usage { runs: 1, ..Usage::default() };
            days.take(&record, usage, &task, now);
            let key = format!("{want}/main/cats-1");
            assert!(days.0.contains_key(&(record.tenant, key)), "{at}: {:?}", days.0);
        }
        let runs: Vec<u64> = days.0.values().map(|day| day.usage.runs).collect();
        assert_eq!(runs, [2, 1, 2]);
    }
}
