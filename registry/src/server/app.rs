use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::SystemTime,
};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts, uri::Authority,
};
use hyper::{Request, body::Incoming};
use tokio::sync::RwLock;

use super::{
    From, Limits,
    query::Query,
    reply::{Refusal, Reply, empty, full, json},
    request_body::RequestBody,
    route::{Endpoint, Route},
};
use crate::{
    Action, Error, Repository, Tokens,
    access::{AUDIENCE, Passwords, Principal, Verdict, authorize},
    storage::{FileBlobs, Metadata, Uploads},
};

/// Repositories share so many locks between them.
const STRIPES: usize = 64;
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// Everything that answering takes.
pub(crate) struct App {
    pub metadata: Metadata,
    pub blobs: Arc<FileBlobs>,
    pub uploads: Arc<Uploads>,
    pub passwords: Passwords,
    pub tokens: Tokens,
    pub realm: Option<String>,
    pub limits: Limits,
    /// Who adds a manifest reads, who takes a manifest or blob away writes: so that nothing goes
    /// between the look at what a manifest names and its commit. This process alone has the
    /// database open.
    stripes: Vec<RwLock<()>>,
}

/// One request, once we know who asks.
pub(crate) struct Asked {
    pub head: Parts,
    pub query: Query,
    pub principal: Principal,
}

impl App {
    pub fn new(
        metadata: Metadata,
        blobs: FileBlobs,
        uploads: Uploads,
        passwords: Passwords,
        tokens: Tokens,
        realm: Option<String>,
        limits: Limits,
    ) -> Self {
        let stripes = (0..STRIPES).map(|_| RwLock::default()).collect();
        Self {
            metadata,
            blobs: Arc::new(blobs),
            uploads: Arc::new(uploads),
            passwords,
            tokens,
            realm,
            limits,
            stripes,
        }
    }

    pub fn stripe(&self, repository: &Repository) -> &RwLock<()> {
        let mut hasher = DefaultHasher::new();
        repository.hash(&mut hasher);
        &self.stripes[hasher.finish() as usize % STRIPES]
    }

