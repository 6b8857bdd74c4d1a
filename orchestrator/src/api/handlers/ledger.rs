mod claims; // how much of what a node claims can be true
mod days; // what each task used on each day

use std::collections::BTreeMap;

use http::StatusCode;
use spec::{Digest, NodeId, Tenant, Usage, UsageBatch, UsageRecord, wire};
use store::{Compare, Query, Rev, Txn};

use crate::{
    api::{
        call::{Call, Reply},
        error::ApiError,
        principal::Principal,
        types::{ListPage, TenantUsage, UsageReport},
    },
    limits::{USAGE_LOGS_MAX, USAGE_RECORDS_MAX, USAGE_TOTALS_MAX, WRITE_TRIES_MAX},
    state::{
        State, keys, now,
        objects::{Claim, DisputedUsage, UsageTotal},
        records::{
            CursorRecord, DefinitionRecord, Guarded, NodeRecord, Stored, TaskRecord, decode,
        },
    },
};
use claims::Allowance;
use days::Days;
pub(crate) use days::list as days;

/// What one transaction adds to each total: of a tenant, and of its images.
type Sums = BTreeMap<(Tenant, Option<Digest>), UsageTotal>;

pub(crate) async fn report(call: Call) -> Result<Reply, ApiError> {
    let tenant = call.tenant()?;
    let total: Option<Stored<UsageTotal>> = call.state().get(keys::usage_total(tenant)).await?;
    let images: Vec<Stored<UsageTotal>> = call.state().list(keys::usage_images(tenant)).await?;
    // What is disputed is of no tenant: a node has only said so.
    let disputed = match &call.principal {
        Principal::Operator(_) => {
            let found = call.state().range(Query::prefix(keys::USAGE_DISPUTES)).await?;
            found.kvs.iter().map(|kv| decode(kv)).collect::<Result<_, _>>()?
        }
        _ => Vec::new(),
    };
    Reply::ok(&UsageReport {
        tenant: tenant.clone(),
        total: total.map(|stored| stored.value),
        images: images.into_iter().map(|stored| stored.value).collect(),
        disputed,
    })
}

/// Of every tenant that has used something, for the operator.
pub(crate) async fn tenants(call: Call) -> Result<Reply, ApiError> {
    let tenants = call.state().model().tenants();
    let mut items = Vec::new();
    for tenant in tenants {
        let total: Option<Stored<UsageTotal>> =
            call.state().get(keys::usage_total(&tenant)).await?;
        items.extend(total.map(|stored| TenantUsage { tenant, total: stored.value }));
    }
    Reply::ok(&ListPage { items, next: None })
}

/// Takes each record exactly once: the cursor and the totals move in one transaction, so a batch
/// that comes twice, or whose answer was lost, changes nothing the second time.
pub(crate) async fn take(call: Call) -> Result<Reply, ApiError> {
    let Principal::Node { id, .. } = &call.principal else { return Err(ApiError::forbidden()) };
    let batch: UsageBatch = call.json()?;
    check(id, &batch)?;
    let node: Option<Stored<NodeRecord>> = call.state().get(keys::node(id)).await?;
    let Stored { value: node, create_rev, .. } = node.ok_or_else(ApiError::unauthenticated)?;
    // A node that a tenant owns cannot add to the bill of another.
    let payers = |tenant: &Tenant| node.in_pool() || node.tenant.as_ref() == Some(tenant);
    if let Some(record) = batch.records.iter().find(|record| !payers(&record.tenant)) {
        return Err(ApiError::forbidden()
            .hint(format!("tenant `{}` has no tasks on `{id}`", record.tenant)));
    }
    let cursor = keys::cursor(&batch.boot);
    for _ in 0..WRITE_TRIES_MAX {
        let known: Option<Stored<CursorRecord>> = call.state().get(cursor.clone()).await?;
        let taken = known.as_ref().map_or(0, |known| known.value.seq);
        // The node that sent the log before, when it is the same machine under another name.
        let before = known.as_ref().map(|known| &known.value.node).filter(|owner| *owner != id);
        if let Some(owner) = before
            && call.state().get::<NodeRecord>(keys::node(owner)).await?.is_some()
        {
            return Err(ApiError::forbidden()
                .hint(format!("usage log `{}` is of another node", batch.boot)));
        }
        let news = after(&batch.records, taken)?;
        let mut bill = Bill::open(call.state(), &node, before).await?;
        bill.take(call.state(), news, taken);
        if bill.upto == taken {
            return Reply::ok(&wire::UsageTaken { version: wire::VERSION, seq: taken });
        }
        let moved = CursorRecord { seq: bill.upto, node: id.clone(), at: now() };
        let mut txn = Txn::new().when(Compare::CreateRev(keys::node(id), create_rev)).update(
            cursor.clone(),
            known.as_ref().map_or(0, |known| known.mod_rev),
            &moved,
        );
        if known.is_none()
            && let Some((oldest, mod_rev)) = beyond(&call, id).await?
        {
            txn = txn.remove(oldest, mod_rev);
        }
        txn = bill.write(call.state(), txn).await?;
        if call.state().commit(txn).await? {
            bill.alarm();
            return Reply::ok(&wire::UsageTaken { version: wire::VERSION, seq: bill.upto });
        }
    }
    Err(ApiError::conflict())
}

