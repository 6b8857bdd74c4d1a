//! Administration over the network: what a request is about decides which clients may send it.

use std::sync::Arc;

use http::Method;

use super::error::{ApiError, ErrorCode};
use crate::{
    access::{Object, Principal, may_administer},
    protocol::{Query, RepositoryPattern},
    storage::{Metadata, PolicyTable, Webhook},
};

/// On whose behalf an administrative request is made.
pub(super) enum Administrator<'a> {
    /// The owner of the data folder: over the admin socket.
    Owner,
    /// A client with a password: over the network.
    Client(&'a Principal),
}

impl Administrator<'_> {
    /// Whether it may administer `object`, and so sees it in a list.
    pub fn may(&self, object: &Object, policies: &PolicyTable) -> bool {
        match self {
            Self::Owner => true,
            Self::Client(principal) => may_administer(principal, object, policies),
        }
    }

    /// Those of `all` that it sees in a list: each is about an object.
    pub fn seen<T>(
        &self,
        metadata: &Metadata,
        all: Vec<T>,
        object: impl Fn(&T) -> Object,
    ) -> Vec<T> {
        let policies = metadata.policies();
        all.into_iter().filter(|one| self.may(&object(one), &policies)).collect()
    }

    /// The webhooks that it sees, replications included.
    pub fn webhooks(&self, metadata: &Metadata) -> Vec<Arc<Webhook>> {
        let account = |hook: &Arc<Webhook>| Object::Account(hook.name.account.clone());
        self.seen(metadata, metadata.webhooks.all(), account)
    }
}

/// `?repositories=PATTERN` of a request about the policy of a pattern.
pub(super) fn pattern_of(query: &Query) -> Result<RepositoryPattern, ApiError> {
    query.get("repositories").unwrap_or_default().parse().map_err(ApiError::invalid_name)
}

