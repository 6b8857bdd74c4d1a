use spec::{TenantQuota, Timestamp, wire::JoinToken};
use store::Txn;

use crate::{
    api::{
        call::{Call, Reply},
        create::{Creation, create},
        error::ApiError,
        principal::Principal,
        quota,
        types::{Caller, CreateJoinToken, CreatedJoinToken},
    },
    limits::JOIN_TIME,
    state::{
        credentials::CredentialScope,
        keys, now,
        records::{Guarded, JoinRecord},
        tokens,
    },
};

pub(crate) async fn principal(call: Call) -> Result<Reply, ApiError> {
    let (operator, credential, scope) = match &call.principal {
        Principal::Tenant { credential, scope, .. } => (false, Some(credential.clone()), *scope),
        _ => (true, None, CredentialScope::Manage),
    };
    Reply::ok(&Caller { tenant: call.tenant()?.clone(), operator, credential, scope })
}

/// The secret is never in the store, neither in the record nor in the remembered answer: that holds
/// a name from which only the issuer can make it again.
pub(crate) async fn create_join_token(call: Call) -> Result<Reply, ApiError> {
    let wanted: CreateJoinToken = call.json()?;
    if (wanted.pool || wanted.shared) && !matches!(call.principal, Principal::Operator(_)) {
        return Err(ApiError::forbidden().hint("only the operator adds nodes to the pool"));
    }
    let address = call.api.address_for_clients()?;
    let tenant = (!wanted.shared).then(|| call.tenant().cloned()).transpose()?;
    let reply = create(&call, || async {
        let more = TenantQuota { tokens: 1, ..TenantQuota::NOTHING };
        quota::check(call.state(), call.tenant()?, &more).await?;
        let seed = tokens::random_hex();
        let key = keys::join(&tokens::hashed(join_secret(&call, &seed)));
        let expires = Timestamp::from_millis(now().millis() + JOIN_TIME.as_millis() as u64);
        let (tenant, pool) = (tenant.clone(), wanted.pool || wanted.shared);
        let txn = Txn::new().create(key, &JoinRecord { tenant, pool, expires, machine: None });
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

fn again<T: serde::de::DeserializeOwned>(answer: serde_json::Value) -> Result<T, ApiError> {
    serde_json::from_value(answer).map_err(|_| ApiError::conflict())
}