/// The cursor of `node` that has to go before it gets another one: that which has not moved for
/// longest.
async fn beyond(call: &Call, node: &NodeId) -> Result<Option<(String, Rev)>, ApiError> {
    let found = call.state().range(Query::prefix(keys::CURSORS)).await?;
    let cursors =
        found.kvs.iter().filter_map(|kv| Some((kv, Stored::<CursorRecord>::of(kv).ok()?)));
    let mine: Vec<_> = cursors.filter(|(_, cursor)| cursor.value.node == *node).collect();
    if mine.len() < USAGE_LOGS_MAX {
        return Ok(None);
    }
    let oldest = mine.iter().min_by_key(|(_, cursor)| (cursor.value.at, cursor.mod_rev));
    Ok(oldest.map(|(kv, cursor)| (kv.key.to_string(), cursor.mod_rev)))
}

fn check(node: &NodeId, batch: &UsageBatch) -> Result<(), ApiError> {
    wire::check_version("the usage batch", batch.version)?;
    if batch.node != *node {
        return Err(ApiError::forbidden().hint(format!("this certificate is of node `{node}`")));
    }
    let boot = &batch.boot;
    if !(1..=64).contains(&boot.len())
        || !boot.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    {
        return Err(ApiError::invalid("`boot` has 1 to 64 letters, digits and dashes"));
    }
    if batch.records.len() > USAGE_RECORDS_MAX {
        return Err(ApiError::invalid(format!(
            "a usage batch has at most {USAGE_RECORDS_MAX} records"
        )));
    }
    let gap = |pair: &[UsageRecord]| pair[1].seq.checked_sub(1) != Some(pair[0].seq);
    match batch.records.windows(2).any(gap)
        || batch.records.first().is_some_and(|first| first.seq == 0)
    {
        true => Err(ApiError::invalid("the records of a usage batch count up by one from 1")),
        false => Ok(()),
    }
}

/// The records that the ledger has not yet.
fn after(records: &[UsageRecord], taken: u64) -> Result<&[UsageRecord], ApiError> {
    match records.first() {
        Some(first) if first.seq > taken + 1 => {
            let message = format!("records {} to {} are missing", taken + 1, first.seq - 1);
            Err(ApiError::new(StatusCode::CONFLICT, "usage-gap", message)
                .hint("send from the first missing one"))
        }
        _ => Ok(records
            .iter()
            .position(|record| record.seq > taken)
            .map_or(&[], |at| &records[at..])),
    }
}

/// What one transaction bills of the log of one node.
struct Bill<'a> {
    node: &'a NodeRecord,
    /// The name of the node when it sent the earlier part of the log.
    before: Option<&'a NodeId>,
    allowance: Allowance,
    allowance_rev: Rev,
    sums: Sums,
    days: Days,
    disputed: Option<DisputedUsage>,
    /// The last record that is in it.
    upto: u64,
}

impl<'a> Bill<'a> {
    async fn open(
        state: &State,
        node: &'a NodeRecord,
        before: Option<&'a NodeId>,
    ) -> Result<Self, ApiError> {
        let known: Option<Stored<Allowance>> = state.get(keys::usage_allowance(&node.id)).await?;
        let capacity = node.spec.capacity;
        let allowance_rev = known.as_ref().map_or(0, |known| known.mod_rev);
        let allowance =
            known.map_or_else(|| Allowance::since(node.joined, capacity), |known| known.value);
        let allowance = allowance.filled(capacity, now());
        let (sums, days, disputed) = (Sums::new(), Days::default(), None);
        Ok(Self { node, before, allowance, allowance_rev, sums, days, disputed, upto: 0 })
    }

