use std::{io, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use net::{MinThroughput, TimedBody};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::error::{ApiError, ErrorCode};
use crate::limits::{DISCARDED_BYTES_MAX, DISCARDED_TIME_MAX};

/// The body of a request, read with limits.
pub(crate) struct RequestBody {
    body: TimedBody<Incoming>,
    received: u64,
}

impl RequestBody {
    /// `body`, in which the client may pause for `grace`.
    pub fn new(body: Incoming, grace: Duration) -> Self {
        Self { body: TimedBody::new(body, MinThroughput::with_grace(grace)), received: 0 }
    }

    /// The length that the request announces.
    pub fn length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// How many bytes have come.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The next bytes, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        while let Some(frame) = self.body.frame().await {
            // Trailers mean nothing here.
            if let Ok(data) = frame.map_err(broken)?.into_data() {
                self.received += data.len() as u64;
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// All of it, if it has at most `bytes_max`.
    pub async fn all(&mut self, bytes_max: usize) -> Result<Bytes, ApiError> {
        let too_large =
            || ApiError::too_large(format!("the body has at most {bytes_max} bytes here"));
        if self.length().is_some_and(|length| length > bytes_max as u64) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        while let Some(data) = self.next().await? {
            if bytes.len() + data.len() > bytes_max {
                return Err(too_large());
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.into())
    }

    /// All of it as JSON, if it has at most `bytes_max`.
    pub async fn json<T: DeserializeOwned>(&mut self, bytes_max: usize) -> Result<T, ApiError> {
        spec::json::from_slice(&self.all(bytes_max).await?).map_err(|error| {
            ApiError::bad_request(ErrorCode::Unsupported, format!("the body is not valid: {error}"))
        })
    }

    /// Discards what is left after an error, within limits.
    pub async fn drain(mut self) {
        let draining = async {
            let mut drained = 0;
            while let Ok(Some(data)) = self.next().await {
                drained += data.len();
                if drained > DISCARDED_BYTES_MAX {
                    break;
                }
            }
        };
        timeout(DISCARDED_TIME_MAX, draining).await.ok();
    }
}

fn broken(error: io::Error) -> ApiError {
    let (status, message) = match error.kind() {
        io::ErrorKind::TimedOut => {
            (StatusCode::REQUEST_TIMEOUT, "the request came too slowly".to_owned())
        }
        _ => (StatusCode::BAD_REQUEST, format!("the request broke off: {error}")),
    };
    ApiError::new(status, ErrorCode::BlobUploadInvalid, message)
}
