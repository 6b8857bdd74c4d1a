use std::{error::Error as _, io};

use http::{HeaderName, Method, StatusCode, header};
use serde::Serialize;
use spec::{Digest, ParseError};

use super::response::{Response, header_value, json};
use crate::Error;

/// An error answer of the API.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// The request cannot be served, and the client learns why.
    Rejected(Box<Rejection>),
    /// The registry failed. The client learns only that; the log has the cause.
    Internal(Error),
}

#[derive(Debug)]
pub(crate) struct Rejection {
    status: StatusCode,
    code: ErrorCode,
    message: String,
    headers: Vec<(HeaderName, String)>,
}

/// # Spec
/// OCI distribution-spec 1.1, "Error Codes", and some of the distribution project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum ErrorCode {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    Denied,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    PaginationNumberInvalid,
    RangeInvalid,
    SizeInvalid,
    TagInvalid,
    #[serde(rename = "TOOMANYREQUESTS")]
    TooManyRequests,
    Unauthorized,
    Unknown,
    Unsupported,
}

impl ApiError {
    pub fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        let (message, headers) = (message.into(), Vec::new());
        Self::Rejected(Box::new(Rejection { status, code, message, headers }))
    }

    pub fn bad_request(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub fn not_found(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    pub fn too_many_requests(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, message)
    }

    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::SizeInvalid, message)
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, ErrorCode::Denied, message)
    }

    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message)
    }

    /// As the distribution project answers.
    pub fn read_only() -> Self {
        let message = "this registry is read-only for now";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, message)
            .header(header::ALLOW, "GET, HEAD")
    }

    pub fn no_such_endpoint() -> Self {
        Self::not_found(ErrorCode::Unsupported, "there is no such endpoint")
    }

    /// The same words for a blob that no repository has and for one that only another has.
    pub fn no_such_blob(digest: &Digest) -> Self {
        Self::not_found(ErrorCode::BlobUnknown, format!("this repository has no blob `{digest}`"))
    }

    pub fn no_such_manifest(target: &str) -> Self {
        let message = format!("this repository has no manifest `{target}`");
        Self::not_found(ErrorCode::ManifestUnknown, message)
    }

    pub fn invalid_manifest(message: impl Into<String>) -> Self {
        Self::bad_request(ErrorCode::ManifestInvalid, message)
    }

    pub fn wrong_digest(expected: &Digest, actual: &Digest) -> Self {
        let message = format!("the digest of the content is `{actual}`, not `{expected}`");
        Self::bad_request(ErrorCode::DigestInvalid, message)
    }

    pub fn invalid_digest(error: ParseError) -> Self {
        Self::bad_request(ErrorCode::DigestInvalid, error.to_string())
    }

    pub fn invalid_name<E: std::error::Error>(error: E) -> Self {
        Self::bad_request(ErrorCode::NameInvalid, error.to_string())
    }

    pub fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        if let Self::Rejected(rejection) = &mut self {
            rejection.headers.push((name, value.into()));
        }
        self
    }

    /// A rejected request is the client's affair; a failure of the registry is the operator's.
    pub fn log(&self, method: &Method, path: &str) {
        match self {
            Self::Rejected(rejection) => {
                tracing::debug!(%method, path, status = rejection.status.as_u16(), "rejected");
            }
            Self::Internal(error) => {
                let cause = error.source().map(ToString::to_string).unwrap_or_default();
                tracing::error!(%method, path, %error, cause, "a request failed");
            }
        }
    }

    pub fn status(&self) -> StatusCode {
        self.parts().0
    }

    fn parts(&self) -> (StatusCode, ErrorCode, &str) {
        match self {
            Self::Rejected(rejection) => (rejection.status, rejection.code, &rejection.message),
            Self::Internal(error) => {
                let (status, message) = match is_storage_full(error) {
                    true => (StatusCode::INSUFFICIENT_STORAGE, "the disk of this registry is full"),
                    false => (
                        StatusCode::INTERNAL_SERVER_ERROR,
                        "this registry failed; its log says why",
                    ),
                };
                (status, ErrorCode::Unknown, message)
            }
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        match error {
            // What Quay and ECR answer, and no client repeats by itself.
            Error::QuotaExceeded(exceeded) => Self::denied(exceeded.to_string()),
            // As ECR answers.
            Error::ImmutableTag { .. } => {
                Self::bad_request(ErrorCode::TagInvalid, error.to_string())
            }
            Error::TagRefused { .. } => Self::denied(error.to_string()),
            Error::Contended { .. } => Self::too_many_requests(error.to_string()),
            error => Self::Internal(error),
        }
    }
}

impl From<ApiError> for Response {
    fn from(error: ApiError) -> Self {
        let (status, code, message) = error.parts();
        let errors = [serde_json::json!({ "code": code, "message": message })];
        let mut response = json(status, &serde_json::json!({ "errors": errors }));
        if let ApiError::Rejected(rejection) = error {
            let headers = rejection.headers.into_iter();
            response
                .headers_mut()
                .extend(headers.map(|(name, value)| (name, header_value(&value))));
        }
        response
    }
}

/// Whether there was no space left, be it for a file or for the database.
fn is_storage_full(error: &Error) -> bool {
    match error {
        Error::File { source, .. } => {
            matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        }
        Error::Metadata { source, .. } => matches!(source, store::Error::Unavailable { .. }),
        _ => false,
    }
}
