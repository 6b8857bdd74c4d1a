use std::time::Duration;

use crate::limits::HTTP2_LOOK_EVERY;

/// How long one connection of HTTP/2 may take for what.
#[derive(Debug, Clone, Copy)]
pub struct Http2Limits {
    /// Until the first request.
    pub first_time_max: Duration,
    /// Without a request under way.
    pub idle_time_max: Duration,
    /// For the client to take one piece of a response.
    pub take_time_max: Duration,
    /// Between two writes that the client takes something of.
    pub write_time_max: Duration,
}

impl Http2Limits {
    /// Often enough that each of them is kept.
    pub(super) fn look_every(&self) -> Duration {
        let times = [self.first_time_max, self.idle_time_max, self.take_time_max];
        times.into_iter().fold(HTTP2_LOOK_EVERY, |least, time| least.min(time / 4))
    }
}
