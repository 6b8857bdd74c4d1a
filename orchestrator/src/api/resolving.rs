use std::time::Duration;

use http::StatusCode;
use net::{KeyedPermit, KeyedSemaphore};
use spec::Tenant;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use crate::{
    api::error::ApiError,
    limits::{RESOLVING_MAX, RESOLVING_PER_TENANT_MAX, RESOLVING_WAIT_MAX},
};

/// How many definitions may have their images resolved at one time, in all and of one tenant.
pub(crate) struct ResolvingLimits {
    all: Semaphore,
    tenants: KeyedSemaphore<Tenant>,
    wait_max: Duration,
}

/// The right to ask registries, until it is dropped.
#[derive(Debug)]
pub(crate) struct ResolvingPermit<'a> {
    _all: SemaphorePermit<'a>,
    _own: KeyedPermit<Tenant>,
}

impl ResolvingLimits {
    pub fn new() -> Self {
        Self {
            all: Semaphore::new(RESOLVING_MAX),
            tenants: KeyedSemaphore::new(RESOLVING_PER_TENANT_MAX),
            wait_max: RESOLVING_WAIT_MAX,
        }
    }

    /// A permit for `tenant`, which waits for its own first: it takes none from others meanwhile.
    pub async fn acquire(&self, tenant: &Tenant) -> Result<ResolvingPermit<'_>, ApiError> {
        let own = timeout(self.wait_max, self.tenants.acquire(tenant.clone())).await;
        let own = own.map_err(|_| {
            let message = format!(
                "tenant `{tenant}` registers {RESOLVING_PER_TENANT_MAX} task definitions already"
            );
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "busy", message)
                .hint("send it again when one of them is done")
        })?;
        let all = timeout(self.wait_max, self.all.acquire()).await.map_err(|_| {
            let message = format!("{RESOLVING_MAX} task definitions are being registered already");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
                .hint("send it again in a few seconds")
        })?;
        Ok(ResolvingPermit { _all: all.expect("it is never closed"), _own: own })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_tenant_leaves_registries_to_others() {
        let limits =
            ResolvingLimits { wait_max: Duration::from_millis(10), ..ResolvingLimits::new() };
        let tenant = |name: &str| name.parse::<Tenant>().unwrap();
        let (ann, bob) = (tenant("ann"), tenant("bob"));
        let first = limits.acquire(&ann).await.unwrap();
        let _second = limits.acquire(&ann).await.unwrap();
        let refused = limits.acquire(&ann).await.err().unwrap();
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.fault.message, "tenant `ann` registers 2 task definitions already");
        let mut others = Vec::new();
        for n in 0..RESOLVING_MAX - RESOLVING_PER_TENANT_MAX {
            others.push(limits.acquire(&tenant(&format!("t{n}"))).await.unwrap());
        }
        let refused = limits.acquire(&bob).await.err().unwrap();
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{:?}", refused.fault);
        drop(first);
        drop(limits.acquire(&bob).await.unwrap());
        drop(limits.acquire(&ann).await.unwrap());
        drop(others);
        drop(limits.acquire(&bob).await.unwrap());
        assert_eq!(limits.tenants.keys(), 1, "ann has a permit still");
    }
}
