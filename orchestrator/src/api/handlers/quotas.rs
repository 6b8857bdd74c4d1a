use std::collections::BTreeSet;

use spec::{QuotaChange, Tenant};
use store::Txn;

use crate::{
    api::{
        call::{Call, Reply},
        error::ApiError,
        quota::{quota_of, used},
        types::{ListPage, QuotaReport},
    },
    limits::WRITE_TRIES_MAX,
    state::{
        keys,
        records::{Guarded, Stored},
    },
};

/// Of the caller's own tenant.
pub(crate) async fn own(call: Call) -> Result<Reply, ApiError> {
    Reply::ok(&report(&call, call.tenant()?).await?)
}

/// Of one tenant, for the operator.
pub(crate) async fn show(call: Call) -> Result<Reply, ApiError> {
    Reply::ok(&report(&call, &call.param("tenant")?).await?)
}

/// Of every tenant that has something, or a quota of its own.
pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    let tenants: BTreeSet<Tenant> = call.state().model().tenants();
    let mut items = Vec::with_capacity(tenants.len());
    for tenant in &tenants {
        items.push(report(&call, tenant).await?);
    }
    Reply::ok(&ListPage { items, next: None })
}

pub(crate) async fn change(call: Call) -> Result<Reply, ApiError> {
    let tenant: Tenant = call.param("tenant")?;
    let change: QuotaChange = call.json()?;
    for _ in 0..WRITE_TRIES_MAX {
        let key = keys::quota(&tenant);
        let stored: Option<Stored<spec::TenantQuota>> = call.state().get(key.clone()).await?;
        let (quota, rev) =
            stored.map_or((spec::TenantQuota::default(), 0), |known| (known.value, known.mod_rev));
        let limits = quota.with(&change);
        if call.state().commit(Txn::new().update(key, rev, &limits)).await? {
            let used = used(call.state(), &tenant).await?;
            tracing::info!(%tenant, ?change, "changed a quota");
            return Reply::ok(&QuotaReport { tenant, limits, used });
        }
    }
    Err(ApiError::conflict())
}

async fn report(call: &Call, tenant: &Tenant) -> Result<QuotaReport, ApiError> {
    let used = used(call.state(), tenant).await?;
    let limits = quota_of(&call.state().model(), tenant);
    Ok(QuotaReport { tenant: tenant.clone(), limits, used })
}
