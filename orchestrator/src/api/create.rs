use std::future::Future;

use http::StatusCode;
use serde::Serialize;
use store::Txn;

use super::{
    call::{Call, Reply},
    error::ApiError,
};
use crate::{
    limits::{OBJECTS_MAX, REMEMBERED_FOR, WRITE_TRIES_MAX},
    state::{
        keys, now,
        records::{Guarded, IdempotencyRecord, Stored},
    },
};

/// What a create would write, and what it would answer.
pub(crate) struct Creation {
    pub txn: Txn,
    pub answer: serde_json::Value,
}

impl Creation {
    pub fn new(txn: Txn, answer: &impl Serialize) -> Self {
        Self { txn, answer: serde_json::to_value(answer).expect("answers have string keys") }
    }
}

/// Runs a create: `make` looks at what is there and returns what to write; it is called again when
/// a concurrent write came first.
///
/// With an `Idempotency-Key` the answer is written in the same transaction, so a repeated create
/// gets the first one's answer for a day, and another request under the same key is refused.
pub(crate) async fn create<F>(call: &Call, make: impl Fn() -> F) -> Result<Reply, ApiError>
where
    F: Future<Output = Result<Creation, ApiError>>,
{
    let (tenant, request) = (call.tenant()?, call.digest());
    let _turn = call.api.quotas.turn(call.state(), tenant).await?;
    let memory = call.idempotency_key()?.map(|key| keys::idempotency(tenant, key));
    for _ in 0..WRITE_TRIES_MAX {
        let known = match &memory {
            Some(key) => call.state().get::<IdempotencyRecord>(key.clone()).await?,
            None => None,
        };
        if let Some(reply) = remembered(known.as_ref(), &request)? {
            return Ok(reply);
        }
        check_quota(call).await?;
        let Creation { mut txn, answer } = make().await?;
        if let Some(key) = &memory {
            let record = IdempotencyRecord {
                request: request.clone(),
                at: now(),
                status: StatusCode::CREATED.as_u16(),
                answer: answer.clone(),
            };
            txn = txn.update(key.clone(), known.map_or(0, |stored| stored.mod_rev), &record);
        }
        if call.state().commit(txn).await? {
            return Ok(Reply::json(StatusCode::CREATED, answer));
        }
    }
    Err(ApiError::conflict())
}

async fn check_quota(call: &Call) -> Result<(), ApiError> {
    if call.state().count(keys::tenant(call.tenant()?)).await? < OBJECTS_MAX {
        return Ok(());
    }
    let message = format!("this tenant has {OBJECTS_MAX} objects, and that is the most");
    Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, "quota", message)
        .hint("delete some, or wait until some are forgotten"))
}

fn remembered(
    known: Option<&Stored<IdempotencyRecord>>,
    request: &str,
) -> Result<Option<Reply>, ApiError> {
    let Some(record) = known.map(|stored| &stored.value) else { return Ok(None) };
    if now().since(record.at) > REMEMBERED_FOR {
        return Ok(None);
    }
    if record.request != request {
        let message = "this Idempotency-Key was used for another request";
        return Err(ApiError::new(StatusCode::CONFLICT, "idempotency-conflict", message)
            .hint("use a new key"));
    }
    let status = StatusCode::from_u16(record.status).unwrap_or(StatusCode::CREATED);
    Ok(Some(Reply::json(status, record.answer.clone())))
}
