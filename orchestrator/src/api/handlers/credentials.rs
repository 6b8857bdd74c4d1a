//! Credentials of tenants, and the access tokens that are issued for them.

use std::time::Duration;

use http::StatusCode;
use spec::{CredentialName, Tenant, Timestamp};
use store::Txn;

use crate::{
    api::{
        call::{Call, Reply},
        context::OPERATOR_CREDENTIAL,
        create::{Creation, create},
        error::ApiError,
        principal::Principal,
        types::{AccessTokenAnswer, CreateCredential, Credential, CredentialInfo, IssueToken},
    },
    limits::{
        CREDENTIAL_TIME_DEFAULT, CREDENTIAL_TIME_MAX, CREDENTIAL_TIME_MIN,
        CREDENTIAL_USE_NOTED_AFTER, CREDENTIALS_MAX, WRITE_TRIES_MAX,
    },
    state::{
        credentials::{
            AccessToken, CredentialRecord, CredentialScope, name_of_unnamed, new_serial,
        },
        keys, now,
        records::{Guarded, Stored},
        tokens,
    },
};

/// The secret is never in the store, neither in the record nor in the remembered answer: that holds
/// a name from which only the issuer can make it again.
pub(crate) async fn create_credential(call: Call) -> Result<Reply, ApiError> {
    let wanted: CreateCredential = call.json()?;
    let tenant = match &wanted.tenant {
        Some(tenant) => tenant.clone(),
        None => call.tenant()?.clone(),
    };
    check_rights(&call, &tenant, wanted.scope)?;
    let lifetime = lifetime(wanted.lifetime_seconds)?;
    let address = call.api.address_for_clients()?;
    let secret_of = |seed: &str| call.api.issuer.token(format!("credential {seed}"));
    let reply = create(&call, || async {
        if call.state().count(keys::credentials(&tenant)).await? >= CREDENTIALS_MAX {
            let message = format!("tenant `{tenant}` has {CREDENTIALS_MAX} credentials");
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, "quota", message)
                .hint("remove one that is not used: margay credential ls"));
        }
        if call.state().credential(&tenant, &wanted.name).await?.is_some() {
            return Err(ApiError::exists("credential", &wanted.name)
                .hint("choose another name, or give it another secret: margay credential rotate"));
        }
        let (seed, created) = (tokens::random_hex(), now());
        let record = CredentialRecord {
            tenant: tenant.clone(),
            name: wanted.name.clone(),
            scope: wanted.scope,
            created,
            expires: after(created, lifetime),
            last_used: None,
            serial: new_serial(),
            secret: tokens::hashed(secret_of(&seed)),
            replaces: None,
        };
        let answer = shown_once(&call, &address, &record, seed);
        let key = keys::credential(&tenant, &wanted.name);
        Ok(Creation::new(Txn::new().create(key, &record), &answer))
    })
    .await?;
    let made: Credential = serde_json::from_value(reply.body).map_err(|_| ApiError::conflict())?;
    let secret = secret_of(&made.secret);
    Ok(Reply::new(reply.status, &Credential { secret, ..made }))
}

fn after(at: Timestamp, time: Duration) -> Timestamp {
    Timestamp::from_millis(at.millis() + time.as_millis() as u64)
}

fn lifetime(seconds: Option<u64>) -> Result<Duration, ApiError> {
    let lifetime = seconds.map_or(CREDENTIAL_TIME_DEFAULT, Duration::from_secs);
    match (CREDENTIAL_TIME_MIN..=CREDENTIAL_TIME_MAX).contains(&lifetime) {
        true => Ok(lifetime),
        false => Err(ApiError::invalid(format!(
            "a credential holds for {} seconds to {} days",
            CREDENTIAL_TIME_MIN.as_secs(),
            CREDENTIAL_TIME_MAX.as_secs() / 86_400
        ))),
    }
}

/// A credential makes none for another tenant, and none that may do more than it.
fn check_rights(call: &Call, tenant: &Tenant, scope: CredentialScope) -> Result<(), ApiError> {
    match &call.principal {
        Principal::Operator(_) => Ok(()),
        Principal::Tenant { tenant: own, scope: most, .. } if own == tenant && scope <= *most => {
            Ok(())
        }
        Principal::Tenant { .. } | Principal::Unauthenticated | Principal::Node { .. } => {
            Err(ApiError::forbidden()
                .hint("a credential makes others of its own tenant, with no more than its scope"))
        }
    }
}

fn shown_once(call: &Call, address: &str, record: &CredentialRecord, secret: String) -> Credential {
    Credential {
        address: address.to_owned(),
        ca_fingerprint: call.api.issuer.ca.fingerprint.clone(),
        ca_pem: Some(call.api.issuer.ca.pem.clone()),
        tenant: record.tenant.clone(),
        name: Some(record.name.clone()),
        scope: record.scope,
        expires: Some(record.expires),
        secret,
    }
}

/// A tenant's own; and all of them for the operator.
pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    let prefix = match &call.principal {
        Principal::Operator(_) => keys::CREDENTIALS.to_owned(),
        _ => keys::credentials(call.tenant()?),
    };
    call.page(prefix, |record: CredentialRecord| Some(info(record))).await
}

