use std::collections::BTreeMap;

use http::StatusCode;
use spec::{Digest, NodeId, Tenant, UsageBatch, UsageRecord, wire};
use store::{Compare, Query, Rev, Txn};

use crate::{
    api::{
        call::{Call, Reply},
        error::ApiError,
        principal::Principal,
        types::UsageReport,
    },
    limits::{USAGE_LOGS_MAX, USAGE_RECORDS_MAX, USAGE_TOTALS_MAX, WRITE_TRIES_MAX},
    state::{
        keys, now,
        objects::UsageTotal,
        records::{CursorRecord, Guarded, NodeRecord, Stored},
    },
};

/// What one transaction adds to each total: of a tenant, and of its images.
type Sums = BTreeMap<(Tenant, Option<Digest>), UsageTotal>;

pub(crate) async fn report(call: Call) -> Result<Reply, ApiError> {
    let tenant = call.tenant()?;
    let total: Option<Stored<UsageTotal>> = call.state().get(keys::usage_total(tenant)).await?;
    let images: Vec<Stored<UsageTotal>> = call.state().list(keys::usage_images(tenant)).await?;
    Reply::ok(&UsageReport {
        tenant: tenant.clone(),
        total: total.map(|stored| stored.value),
        images: images.into_iter().map(|stored| stored.value).collect(),
    })
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
        if let Some(owner) = known.as_ref().map(|known| &known.value.node)
            && owner != id
            && call.state().get::<NodeRecord>(keys::node(owner)).await?.is_some()
        {
            return Err(ApiError::forbidden()
                .hint(format!("usage log `{}` is of another node", batch.boot)));
        }
        let news = after(&batch.records, taken)?;
        let (sums, upto) = add_up(news, taken);
        if upto == taken {
            return Reply::ok(&wire::UsageTaken { version: wire::VERSION, seq: taken });
        }
        let moved = CursorRecord { seq: upto, node: id.clone(), at: now() };
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
        for ((tenant, image), sum) in sums {
            let key = match image {
                None => keys::usage_total(&tenant),
                Some(image) => keys::usage_image(&tenant, &image),
            };
            let before: Option<Stored<UsageTotal>> = call.state().get(key.clone()).await?;
            let mod_rev = before.as_ref().map_or(0, |before| before.mod_rev);
            let total = before.map_or(sum.clone(), |before| plus(before.value, &sum));
            txn = txn.update(key, mod_rev, &total);
        }
        if call.state().commit(txn).await? {
            return Reply::ok(&wire::UsageTaken { version: wire::VERSION, seq: upto });
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

/// As many records as fit into one transaction, by total; and the last one of them.
fn add_up(records: &[UsageRecord], taken: u64) -> (Sums, u64) {
    let (mut sums, mut upto) = (Sums::new(), taken);
    for record in records {
        let keys = [(record.tenant.clone(), None), (record.tenant.clone(), Some(record.image))];
        let new = keys.iter().filter(|key| !sums.contains_key(*key)).count();
        if sums.len() + new > USAGE_TOTALS_MAX {
            break;
        }
        for key in keys {
            let one = UsageTotal {
                image: key.1,
                since: record.at,
                until: record.at,
                usage: record.usage,
            };
            let sum = sums.remove(&key).map_or(one.clone(), |sum| plus(sum, &one));
            sums.insert(key, sum);
        }
        upto = record.seq;
    }
    (sums, upto)
}

fn plus(total: UsageTotal, sum: &UsageTotal) -> UsageTotal {
    UsageTotal {
        image: total.image,
        since: total.since.min(sum.since),
        until: total.until.max(sum.until),
        usage: total.usage.plus(sum.usage),
    }
}
