use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error_pages::ErrorPages,
    host_name::{HostName, RoutePath},
    listener::ServiceListener,
    name::{ClusterName, ServiceName, Tenant},
    text::ParseError,
};

/// How requests reach a service, beside the name that it has by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IngressSettings {
    /// Host names of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostName>,
    /// The paths of these hosts that it answers for; all of them when left out. The longest path
    /// of all services of a host decides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<RoutePath>,
    /// Its share of the requests where several services of a tenant have the same host and path:
    /// each of them needs one. 0 takes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Whether requests that came by plain HTTP are sent to the same URL with HTTPS.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub https: bool,
    /// Whether a client stays with the replica that answered it first, by a cookie.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sticky: bool,
    /// Requests that each ingress takes from one client; the rest is answered with 429.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Pages in the place of the ingress' own errors.
    #[serde(skip_serializing_if = "ErrorPages::is_empty")]
    pub errors: ErrorPages,
    /// Ports of the ingresses for what is no HTTP.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<ServiceListener>,
}

/// How many requests a client may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// In the long run.
    pub requests_per_second: u32,
    /// At once, after a pause; as many as in a second when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

/// What an ingress does with the requests of one service. What is left out is as it is for every
/// service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteSettings {
    /// From a request's last byte to the head of its response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_seconds_max: Option<u32>,
    /// Between two pieces of a response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_seconds_max: Option<u32>,
    /// Whether requests that came by plain HTTP are sent to the same URL with HTTPS.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub https: bool,
    /// Whether a client stays with the replica that answered it first.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sticky: bool,
    /// Requests that each ingress takes from one client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// The share of the requests, in percent, that its newest backends have; the others have the
    /// rest. All backends are alike when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest_percent: Option<u32>,
    /// Whether the control plane is told what each backend was asked.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub counted: bool,
    /// Pages in the place of the ingress' own errors.
    #[serde(skip_serializing_if = "ErrorPages::is_empty")]
    pub errors: ErrorPages,
    /// The service that a request brings back from zero replicas, and waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wakes: Option<ServiceRef>,
}

/// A service, with everything that it takes to name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceRef {
    /// The tenant that it belongs to.
    pub tenant: Tenant,
    /// Unique for its tenant.
    pub cluster: ClusterName,
    /// Unique in its cluster.
    pub service: ServiceName,
}

/// The services that answer for some paths of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteRule {
    /// Which paths.
    pub path: RoutePath,
    /// The share of each service, by the host name that it has by itself.
    pub services: BTreeMap<String, u32>,
}

impl IngressSettings {
    /// Hosts and paths of one service. More are a gateway.
    pub const HOSTS_MAX: usize = 32;
    /// The largest weight: shares in hundredths of a percent.
    pub const WEIGHT_MAX: u32 = 10_000;
    /// Listeners of one service: ports are few.
    pub const LISTENERS_MAX: usize = 16;
    /// A client that makes more needs no limit.
    const REQUESTS_MAX: u32 = 1_000_000;

    /// Checks what the types of its parts do not.
    ///
    /// # Errors
    /// Names the field and what it may be.
    pub fn check(&self) -> Result<(), ParseError> {
        let (hosts_max, weight_max) = (Self::HOSTS_MAX, Self::WEIGHT_MAX);
        let requests = 1..=Self::REQUESTS_MAX;
        let problem = match self {
            Self { hosts, paths, .. } if hosts.len() > hosts_max || paths.len() > hosts_max => {
                format!("a service has {hosts_max} `hosts` and {hosts_max} `paths` at most")
            }
            Self { hosts, paths, .. } if hosts.is_empty() && !paths.is_empty() => {
                "`paths` are of `hosts`, and there are none".to_owned()
            }
            Self { hosts, weight: Some(_), .. } if hosts.is_empty() => {
                "`weight` is a share of the requests for `hosts`, and there are none".to_owned()
            }
            Self { weight: Some(weight), .. } if *weight > weight_max => {
                format!("`weight` is 0 to {weight_max}")
            }
            Self { rate_limit: Some(limit), .. }
                if !requests.contains(&limit.requests_per_second)
                    || !limit.burst.is_none_or(|burst| requests.contains(&burst)) =>
            {
                format!("`requests_per_second` and `burst` are 1 to {}", Self::REQUESTS_MAX)
            }
            Self { listeners, .. } if listeners.len() > Self::LISTENERS_MAX => {
                format!("a service has {} `listeners` at most", Self::LISTENERS_MAX)
            }
            _ => match self.duplicate() {
                Some(twice) => format!("`{twice}` is given twice"),
                None => {
                    self.listeners.iter().try_for_each(ServiceListener::check)?;
                    return self.errors.check();
                }
            },
        };
        Err(ParseError(problem))
    }

    fn duplicate(&self) -> Option<String> {
        let mut seen = std::collections::BTreeSet::new();
        let hosts = self.hosts.iter().map(ToString::to_string);
        hosts
            .chain(self.paths.iter().map(ToString::to_string))
            .chain(self.listeners.iter().map(|listener| listener.port.to_string()))
            .find(|text| !seen.insert(text.clone()))
    }

    /// Every host with every path.
    pub fn routes(&self) -> impl Iterator<Item = (&HostName, RoutePath)> {
        let all = self.paths.is_empty().then(RoutePath::all);
        self.hosts.iter().flat_map(move |host| {
            self.paths.iter().cloned().chain(all.clone()).map(move |path| (host, path))
        })
    }
}

impl RateLimit {
    /// Requests at once.
    pub fn burst(&self) -> u32 {
        self.burst.unwrap_or(self.requests_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_ingress_are_refused_by_name() {
        for (text, want) in [
            ("{}", ""),
            (r#"{ "hosts": ["a.example"], "paths": ["/api", "=/"], "weight": 1 }"#, ""),
            (r#"{ "paths": ["/api"] }"#, "`paths` are of `hosts`"),
            (r#"{ "weight": 1 }"#, "`weight` is a share"),
            (r#"{ "hosts": ["a.example"], "weight": 10001 }"#, "`weight` is 0 to 10000"),
            (r#"{ "hosts": ["a.example", "A.example"] }"#, "`a.example` is given twice"),
            (r#"{ "hosts": ["a.example"], "paths": ["/a", "/a/"] }"#, "`/a` is given twice"),
            (r#"{ "listeners": [{ "port": 20000 }, { "port": 20001 }] }"#, ""),
            (
                r#"{ "listeners": [{ "port": 20000 }, { "port": "20000/tcp" }] }"#,
                "`20000/tcp` is given twice",
            ),
            (r#"{ "errors": { "503": "" } }"#, "the page for `503` has 0 bytes: 1 to 4096 fit"),
            (r#"{ "rate_limit": { "requests_per_second": 0 } }"#, "`requests_per_second` and"),
            (r#"{ "rate_limit": { "requests_per_second": 1, "burst": 0 } }"#, "`burst` are 1 to"),
        ] {
            let settings: IngressSettings = serde_json::from_str(text).unwrap();
            let said = settings.check().err().map_or_else(String::new, |error| error.to_string());
            assert_eq!(said.is_empty(), want.is_empty(), "{text}: {said}");
            assert!(said.contains(want), "{text}: {said}");
        }
    }
}
