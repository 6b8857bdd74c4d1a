//! Certificates of host names: taken when they are good, and their keys handed to nodes whose
//! ingress serves one of their hosts.

use http::StatusCode;
use spec::{
    CertificateName, HostName, SecretValue, Tenant,
    wire::{self, CertificatePair},
};
use store::Txn;

use super::hosts;
use crate::{
    acme,
    api::{
        call::{Call, Reply},
        context::Api,
        create::{Creation, create},
        error::ApiError,
        types::{CreateCertificate, ReplaceCertificate},
    },
    limits::CERTIFICATES_MAX,
    state::{
        State,
        chain::{Chain, InvalidChain},
        keys, now,
        objects::Certificate,
        orders::{CertificateOrder, OrderRecord, certificate_name},
        records::{CertificateRecord, Guarded, NodeRecord, Stored},
    },
};

pub(crate) async fn create_certificate(call: Call) -> Result<Reply, ApiError> {
    // What serde would say is wrong may quote the key.
    let CreateCertificate { name, chain_pem, key } =
        spec::json::from_slice(&call.body).map_err(|_| not_one(&call))?;
    create(&call, || new_certificate(&call, &name, &chain_pem, &key)).await
}

async fn new_certificate(
    call: &Call,
    name: &CertificateName,
    chain_pem: &str,
    key: &SecretValue,
) -> Result<Creation, ApiError> {
    let tenant = call.tenant()?;
    let at = keys::host_certificate(tenant, name);
    if call.state().get::<CertificateRecord>(at.clone()).await?.is_some() {
        return Err(ApiError::exists("certificate", name).hint(format!(
            "put another one in its place: margay certificate update {name} --cert FILE --key FILE"
        )));
    }
    let is_own = |(owner, _): &&(Tenant, CertificateName)| owner == tenant;
    if call.state().model().certificates.keys().filter(is_own).count() >= CERTIFICATES_MAX {
        let message = format!("a tenant has {CERTIFICATES_MAX} certificates at most");
        return Err(ApiError::new(StatusCode::CONFLICT, "quota", message)
            .hint("remove one that is not shown any more: margay certificate ls"));
    }
    let record = judged(call, tenant, name, chain_pem, key).await?;
    Ok(Creation::new(Txn::new().create(at, &record), &record.certificate))
}

/// Another certificate in the place of the one before: it is shown from the next handshake on.
pub(crate) async fn replace(call: Call) -> Result<Reply, ApiError> {
    let ReplaceCertificate { chain_pem, key } =
        spec::json::from_slice(&call.body).map_err(|_| not_one(&call))?;
    let (tenant, name) = (call.tenant()?, call.param::<CertificateName>("certificate")?);
    let stored = find(call.state(), tenant, &name).await?;
    let record = judged(&call, tenant, &name, &chain_pem, &key).await?;
    let key = keys::host_certificate(tenant, &name);
    call.commit(Txn::new().update(key, stored.mod_rev, &record)).await?;
    Reply::ok(&record.certificate)
}

fn not_one(call: &Call) -> ApiError {
    ApiError::invalid(call.not_the_body()).hint(
        "send {\"name\": NAME, \"chain_pem\": PEM, \"key\": BASE64}: a name of lower-case letters, \
         digits and `-`, a certificate with its intermediates, and its key in PEM, in base64",
    )
}

/// The record of a certificate that is good, and whose every host its tenant may have.
async fn judged(
    call: &Call,
    tenant: &Tenant,
    name: &CertificateName,
    chain_pem: &str,
    key: &SecretValue,
) -> Result<CertificateRecord, ApiError> {
    let key_pem = std::str::from_utf8(key.expose()).unwrap_or_default();
    let chain = Chain::read(chain_pem, key_pem, now()).map_err(|error| refused(name, &error))?;
    let Chain { hosts, issuer, not_before, not_after, fingerprint } = chain;
    hosts::check_certified(call, tenant, &hosts).await?;
    let name = name.clone();
    let sealed = call.api.issuer.certificate_seal.close(tenant, &name, key);
    let (uploaded, acme) = (now(), false);
    let certificate =
        Certificate { name, hosts, issuer, not_before, not_after, fingerprint, uploaded, acme };
    Ok(CertificateRecord { certificate, chain_pem: chain_pem.to_owned(), sealed })
}

fn refused(name: &CertificateName, error: &InvalidChain) -> ApiError {
    let message = format!("certificate `{name}` is not taken: {error}");
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "certificate", message).hint(error.hint())
}

pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    let show = |record: CertificateRecord| Some(record.certificate);
    call.page(keys::host_certificates(call.tenant()?), show).await
}

pub(crate) async fn show(call: Call) -> Result<Reply, ApiError> {
    let found = find(call.state(), call.tenant()?, &call.param("certificate")?).await?;
    Reply::ok(&found.value.certificate)
}

