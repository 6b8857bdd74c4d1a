use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
use hyper::body::Incoming;
use spec::Digest;
use tokio::time::sleep;

use super::{
    credentials::{Credentials, Key},
    options::{Auth, ClientOptions},
    origin::Origin,
    transport::{Activity, Body, Transport, USER_AGENT, body},
};
use crate::{
    Error, ProtocolFault,
    limits::{ANSWER_BYTES_MAX, PRINTED_CHARS_MAX, RATE_RETRIES_MAX, RATE_WAIT_MAX, REDIRECTS_MAX},
    protocol::ErrorBody,
};

/// What all operations of a client share.
pub(super) struct Context {
    pub options: ClientOptions,
    pub transport: Transport,
    pub credentials: Credentials,
}

/// The requests of one operation to one registry.
pub(super) struct Session<'a> {
    pub context: &'a Context,
    pub origin: Origin,
    /// As the user wrote it.
    pub registry: String,
    /// The scopes of the token for these requests: `repository:NAME:pull,push`.
    pub scopes: Vec<String>,
}

/// Where a request goes.
#[derive(Clone)]
pub(super) enum Target {
    /// A path and query at the registry.
    Path(String),
    /// A path and query of another origin, from a `Location`.
    Foreign(Origin, String),
}

pub(super) enum Payload {
    Bytes(Bytes),
    /// So many bytes, which can be sent once.
    Stream(Body, u64, Activity),
}

/// One request.
pub(super) struct Call<'a> {
    method: Method,
    target: Target,
    /// The subject of its errors.
    subject: &'a str,
    headers: Vec<(HeaderName, String)>,
    payload: Payload,
}

impl<'a> Call<'a> {
    pub fn new(method: Method, target: Target, subject: &'a str) -> Self {
        let payload = Payload::Bytes(Bytes::new());
        Self { method, target, subject, headers: Vec::new(), payload }
    }

    pub fn get(target: Target, subject: &'a str) -> Self {
        Self::new(Method::GET, target, subject)
    }

    pub fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn bytes(mut self, bytes: Bytes) -> Self {
        self.payload = Payload::Bytes(bytes);
        self
    }

    pub fn stream(mut self, stream: Body, length: u64, activity: Activity) -> Self {
        self.payload = Payload::Stream(stream, length, activity);
        self
    }
}

impl Target {
    /// With another parameter.
    pub fn with_query(&self, query: &str) -> Self {
        let add = |path: &str| {
            let separator = if path.contains('?') { '&' } else { '?' };
            format!("{path}{separator}{query}")
        };
        match self {
            Self::Path(path) => Self::Path(add(path)),
            Self::Foreign(origin, path) => Self::Foreign(origin.clone(), add(path)),
        }
    }
}

