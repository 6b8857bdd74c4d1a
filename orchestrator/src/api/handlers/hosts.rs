//! Host names of services: whose they are, and below which domains a tenant may have some.

use http::StatusCode;
use spec::{HostName, IngressSettings, Tenant};
use store::Txn;

use super::listeners;
use crate::{
    api::{
        call::{Call, Reply},
        error::ApiError,
        types::{ChangeDomains, ListPage},
    },
    limits::{DOMAINS_MAX, WRITE_TRIES_MAX},
    plan::HostNames,
    state::{
        State,
        hosts::{Conflict, HostClaim, HostRoute, TenantDomains},
        keys, now,
        records::{Guarded, ServiceKey, ServiceRecord, Stored},
    },
};

/// `txn`, in which the service also gets the hosts and ports that it is to have and loses those
/// that it had.
pub(super) async fn claim(
    call: &Call,
    key: &ServiceKey,
    before: &IngressSettings,
    after: &IngressSettings,
    mut txn: Txn,
) -> Result<Txn, ApiError> {
    after.check()?;
    let (tenant, cluster, service) = key;
    let granted = domains_of(call.state(), tenant).await?.map_or(Vec::new(), |d| d.value.domains);
    let hosts = before.hosts.iter().chain(&after.hosts);
    for host in hosts.collect::<std::collections::BTreeSet<_>>() {
        let stored: Option<Stored<HostClaim>> = call.state().get(keys::host(host)).await?;
        let (known, rev) = stored.map_or((None, 0), |known| (Some(known.value), known.mod_rev));
        // Taken by another tenant after a domain of this one was taken away.
        let is_lost = known.as_ref().is_some_and(|claim| claim.tenant != *tenant);
        // One that the service had until its domain was taken away is asked for anew.
        let is_held = before.hosts.contains(host) && known.is_some() && !is_lost;
        if after.hosts.contains(host) && !is_held {
            check_host(&call.api.node_watch.names, tenant, host, &granted)?;
        }
        if is_lost && after.hosts.contains(host) {
            return Err(taken(host));
        }
        let Some(old) = known.filter(|_| !is_lost).or_else(|| {
            after.hosts.contains(host).then(|| HostClaim::new(host.clone(), tenant.clone()))
        }) else {
            continue;
        };
        let mut claim = old.clone().without(cluster, service);
        for (_, path) in after.routes().filter(|(of, _)| *of == host) {
            let route = HostRoute {
                path: path.clone(),
                cluster: cluster.clone(),
                service: service.clone(),
                weight: after.weight,
            };
            claim = claim.with(route).map_err(|conflict| refused(host, &path, &conflict))?;
        }
        if claim.routes.is_empty() && rev != 0 {
            txn = txn.remove(keys::host(host), rev);
        } else if claim != old {
            txn = txn.update(keys::host(host), rev, &claim);
        }
    }
    listeners::claim(call, key, before, after, txn).await
}

/// Whether `tenant` may have a certificate for all of `hosts`: the operator for every one, and
/// another tenant for those in its domains.
pub(super) async fn check_certified(
    call: &Call,
    tenant: &Tenant,
    hosts: &[HostName],
) -> Result<(), ApiError> {
    if tenant == call.api.operator() {
        return Ok(());
    }
    let granted = domains_of(call.state(), tenant).await?.map_or(Vec::new(), |d| d.value.domains);
    hosts.iter().try_for_each(|host| check_host(&call.api.node_watch.names, tenant, host, &granted))
}

/// Whether `tenant` may have `host`. Names that the platform gives out are no tenant's to choose;
/// the operator has every other one, and a tenant those below domains that the operator has granted
/// it.
fn check_host(
    names: &HostNames,
    tenant: &Tenant,
    host: &HostName,
    granted: &[HostName],
) -> Result<(), ApiError> {
    if host.labels_below(&names.domain).is_some_and(|labels| labels > 1) {
        return Err(ApiError::invalid(format!(
            "host `{host}` is one of the names that services have by themselves"
        ))
        .hint(format!("use another domain, or a name right below `{}`", names.domain)));
    }
    let is_granted = granted.iter().any(|domain| host.is_within(domain.as_str()));
    if *tenant == names.operator || is_granted {
        return Ok(());
    }
    let message = format!("host `{host}` is in no domain that this tenant has");
    Err(ApiError::new(StatusCode::FORBIDDEN, "host-not-granted", message)
        .hint(format!("ask the operator for it: margay tenant domain grant {tenant} {host}")))
}

/// Another tenant is not named: which hosts it has is not for others to know.
fn taken(host: &HostName) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, "host-taken", format!("host `{host}` is taken"))
        .hint("choose another host, or ask the operator")
}

fn refused(host: &HostName, path: &spec::RoutePath, conflict: &Conflict) -> ApiError {
    let route = format!("`{path}` of host `{host}`");
    match conflict {
        Conflict::Taken { cluster, service } => {
            let message = format!("{route} is that of service `{service}` in cluster `{cluster}`");
            ApiError::new(StatusCode::CONFLICT, "host-taken", message)
                .hint("choose another path, or give both services a weight")
        }
        Conflict::Full => ApiError::new(
            StatusCode::CONFLICT,
            "quota",
            format!("host `{host}` has as many routes as one may have"),
        )
        .hint("use fewer paths, or another host"),
    }
}

async fn domains_of(
    state: &State,
    tenant: &Tenant,
) -> Result<Option<Stored<TenantDomains>>, ApiError> {
    Ok(state.get(keys::domains(tenant)).await?)
}

/// Of every tenant that has some.
pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    let stored = call.state().list::<TenantDomains>(keys::DOMAINS.to_owned()).await?;
    let items = stored.into_iter().map(|stored| stored.value).collect();
    Reply::ok(&ListPage::<TenantDomains> { items, next: None })
}

