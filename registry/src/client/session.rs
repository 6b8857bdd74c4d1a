use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
use hyper::body::Incoming;
use serde::Deserialize;
use spec::Digest;

use super::{
    Auth, Inner,
    challenge::Challenge,
    origin::Origin,
    transport::{Body, Pulse, body, read_all},
};
use crate::{Error, access::AUDIENCE};

/// A blob may be one redirect away (object storage), and that one may be moved; longer chains are
/// loops.
const REDIRECTS_MAX: usize = 5;
/// No honest token answer or error is longer.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// The distribution-spec's default for tokens that do not say.
const TOKEN_SECONDS_DEFAULT: u64 = 60;

/// One conversation: a registry, what we want to do there, and who we are.
pub(super) struct Session<'a> {
    pub client: &'a Inner,
    pub origin: Origin,
    /// As the person wrote it.
    pub registry: String,
    /// `repository:NAME:pull,push`, or empty.
    pub scopes: Vec<String>,
}

/// Where a request goes.
pub(super) enum Target {
    /// A path and query at the registry.
    Path(String),
    /// A `Location` that the registry gave us.
    Elsewhere(Origin, String),
}

/// What a request carries.
pub(super) enum Payload {
    Bytes(Bytes),
    /// So many bytes, once.
    Stream(Body, u64, Pulse),
}

/// One request.
pub(super) struct Call<'a> {
    pub method: Method,
    pub target: Target,
    /// For people, as the subject of an error.
    pub what: &'a str,
    pub headers: Vec<(HeaderName, String)>,
    pub payload: Payload,
}

impl<'a> Call<'a> {
    pub fn new(method: Method, target: Target, what: &'a str) -> Self {
        Self { method, target, what, headers: Vec::new(), payload: Payload::Bytes(Bytes::new()) }
    }

    pub fn get(path: String, what: &'a str) -> Self {
        Self::new(Method::GET, Target::Path(path), what)
    }

    pub fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn bytes(mut self, bytes: Bytes) -> Self {
        self.payload = Payload::Bytes(bytes);
        self
    }

    pub fn stream(mut self, stream: Body, length: u64, pulse: Pulse) -> Self {
        self.payload = Payload::Stream(stream, length, pulse);
        self
    }
}

