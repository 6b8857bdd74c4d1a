use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use audit::AuditLog;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use net::PrivateListener;
use spec::Tenant;

use super::{
    audited::Audited,
    collect::{CollectOptions, CollectorHandle},
    contents,
    error::{ApiError, ErrorCode},
    images::ImageEndpoints,
    observed::Observer,
    policies, quotas,
    remote::Administrator,
    replication::ReplicationEndpoints,
    request_body::RequestBody,
    response::{Response, empty, json},
    retention::RetentionEndpoints,
    robots, rules,
    scans::ScanEndpoints,
    scrub::ScrubberHandle,
    signatures, snapshot,
    upstreams::UpstreamEndpoints,
    webhooks::WebhookEndpoints,
};
use crate::{
    Error, Repository,
    access::{Object, Passwords, SetPasswordError},
    blocking,
    limits::{ADMIN_BODY_BYTES_MAX, ADMIN_LIST_MAX, GRACE_MAX, REPOSITORIES_NAMED},
    protocol::{
        ADMIN_SOCKET, Existing, PasswordBody, Query, Repositories, RepositoryInfo, Visibility,
    },
    storage::Storage,
};

/// What Prometheus reads every few seconds.
pub(super) const METRICS: &str = "/admin/metrics";

/// Listens where only the owner of the data folder can connect: the folder is 0700, the socket
/// 0600. The database is locked by now, so an existing socket is that of a dead process.
pub(super) fn listen(data_dir: &Path) -> Result<PrivateListener, Error> {
    let path = data_dir.join(ADMIN_SOCKET);
    PrivateListener::bind(&path).map_err(|source| Error::File { action: "listen on", path, source })
}

/// Users and visibility, for the owner of the data folder.
pub(super) struct AdminApi {
    pub observer: Arc<Observer>,
    pub audit: Arc<AuditLog>,
    pub storage: Storage,
    pub collector: CollectorHandle,
    pub collect_grace: Duration,
    pub retention: RetentionEndpoints,
    pub scrubber: ScrubberHandle,
    pub scrub_bytes_per_second: u64,
    pub passwords: Arc<Passwords>,
    pub webhooks: WebhookEndpoints,
    pub upstreams: UpstreamEndpoints,
    pub replications: ReplicationEndpoints,
    pub images: ImageEndpoints,
    pub scans: ScanEndpoints,
    pub data_dir: PathBuf,
    pub idle_time_max: Duration,
}

