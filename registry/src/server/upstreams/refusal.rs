use std::{io, time::Duration};

use http::{StatusCode, header};
use spec::Tenant;

use super::super::error::{ApiError, ErrorCode};
use crate::Error;

/// What a client learns when an upstream does not give something. Addresses and causes are in the
/// log and in the list of upstreams.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    status: StatusCode,
    message: String,
    wait: Option<Duration>,
}

impl Refusal {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), wait: None }
    }

    /// The upstream is left alone for some time.
    pub fn held(upstream: &Tenant, wait: Duration) -> Self {
        let message = format!("upstream `{upstream}` did not answer a moment ago");
        Self { wait: Some(wait), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    pub fn of(upstream: &Tenant, error: &Error) -> Self {
        let failed = || {
            let message = format!(
                "upstream `{upstream}` did not give it: `margay registry upstream ls` says why"
            );
            Self::new(StatusCode::BAD_GATEWAY, message)
        };
        match error {
            Error::NotFound { .. } | Error::LoginNeeded { .. } | Error::Denied { .. } => {
                let message = format!("upstream `{upstream}` does not have it, or not for us");
                Self::new(StatusCode::NOT_FOUND, message)
            }
            Error::TooManyRequests { after, .. } => {
                let message = format!("upstream `{upstream}` asks to wait");
                Self { wait: *after, ..Self::new(StatusCode::TOO_MANY_REQUESTS, message) }
            }
            Error::QuotaExceeded(exceeded) => {
                Self::new(StatusCode::FORBIDDEN, exceeded.to_string())
            }
            Error::Sink { source, .. } | Error::File { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Self::new(StatusCode::INSUFFICIENT_STORAGE, "the disk of this registry is full")
                }
                _ => Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "this registry failed; its log says why",
                ),
            },
            _ => failed(),
        }
    }

    pub fn is_absence(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    /// `absent` is the code of what is not there.
    pub fn answer(&self, absent: ErrorCode) -> ApiError {
        let code = match self.status {
            StatusCode::NOT_FOUND => absent,
            StatusCode::TOO_MANY_REQUESTS => ErrorCode::TooManyRequests,
            StatusCode::FORBIDDEN => ErrorCode::Denied,
            _ => ErrorCode::Unknown,
        };
        let error = ApiError::new(self.status, code, self.message.clone());
        match self.wait {
            Some(wait) => error.header(header::RETRY_AFTER, wait.as_secs().max(1).to_string()),
            None => error,
        }
    }
}
