use std::collections::BTreeMap;

use http::StatusCode;
use spec::{Digest, NodeId, Tenant, Timestamp, Usage, UsageBatch, UsageRecord, wire};
use store::{Compare, Txn};

use crate::{
    api::{UsageReport, UsageTotal},
    call::{Call, Reply},
    error::Refusal,
    keys,
    principal::Principal,
    records::{Kept, NodeRecord, encode},
};

/// Records of one batch, some 400 bytes each.
const RECORDS_MAX: usize = 2_000;
/// Totals that one transaction moves: with the cursor they stay below the store's 100 operations. What is left of a
/// batch is asked for again by the answer.
const TOTALS_MAX: usize = 40;
/// Tries before a batch that keeps losing to other nodes' batches is sent again by its node.
const TRIES_MAX: usize = 16;

/// What one transaction adds to each total: of a tenant, and of its images.
type Sums = BTreeMap<(Tenant, Option<Digest>), UsageTotal>;

pub(crate) async fn report(call: Call) -> Result<Reply, Refusal> {
    let tenant = call.tenant()?;
    let total: Option<Kept<UsageTotal>> = call.app.get(keys::usage_total(tenant)).await?;
    let images: Vec<Kept<UsageTotal>> = call.app.list(keys::usage_images(tenant)).await?;
    Reply::ok(&UsageReport {
        tenant: tenant.clone(),
        total: total.map(|kept| kept.value),
        images: images.into_iter().map(|kept| kept.value).collect(),
    })
}

/// Takes each record exactly once: the cursor and the totals move in one transaction, so a batch that comes twice, or
/// whose answer was lost, changes nothing the second time.
pub(crate) async fn take(call: Call) -> Result<Reply, Refusal> {
    let Principal::Node { id, .. } = &call.principal else { return Err(Refusal::forbidden()) };
    let batch: UsageBatch = call.json()?;
    check(id, &batch)?;
    let node: Option<Kept<NodeRecord>> = call.app.get(keys::node(id)).await?;
    let node = node.ok_or_else(Refusal::unauthenticated)?.value;
    // A node that somebody owns cannot run up another one's bill.
    let payers = |tenant: &Tenant| node.in_pool() || node.tenant.as_ref() == Some(tenant);
    if let Some(record) = batch.records.iter().find(|record| !payers(&record.tenant)) {
        return Err(Refusal::forbidden().hint(format!("tenant `{}` has no tasks on `{id}`", record.tenant)));
    }
    let cursor = keys::cursor(id, &batch.boot);
    for _ in 0..TRIES_MAX {
        let known: Option<Kept<u64>> = call.app.get(cursor.clone()).await?;
        let taken = known.as_ref().map_or(0, |known| known.value);
        let news = after(&batch.records, taken)?;
        let (sums, upto) = add_up(news, taken);
        if upto == taken {
            return Reply::ok(&wire::UsageTaken { version: wire::VERSION, seq: taken });
        }
        let mut txn = Txn::new()
            .when(Compare::ModRev(cursor.clone(), known.map_or(0, |known| known.mod_rev)))
            .put(cursor.clone(), encode(&upto));
        for ((tenant, image), sum) in sums {
            let key = image.map_or_else(|| keys::usage_total(&tenant), |image| keys::usage_image(&tenant, &image));
            let before: Option<Kept<UsageTotal>> = call.app.get(key.clone()).await?;
            let mod_rev = before.as_ref().map_or(0, |before| before.mod_rev);
            let total = before.map_or(sum.clone(), |before| plus(before.value, &sum));
            txn = txn.when(Compare::ModRev(key.clone(), mod_rev)).put(key, encode(&total));
        }
        if call.app.store.txn(txn).await?.succeeded {
            return Reply::ok(&wire::UsageTaken { version: wire::VERSION, seq: upto });
        }
    }
    Err(Refusal::conflict())
}

fn check(node: &NodeId, batch: &UsageBatch) -> Result<(), Refusal> {
    wire::check_version("the usage batch", batch.version)?;
    if batch.node != *node {
        return Err(Refusal::forbidden().hint(format!("this certificate is of node `{node}`")));
    }
    let boot = &batch.boot;
    if !(1..=64).contains(&boot.len()) || !boot.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(Refusal::invalid("`boot` has 1 to 64 letters, digits and dashes"));
    }
    if batch.records.len() > RECORDS_MAX {
        return Err(Refusal::invalid(format!("a usage batch has at most {RECORDS_MAX} records")));
    }
    let gap = |pair: &[UsageRecord]| pair[1].seq.checked_sub(1) != Some(pair[0].seq);
    match batch.records.windows(2).any(gap) || batch.records.first().is_some_and(|first| first.seq == 0) {
        true => Err(Refusal::invalid("the records of a usage batch count up by one from 1")),
        false => Ok(()),
    }
}

/// The records that the ledger has not yet.
fn after(records: &[UsageRecord], taken: u64) -> Result<&[UsageRecord], Refusal> {
    match records.first() {
        Some(first) if first.seq > taken + 1 => {
            let message = format!("records {} to {} are missing", taken + 1, first.seq - 1);
            Err(Refusal::new(StatusCode::CONFLICT, "usage-gap", message).hint("send from the first missing one"))
        }
        _ => Ok(records.iter().position(|record| record.seq > taken).map_or(&[], |at| &records[at..])),
    }
}

/// As many records as fit into one transaction, by total; and the last one of them.
fn add_up(records: &[UsageRecord], taken: u64) -> (Sums, u64) {
    let (mut sums, mut upto) = (Sums::new(), taken);
    for record in records {
        let keys = [(record.tenant.clone(), None), (record.tenant.clone(), Some(record.image))];
        let new = keys.iter().filter(|key| !sums.contains_key(*key)).count();
        if sums.len() + new > TOTALS_MAX {
            break;
        }
        for key in keys {
            let one = UsageTotal { image: key.1, since: record.at, until: record.at, usage: record.usage };
            let sum = sums.remove(&key).map_or(one.clone(), |sum| plus(sum, &one));
            sums.insert(key, sum);
        }
        upto = record.seq;
    }
    (sums, upto)
}

fn plus(total: UsageTotal, sum: &UsageTotal) -> UsageTotal {
    let (since, until): (Timestamp, Timestamp) = (total.since.min(sum.since), total.until.max(sum.until));
    let usage: Usage = total.usage.plus(sum.usage);
    UsageTotal { image: total.image, since, until, usage }
}
