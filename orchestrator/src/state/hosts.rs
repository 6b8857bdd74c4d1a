//! Host names that services have beside their own: which tenant has a host, and which of its
//! services answers for which path.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use spec::{ClusterName, HostName, Port, RoutePath, ServiceName, Tenant};
use utoipa::ToSchema;

use crate::limits::HOST_ROUTES_MAX;

/// Below which domains a tenant may have host names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenantDomains {
    pub tenant: Tenant,
    /// Each with everything below it.
    pub domains: Vec<HostName>,
}

/// A host that a tenant has: one record, so that two tenants cannot both write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostClaim {
    pub host: HostName,
    pub tenant: Tenant,
    /// What its services answer for. Never empty in the store.
    pub routes: Vec<HostRoute>,
}

/// A port of the ingresses that a service has: one record, so that two cannot both write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortClaim {
    pub port: Port,
    pub tenant: Tenant,
    pub cluster: ClusterName,
    pub service: ServiceName,
}

/// The part of a host that one service answers for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostRoute {
    pub path: RoutePath,
    pub cluster: ClusterName,
    pub service: ServiceName,
    /// Its share, where several services have the same path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// Why a service does not get a path of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// This service of the same tenant has the path alone.
    Taken { cluster: ClusterName, service: ServiceName },
    /// The host has as many routes as a host may have.
    Full,
}

impl HostClaim {
    pub fn new(host: HostName, tenant: Tenant) -> Self {
        Self { host, tenant, routes: Vec::new() }
    }

    /// Those that answer for a part of it, each once.
    pub fn services(&self) -> BTreeSet<(&ClusterName, &ServiceName)> {
        self.routes.iter().map(|route| (&route.cluster, &route.service)).collect()
    }

    /// Without what a service answers for.
    #[must_use]
    pub fn without(mut self, cluster: &ClusterName, service: &ServiceName) -> Self {
        self.routes.retain(|route| (&route.cluster, &route.service) != (cluster, service));
        self
    }

    /// With one more route. Services share a path where each says how much of it is its own.
    pub fn with(mut self, route: HostRoute) -> Result<Self, Conflict> {
        let shares = |other: &HostRoute| other.weight.is_some() && route.weight.is_some();
        let taken = self.routes.iter().find(|other| other.path == route.path && !shares(other));
        if let Some(HostRoute { cluster, service, .. }) = taken.cloned() {
            return Err(Conflict::Taken { cluster, service });
        }
        if self.routes.len() >= HOST_ROUTES_MAX {
            return Err(Conflict::Full);
        }
        self.routes.push(route);
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_share_a_path_when_each_has_a_weight() {
        let route = |service: &str, path: &str, weight| HostRoute {
            path: path.parse().unwrap(),
            cluster: "main".parse().unwrap(),
            service: service.parse().unwrap(),
            weight,
        };
        for (routes, want) in [
            (vec![route("a", "/", None), route("b", "/api", None)], Ok(2)),
            (vec![route("a", "/", Some(99)), route("b", "/", Some(1))], Ok(2)),
            (vec![route("a", "/", None), route("b", "/", None)], Err("a")),
            (vec![route("a", "/", Some(1)), route("b", "/", None)], Err("a")),
            (vec![route("a", "/", None), route("b", "/", Some(1))], Err("a")),
            (vec![route("a", "/x", None), route("b", "=/x", None)], Ok(2)),
        ] {
            let claim = HostClaim::new("x.example".parse().unwrap(), "me".parse().unwrap());
            let got = routes.iter().cloned().try_fold(claim, HostClaim::with);
            match (got, want) {
                (Ok(claim), Ok(count)) => assert_eq!(claim.routes.len(), count),
                (Err(Conflict::Taken { service, .. }), Err(want)) => {
                    assert_eq!(service.as_str(), want, "{routes:?}")
                }
                (got, want) => panic!("{routes:?}: {got:?}, not {want:?}"),
            }
        }
        let claim = HostClaim::new("x.example".parse().unwrap(), "me".parse().unwrap());
        let claim = claim.with(route("a", "/", None)).unwrap();
        let claim = claim.without(&"main".parse().unwrap(), &"a".parse().unwrap());
        assert!(claim.routes.is_empty());
    }
}
