use std::{io, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use net::{MinThroughput, TimedBody};
use tokio::time::timeout;

use super::{
    limits::{DRAIN_BYTES_MAX, DRAIN_TIME_MAX},
    reply::Refusal,
};

/// The body of a request, read with limits.
pub(crate) struct RequestBody(TimedBody<Incoming>);

impl RequestBody {
    /// `body`, in which the client may pause for `grace`.
    pub fn new(body: Incoming, grace: Duration) -> Self {
        Self(TimedBody::new(body, MinThroughput::with_grace(grace)))
    }

    /// How long the body says it is.
    pub fn length(&self) -> Option<u64> {
        self.0.size_hint().exact()
    }

    /// The next bytes, or the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        while let Some(frame) = self.0.frame().await {
            // Trailers mean nothing here.
            if let Ok(data) = frame.map_err(broken)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// All of it, if it has at most `bytes_max`.
    pub async fn all(&mut self, bytes_max: usize) -> Result<Bytes, Refusal> {
        let too_large = || {
            Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "SIZE_INVALID",
                format!("at most {bytes_max} bytes fit here"),
            )
        };
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

    /// Reads what is left after a refusal, within reason.
    pub async fn drain(mut self) {
        let draining = async {
            let mut drained = 0;
            while let Ok(Some(data)) = self.next().await {
                drained += data.len();
                if drained > DRAIN_BYTES_MAX {
                    break;
                }
            }
        };
        timeout(DRAIN_TIME_MAX, draining).await.ok();
    }
}

fn broken(error: io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::TimedOut => Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            "BLOB_UPLOAD_INVALID",
            "the request came too slowly",
        ),
        _ => Refusal::bad("BLOB_UPLOAD_INVALID", format!("the request broke off: {error}")),
    }
}
