use std::{future::Future, pin::Pin};

use http::StatusCode;
use serde::Serialize;
use store::{Compare, Query, Txn};

use crate::{
    app::now,
    call::{Call, Reply},
    error::Refusal,
    keys,
    reconcile::REMEMBERED_FOR,
    records::{IdempotencyRecord, Kept, encode},
};

/// Tries before a create that keeps losing to others gives up.
const TRIES_MAX: usize = 8;

/// Objects of one tenant, remembered answers among them: a few hundred megabytes at most, and
/// minutes to make by hand.
const OBJECTS_MAX: usize = 50_000;

/// What a create would write, and what it would answer.
pub(crate) struct Made {
    pub txn: Txn,
    pub answer: serde_json::Value,
}

impl Made {
    pub fn new(txn: Txn, answer: &impl Serialize) -> Self {
        Self { txn, answer: serde_json::to_value(answer).expect("our answers have string keys") }
    }
}

/// Runs a create: `make` looks at what is there and says what to write; it is asked again when
/// somebody was faster.
///
/// With an `Idempotency-Key` the answer is written in the same transaction, so a repeated create
/// gets the first one's answer for a day, and another request under the same key is refused.
pub(crate) async fn create<'a, F>(call: &Call, make: F) -> Result<Reply, Refusal>
where
    F: Fn() -> Pin<Box<dyn Future<Output = Result<Made, Refusal>> + Send + 'a>>,
{
    let (tenant, request) = (call.tenant()?, call.digest());
    let memory = call.idempotency_key()?.map(|key| keys::idempotency(tenant, key));
    for _ in 0..TRIES_MAX {
        let known = match &memory {
            Some(key) => call.app.get::<IdempotencyRecord>(key.clone()).await?,
            None => None,
        };
        if let Some(reply) = remembered(known.as_ref(), &request)? {
            return Ok(reply);
        }
        check_room(call).await?;
        let Made { mut txn, answer } = make().await?;
        if let Some(key) = &memory {
            let at = now();
            let record = IdempotencyRecord {
                request: request.clone(),
                at,
                status: StatusCode::CREATED.as_u16(),
                answer: answer.clone(),
            };
            let before = known.map_or(0, |kept| kept.mod_rev);
            txn = txn.when(Compare::ModRev(key.clone(), before)).put(key.clone(), encode(&record));
        }
        if call.app.store.txn(txn).await?.succeeded {
            return Ok(Reply { status: StatusCode::CREATED, body: answer });
        }
    }
    Err(Refusal::conflict())
}

async fn check_room(call: &Call) -> Result<(), Refusal> {
    let mine = Query::prefix(keys::tenant(call.tenant()?)).limit(0).counted();
    if call.app.store.range(mine).await?.count.expect("it was asked for") < OBJECTS_MAX {
        return Ok(());
    }
    let message = format!("this tenant has {OBJECTS_MAX} objects, and that is the most");
    Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "quota", message)
        .hint("delete some, or wait until some are forgotten"))
}

fn remembered(
    known: Option<&Kept<IdempotencyRecord>>,
    request: &str,
) -> Result<Option<Reply>, Refusal> {
    let Some(record) = known.map(|kept| &kept.value) else { return Ok(None) };
    if now().since(record.at) > REMEMBERED_FOR {
        return Ok(None);
    }
    if record.request != request {
        let message = "this Idempotency-Key was used for another request";
        return Err(Refusal::new(StatusCode::CONFLICT, "idempotency-conflict", message)
            .hint("use a new key"));
    }
    let status = StatusCode::from_u16(record.status).unwrap_or(StatusCode::CREATED);
    Ok(Some(Reply { status, body: record.answer.clone() }))
}
