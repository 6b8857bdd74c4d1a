use std::time::Duration;

/// Connections to the admin socket, which those of clients take nothing from.
pub(super) const ADMIN_CONNECTIONS_MAX: usize = 8;
/// What a client may still send after a refusal, so that it comes to read the answer.
pub(super) const DRAIN_BYTES_MAX: usize = 1 << 20;
pub(super) const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// How much of everything a registry gives its clients.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of one blob: as much as ECR takes.
    pub blob_bytes_max: u64,
    /// Uploads that one user may have open at once: twenty pushes of three blobs each.
    pub uploads_per_user_max: usize,
    /// An upload that nobody has touched for so long is forgotten: a lunch break.
    pub upload_idle_time_max: Duration,
    /// Connections at once: each may hold a page or a piece of some hundred kilobytes. More wait to
    /// be accepted.
    pub connections_max: usize,
    /// Connections of one address, which is all clients behind one proxy: as many as the control
    /// plane gives.
    pub connections_of_one_address_max: usize,
    /// How long the head of a request may take, and how long an idle connection is kept.
    pub header_time_max: Duration,
    /// How long a body may pause, in either direction.
    pub quiet_time_max: Duration,
    /// How long what is under way may take to finish after shutdown.
    pub drain_time_max: Duration,
    /// How long a token is good for.
    pub token_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            blob_bytes_max: 50 << 30,
            uploads_per_user_max: 64,
            upload_idle_time_max: Duration::from_secs(3600),
            connections_max: 1024,
            connections_of_one_address_max: 256,
            header_time_max: Duration::from_secs(30),
            quiet_time_max: Duration::from_secs(30),
            drain_time_max: Duration::from_secs(10),
            token_time: Duration::from_secs(300),
        }
    }
}
