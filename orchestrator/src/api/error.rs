use http::StatusCode;
use spec::{ParseError, wire::Fault};

use crate::state::ca::InvalidSigningRequest;

/// An answer to a request that failed: a status and a [`Fault`].
#[derive(Debug)]
pub(crate) struct ApiError {
    pub status: StatusCode,
    pub fault: Box<Fault>,
    /// What the request was about, for the audit log: its path does not say it.
    pub subject: Option<String>,
    /// For the log alone.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl ApiError {
    pub fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let fault = Fault { code: code.to_owned(), message: message.into(), hint: None };
        Self { status, fault: Box::new(fault), subject: None, source: None }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.fault.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn about(self, subject: impl Into<String>) -> Self {
        Self { subject: Some(subject.into()), ..self }
    }

    pub fn not_found(what: &str, name: impl std::fmt::Display) -> Self {
        let message = format!("there is no {what} `{name}`");
        let fault = Self::new(StatusCode::NOT_FOUND, "not-found", message);
        let list = match what {
            "task definition" => "task definitions",
            "cluster" => "cluster ls",
            "credential" => "credential ls",
            "node" => "node ls",
            "secret" => "secret ls",
            "service" => "service ls",
            "task" => "task ls",
            "tenant" => "tenant quota ls",
            _ => return fault,
        };
        fault.hint(format!("see what there is: margay {list}"))
    }

    pub fn exists(what: &str, name: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::CONFLICT, "exists", format!("a {what} `{name}` is there already"))
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", message)
    }

    pub fn in_use(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "in-use", message)
    }

    pub fn conflict() -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "the object was modified concurrently")
            .hint("read it again and retry")
    }

    pub fn starting() -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, "starting", "the control plane is starting")
            .hint("keep the desired set, and ask again in a second")
    }

    pub fn unauthenticated() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthenticated",
            "this request has no valid credential",
        )
        .hint(
            "use the Unix socket as the owner of the control plane, or a credential that it minted",
        )
    }

    pub fn join_token() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "join-token",
            "this join token was used, has expired, or never was one",
        )
        .hint("make a new one: margay node token")
    }

    pub fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "this credential may not do that")
    }
}

/// The first few of many things, for a sentence.
pub(crate) fn few(things: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = things[..things.len().min(SHOWN)].join(", ");
    match things.len().checked_sub(SHOWN) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

impl From<store::Error> for ApiError {
    fn from(error: store::Error) -> Self {
        use store::Error as E;
        let (status, code) = match &error {
            E::Unknown => (StatusCode::SERVICE_UNAVAILABLE, "outcome-unknown"),
            E::Unavailable { .. } => (StatusCode::INSUFFICIENT_STORAGE, "store-full"),
            E::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too-large"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "store"),
        };
        let mut answer = Self::new(status, code, error.to_string());
        answer.fault.hint = match &error {
            E::Unknown => Some("send it again with the same Idempotency-Key".to_owned()),
            _ => error.hint(),
        };
        Self { source: Some(Box::new(error)), ..answer }
    }
}

impl From<ParseError> for ApiError {
    fn from(error: ParseError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<InvalidSigningRequest> for ApiError {
    fn from(error: InvalidSigningRequest) -> Self {
        let answer = Self::invalid(error.to_string());
        Self { source: Some(Box::new(error)), ..answer }
    }
}