/// What an administrative request is about.
pub(super) fn object_of(method: &Method, path: &str, query: &Query) -> Result<Object, ApiError> {
    let reads = *method == Method::GET;
    let path = path.strip_prefix("/admin/").ok_or_else(ApiError::no_such_endpoint)?;
    let (kind, rest) = path.split_once('/').unwrap_or((path, ""));
    let repositories = |text: &str| {
        text.parse::<RepositoryPattern>().map(Object::Repositories).map_err(ApiError::invalid_name)
    };
    let account = |text: &str| text.parse().map(Object::Account).map_err(ApiError::invalid_name);
    let named = |name: &str| {
        let missing =
            || ApiError::bad_request(ErrorCode::Unsupported, format!("`{name}` is missing"));
        repositories(query.get(name).ok_or_else(missing)?)
    };
    match (kind, rest) {
        (
            "organisations" | "teams" | "policies" | "robots" | "repositories" | "webhooks"
            | "replications",
            "",
        ) if reads => Ok(Object::List),
        ("signatures" | "scan-policies", "") if reads => Ok(Object::List),
        // What a client may read decides, for each image.
        ("images" | "sboms" | "scans" | "findings", _) if reads => Ok(Object::List),
        ("policies" | "signatures" | "scan-policies", "") => named("repositories"),
        ("policies", "check") => named("repository"),
        ("teams" | "webhooks" | "replications", name) => {
            account(name.split('/').next().unwrap_or_default())
        }
        ("robots", login) => account(login.split('+').next().unwrap_or_default()),
        ("repositories", name) => match *method {
            Method::PUT => repositories(name.strip_suffix("/visibility").unwrap_or(name)),
            _ => repositories(name),
        },
        ("tags", name) => repositories(name.split(':').next().unwrap_or_default()),
        ("manifests", name) => repositories(name.split('@').next().unwrap_or_default()),
        ("users", name) if !name.is_empty() && *method == Method::PUT => {
            name.parse().map(Object::Password).map_err(ApiError::invalid_name)
        }
        ("rules", rule) => match rule.strip_prefix("immutable/") {
            Some(name) => repositories(name),
            None => Ok(Object::Registry),
        },
        ("retention", "" | "*") => Ok(Object::Registry),
        ("retention", name) if name.contains('/') => repositories(name),
        ("retention", name) => account(name),
        // It is about files of the registry's machine.
        ("snapshots", _) => Err(ApiError::no_such_endpoint()),
        _ => Ok(Object::Registry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_about_what_its_path_and_its_query_name() {
        for (request, want) in [
            ("GET /admin/users", "Registry"),
            ("PUT /admin/users/ann", "Password(Tenant(\"ann\"))"),
            ("DELETE /admin/users/ann", "Registry"),
            ("PUT /admin/operators/ann", "Registry"),
            ("GET /admin/organisations", "List"),
            ("PUT /admin/organisations/acme", "Registry"),
            ("DELETE /admin/organisations/acme", "Registry"),
            ("GET /admin/teams", "List"),
            ("PUT /admin/teams/acme/dev", "Account(Tenant(\"acme\"))"),
            ("DELETE /admin/teams/acme/dev", "Account(Tenant(\"acme\"))"),
            ("GET /admin/robots", "List"),
            ("PUT /admin/robots/ann+ci", "Account(Tenant(\"ann\"))"),
            ("PUT /admin/robots/+ci", "400"),
            ("GET /admin/policies", "List"),
            (
                "PUT /admin/policies?repositories=acme/*",
                "Repositories(RepositoryPattern(\"acme/*\"))",
            ),
            ("PUT /admin/policies", "400"),
            ("DELETE /admin/policies?repositories=*/x", "400"),
            (
                "GET /admin/policies/check?repository=acme/x",
                "Repositories(RepositoryPattern(\"acme/x\"))",
            ),
            ("GET /admin/repositories", "List"),
            (
                "DELETE /admin/repositories/ann/cats",
                "Repositories(RepositoryPattern(\"ann/cats\"))",
            ),
            (
                "PUT /admin/repositories/ann/cats/visibility",
                "Repositories(RepositoryPattern(\"ann/cats\"))",
            ),
            (
                "DELETE /admin/repositories/ann/visibility",
                "Repositories(RepositoryPattern(\"ann/visibility\"))",
            ),
            ("DELETE /admin/tags/ann/cats:v1", "Repositories(RepositoryPattern(\"ann/cats\"))"),
            ("GET /admin/manifests/ann/cats", "Repositories(RepositoryPattern(\"ann/cats\"))"),
            ("GET /admin/signatures", "List"),
            (
                "PUT /admin/signatures?repositories=acme/*",
                "Repositories(RepositoryPattern(\"acme/*\"))",
            ),
            ("DELETE /admin/signatures", "400"),
            ("GET /admin/upstreams", "Registry"),
            ("PUT /admin/upstreams/hub", "Registry"),
            ("GET /admin/replications", "List"),
            ("PUT /admin/replications/acme/dr", "Account(Tenant(\"acme\"))"),
            ("GET /admin/scan-policies", "List"),
            (
                "PUT /admin/scan-policies?repositories=acme/*",
                "Repositories(RepositoryPattern(\"acme/*\"))",
            ),
            ("GET /admin/sboms/ann/cats:v1", "List"),
            ("GET /admin/scans/ann/cats:v1", "List"),
            ("GET /admin/findings", "List"),
            ("POST /admin/vulnerabilities", "Registry"),
            ("GET /admin/vulnerabilities", "Registry"),
            ("GET /admin/webhooks", "List"),
            ("PUT /admin/webhooks/acme/ci", "Account(Tenant(\"acme\"))"),
            ("GET /admin/webhooks/acme/ci", "Account(Tenant(\"acme\"))"),
            ("GET /admin/images/ann/cats:v1", "List"),
            ("GET /admin/images", "List"),
            ("PUT /admin/images/ann/cats:v1", "Registry"),
            ("PUT /admin/rules/read-only", "Registry"),
            (
                "PUT /admin/rules/immutable/ann/cats",
                "Repositories(RepositoryPattern(\"ann/cats\"))",
            ),
            ("GET /admin/rules/immutable", "Registry"),
            ("PUT /admin/retention/ann", "Account(Tenant(\"ann\"))"),
            ("PUT /admin/retention/ann/cats", "Repositories(RepositoryPattern(\"ann/cats\"))"),
            ("PUT /admin/retention/*", "Registry"),
            ("POST /admin/retention", "Registry"),
            ("PUT /admin/quotas/ann", "Registry"),
            ("POST /admin/collect", "Registry"),
            ("POST /admin/snapshots", "404"),
            ("GET /admin/nonsense", "Registry"),
            ("GET /elsewhere", "404"),
        ] {
            let (method, target) = request.split_once(' ').unwrap();
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let got = match object_of(&method.parse().unwrap(), path, &Query::parse(query)) {
                Ok(object) => format!("{object:?}"),
                Err(error) => error.status().as_str().to_owned(),
            };
            assert_eq!(got, want, "{request}");
        }
    }
}
