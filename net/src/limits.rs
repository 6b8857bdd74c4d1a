use std::time::Duration;

/// A TLS handshake is two messages each way.
pub(crate) const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
/// A request line and its headers, and what is read ahead of a body: more than browsers and curl
/// ever send.
pub(crate) const HEAD_BYTES_MAX: usize = 64 << 10;
/// Headers of one request: hyper's own limit.
pub(crate) const HEADERS_MAX: usize = 100;
/// After a failed accept. Usually there are no descriptors left, and some are free soon.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A connection to the control plane with its handshake: a round trip or three between continents.
pub(crate) const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// A desired set of a thousand tasks is a few megabytes, and a page of the API less.
pub(crate) const RESPONSE_BYTES_MAX: usize = 64 << 20;