impl Session<'_> {
    /// Sends `call`, and answers a challenge on the way. The response may have any status.
    pub async fn call(&self, call: Call<'_>) -> Result<Response<Incoming>, Error> {
        let Call { method, target, subject, headers, payload } = call;
        let (origin, path) = match &target {
            Target::Path(path) => (&self.origin, path),
            Target::Foreign(origin, path) => (origin, path),
        };
        let request = |body| self.request(origin, &method, path, &headers, body);
        let transport = &self.context.transport;
        match payload {
            Payload::Stream(stream, length, activity) => {
                let mut request = request(stream)?;
                request.headers_mut().insert(header::CONTENT_LENGTH, length.into());
                transport.send(origin, subject, request, &activity).await
            }
            Payload::Bytes(bytes) => {
                let send = async || {
                    self.send_at_its_rate(origin, subject, || request(body(bytes.clone()))).await
                };
                let response = send().await?;
                if response.status() != StatusCode::UNAUTHORIZED || *origin != self.origin {
                    return Ok(response);
                }
                self.authenticate(response.headers(), subject).await?;
                let response = send().await?;
                match response.status() {
                    StatusCode::UNAUTHORIZED => Err(self.error(subject, response).await),
                    _ => Ok(response),
                }
            }
        }
    }

    /// Like [`call`](Self::call), for a response with one of the statuses in `expected`.
    pub async fn call_for(
        &self,
        call: Call<'_>,
        expected: &[StatusCode],
    ) -> Result<Response<Incoming>, Error> {
        let subject = call.subject;
        let response = self.call(call).await?;
        self.expect(subject, response, expected).await
    }

    /// Like [`call`](Self::call), following redirects. Credentials stay with their origin.
    pub async fn follow(&self, call: Call<'_>) -> Result<Response<Incoming>, Error> {
        let (subject, headers) = (call.subject, call.headers.clone());
        let (mut response, mut at) = (self.call(call).await?, self.origin.clone());
        for _ in 0..REDIRECTS_MAX {
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let target = self.location(response.headers(), &at)?;
            at = match &target {
                Target::Path(_) => self.origin.clone(),
                Target::Foreign(origin, _) => origin.clone(),
            };
            let mut call = Call::get(target, subject);
            call.headers.clone_from(&headers);
            response = self.call(call).await?;
        }
        Err(self.fault(ProtocolFault::TooManyRedirects { subject: subject.to_owned() }))
    }

    /// Where a `Location` of `at` points: a path of this registry, or another origin that is not
    /// less secure.
    pub fn location(&self, headers: &HeaderMap, at: &Origin) -> Result<Target, Error> {
        let text = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let uri: Uri = text
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| self.fault(ProtocolFault::NoLocation))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let origin = match uri.authority() {
            None => Some(at.clone()),
            Some(_) => Origin::of_uri(&uri),
        };
        match origin {
            Some(origin) if origin == self.origin => Ok(Target::Path(path)),
            Some(origin) if origin.secure || !self.origin.secure => {
                Ok(Target::Foreign(origin, path))
            }
            _ => Err(self.fault(ProtocolFault::InsecureRedirect)),
        }
    }

    fn request(
        &self,
        origin: &Origin,
        method: &Method,
        path: &str,
        headers: &[(HeaderName, String)],
        body: Body,
    ) -> Result<Request<Body>, Error> {
        let mut builder =
            Request::builder().method(method).uri(path).header(header::USER_AGENT, USER_AGENT);
        for (name, value) in headers {
            builder = builder.header(name, value);
        }
        if *origin == self.origin
            && let Some(credential) = self.credential()
        {
            let mut value =
                HeaderValue::from_str(&credential).map_err(|_| self.not_sendable("token"))?;
            value.set_sensitive(true);
            builder = builder.header(header::AUTHORIZATION, value);
        }
        builder.body(body).map_err(|_| self.not_sendable("path"))
    }

    /// Sends a request without a stream, and again when the registry asks to wait for a moment.
    pub async fn send_at_its_rate(
        &self,
        origin: &Origin,
        subject: &str,
        request: impl Fn() -> Result<Request<Body>, Error>,
    ) -> Result<Response<Incoming>, Error> {
        let send = async || {
            let activity = Activity::default();
            self.context.transport.send(origin, subject, request()?, &activity).await
        };
        for _ in 0..RATE_RETRIES_MAX {
            let response = send().await?;
            match wait_of(&response) {
                Some(time) => sleep(time).await,
                None => return Ok(response),
            }
        }
        send().await
    }

    /// The response, if it has one of the `expected` statuses, else the error that it means.
    pub async fn expect(
        &self,
        subject: &str,
        response: Response<Incoming>,
        expected: &[StatusCode],
    ) -> Result<Response<Incoming>, Error> {
        match expected.contains(&response.status()) {
            true => Ok(response),
            false => Err(self.error(subject, response).await),
        }
    }

    pub async fn read(
        &self,
        subject: &str,
        response: Response<Incoming>,
        bytes_max: usize,
    ) -> Result<Bytes, Error> {
        self.context.transport.receive(&self.origin, subject, response).read_all(bytes_max).await
    }

    /// The error that a response with an unexpected status means.
    pub async fn error(&self, subject: &str, response: Response<Incoming>) -> Error {
        let (status, after) = (response.status(), retry_after(&response));
        let bytes = self.read(subject, response, ANSWER_BYTES_MAX).await.unwrap_or_default();
        let message = ErrorBody::first_message(&bytes);
        let message = message.map_or_else(|| status.to_string(), |text| printable(&text));
        let (registry, subject) = (self.registry.clone(), subject.to_owned());
        match status {
            StatusCode::UNAUTHORIZED if matches!(self.auth(), Auth::Anonymous) => {
                Error::LoginNeeded { registry, subject }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Denied { registry, message },
            StatusCode::NOT_FOUND => Error::NotFound { registry, subject },
            StatusCode::TOO_MANY_REQUESTS => Error::TooManyRequests { registry, message, after },
            status => Error::ErrorResponse { registry, subject, status, message },
        }
    }

    /// The value of `Authorization`, as far as it is known.
    fn credential(&self) -> Option<String> {
        match self.auth() {
            Auth::Token(token) => Some(format!("Bearer {token}")),
            Auth::Anonymous | Auth::Password { .. } => self.context.credentials.get(&self.key()),
        }
    }

    pub fn key(&self) -> Key {
        (self.origin.clone(), self.scopes.join(" "))
    }

    pub fn auth(&self) -> Auth {
        self.context.options.auth.get(&self.registry).cloned().unwrap_or_default()
    }

    pub fn wrong_digest(&self, expected: Digest, actual: Digest) -> Error {
        let (expected, actual) = (Box::new(expected), Box::new(actual));
        Error::WrongDigest { registry: self.registry.clone(), expected, actual }
    }

    pub fn fault(&self, source: ProtocolFault) -> Error {
        Error::Protocol { registry: self.registry.clone(), source }
    }

    pub fn not_sendable(&self, what: &'static str) -> Error {
        self.fault(ProtocolFault::NotSendable { what })
    }
}

/// How long a registry asks to wait before the request is sent again, when it is soon.
fn wait_of(response: &Response<Incoming>) -> Option<Duration> {
    retry_after(response).filter(|time| *time <= RATE_WAIT_MAX)
}

fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    if response.status() != StatusCode::TOO_MANY_REQUESTS {
        return None;
    }
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Text of a registry may appear on a terminal: without control characters, and only so much.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(PRINTED_CHARS_MAX).collect()
}
