use std::time::Duration;

use tokio::time::sleep;

use super::options::ClientOptions;
use crate::{Error, limits::BACKOFF_MIN};

/// The tries of one transfer.
pub(super) struct Retry {
    /// In a row.
    failures: u32,
    retries_max: u32,
    backoff_max: Duration,
}

impl Retry {
    pub fn new(options: &ClientOptions) -> Self {
        let ClientOptions { retries_max, backoff_max, .. } = *options;
        Self { failures: 0, retries_max, backoff_max }
    }

    /// The last try moved enough for the next failure to count as the first.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Waits for the next try, or returns `error` when another try is of no use.
    pub async fn after(&mut self, error: Error, report: impl FnOnce(&Error)) -> Result<(), Error> {
        self.failures += 1;
        if !error.is_transient() || self.failures > self.retries_max {
            return Err(error);
        }
        report(&error);
        let backoff = BACKOFF_MIN.saturating_mul(1 << (self.failures - 1).min(10));
        sleep(backoff.min(self.backoff_max)).await;
        Ok(())
    }
}