/// Certificates that an authority is asked for.
pub(crate) async fn orders(call: Call) -> Result<Reply, ApiError> {
    call.page(keys::orders(call.tenant()?), |record: OrderRecord| Some(record.order)).await
}

/// Asks the authority for another certificate now, also where it has refused one a while ago.
pub(crate) async fn renew(call: Call) -> Result<Reply, ApiError> {
    let (tenant, name) = (call.tenant()?.clone(), call.param::<CertificateName>("certificate")?);
    if !call.api.has_acme {
        let message = "this platform asks no authority for certificates".to_owned();
        return Err(ApiError::new(StatusCode::CONFLICT, "no-acme", message)
            .hint("start it with one: margay up --acme letsencrypt --acme-agree"));
    }
    let host = ordered_host(&call, &tenant, &name)?;
    let key = keys::order(&tenant, &host);
    let stored: Option<Stored<OrderRecord>> = call.state().get(key.clone()).await?;
    let (before, rev) = stored.map_or_else(
        || (OrderRecord::new(host, now()), 0),
        |stored| (stored.value, stored.mod_rev),
    );
    let order = CertificateOrder { next: now(), ..before.order.clone() };
    let record = OrderRecord { order, requested: true, ..before };
    call.commit(Txn::new().update(key, rev, &record)).await?;
    Reply::ok(&record.order)
}

/// The host whose certificate `name` is ordered, or is to be.
fn ordered_host(
    call: &Call,
    tenant: &Tenant,
    name: &CertificateName,
) -> Result<HostName, ApiError> {
    let model = call.state().model();
    let claims = model.hosts.values().filter(|claim| claim.tenant == *tenant);
    let mut claims = claims.filter(|claim| acme::is_public(&claim.host));
    if let Some(claim) = claims.find(|claim| certificate_name(&claim.host) == *name) {
        return Ok(claim.host.clone());
    }
    match model.certificates.get(&(tenant.clone(), name.clone())) {
        Some(known) if known.acme => {
            let message = format!("no service has the host of certificate `{name}` any more");
            Err(ApiError::new(StatusCode::CONFLICT, "no-host", message)
                .hint("remove it, or give a service its host: margay service update NAME --host"))
        }
        Some(_) => {
            let message = format!("certificate `{name}` was uploaded, not ordered");
            Err(ApiError::new(StatusCode::CONFLICT, "uploaded", message).hint(format!(
                "upload the next one: margay certificate update {name} --cert FILE --key FILE"
            )))
        }
        None => Err(ApiError::not_found("certificate", name)
            .hint("see what there is: margay certificate ls, margay certificate orders")),
    }
}

async fn find(
    state: &State,
    tenant: &Tenant,
    name: &CertificateName,
) -> Result<Stored<CertificateRecord>, ApiError> {
    let found = state.get(keys::host_certificate(tenant, name)).await?;
    found.ok_or_else(|| {
        ApiError::not_found("certificate", name).hint(format!(
            "see what there is: margay certificate ls; or make it: margay certificate create {name} \
             --cert FILE --key FILE"
        ))
    })
}

pub(crate) async fn remove(call: Call) -> Result<Reply, ApiError> {
    let (tenant, name) = (call.tenant()?, call.param::<CertificateName>("certificate")?);
    let stored = find(call.state(), tenant, &name).await?;
    let key = keys::host_certificate(tenant, &name);
    call.commit(Txn::new().remove(key, stored.mod_rev)).await?;
    Reply::done()
}

/// A certificate with its key, for a node whose routes name it.
pub(crate) async fn of_node(
    api: &Api,
    node: &NodeRecord,
    tenant: &Tenant,
    name: &CertificateName,
) -> Result<Reply, ApiError> {
    let assigned = api.node_watch.assigned(node);
    let mut told = assigned.routes.certificates.values();
    if !told.any(|shown| (&shown.tenant, &shown.name) == (tenant, name)) {
        return Err(ApiError::not_found("certificate", name));
    }
    let CertificateRecord { chain_pem, sealed, .. } = find(&api.state, tenant, name).await?.value;
    let key = api.issuer.certificate_seal.open(tenant, name, &sealed).ok_or_else(|| {
        let message = format!(
            "the key of certificate `{name}` cannot be opened: `secret.key` of the control plane is \
             not the one that closed it"
        );
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "sealed", message).hint(format!(
            "restore that file, or upload it again: margay certificate update {name} --cert FILE \
             --key FILE"
        ))
    })?;
    tracing::info!(node = %node.id, %tenant, certificate = %name, "handed a certificate over");
    Reply::ok(&CertificatePair { version: wire::VERSION, chain_pem, key })
}
