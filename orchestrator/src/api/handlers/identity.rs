use spec::{TenantQuota, Timestamp, wire::JoinToken};
use store::Txn;

use crate::{
    api::{
        call::{Call, Reply},
        create::{Creation, create},
        error::ApiError,
        principal::Principal,
        quota,
        types::{Caller, CreateCredential, CreateJoinToken, CreatedJoinToken, Credential},
    },
    limits::JOIN_TIME,
    state::{
        keys, now,
        records::{CredentialRecord, Guarded, JoinRecord},
        tokens,
    },
};

pub(crate) async fn principal(call: Call) -> Result<Reply, ApiError> {
    let operator = matches!(call.principal, Principal::Operator(_));
    Reply::ok(&Caller { tenant: call.tenant()?.clone(), operator })
}

/// The secret is never in the store, neither in the record nor in the remembered answer: that holds
/// a name from which only the issuer can make it again.
pub(crate) async fn create_join_token(call: Call) -> Result<Reply, ApiError> {
    let wanted: CreateJoinToken = call.json()?;
    if (wanted.pool || wanted.shared) && !matches!(call.principal, Principal::Operator(_)) {
        return Err(ApiError::forbidden().hint("only the operator adds nodes to the pool"));
    }
    let address = address(&call)?;
    let tenant = (!wanted.shared).then(|| call.tenant().cloned()).transpose()?;
    let reply = create(&call, || async {
        let more = TenantQuota { tokens: 1, ..TenantQuota::NOTHING };
        quota::check(call.state(), call.tenant()?, &more).await?;
        let seed = tokens::random_hex();
        let key = keys::join(&tokens::hashed(join_secret(&call, &seed)));
        let expires = Timestamp::from_millis(now().millis() + JOIN_TIME.as_millis() as u64);
        let (tenant, pool) = (tenant.clone(), wanted.pool || wanted.shared);
        let txn = Txn::new().create(key, &JoinRecord { tenant, pool, expires });
        Ok(Creation::new(txn, &CreatedJoinToken { token: seed, expires }))
    })
    .await?;
    let CreatedJoinToken { token: seed, expires } = again(reply.body)?;
    let ca_fingerprint = call.api.issuer.ca.fingerprint.clone();
    let token =
        JoinToken { address, ca_fingerprint, secret: join_secret(&call, &seed) }.to_string();
    Ok(Reply::new(reply.status, &CreatedJoinToken { token, expires }))
}

fn join_secret(call: &Call, seed: &str) -> String {
    call.api.issuer.token(format!("join {seed}"))
}

pub(crate) async fn create_credential(call: Call) -> Result<Reply, ApiError> {
    let CreateCredential { tenant } = call.json()?;
    let (address, ca_fingerprint) = (address(&call)?, call.api.issuer.ca.fingerprint.clone());
    let token_of = |seed: &str| call.api.issuer.token(format!("credential {seed}"));
    let reply = create(&call, || async {
        let seed = tokens::random_hex();
        let key = keys::credential(&tokens::hashed(token_of(&seed)));
        let record = CredentialRecord { tenant: tenant.clone(), created: now() };
        let (address, ca_fingerprint) = (address.clone(), ca_fingerprint.clone());
        let answer = Credential { address, ca_fingerprint, tenant: tenant.clone(), token: seed };
        Ok(Creation::new(Txn::new().create(key, &record), &answer))
    })
    .await?;
    let made: Credential = again(reply.body)?;
    let token = token_of(&made.token);
    Ok(Reply::new(reply.status, &Credential { token, ..made }))
}

fn again<T: serde::de::DeserializeOwned>(answer: serde_json::Value) -> Result<T, ApiError> {
    serde_json::from_value(answer).map_err(|_| ApiError::conflict())
}

fn address(call: &Call) -> Result<String, ApiError> {
    let address = call.api.address.clone();
    address.ok_or_else(|| ApiError::invalid("this control plane listens on its Unix socket only"))
}