    /// Every request comes through here.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>, from: From) -> Reply {
        let (head, body) = request.into_parts();
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        let mut body = RequestBody::new(body, self.limits.quiet_time_max);
        let mut reply = match self.try_answer(head, &mut body, from).await {
            Ok(reply) => reply,
            Err(refusal) => {
                tracing::debug!(%method, path, status = refusal.status().as_u16(), "refused");
                body.drain().await;
                refusal.into()
            }
        };
        tracing::debug!(%method, path, status = reply.status().as_u16(), "answered");
        if method == Method::HEAD {
            *reply.body_mut() = full("");
        }
        let headers = reply.headers_mut();
        headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        // What is stored here is anybody's: a browser must not guess that it is a page.
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        reply
    }

    async fn try_answer(
        &self,
        head: Parts,
        body: &mut RequestBody,
        from: From,
    ) -> Result<Reply, Refusal> {
        let route = Route::parse(&head.method, head.uri.path())?;
        let query = Query::parse(head.uri.query().unwrap_or_default());
        match route {
            Route::Health => Ok(match self.metadata.is_broken() {
                true => empty(StatusCode::SERVICE_UNAVAILABLE, []),
                false => empty(StatusCode::OK, []),
            }),
            Route::Token => self.token(&head, &query, body, from).await,
            Route::Ping => match self.identify(&head.headers)? {
                Some(_) => Ok(json(StatusCode::OK, &serde_json::json!({}))),
                None => Err(self.challenge(&head.headers, None, None)),
            },
            Route::Catalog => {
                let principal = self.identify(&head.headers)?.unwrap_or(Principal::Nobody);
                self.catalog(&Asked { head, query, principal }).await
            }
            Route::In(repository, endpoint) => {
                let principal = self.identify(&head.headers)?.unwrap_or(Principal::Nobody);
                let asked = Asked { head, query, principal };
                self.admit(&asked, &repository, endpoint.action()).await?;
                self.dispatch(&asked, &repository, endpoint, body).await
            }
        }
    }

    async fn dispatch(
        &self,
        asked: &Asked,
        repository: &Repository,
        endpoint: Endpoint,
        body: &mut RequestBody,
    ) -> Result<Reply, Refusal> {
        match endpoint {
            Endpoint::ListTags => self.list_tags(asked, repository).await,
            Endpoint::ListReferrers(subject) => {
                self.list_referrers(asked, repository, &subject).await
            }
            Endpoint::ReadManifest(target) => self.read_manifest(repository, &target).await,
            Endpoint::PutManifest(target) => {
                self.put_manifest(asked, repository, &target, body).await
            }
            Endpoint::DeleteManifest(target) => self.delete_manifest(repository, &target).await,
            Endpoint::ReadBlob(digest) => self.read_blob(asked, repository, &digest).await,
            Endpoint::DeleteBlob(digest) => self.delete_blob(repository, &digest).await,
            Endpoint::BeginUpload => self.begin_upload(asked, repository, body).await,
            Endpoint::ReadUpload(id) => self.read_upload(repository, &id).await,
            Endpoint::AppendUpload(id) => self.append_upload(asked, repository, &id, body).await,
            Endpoint::FinishUpload(id) => self.finish_upload(asked, repository, &id, body).await,
            Endpoint::CancelUpload(id) => self.cancel_upload(repository, &id).await,
        }
    }

    /// Who asks, by the token they show; nothing without one.
    fn identify(&self, headers: &HeaderMap) -> Result<Option<Principal>, Refusal> {
        let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
        let token = value.to_str().ok().and_then(|text| text.split_once(' '));
        let Some((_, token)) = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        else {
            // A password belongs to the token endpoint: checking one for each request would cost
            // each 20 ms.
            return Ok(None);
        };
        match self.tokens.verify(token.trim(), SystemTime::now()) {
            Ok(principal) => Ok(Some(principal)),
            Err(invalid) => {
                Err(self.challenge(headers, None, Some(("invalid_token", &invalid.to_string()))))
            }
        }
    }

    /// Whether `asked` may do `action`: the only way to a repository.
    async fn admit(
        &self,
        asked: &Asked,
        repository: &Repository,
        action: Action,
    ) -> Result<(), Refusal> {
        match authorize(&asked.principal, repository, self.is_public(repository).await?, action) {
            Verdict::Allowed => Ok(()),
            Verdict::Challenge => {
                let actions = match action {
                    Action::Pull => "pull",
                    Action::Push => "pull,push",
                    Action::Delete => "pull,push,delete",
                };
                let scope = format!("repository:{repository}:{actions}");
                let error = match asked.principal {
                    Principal::Nobody => None,
                    _ => Some(("insufficient_scope", "the token does not reach this far")),
                };
                Err(self.challenge(&asked.head.headers, Some(&scope), error))
            }
            Verdict::Denied => {
                let message = format!(
                    "`{}` may not {} `{repository}`",
                    asked.principal.name(),
                    action.name()
                );
                Err(Refusal::new(StatusCode::FORBIDDEN, "DENIED", message))
            }
        }
    }

    pub async fn is_public(&self, repository: &Repository) -> Result<bool, Error> {
        Ok(self.metadata.repository(repository).await?.is_some_and(|record| record.public))
    }

    /// A 401 that says where a token comes from, and what to ask for.
    fn challenge(
        &self,
        headers: &HeaderMap,
        scope: Option<&str>,
        error: Option<(&str, &str)>,
    ) -> Refusal {
        let realm = self.realm.clone().unwrap_or_else(|| format!("http://{}/token", host(headers)));
        let mut challenge = format!(r#"Bearer realm="{realm}",service="{AUDIENCE}""#);
        if let Some(scope) = scope {
            challenge.push_str(&format!(r#",scope="{scope}""#));
        }
        if let Some((code, _)) = error {
            challenge.push_str(&format!(r#",error="{code}""#));
        }
        let message = error.map_or("a login is needed", |(_, message)| message);
        Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
            .with(header::WWW_AUTHENTICATE, &challenge)
    }
}

/// The host as the client calls it: it only ever comes back to that client.
fn host(headers: &HeaderMap) -> String {
    let host =
        headers.get(header::HOST).and_then(|value| value.to_str().ok()?.parse::<Authority>().ok());
    match host {
        Some(host) if !host.as_str().contains(['@', '"', '\\']) => host.to_string(),
        _ => "localhost".to_owned(),
    }
}