impl AdminApi {
    /// Every request over the admin socket comes through here. A client that could open the socket
    /// is authorized.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response {
        let (head, body) = request.into_parts();
        let (method, path) = (head.method, head.uri.path().to_owned());
        let mut body = RequestBody::new(body, self.idle_time_max);
        let query = Query::parse(head.uri.query().unwrap_or_default());
        let mut audited = Audited::begin(&self.audit, None, &method, &path);
        audited.by("operator");
        if path == METRICS {
            audited.is_routine();
        }
        let answered = match audited.check_space(&method, &self.storage.metadata) {
            Ok(()) => {
                self.try_answer(&Administrator::Owner, &method, &path, &query, &mut body).await
            }
            Err(full) => Err(full),
        };
        let response = answered.unwrap_or_else(|error| {
            error.log(&method, &path);
            error.into()
        });
        audited.end(response.status()).await;
        response
    }

    pub async fn try_answer(
        &self,
        administrator: &Administrator<'_>,
        method: &Method,
        path: &str,
        query: &Query,
        body: &mut RequestBody,
    ) -> Result<Response, ApiError> {
        if let Some(name) = path.strip_prefix("/admin/users/") {
            let name: Tenant = name.parse().map_err(ApiError::invalid_name)?;
            return self.user(method, &name, query, body).await;
        }
        if let Some(rest) = path.strip_prefix("/admin/robots") {
            let login = rest.strip_prefix('/').unwrap_or_default();
            return robots::answer(&self.storage.metadata, administrator, method, login, body)
                .await;
        }
        if let Some(name) = path.strip_prefix("/admin/operators/") {
            let name: Tenant = name.parse().map_err(ApiError::invalid_name)?;
            return policies::operator(&self.storage.metadata, method, &name).await;
        }
        if let Some(name) = path.strip_prefix("/admin/organisations/") {
            let name: Tenant = name.parse().map_err(ApiError::invalid_name)?;
            return self.organisation(method, &name, query).await;
        }
        if path.starts_with("/admin/teams") || path.starts_with("/admin/policies") {
            let metadata = &self.storage.metadata;
            return policies::answer(metadata, administrator, method, path, query, body).await;
        }
        if let Some(rest) = path.strip_prefix("/admin/repositories/") {
            return contents::repository(&self.storage, method, rest, body).await;
        }
        if let Some(rest) = path.strip_prefix("/admin/retention") {
            let name = rest.strip_prefix('/').unwrap_or_default();
            return self.retention.answer(method, name, query, body).await;
        }
        if let Some(rule) = path.strip_prefix("/admin/rules/") {
            return rules::answer(&self.storage.metadata, method, rule, body).await;
        }
        if let Some(rest) = path.strip_prefix("/admin/quotas") {
            let name = rest.strip_prefix('/').unwrap_or_default();
            return quotas::answer(&self.storage, method, name, body).await;
        }
        if let Some(rest) = path.strip_prefix("/admin/uploads") {
            let id = rest.strip_prefix('/').unwrap_or_default();
            return quotas::uploads(&self.storage, method, id).await;
        }
        if let Some(rest) = path.strip_prefix("/admin/snapshots") {
            let id = rest.strip_prefix('/').unwrap_or_default();
            return snapshot::answer(&self.storage, &self.data_dir, method, id).await;
        }
        if let Some(name) = path.strip_prefix("/admin/tags/") {
            return contents::tags(&self.storage, method, name, query).await;
        }
        if let Some(name) = path.strip_prefix("/admin/manifests/") {
            return contents::manifests(&self.storage, method, name, query).await;
        }
        if path == "/admin/signatures" {
            return signatures::answer(&self.storage, administrator, method, query, body).await;
        }
        if let Some(rest) = path.strip_prefix("/admin/webhooks") {
            let name = rest.strip_prefix('/').unwrap_or_default();
            return self.webhooks.answer(administrator, method, name, body).await;
        }
        if path.starts_with("/admin/upstreams") || path.starts_with("/admin/replications") {
            return self.other_registries(administrator, method, path, body).await;
        }
        if let Some(rest) = path.strip_prefix("/admin/images") {
            let name = rest.strip_prefix('/').unwrap_or_default();
            return self.images.answer(administrator, method, name, query).await;
        }
        match ScanEndpoints::serves(path) {
            true => self.scans.answer(administrator, method, path, query, body).await,
            false => self.answer_whole(administrator, method, path, query).await,
        }
    }

    /// Requests about what comes from other registries, and goes to them.
    async fn other_registries(
        &self,
        administrator: &Administrator<'_>,
        method: &Method,
        path: &str,
        body: &mut RequestBody,
    ) -> Result<Response, ApiError> {
        let name = |rest: &str| rest.strip_prefix('/').unwrap_or_default().to_owned();
        if let Some(rest) = path.strip_prefix("/admin/upstreams") {
            return self.upstreams.answer(method, &name(rest), body).await;
        }
        let rest = path.strip_prefix("/admin/replications").unwrap_or_default();
        self.replications.answer(administrator, method, &name(rest), body).await
    }

    /// Requests about everything of a kind.
    async fn answer_whole(
        &self,
        administrator: &Administrator<'_>,
        method: &Method,
        path: &str,
        query: &Query,
    ) -> Result<Response, ApiError> {
        match (method.as_str(), path) {
            ("GET", METRICS) => self.observer.metrics.answer(&self.storage).await,
            ("POST", "/admin/scrub") => self.scrub(query).await,
            ("POST", "/admin/collect") => self.collect(query).await,
            ("GET", "/admin/users") => {
                Ok(json(StatusCode::OK, &self.storage.metadata.users().await?))
            }
            ("GET", "/admin/organisations") => {
                let policies = self.storage.metadata.policies();
                let all = policies
                    .organisations()
                    .filter(|one| administrator.may(&Object::Account(one.name.clone()), &policies));
                Ok(json(StatusCode::OK, &all.collect::<Vec<_>>()))
            }
            ("GET", "/admin/operators") => {
                let policies = self.storage.metadata.policies();
                Ok(json(StatusCode::OK, &policies.operators().collect::<Vec<_>>()))
            }
            ("GET", "/admin/repositories") => {
                let page = self.storage.metadata.repositories("", "", ADMIN_LIST_MAX).await?;
                let policies = self.storage.metadata.policies();
                let seen = page.entries.into_iter().filter(|(name, _)| {
                    administrator.may(&Object::Repositories(name.into()), &policies)
                });
                let list = seen.map(|(name, record)| RepositoryInfo {
                    name: name.to_string(),
                    visibility: match record.public {
                        true => Visibility::Public,
                        false => Visibility::Private,
                    },
                });
                Ok(json(StatusCode::OK, &list.collect::<Vec<_>>()))
            }
            _ => Err(ApiError::no_such_endpoint()),
        }
    }

    async fn scrub(&self, query: &Query) -> Result<Response, ApiError> {
        let rate = query.get("bytes_per_second").map(str::parse).transpose();
        let rate = rate.map_err(|_| {
            ApiError::bad_request(ErrorCode::Unsupported, "`bytes_per_second` is not a number")
        })?;
        let scrubbed = self.scrubber.scrub(rate.unwrap_or(self.scrub_bytes_per_second)).await;
        let stopping = || ApiError::too_many_requests("the registry is shutting down");
        Ok(json(StatusCode::OK, &scrubbed.ok_or_else(stopping)??))
    }

    async fn collect(&self, query: &Query) -> Result<Response, ApiError> {
        let grace = query.get("grace_seconds").map(str::parse).transpose();
        let grace = grace.map_err(|_| {
            ApiError::bad_request(ErrorCode::Unsupported, "`grace_seconds` is not a number")
        })?;
        let grace = grace.map_or(self.collect_grace, Duration::from_secs).min(GRACE_MAX);
        let dry_run = query.get("dry_run") == Some("true");
        let collected = self.collector.collect(CollectOptions { grace, dry_run }).await;
        let stopping = || ApiError::too_many_requests("the registry is shutting down");
        Ok(json(StatusCode::OK, &collected.ok_or_else(stopping)??))
    }

    async fn user(
        &self,
        method: &Method,
        name: &Tenant,
        query: &Query,
        body: &mut RequestBody,
    ) -> Result<Response, ApiError> {
        match *method {
            Method::PUT => {
                let PasswordBody { password, bcrypt, user } =
                    body.json(ADMIN_BODY_BYTES_MAX).await?;
                self.check_existing(name, user).await?;
                let set = match &bcrypt {
                    Some(hash) => self.passwords.import(name, hash).await,
                    None => self.passwords.set(name, &password).await,
                };
                set.map_err(|error| match error {
                    SetPasswordError::Length | SetPasswordError::Hash => {
                        ApiError::bad_request(ErrorCode::Unsupported, error.to_string())
                    }
                    SetPasswordError::Busy => ApiError::too_many_requests(error.to_string()),
                    SetPasswordError::Failed(error) => error.into(),
                })?;
                Ok(empty(StatusCode::NO_CONTENT, []))
            }
            Method::DELETE => {
                if self.storage.metadata.policies().is_organisation(name) {
                    return Err(no_such_user(name));
                }
                self.remove_account(name, what_becomes(query)?).await?;
                Ok(empty(StatusCode::NO_CONTENT, []))
            }
            _ => Err(ApiError::no_such_endpoint()),
        }
    }

    /// `/admin/organisations/NAME`.
    async fn organisation(
        &self,
        method: &Method,
        name: &Tenant,
        query: &Query,
    ) -> Result<Response, ApiError> {
        match *method {
            Method::PUT => {
                self.check_existing(name, Existing::New).await?;
                let added = self.storage.metadata.add_organisation(name).await;
                added.map_err(policies::refused)?;
            }
            Method::DELETE => {
                if !self.storage.metadata.policies().is_organisation(name) {
                    let message = format!("there is no organisation `{name}`");
                    return Err(ApiError::not_found(ErrorCode::NameUnknown, message));
                }
                self.remove_account(name, what_becomes(query)?).await?;
            }
            _ => return Err(ApiError::no_such_endpoint()),
        }
        Ok(empty(StatusCode::NO_CONTENT, []))
    }

    /// A new account inherits nothing from an earlier one of this name.
    async fn check_existing(&self, name: &Tenant, wanted: Existing) -> Result<(), ApiError> {
        if self.storage.metadata.policies().is_organisation(name) {
            return Err(ApiError::conflict(format!("there is an organisation `{name}` already")));
        }
        match (self.storage.metadata.user(name).await?.is_some(), wanted) {
            (true, Existing::New) => Err(ApiError::conflict(format!(
                "there is a user `{name}` already: margay registry user passwd {name}"
            ))),
            (false, Existing::Known) => Err(no_such_user(name)),
            (false, Existing::Any | Existing::New) => {
                match self.storage.metadata.owned(name).await? {
                    owned if owned.is_empty() => Ok(()),
                    owned => Err(ApiError::conflict(format!(
                        "{} of an earlier user `{name}` are left: hand them over or delete them first \
                     (margay registry user rm {name} --transfer-to USER)",
                        named(&owned)
                    ))),
                }
            }
            (true, Existing::Any | Existing::Known) => Ok(()),
        }
    }

    /// The account is gone first, so that nothing is added meanwhile; what was interrupted goes on
    /// when it is asked for again.
    async fn remove_account(&self, name: &Tenant, then: Repositories) -> Result<(), ApiError> {
        let owned = self.storage.metadata.owned(name).await?;
        if owned.is_empty() && !self.storage.metadata.has_account(name).await? {
            return Err(no_such_user(name));
        }
        match &then {
            Repositories::Keep if !owned.is_empty() => {
                return Err(ApiError::conflict(format!(
                    "`{name}` owns {}: hand them over with --transfer-to USER, or delete them with \
                     --delete-repositories",
                    named(&owned)
                )));
            }
            Repositories::TransferTo(to) => self.check_transfer(name, to, &owned).await?,
            Repositories::Keep | Repositories::Delete => {}
        }
        let heir = match &then {
            Repositories::TransferTo(to) => Some(to),
            Repositories::Keep | Repositories::Delete => None,
        };
        self.storage.metadata.remove_rules(name, heir).await?;
        self.storage.metadata.forget_webhooks(name).await?;
        self.storage.metadata.remove_upstream(name).await?;
        self.storage.metadata.forget_account(name, heir).await?;
        self.storage.metadata.remove_user(name).await?;
        self.storage.metadata.remove_organisation(name).await?;
        // What was added between the two.
        self.storage.metadata.forget_account(name, None).await?;
        for (user, robot, _) in self.storage.metadata.robots(Some(name)).await? {
            self.storage.metadata.remove_robot(&user, &robot).await?;
        }
        let (uploads, user) = (Arc::clone(&self.storage.uploads), name.clone());
        blocking(move || uploads.discard_of(&user)).await;
        match &then {
            Repositories::TransferTo(to) => {
                // A collection must not see a half of it.
                let _alone = self.storage.unused.interrupt().await;
                self.storage.metadata.transfer(name, to).await?;
            }
            Repositories::Delete => self.storage.metadata.delete_repositories(name).await?,
            Repositories::Keep => {}
        }
        Ok(())
    }

    async fn check_transfer(
        &self,
        from: &Tenant,
        to: &Tenant,
        owned: &[Repository],
    ) -> Result<(), ApiError> {
        if from == to {
            return Err(ApiError::conflict(format!("`{to}` is the account that is removed")));
        }
        quotas::check_account(&self.storage.metadata, to.as_str()).await?;
        for repository in owned {
            let rest = repository.as_str().strip_prefix(from.as_str()).unwrap_or_default();
            let next: Repository = format!("{to}{rest}").parse().map_err(ApiError::invalid_name)?;
            if self.storage.metadata.repository(&next).await?.is_some() {
                return Err(ApiError::conflict(format!("there is a repository `{next}` already")));
            }
        }
        Ok(())
    }
}

/// What becomes of the repositories of an account that is removed.
fn what_becomes(query: &Query) -> Result<Repositories, ApiError> {
    let transfer_to = query.get("transfer_to").map(str::parse).transpose();
    let transfer_to = transfer_to.map_err(ApiError::invalid_name)?;
    Ok(match (transfer_to, query.get("repositories")) {
        (Some(to), _) => Repositories::TransferTo(to),
        (None, Some("delete")) => Repositories::Delete,
        (None, _) => Repositories::Keep,
    })
}

fn no_such_user(name: &Tenant) -> ApiError {
    ApiError::not_found(ErrorCode::NameUnknown, format!("there is no user `{name}`"))
}

/// The first few of several repositories.
fn named(repositories: &[Repository]) -> String {
    let first = repositories.iter().take(REPOSITORIES_NAMED).map(|name| format!("`{name}`"));
    let first = first.collect::<Vec<_>>().join(", ");
    match repositories.len().checked_sub(REPOSITORIES_NAMED) {
        None | Some(0) => first,
        Some(more) => format!("{first} and {more} more"),
    }
}
