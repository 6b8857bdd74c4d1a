use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::reply::Refusal;
use crate::pace::Pace;

/// What a client may still send after we refused, so that it comes to read our answer.
const DRAIN_BYTES_MAX: usize = 1 << 20;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// The body of a request, read with limits.
pub(crate) struct Intake {
    body: Incoming,
    quiet: Duration,
    pace: Pace,
}

impl Intake {
    pub fn new(body: Incoming, quiet: Duration) -> Self {
        Self { body, quiet, pace: Pace::new(quiet) }
    }

    /// How long the body says it is.
    pub fn length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next bytes, or the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            let frame = match timeout(self.quiet, self.body.frame()).await {
                Err(_) => return Err(too_slow()),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => {
                    return Err(Refusal::bad(
                        "BLOB_UPLOAD_INVALID",
                        format!("the request broke off: {error}"),
                    ));
                }
                Ok(Some(Ok(frame))) => frame,
            };
            // Trailers mean nothing here.
            if let Ok(data) = frame.into_data() {
                return if self.pace.keeps(data.len()) { Ok(Some(data)) } else { Err(too_slow()) };
            }
        }
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

fn too_slow() -> Refusal {
    Refusal::new(StatusCode::REQUEST_TIMEOUT, "BLOB_UPLOAD_INVALID", "the request came too slowly")
}