fn info(record: CredentialRecord) -> CredentialInfo {
    CredentialInfo {
        tenant: record.tenant,
        name: record.name,
        scope: record.scope,
        created: record.created,
        expires: record.expires,
        last_used: record.last_used,
    }
}

/// The credential of the path, if the caller may know of it.
async fn find(call: &Call) -> Result<Stored<CredentialRecord>, ApiError> {
    let (tenant, name): (Tenant, CredentialName) =
        (call.param("tenant")?, call.param("credential")?);
    let absent = || ApiError::not_found("credential", &name);
    if !matches!(call.principal, Principal::Operator(_)) && *call.tenant()? != tenant {
        return Err(absent());
    }
    call.state().credential(&tenant, &name).await?.ok_or_else(absent)
}

/// Another secret for a credential. Its earlier secret and its access tokens are refused from now
/// on.
pub(crate) async fn rotate(call: Call) -> Result<Reply, ApiError> {
    let stored = find(&call).await?;
    check_rights(&call, &stored.value.tenant, stored.value.scope)?;
    let (address, secret) = (call.api.address_for_clients()?, tokens::random_hex());
    let record = stored.value.with_secret(&secret, now());
    let key = keys::credential(&record.tenant, &record.name);
    call.commit(Txn::new().update(key, stored.mod_rev, &record)).await?;
    let made = shown_once(&call, &address, &record, secret);
    if record.tenant == *call.api.operator() && record.name.as_str() == OPERATOR_CREDENTIAL {
        call.api.write_operator_credential(&made).await.map_err(|error| {
            tracing::error!(?error, "cannot write the operator's credential");
            ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "disk", error.to_string())
        })?;
    }
    Reply::ok(&made)
}

/// Every access token of a removed credential is refused with the next request.
pub(crate) async fn remove(call: Call) -> Result<Reply, ApiError> {
    let stored = find(&call).await?;
    let key = keys::credential(&stored.value.tenant, &stored.value.name);
    call.commit(Txn::new().remove(key, stored.mod_rev)).await?;
    Reply::done()
}

/// An access token for the secret of a credential. One without a name was made by an earlier
/// release: it works once, and is answered with the credential that takes its place.
pub(crate) async fn issue_token(call: Call) -> Result<Reply, ApiError> {
    let IssueToken { tenant, credential, secret } = call.json()?;
    let unnamed = credential.is_none();
    let name = credential.unwrap_or_else(|| name_of_unnamed(&secret));
    let refused = || refused().about(format!("{tenant}/{name}"));
    for _ in 0..WRITE_TRIES_MAX {
        let stored = call.state().credential(&tenant, &name).await?;
        let stored = stored.ok_or_else(refused)?;
        let (at, mut record) = (now(), stored.value.clone());
        if !record.is_valid(at) {
            return Err(refused());
        }
        let taken_over = match (unnamed, use_of(&mut record, &tokens::hashed(&secret))) {
            (false, Some(Use::Current)) => None,
            (true, Some(Use::Current | Use::Replaced)) => Some(take_over(&call, &mut record)?),
            (_, Some(Use::Replaced) | None) => return Err(refused()),
        };
        let noted =
            record.last_used.is_some_and(|last| at.since(last) < CREDENTIAL_USE_NOTED_AFTER);
        if !noted {
            record.last_used = Some(at);
        }
        let key = keys::credential(&tenant, &name);
        if record != stored.value
            && !call.state().commit(Txn::new().update(key, stored.mod_rev, &record)).await?
        {
            continue;
        }
        let token = AccessToken::of(&record, at);
        return Reply::ok(&AccessTokenAnswer {
            token: token.signed(&call.api.issuer),
            expires_in_seconds: token.expires.since(at).as_secs(),
            taken_over,
        });
    }
    Err(ApiError::conflict())
}

/// Which secret of a credential a client has.
enum Use {
    Current,
    Replaced,
}

/// Notes the use of a secret whose hash is `hash`: with the current one, the one before ends.
fn use_of(record: &mut CredentialRecord, hash: &str) -> Option<Use> {
    if record.secret == hash {
        record.replaces = None;
        return Some(Use::Current);
    }
    (record.replaces.as_deref() == Some(hash)).then_some(Use::Replaced)
}

/// The credential that takes the place of one without a name. The same again when the answer was
/// lost: its secret is made from the hash of the one before.
fn take_over(call: &Call, record: &mut CredentialRecord) -> Result<Credential, ApiError> {
    let before = record.replaces.clone().unwrap_or_else(|| record.secret.clone());
    let secret = call.api.issuer.token(format!("take over {before}"));
    record.secret = tokens::hashed(&secret);
    record.replaces = Some(before);
    Ok(shown_once(call, &call.api.address_for_clients()?, record, secret))
}

/// The same for every reason, so that a guess learns nothing.
fn refused() -> ApiError {
    let message = "the credential is not known, has expired, or has another secret";
    ApiError::new(StatusCode::UNAUTHORIZED, "credential", message)
        .hint("ask the operator for one: margay credential create NAME --tenant TENANT")
}
