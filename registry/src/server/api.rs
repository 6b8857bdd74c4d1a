use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use audit::AuditLog;
use http::{HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use http_body_util::BodyExt;
use hyper::{
    Request,
    body::{Body as _, Incoming},
};
use net::{BodyObserver, FileBody, ObservedBody};
use tokio::sync::Semaphore;

use super::{
    admin::{AdminApi, METRICS},
    audited::Audited,
    auth::{Authenticator, RepositoryRequest, lost},
    blobs::BlobEndpoints,
    called::Called,
    error::ApiError,
    lists::ListEndpoints,
    manifests::ManifestEndpoints,
    observed::Observer,
    pushed::Pushes,
    rates::RequestRates,
    request_body::RequestBody,
    response::{Response, UntilBody, empty, full, json},
    route::{Endpoint, Route},
    scanner::Scanner,
    token::TokenEndpoint,
    uploads::UploadEndpoints,
    upstreams::PullThrough,
};
use crate::{
    Action, Limits,
    access::Principal,
    limits::UPLOAD_LARGE_BATCHES,
    protocol::{Query, Switch},
    storage::{Metadata, Storage},
};

/// A body of this size is on its way before a revocation could reach it.
const SMALL_BODY_BYTES: u64 = 64 << 10;

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// The distribution API: routes each request to the endpoint that serves it, once its principal may
/// use that endpoint.
pub(super) struct Api {
    audit: Arc<AuditLog>,
    metadata: Metadata,
    authenticator: Authenticator,
    admin: Arc<AdminApi>,
    observer: Arc<Observer>,
    rates: Arc<RequestRates>,
    token: TokenEndpoint,
    blobs: BlobEndpoints,
    uploads: UploadEndpoints,
    manifests: ManifestEndpoints,
    lists: ListEndpoints,
    pull_through: Arc<PullThrough>,
    idle_time_max: Duration,
}

impl Api {
    pub fn new(
        audit: Arc<AuditLog>,
        storage: Storage,
        authenticator: Authenticator,
        (admin, observer): (Arc<AdminApi>, Arc<Observer>),
        (pushes, scanner, pull_through): (Pushes, Scanner, Arc<PullThrough>),
        limits: &Limits,
    ) -> Self {
        let (metadata, rates) = (storage.metadata.clone(), Arc::<RequestRates>::default());
        Self {
            audit,
            token: TokenEndpoint {
                logins: authenticator.logins.clone(),
                rates: Arc::clone(&rates),
                tokens: authenticator.tokens.clone(),
                metadata: metadata.clone(),
                lifetime: limits.token_time,
            },
            blobs: BlobEndpoints {
                storage: storage.clone(),
                pull_through: Arc::clone(&pull_through),
            },
            manifests: ManifestEndpoints {
                storage: storage.clone(),
                pushes,
                scanner,
                pull_through: Arc::clone(&pull_through),
            },
            uploads: UploadEndpoints {
                storage: storage.clone(),
                blob_bytes_max: limits.blob_bytes_max,
                uploads_per_user_max: limits.uploads_per_user_max,
                large_batches: Semaphore::new(UPLOAD_LARGE_BATCHES),
            },
            authenticator,
            admin,
            observer,
            rates,
            pull_through,
            lists: ListEndpoints { metadata: metadata.clone() },
            metadata,
            idle_time_max: limits.idle_time_max,
        }
    }

    /// Every request over TCP comes through here.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>, called: Called) -> Response {
        let (mut head, body) = request.into_parts();
        let from = Some(called.address);
        head.extensions.insert(called);
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        let mut body = RequestBody::new(body, self.idle_time_max);
        let mut audited = Audited::begin(&self.audit, from, &method, &path);
        let query = Query::parse(head.uri.query().unwrap_or_default());
        let route = Route::parse(&method, &path).map(|route| self.routed(route, &query));
        let mut observed = self.observer.begin(&head, from, route.as_ref().ok());
        let answered = match route {
            Ok(route) => self.try_answer((head, query), route, &mut body, from, &mut audited).await,
            Err(error) => Err(error),
        };
        observed.by(audited.principal());
        observed.received(body.received());
        let status = answered.as_ref().map_or_else(ApiError::status, Response::status);
        audited.end(status).await;
        let mut response = match answered {
            Ok(response) => response,
            Err(error) => {
                error.log(&method, &path);
                body.drain().await;
                error.into()
            }
        };
        tracing::debug!(%method, path, status = response.status().as_u16(), "answered");
        observed.answered(response.status());
        if method == Method::HEAD {
            *response.body_mut() = full("");
        }
        let headers = response.headers_mut();
        headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        // Blobs have any content: a browser must not take one for a page.
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        match response.extensions_mut().remove::<FileBody>() {
            Some(file) => {
                let file = file.observed(move |bytes| observed.sent(bytes));
                response.extensions_mut().insert(file);
                response
            }
            None => response.map(|body| ObservedBody::new(body, observed).boxed_unsync()),
        }
    }

    /// A client that pulls through this registry may say which one it means.
    fn routed(&self, route: Route, query: &Query) -> Route {
        match route {
            Route::Repository(repository, endpoint) if endpoint.actions() == [Action::Pull] => {
                let repository = self.pull_through.routed(repository, query.get("ns"));
                Route::Repository(repository, endpoint)
            }
            route => route,
        }
    }

    async fn try_answer(
        &self,
        (head, query): (Parts, Query),
        route: Route,
        body: &mut RequestBody,
        from: Option<IpAddr>,
        audited: &mut Audited,
    ) -> Result<Response, ApiError> {
        match route {
            Route::Health => {
                audited.is_routine();
                Ok(match self.metadata.is_broken() {
                    true => empty(StatusCode::SERVICE_UNAVAILABLE, []),
                    false => empty(StatusCode::OK, []),
                })
            }
            Route::Token => self.token.grant(&head, &query, body, from, audited).await,
            Route::Ping => match self.authenticator.identify(&head).await? {
                Some(principal) => {
                    audited.of(&principal);
                    self.admit(&principal, from).await?;
                    Ok(json(StatusCode::OK, &serde_json::json!({})))
                }
                None if self.metadata.rules.is_on(Switch::AnonymousPush) => {
                    self.admit(&Principal::Anonymous, from).await?;
                    Ok(json(StatusCode::OK, &serde_json::json!({})))
                }
                None => Err(self.authenticator.login_needed(&head)),
            },
            Route::Catalog => {
                self.lists.catalog(&self.principal(&head, audited).await?, &query).await
            }
            Route::Machine(node) => {
                let principal = self.principal(&head, audited).await?;
                audited.check_space(&head.method, &self.metadata)?;
                self.authenticator.authorize_revocation(&principal, &head)?;
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                self.metadata.revoke_machine(node.as_str(), now.as_secs()).await?;
                Ok(empty(StatusCode::NO_CONTENT, []))
            }
            Route::Admin(path) => self.administer(&head, &path, &query, body, audited).await,
            Route::Repository(repository, endpoint) => {
                let principal = self.principal(&head, audited).await?;
                audited.check_space(&head.method, &self.metadata)?;
                let actions = endpoint.actions();
                let rights = self.authenticator.authorize(&head, &principal, &repository, actions);
                let rights = rights.await?;
                let request = RepositoryRequest { head, query, principal, repository, rights };
                // One of them: it is the same that lets the request begin and go on.
                let action = actions.iter().find(|action| rights.contains(**action));
                let action = action.copied().unwrap_or(Action::Administer);
                let revoked = self.authenticator.revoked(&request, action);
                let response = tokio::select! {
                    biased;
                    response = self.dispatch(&request, endpoint, body) => response?,
                    revoked = revoked => return Err(revoked),
                };
                Ok(self.until_revoked(response, request, action))
            }
        }
    }

    /// A request to the administrator's API, over the network.
    async fn administer(
        &self,
        head: &Parts,
        path: &str,
        query: &Query,
        body: &mut RequestBody,
        audited: &mut Audited,
    ) -> Result<Response, ApiError> {
        let principal = self.principal(head, audited).await?;
        if path == METRICS {
            audited.is_routine();
        }
        audited.check_space(&head.method, &self.metadata)?;
        let administrator =
            self.authenticator.authorize_administration(&principal, head, path, query)?;
        self.admin.try_answer(&administrator, &head.method, path, query, body).await
    }

    async fn principal(&self, head: &Parts, audited: &mut Audited) -> Result<Principal, ApiError> {
        let principal = self.authenticator.identify(head).await?;
        let principal = principal.unwrap_or(Principal::Anonymous);
        audited.of(&principal);
        let from = head.extensions.get().map(|called: &Called| called.address);
        self.admit(&principal, from).await?;
        Ok(principal)
    }

    /// Waits until the client may send one more request, or refuses it.
    async fn admit(&self, principal: &Principal, from: Option<IpAddr>) -> Result<(), ApiError> {
        self.rates.admit(principal, from, self.metadata.rules.rates()).await
    }

    /// A response whose body breaks off when the client that asked for it may not any more.
    fn until_revoked(
        &self,
        mut response: Response,
        request: RepositoryRequest,
        action: Action,
    ) -> Response {
        let file = response.extensions_mut().remove::<FileBody>();
        if file.is_none()
            && response.body().size_hint().exact().is_some_and(|size| size <= SMALL_BODY_BYTES)
        {
            return response;
        }
        let metadata = self.metadata.clone();
        let RepositoryRequest { principal, repository, .. } = request;
        let revoked = async move {
            lost(&metadata, &principal, &repository, action).await;
        };
        match file {
            Some(file) => {
                response.extensions_mut().insert(file.until(revoked));
                response
            }
            None => response.map(|body| UntilBody::new(body, revoked).boxed_unsync()),
        }
    }

    async fn dispatch(
        &self,
        request: &RepositoryRequest,
        endpoint: Endpoint,
        body: &mut RequestBody,
    ) -> Result<Response, ApiError> {
        match endpoint {
            Endpoint::ListTags => self.lists.tags(request).await,
            Endpoint::ListReferrers(subject) => self.lists.referrers(request, &subject).await,
            Endpoint::ReadManifest(target) => self.manifests.read(request, &target).await,
            Endpoint::PutManifest(target) => self.manifests.put(request, &target, body).await,
            Endpoint::DeleteManifest(target) => self.manifests.delete(request, &target).await,
            Endpoint::ReadBlob(digest) => self.blobs.read(request, &digest).await,
            Endpoint::DeleteBlob(digest) => self.blobs.delete(request, &digest).await,
            Endpoint::BeginUpload => self.uploads.begin(request, body).await,
            Endpoint::ReadUpload(id) => self.uploads.status(request, &id).await,
            Endpoint::AppendUpload(id) => self.uploads.append(request, &id, body).await,
            Endpoint::FinishUpload(id) => self.uploads.finish(request, &id, body).await,
            Endpoint::CancelUpload(id) => self.uploads.cancel(request, &id).await,
        }
    }
}