    /// Bills as many records as fit into one transaction, each as far as it can be true.
    fn take(&mut self, state: &State, records: &[UsageRecord], taken: u64) {
        self.upto = taken;
        for record in records {
            let totals = [None, Some(record.image)].map(|image| (record.tenant.clone(), image));
            let new = totals.iter().filter(|total| !self.sums.contains_key(*total)).count();
            // And one of its day.
            if self.sums.len() + self.days.len() + new + 1 > USAGE_TOTALS_MAX {
                break;
            }
            self.upto = record.seq;
            let Some(task) = self.placed(state, record) else {
                self.dispute(record, record.usage, "no such task was placed on this node");
                continue;
            };
            let capacity = self.node.spec.capacity;
            let accepted = self.allowance.take(record.usage, capacity, task.task.created);
            self.days.take(record, accepted, &task, now());
            if accepted != record.usage {
                let more = record.usage.since(accepted);
                self.dispute(record, more, "more than the node can have used in the time");
            }
            for total in totals {
                let one = UsageTotal {
                    image: total.1,
                    since: record.at,
                    until: record.at,
                    usage: accepted,
                };
                let sum = self.sums.remove(&total).map_or(one.clone(), |sum| plus(sum, &one));
                self.sums.insert(total, sum);
            }
        }
    }

    /// The task of a record, if a container of it with this image was ever placed on the node.
    fn placed(&self, state: &State, record: &UsageRecord) -> Option<TaskRecord> {
        let model = state.model();
        let key = (record.tenant.clone(), record.task.clone());
        let (task, DefinitionRecord { definition, .. }) = model.known_task(&key)?;
        let node = task.task.spec.node.as_ref()?;
        let ran = definition.containers.iter().any(|container| {
            container.name == record.container && container.digest == Some(record.image)
        });
        let here = *node == self.node.id || Some(node) == self.before;
        (ran && here).then(|| task.clone())
    }

    fn dispute(&mut self, record: &UsageRecord, usage: Usage, reason: &str) {
        let claim = Claim {
            tenant: record.tenant.clone(),
            task: record.task.clone(),
            reason: reason.to_owned(),
        };
        let at = now();
        let disputed = self.disputed.get_or_insert_with(|| DisputedUsage {
            node: self.node.id.clone(),
            since: at,
            until: at,
            records: 0,
            usage: Usage::default(),
            last: claim.clone(),
        });
        disputed.records += 1;
        disputed.usage = disputed.usage.plus(usage);
        disputed.last = claim;
    }

    /// Everything that changes besides the cursor.
    async fn write(&self, state: &State, txn: Txn) -> Result<Txn, ApiError> {
        let allowance = keys::usage_allowance(&self.node.id);
        let mut txn = txn.update(allowance, self.allowance_rev, &self.allowance);
        for ((tenant, image), sum) in &self.sums {
            let key = match image {
                None => keys::usage_total(tenant),
                Some(image) => keys::usage_image(tenant, image),
            };
            let before: Option<Stored<UsageTotal>> = state.get(key.clone()).await?;
            let mod_rev = before.as_ref().map_or(0, |before| before.mod_rev);
            let total = before.map_or(sum.clone(), |before| plus(before.value, sum));
            txn = txn.update(key, mod_rev, &total);
        }
        txn = self.days.write(state, txn).await?;
        if let Some(disputed) = &self.disputed {
            let key = keys::usage_dispute(&self.node.id);
            let before: Option<Stored<DisputedUsage>> = state.get(key.clone()).await?;
            let mod_rev = before.as_ref().map_or(0, |before| before.mod_rev);
            let all = match before.map(|before| before.value) {
                Some(before) => DisputedUsage {
                    since: before.since,
                    records: before.records + disputed.records,
                    usage: before.usage.plus(disputed.usage),
                    ..disputed.clone()
                },
                None => disputed.clone(),
            };
            txn = txn.update(key, mod_rev, &all);
        }
        Ok(txn)
    }

    fn alarm(&self) {
        if let Some(DisputedUsage { node, records, last, .. }) = &self.disputed {
            let Claim { tenant, task, reason } = last;
            tracing::error!(%node, records, %tenant, %task, reason, "usage is not accepted");
        }
    }
}

fn plus(total: UsageTotal, sum: &UsageTotal) -> UsageTotal {
    UsageTotal {
        image: total.image,
        since: total.since.min(sum.since),
        until: total.until.max(sum.until),
        usage: total.usage.plus(sum.usage),
    }
}
