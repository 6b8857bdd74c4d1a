use std::{fmt::Display, str::FromStr, sync::Arc};

use http::{StatusCode, request::Parts};
use hyper::body::Incoming;
use net::FrameBody;
use serde::{Serialize, de::DeserializeOwned};
use spec::{ParseError, Tenant};
use store::{Query, Range, Txn};

use super::{
    bodies::{BodySize, ReadBody},
    context::Api,
    error::ApiError,
    principal::Principal,
    types::ListPage,
};
use crate::{
    limits::{IDEMPOTENCY_KEY_CHARS_MAX, PAGE_MAX},
    state::{
        State,
        records::{Stored, decode},
    },
};

/// One request, authenticated, authorised and read.
pub(crate) struct Call {
    pub api: Arc<Api>,
    pub principal: Principal,
    /// Method, path, query string and headers.
    pub parts: Parts,
    /// What stands in the place of `{name}` in the route's path.
    pub params: Vec<(&'static str, String)>,
    pub body: ReadBody,
    /// A body that the handler reads as it comes.
    pub streamed: Option<Incoming>,
}

/// What to answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub status: StatusCode,
    pub body: serde_json::Value,
    /// Frames in place of a body.
    pub frames: Option<FrameBody>,
}

impl Reply {
    pub fn new(status: StatusCode, body: &impl Serialize) -> Self {
        Self::json(status, serde_json::to_value(body).expect("answers have string keys"))
    }

    /// An answer that is a value already.
    pub fn json(status: StatusCode, body: serde_json::Value) -> Self {
        Self { status, body, frames: None }
    }

    /// An answer of frames.
    pub fn stream(frames: FrameBody) -> Self {
        Self { frames: Some(frames), ..Self::json(StatusCode::OK, serde_json::Value::Null) }
    }

    pub fn ok(body: &impl Serialize) -> Result<Self, ApiError> {
        Ok(Self::new(StatusCode::OK, body))
    }

    /// An answer without a body.
    pub fn done() -> Result<Self, ApiError> {
        Ok(Self::json(StatusCode::NO_CONTENT, serde_json::Value::Null))
    }
}

impl Call {
    /// Reads the body of a request that may be made.
    pub async fn read(
        api: Arc<Api>,
        size: BodySize,
        principal: Principal,
        params: Vec<(&'static str, String)>,
        parts: Parts,
        body: Incoming,
    ) -> Result<Self, ApiError> {
        let (body, streamed) = match size {
            BodySize::Stream => (ReadBody::default(), Some(body)),
            BodySize::Usual | BodySize::Report => {
                (api.bodies.read(&api.state, &principal, size, body).await?, None)
            }
        };
        Ok(Self { api, principal, parts, params, body, streamed })
    }

    /// The body, to be read as it comes.
    pub fn stream(&mut self) -> Result<Incoming, ApiError> {
        self.streamed.take().ok_or_else(|| ApiError::invalid("this request has no body"))
    }

    /// A part of the path, as it came.
    pub fn text_param(&self, name: &str) -> &str {
        let param = self.params.iter().find(|(known, _)| *known == name);
        param.map_or("", |(_, text)| text)
    }

    pub fn state(&self) -> &State {
        &self.api.state
    }

    /// The `what` of this name, which is at `key`.
    pub async fn find<T: DeserializeOwned>(
        &self,
        key: String,
        what: &str,
        name: impl Display,
    ) -> Result<Stored<T>, ApiError> {
        self.state().get(key).await?.ok_or_else(|| ApiError::not_found(what, name))
    }

    /// Writes `txn`, or answers that an object was modified concurrently.
    pub async fn commit(&self, txn: Txn) -> Result<(), ApiError> {
        match self.state().commit(txn).await? {
            true => Ok(()),
            false => Err(ApiError::conflict()),
        }
    }

    /// Whose objects are meant: always the caller's own.
    pub fn tenant(&self) -> Result<&Tenant, ApiError> {
        match &self.principal {
            Principal::Tenant { tenant, .. } | Principal::Operator(tenant) => Ok(tenant),
            Principal::Unauthenticated | Principal::Node { .. } => Err(ApiError::forbidden()),
        }
    }

    /// A part of the path.
    pub fn param<T: FromStr<Err = ParseError>>(&self, name: &str) -> Result<T, ApiError> {
        Ok(self.text_param(name).parse()?)
    }

    /// A key of the query string. Names and numbers need no escapes, and there is nothing else to
    /// ask for.
    pub fn query(&self, name: &str) -> Option<&str> {
        let mut pairs = self
            .parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// The body as `T`. Fields that `T` does not know are refused.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        spec::json::from_slice(&self.body)
            .map_err(|error| ApiError::invalid(format!("{}: {error}", self.not_the_body())))
    }

    /// What is wrong with a body that does not parse.
    pub fn not_the_body(&self) -> String {
        format!("the body is not what `{} {}` takes", self.parts.method, self.parts.uri.path())
    }

    /// The name that the caller gave this create, so that a repeated one does nothing new.
    pub fn idempotency_key(&self) -> Result<Option<&str>, ApiError> {
        let Some(value) = self.parts.headers.get("idempotency-key") else { return Ok(None) };
        let good = |key: &&str| {
            (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&key.len())
                && key.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
        };
        value.to_str().ok().filter(good).map(Some).ok_or_else(|| {
            ApiError::invalid(format!(
                "an Idempotency-Key has 1 to {IDEMPOTENCY_KEY_CHARS_MAX} letters, digits and dashes"
            ))
        })
    }

    /// The request in a few bytes that only this control plane can make: a body may hold a secret
    /// that is easy to guess.
    pub fn digest(&self) -> String {
        let mut all =
            format!("request {} {}\n", self.parts.method, self.parts.uri.path()).into_bytes();
        all.extend_from_slice(&self.body);
        self.api.issuer.token(&all)
    }

    /// One page of what is below `prefix`, each shown by `show`, which may leave some out.
    pub async fn page<T: DeserializeOwned, U: Serialize>(
        &self,
        prefix: String,
        show: impl Fn(T) -> Option<U>,
    ) -> Result<Reply, ApiError> {
        let limit = match self.query("limit") {
            None => PAGE_MAX,
            Some(text) => match text.parse() {
                Ok(limit @ 1..=PAGE_MAX) => limit,
                _ => return Err(ApiError::invalid(format!("`limit` is 1 to {PAGE_MAX}"))),
            },
        };
        let mut after = self.query("after").map(|after| format!("{prefix}{after}"));
        let (mut items, mut next) = (Vec::new(), None);
        // To the end, or to one item more than fit: only then is there a next page. It starts after
        // the last item that is shown, so that it names nothing that is not. Each round reads a
        // page, and the store ends; other requests are served in between.
        loop {
            let range = match after {
                None => Range::Prefix(prefix.clone()),
                Some(after) => Range::PrefixAfter { after, prefix: prefix.clone() },
            };
            let found = self.state().range(Query::from(range).limit(PAGE_MAX)).await?;
            for kv in &found.kvs {
                let Some(item) = show(decode(kv)?) else { continue };
                if items.len() == limit {
                    return Reply::ok(&ListPage { items, next });
                }
                items.push(item);
                next = kv.key.strip_prefix(&prefix).map(str::to_owned);
            }
            after = found.kvs.last().map(|kv| kv.key.to_string()).filter(|_| found.more);
            if after.is_none() {
                return Reply::ok(&ListPage { items, next: None });
            }
            tokio::task::yield_now().await;
        }
    }
}