impl Session<'_> {
    /// Sends `call`; answers one challenge on the way. Any status may come back.
    pub async fn call(&self, call: Call<'_>) -> Result<Response<Incoming>, Error> {
        let (origin, path) = match call.target {
            Target::Path(path) => (self.origin.clone(), path),
            Target::Elsewhere(origin, path) => (origin, path),
        };
        match call.payload {
            Payload::Stream(stream, length, pulse) => {
                let mut request =
                    self.request(&origin, &call.method, &path, &call.headers, stream)?;
                request.headers_mut().insert(header::CONTENT_LENGTH, length.into());
                self.client.transport.send(&origin, call.what, request, &pulse).await
            }
            Payload::Bytes(bytes) => {
                let again = |bytes: &Bytes| {
                    self.request(&origin, &call.method, &path, &call.headers, body(bytes.clone()))
                };
                let pulse = Pulse::default();
                let response =
                    self.client.transport.send(&origin, call.what, again(&bytes)?, &pulse).await?;
                if response.status() != StatusCode::UNAUTHORIZED || origin != self.origin {
                    return Ok(response);
                }
                self.answer(response.headers(), call.what).await?;
                let response =
                    self.client.transport.send(&origin, call.what, again(&bytes)?, &pulse).await?;
                match response.status() {
                    StatusCode::UNAUTHORIZED => Err(self.refusal(call.what, response).await),
                    _ => Ok(response),
                }
            }
        }
    }

    /// Like [`call`](Self::call), following redirects. Credentials stay with their origin.
    pub async fn follow(&self, call: Call<'_>) -> Result<Response<Incoming>, Error> {
        let (what, headers) = (call.what, call.headers.clone());
        let (mut response, mut at) = (self.call(call).await?, self.origin.clone());
        for _ in 0..REDIRECTS_MAX {
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let target = self.location(response.headers(), &at)?;
            at = match &target {
                Target::Path(_) => self.origin.clone(),
                Target::Elsewhere(origin, _) => origin.clone(),
            };
            let mut call = Call::new(Method::GET, target, what);
            call.headers.clone_from(&headers);
            response = self.call(call).await?;
        }
        Err(self.odd(format!("more than {REDIRECTS_MAX} redirects for {what}")))
    }

    /// Where a `Location` of `at` points: a path of this registry, or another origin that is not
    /// less secure.
    pub fn location(&self, headers: &HeaderMap, at: &Origin) -> Result<Target, Error> {
        let text = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let uri: Uri = text
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| self.odd("it gave no usable Location".to_owned()))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let origin = match uri.authority() {
            None => Some(at.clone()),
            Some(_) => Origin::of_uri(&uri),
        };
        match origin {
            Some(origin) if origin == self.origin => Ok(Target::Path(path)),
            Some(origin) if origin.secure || !self.origin.secure => {
                Ok(Target::Elsewhere(origin, path))
            }
            _ => Err(self.odd("it sends us to a place that is less secure".to_owned())),
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
        let mut builder = Request::builder()
            .method(method)
            .uri(path)
            .header(header::USER_AGENT, super::USER_AGENT);
        for (name, value) in headers {
            builder = builder.header(name, value);
        }
        if *origin == self.origin
            && let Some(credential) = self.credential()
        {
            let mut value = HeaderValue::from_str(&credential)
                .map_err(|_| self.odd("its token cannot stand in a header".to_owned()))?;
            value.set_sensitive(true);
            builder = builder.header(header::AUTHORIZATION, value);
        }
        builder.body(body).map_err(|_| self.odd(format!("`{path}` cannot stand in a request")))
    }

    /// What to put into `Authorization`, if we have it already.
    fn credential(&self) -> Option<String> {
        if let Auth::Token(token) = self.client.auth(&self.registry) {
            return Some(format!("Bearer {token}"));
        }
        let known = self.client.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (credential, until) = known.get(&self.known_as())?;
        (Instant::now() < *until).then(|| credential.clone())
    }

    fn known_as(&self) -> (Origin, String) {
        (self.origin.clone(), self.scopes.join(" "))
    }

    fn remember(&self, credential: String, lifetime: Duration) {
        let mut known = self.client.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        known.retain(|_, (_, until)| now < *until);
        known.insert(self.known_as(), (credential, now + lifetime));
    }

    /// Does what the registry asks for in a 401.
    async fn answer(&self, headers: &HeaderMap, what: &str) -> Result<(), Error> {
        let auth = self.client.auth(&self.registry);
        match (Challenge::of(headers), auth) {
            (_, Auth::Token(_)) => Err(self.login_needed(what)),
            (Some(Challenge::Basic), Auth::Password { user, password }) => {
                self.remember(basic(&user, &password), Duration::from_secs(TOKEN_SECONDS_DEFAULT));
                Ok(())
            }
            (Some(Challenge::Bearer { realm, service }), auth) => {
                self.fetch_token(&realm, service, &auth, what).await
            }
            (Some(Challenge::Basic), Auth::Anonymous) => Err(self.login_needed(what)),
            (None, _) => Err(self.odd("it asks for a login in no way that we know".to_owned())),
        }
    }

    async fn fetch_token(
        &self,
        realm: &str,
        service: Option<String>,
        auth: &Auth,
        what: &str,
    ) -> Result<(), Error> {
        let (origin, mut path) = self.check_realm(realm, auth)?;
        let mut separator = if path.contains('?') { '&' } else { '?' };
        let parameters = service.iter().map(|service| ("service", service));
        let own = self.own_scope(service.as_deref(), auth);
        for (name, value) in
            parameters.chain(self.scopes.iter().chain(&own).map(|scope| ("scope", scope)))
        {
            path.push(separator);
            path.push_str(name);
            path.push('=');
            path.push_str(&escaped(value));
            separator = '&';
        }
        let mut builder =
            Request::builder().uri(&path).header(header::USER_AGENT, super::USER_AGENT);
        if let Auth::Password { user, password } = auth {
            builder = builder.header(header::AUTHORIZATION, basic(user, password));
        }
        let request = builder
            .body(body(Bytes::new()))
            .map_err(|_| self.odd("its token address is no address".to_owned()))?;
        let response =
            self.client.transport.send(&origin, "the token", request, &Pulse::default()).await?;
        match (response.status(), auth) {
            (StatusCode::OK, _) => {}
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Auth::Password { user, .. }) => {
                return Err(Error::WrongPassword {
                    registry: self.registry.clone(),
                    user: user.clone(),
                });
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
                return Err(self.login_needed(what));
            }
            _ => return Err(self.refusal("the login", response).await),
        }
        let quiet = self.client.transport.patience().quiet;
        let bytes = read_all(&origin, "the token", response, ANSWER_BYTES_MAX, quiet).await?;
        let grant: TokenAnswer = serde_json::from_slice(&bytes)
            .map_err(|_| self.odd("its token answer is no token".to_owned()))?;
        let token = grant
            .token
            .or(grant.access_token)
            .ok_or_else(|| self.odd("its token answer is empty".to_owned()))?;
        let lifetime =
            grant.expires_in.unwrap_or(TOKEN_SECONDS_DEFAULT).clamp(TOKEN_SECONDS_DEFAULT, 3600);
        // Renewed a little early, so that it does not run out between here and there.
        self.remember(format!("Bearer {token}"), Duration::from_secs(lifetime * 9 / 10));
        Ok(())
    }

    /// With one of our own registries, a push may take blobs from all repositories of its user.
    fn own_scope(&self, service: Option<&str>, auth: &Auth) -> Option<String> {
        let pushes = self.scopes.iter().any(|scope| scope.ends_with("push"));
        match auth {
            Auth::Password { user, .. } if pushes && service == Some(AUDIENCE) => {
                Some(format!("repository:{user}/*:pull"))
            }
            _ => None,
        }
    }

    /// Credentials go to the registry's own host, or over TLS to a realm that the user named; an
    /// upstream that points elsewhere is after them.
    fn check_realm(&self, realm: &str, auth: &Auth) -> Result<(Origin, String), Error> {
        let foreign =
            || Error::ForeignRealm { registry: self.registry.clone(), realm: readable(realm) };
        let uri: Uri = realm.parse().map_err(|_| foreign())?;
        let origin = Origin::of_uri(&uri).ok_or_else(foreign)?;
        let same_host = origin.host == self.origin.host && (origin.secure || !self.origin.secure);
        let listed = origin.secure && self.client.options.realms.contains(&origin.host);
        let nothing_to_lose = origin.secure && matches!(auth, Auth::Anonymous);
        if !(same_host || listed || nothing_to_lose) {
            return Err(foreign());
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok((origin, path.to_owned()))
    }

    /// The body of an answer with the status that was wanted, else the error it means.
    pub async fn expect(
        &self,
        what: &str,
        response: Response<Incoming>,
        wanted: &[StatusCode],
    ) -> Result<Response<Incoming>, Error> {
        if wanted.contains(&response.status()) {
            Ok(response)
        } else {
            Err(self.refusal(what, response).await)
        }
    }

    pub async fn read(
        &self,
        what: &str,
        response: Response<Incoming>,
        bytes_max: usize,
    ) -> Result<Bytes, Error> {
        read_all(&self.origin, what, response, bytes_max, self.client.transport.patience().quiet)
            .await
    }

    /// What an answer other than the wanted one means.
    pub async fn refusal(&self, what: &str, response: Response<Incoming>) -> Error {
        let status = response.status();
        let bytes = self.read(what, response, ANSWER_BYTES_MAX).await.unwrap_or_default();
        let said = serde_json::from_slice::<Complaint>(&bytes).ok().and_then(|complaint| {
            let first = complaint.errors.into_iter().next()?;
            Some(readable(if first.message.is_empty() { &first.code } else { &first.message }))
        });
        let message = said.unwrap_or_else(|| status.to_string());
        let registry = self.registry.clone();
        match status {
            StatusCode::UNAUTHORIZED if matches!(self.client.auth(&registry), Auth::Anonymous) => {
                self.login_needed(what)
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Denied { registry, message },
            StatusCode::NOT_FOUND => Error::NotFound { registry, what: what.to_owned() },
            StatusCode::TOO_MANY_REQUESTS => Error::TooMany { registry, message },
            _ => Error::Refused {
                registry,
                what: what.to_owned(),
                message: format!("{message} ({})", status.as_u16()),
            },
        }
    }

    fn login_needed(&self, what: &str) -> Error {
        Error::LoginNeeded { registry: self.registry.clone(), what: what.to_owned() }
    }

    pub fn wrong_bytes(&self, expected: Digest, actual: Digest) -> Error {
        let (expected, actual) = (Box::new(expected), Box::new(actual));
        Error::WrongBytes { registry: self.registry.clone(), expected, actual }
    }

    pub fn odd(&self, message: String) -> Error {
        Error::NotARegistry { registry: self.registry.clone(), message }
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

#[derive(Deserialize)]
struct Complaint {
    errors: Vec<ComplaintLine>,
}

#[derive(Deserialize)]
struct ComplaintLine {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

/// What a stranger's server says may stand on a terminal: no control characters, and not for pages.
fn readable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// Percent-encoded as a query value.
pub(crate) fn escaped(text: &str) -> String {
    use std::fmt::Write as _;
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z'
            | b'a'..=b'z'
            | b'0'..=b'9'
            | b'-'
            | b'_'
            | b'.'
            | b'~'
            | b'/'
            | b':'
            | b','
            | b'*' => {
                escaped.push(char::from(byte));
            }
            _ => write!(escaped, "%{byte:02X}").expect("writing to a String does not fail"),
        }
    }
    escaped
}
