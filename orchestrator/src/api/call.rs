use std::{str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::{Serialize, de::DeserializeOwned};
use spec::{ParseError, Tenant};
use store::{Query, Range};
use tokio::time::timeout;

use crate::{api::Page, app::App, error::Refusal, principal::Principal, records::Kept, secret};

/// A definition of ten containers is a few kilobytes, a batch of usage a few hundred.
const BODY_BYTES_MAX: usize = 1 << 20;
/// A node's report names each of its tasks: 500 of ten containers with ports and reasons are some
/// 20 MiB.
const REPORT: &str = "/v1/node/report";
const REPORT_BYTES_MAX: usize = 64 << 20;
/// A body that dribbles in holds a connection for so long and no longer.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);
/// Items of one page.
const PAGE_MAX: usize = 1_000;
/// As ECS has it.
const IDEMPOTENCY_KEY_CHARS_MAX: usize = 64;

/// One request, authenticated, authorised and read.
pub(crate) struct Call {
    pub app: Arc<App>,
    pub principal: Principal,
    pub method: Method,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    /// What stands in the place of `{name}` in the route's path.
    pub params: Vec<(&'static str, String)>,
    pub body: Bytes,
}

/// What to answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub status: StatusCode,
    pub body: serde_json::Value,
}

impl Reply {
    pub fn new(status: StatusCode, body: &impl Serialize) -> Self {
        Self { status, body: serde_json::to_value(body).expect("our answers have string keys") }
    }

    pub fn ok(body: &impl Serialize) -> Result<Self, Refusal> {
        Ok(Self::new(StatusCode::OK, body))
    }

    /// It is done, and there is nothing to say.
    pub fn done() -> Result<Self, Refusal> {
        Ok(Self { status: StatusCode::NO_CONTENT, body: serde_json::Value::Null })
    }
}

impl Call {
    /// Reads the body of a request that may be made.
    pub async fn read(
        app: Arc<App>,
        principal: Principal,
        params: Vec<(&'static str, String)>,
        parts: Parts,
        body: Incoming,
    ) -> Result<Self, Refusal> {
        let bytes_max = if parts.uri.path() == REPORT { REPORT_BYTES_MAX } else { BODY_BYTES_MAX };
        let body = timeout(BODY_TIME_MAX, Limited::new(body, bytes_max).collect()).await;
        let body = match body {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let message = format!("the body is larger than {bytes_max} bytes");
                return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message));
            }
            Ok(Err(_)) => return Err(Refusal::invalid("the body broke off")),
            Err(_) => {
                return Err(Refusal::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "timeout",
                    "the body took too long",
                ));
            }
        };
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        Ok(Self {
            app,
            principal,
            method: parts.method,
            path,
            query,
            headers: parts.headers,
            params,
            body,
        })
    }

    /// Whose objects are meant: always the caller's own.
    pub fn tenant(&self) -> Result<&Tenant, Refusal> {
        match &self.principal {
            Principal::Tenant(tenant) | Principal::Operator(tenant) => Ok(tenant),
            Principal::Nobody | Principal::Node { .. } => Err(Refusal::forbidden()),
        }
    }

    /// A part of the path.
    pub fn param<T: FromStr<Err = ParseError>>(&self, name: &str) -> Result<T, Refusal> {
        let text =
            self.params.iter().find(|(known, _)| *known == name).map(|(_, text)| text.as_str());
        Ok(text.unwrap_or_default().parse()?)
    }

    /// A key of the query string. Names and numbers need no escapes, and there is nothing else to
    /// ask for.
    pub fn asked(&self, name: &str) -> Option<&str> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// The body as `T`. Fields that `T` does not know are refused.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Refusal::invalid(format!(
                "the body is not what `{} {}` takes: {error}",
                self.method, self.path
            ))
        })
    }

    /// The caller's own name for this create, so that a second one does nothing new.
    pub fn idempotency_key(&self) -> Result<Option<&str>, Refusal> {
        let Some(value) = self.headers.get("idempotency-key") else { return Ok(None) };
        let good = |key: &&str| {
            (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&key.len())
                && key.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
        };
        value.to_str().ok().filter(good).map(Some).ok_or_else(|| {
            Refusal::invalid(format!(
                "an Idempotency-Key has 1 to {IDEMPOTENCY_KEY_CHARS_MAX} letters, digits and dashes"
            ))
        })
    }

    /// What was asked, in a few bytes that only we can make: a body may hold a secret that is easy
    /// to guess.
    pub fn digest(&self) -> String {
        let mut all = format!("request {} {}\n", self.method, self.path).into_bytes();
        all.extend_from_slice(&self.body);
        secret::derived(&self.app.key, &all)
    }

    /// One page of what is below `prefix`, each shown by `show`, which may leave some out.
    pub async fn page<T, U>(
        &self,
        prefix: String,
        show: impl Fn(Kept<T>) -> Option<U>,
    ) -> Result<Page<U>, Refusal>
    where
        T: DeserializeOwned,
    {
        let limit = match self.asked("limit") {
            None => PAGE_MAX,
            Some(text) => match text.parse() {
                Ok(limit @ 1..=PAGE_MAX) => limit,
                _ => return Err(Refusal::invalid(format!("`limit` is 1 to {PAGE_MAX}"))),
            },
        };
        let mut after = self.asked("after").map(|after| format!("{prefix}{after}"));
        let (mut items, mut next) = (Vec::new(), None);
        // To the end, or to one item more than fit: only then is there a next page. It starts after
        // the last item that is shown, so that it names nothing that is not. Each round reads a
        // page, and the store ends; in between others have a turn.
        loop {
            let range = match after {
                None => Range::Prefix(prefix.clone()),
                Some(after) => Range::PrefixAfter { after, prefix: prefix.clone() },
            };
            let found = self.app.store.range(Query::from(range).limit(PAGE_MAX)).await?;
            for kv in &found.kvs {
                let Some(item) = show(Kept::of(kv)?) else { continue };
                if items.len() == limit {
                    return Ok(Page { items, next });
                }
                items.push(item);
                next = kv.key.strip_prefix(&prefix).map(str::to_owned);
            }
            after = found.kvs.last().map(|kv| kv.key.to_string()).filter(|_| found.more);
            if after.is_none() {
                return Ok(Page { items, next: None });
            }
            tokio::task::yield_now().await;
        }
    }
}
