use std::{io, path::PathBuf};

use http::StatusCode;
use net::ClientError;
use spec::{ParseError, wire::Fault};

/// Why the control plane did not do what it was asked to, or could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A call of the API has no result.
    #[error(transparent)]
    Api(#[from] ClientError),
    /// The store said no.
    #[error("the control plane cannot use its store")]
    Store(#[from] store::Error),
    /// The file system said no.
    #[error("cannot use `{}`", .path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key or a certificate could not be made or read.
    #[error("cannot {what}")]
    Crypto {
        /// What was tried.
        what: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// The next thing a person could try, when we know one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Api(ClientError::Refused(fault)) => fault.hint.clone(),
            Self::Api(ClientError::Connect { .. }) => Some("start it: margay up".to_owned()),
            Self::Store(error) => error.hint(),
            Self::Api(_) | Self::Io { .. } | Self::Crypto { .. } => None,
        }
    }

    /// What the control plane answered, when it is a refusal of its.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Api(ClientError::Refused(fault)) => Some(fault),
            _ => None,
        }
    }
}

/// Why a request was refused, on its way to becoming a status and a [`Fault`].
#[derive(Debug)]
pub(crate) struct Refusal {
    pub status: StatusCode,
    pub fault: Box<Fault>,
    /// For our log alone.
    pub cause: Option<Box<store::Error>>,
}

impl Refusal {
    pub fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        let fault = Fault { code: code.to_owned(), message: message.into(), hint: None };
        Self { status, fault: Box::new(fault), cause: None }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.fault.hint = Some(hint.into());
        self
    }

    pub fn not_found(what: &str, name: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", format!("there is no {what} `{name}`"))
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
        Self::new(StatusCode::CONFLICT, "conflict", "somebody else changed it at the same time")
            .hint("read it again")
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

impl From<store::Error> for Refusal {
    fn from(error: store::Error) -> Self {
        use store::Error as E;
        let (status, code) = match &error {
            E::Unknown => (StatusCode::SERVICE_UNAVAILABLE, "outcome-unknown"),
            E::Unavailable { .. } => (StatusCode::INSUFFICIENT_STORAGE, "store-full"),
            E::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too-large"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "store"),
        };
        let mut refusal = Self::new(status, code, error.to_string());
        refusal.fault.hint = match &error {
            E::Unknown => Some("send it again with the same Idempotency-Key".to_owned()),
            _ => error.hint(),
        };
        Self { cause: Some(Box::new(error)), ..refusal }
    }
}

impl From<ParseError> for Refusal {
    fn from(error: ParseError) -> Self {
        Self::invalid(error.to_string())
    }
}