/// Grants domains to a tenant, or takes them away with the hosts that its services have there.
pub(crate) async fn change(call: Call) -> Result<Reply, ApiError> {
    let tenant: Tenant = call.param("tenant")?;
    let change: ChangeDomains = call.json()?;
    for _ in 0..WRITE_TRIES_MAX {
        // Two grants at once might overlap: one of them is read again.
        let guard: Option<Stored<()>> = call.state().get(keys::DOMAIN_GRANTS.to_owned()).await?;
        let others = call.state().list::<TenantDomains>(keys::DOMAINS.to_owned()).await?;
        let known = domains_of(call.state(), &tenant).await?;
        let rev = known.as_ref().map_or(0, |known| known.mod_rev);
        let mut domains = known.map_or(Vec::new(), |known| known.value.domains);
        for domain in &change.revoke {
            let at = domains.iter().position(|known| known == domain);
            let missing = || ApiError::not_found("domain of this tenant", domain);
            domains.remove(at.ok_or_else(missing)?);
        }
        for domain in &change.grant {
            check_grant(&tenant, domain, &others)?;
            if !domains.contains(domain) {
                domains.push(domain.clone());
            }
        }
        if domains.len() > DOMAINS_MAX {
            let message = format!("a tenant has {DOMAINS_MAX} domains at most");
            return Err(ApiError::new(StatusCode::CONFLICT, "quota", message)
                .hint("grant a domain above several of them"));
        }
        let record = TenantDomains { tenant: tenant.clone(), domains };
        let guard = guard.map_or(0, |guard| guard.mod_rev);
        let txn = Txn::new().update(keys::domains(&tenant), rev, &record);
        if call.state().commit(txn.update(keys::DOMAIN_GRANTS.to_owned(), guard, &())).await? {
            release_lost(&call, &record).await?;
            return Reply::ok(&record);
        }
    }
    Err(ApiError::conflict())
}

/// Domains of two tenants do not overlap, so that no host could be of both.
fn check_grant(
    tenant: &Tenant,
    domain: &HostName,
    all: &[Stored<TenantDomains>],
) -> Result<(), ApiError> {
    if domain.is_wildcard() {
        let plain = domain.as_str().trim_start_matches("*.");
        return Err(ApiError::invalid(format!("domain `{domain}` is a wildcard"))
            .hint(format!("grant `{plain}`: what is below it is granted too")));
    }
    let others = all.iter().filter(|other| other.value.tenant != *tenant);
    for other in others {
        let overlaps = |known: &&HostName| {
            known.is_within(domain.as_str()) || domain.is_within(known.as_str())
        };
        if let Some(known) = other.value.domains.iter().find(overlaps) {
            let owner = &other.value.tenant;
            let message = format!("domain `{domain}` overlaps `{known}` of tenant `{owner}`");
            return Err(ApiError::new(StatusCode::CONFLICT, "domain-taken", message)
                .hint(format!("revoke that first: margay tenant domain revoke {owner} {known}")));
        }
    }
    Ok(())
}

/// Takes away the hosts that services of a tenant have and that are in no domain of it any more.
async fn release_lost(call: &Call, record: &TenantDomains) -> Result<(), ApiError> {
    if record.tenant == *call.api.operator() {
        return Ok(());
    }
    let mut claims = call.state().list::<HostClaim>(keys::HOSTS.to_owned()).await?;
    claims.retain(|stored| {
        let within = |domain: &HostName| stored.value.host.is_within(domain.as_str());
        stored.value.tenant == record.tenant && !record.domains.iter().any(within)
    });
    for Stored { value, mod_rev, .. } in claims {
        let mut txn = Txn::new().remove(keys::host(&value.host), mod_rev);
        for (cluster, service) in value.services() {
            let key = keys::service(&value.tenant, cluster, service);
            let stored: Option<Stored<ServiceRecord>> = call.state().get(key.clone()).await?;
            let Some(mut stored) = stored else { continue };
            stored.value.lose_host(&value.host, now());
            txn = txn.update(key, stored.mod_rev, &stored.value);
        }
        // One that changes meanwhile was looked at under the new domains, or goes the next time.
        let _ = call.state().commit(txn).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_hosts_in_its_domains_and_the_operator_all_but_generated_ones() {
        let names =
            HostNames { operator: "me".parse().unwrap(), domain: "apps.example".to_owned() };
        for (tenant, host, granted, want) in [
            ("me", "cats.shop", &[][..], ""),
            ("me", "apps.example", &[], ""),
            ("me", "www.apps.example", &[], ""),
            ("me", "*.apps.example", &[], ""),
            ("me", "web.main.apps.example", &[], "invalid"),
            ("me", "*.main.apps.example", &[], "invalid"),
            ("ann", "web.main.apps.example", &["apps.example"], "invalid"),
            ("ann", "cats.shop", &[], "host-not-granted"),
            ("ann", "cats.shop", &["cats.shop"], ""),
            ("ann", "www.cats.shop", &["cats.shop"], ""),
            ("ann", "*.cats.shop", &["cats.shop"], ""),
            ("ann", "mycats.shop", &["cats.shop"], "host-not-granted"),
            ("ann", "cats.shop", &["www.cats.shop"], "host-not-granted"),
            ("ann", "www.apps.example", &[], "host-not-granted"),
        ] {
            let granted: Vec<HostName> = granted.iter().map(|text| text.parse().unwrap()).collect();
            let (owner, name) = (tenant.parse().unwrap(), host.parse().unwrap());
            let got = check_host(&names, &owner, &name, &granted);
            let code = got.err().map_or_else(String::new, |error| error.fault.code);
            assert_eq!(code, want, "{tenant} {host} {granted:?}");
        }
    }
}
