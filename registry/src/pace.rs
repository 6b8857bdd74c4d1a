use std::time::{Duration, Instant};

/// Whoever sends less than this for a while is not sending, but holding on to a connection.
const BYTES_PER_SECOND_MIN: u64 = 1024;

/// Tells a slow sender from one who is only there: a pause is limited where bytes are awaited, a
/// trickle here.
pub(crate) struct Pace {
    over: Duration,
    since: Instant,
    bytes: u64,
}

impl Pace {
    /// Averages `over` so long.
    pub fn new(over: Duration) -> Self {
        Self { over, since: Instant::now(), bytes: 0 }
    }

    /// So many more bytes have come. Whether that is fast enough.
    #[must_use]
    pub fn keeps(&mut self, bytes: usize) -> bool {
        self.bytes += bytes as u64;
        let elapsed = self.since.elapsed();
        if elapsed < self.over {
            return true;
        }
        let enough = self.bytes as f64 >= elapsed.as_secs_f64() * BYTES_PER_SECOND_MIN as f64;
        (self.since, self.bytes) = (Instant::now(), 0);
        enough
    }
}
