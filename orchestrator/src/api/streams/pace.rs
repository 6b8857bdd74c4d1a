use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use spec::Tenant;
use tokio::time::{Instant, sleep_until};

use crate::limits::{STREAM_BURST_TIME, STREAM_BYTES_PER_SECOND};

/// How fast the streams of each tenant may be. One without a stream has no entry.
#[derive(Debug, Default)]
pub(super) struct Paces(Mutex<BTreeMap<Tenant, Arc<Pace>>>);

/// The bytes of all streams of one tenant, one after the other.
#[derive(Debug)]
pub(super) struct Pace(Mutex<Instant>);

impl Paces {
    pub fn of(&self, tenant: &Tenant) -> Arc<Pace> {
        let mut paces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        paces.retain(|_, pace| Arc::strong_count(pace) > 1);
        let pace = paces.entry(tenant.clone()).or_insert_with(|| Arc::new(Pace::new()));
        pace.clone()
    }
}

impl Pace {
    fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    /// Waits until so many bytes more may pass.
    pub async fn take(&self, bytes: usize) {
        let at = {
            let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let at = turn(*free, Instant::now(), bytes);
            *free = at;
            at
        };
        // What was saved up in a pause passes at once.
        sleep_until(at.checked_sub(STREAM_BURST_TIME).unwrap_or(at)).await;
    }
}

/// When the bytes after these may pass, if all before may at `free`.
fn turn(free: Instant, now: Instant, bytes: usize) -> Instant {
    free.max(now) + Duration::from_secs_f64(bytes as f64 / STREAM_BYTES_PER_SECOND as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_tenant_pass_at_its_rate_and_a_pause_is_not_saved_up() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let after_one = turn(now, now, STREAM_BYTES_PER_SECOND);
        assert_eq!(after_one, now + second);
        assert_eq!(turn(after_one, now, 2 * STREAM_BYTES_PER_SECOND), now + 3 * second);
        let later = now + 100 * second;
        assert_eq!(turn(after_one, later, STREAM_BYTES_PER_SECOND), later + second);
    }

    #[tokio::test]
    async fn a_burst_passes_at_once_and_tenants_do_not_wait_for_each_other() {
        let paces = Paces::default();
        let pace = paces.of(&"acme".parse().unwrap());
        let burst = STREAM_BYTES_PER_SECOND * STREAM_BURST_TIME.as_secs() as usize;
        let at_once = tokio::time::timeout(Duration::from_millis(500), pace.take(burst)).await;
        assert!(at_once.is_ok(), "a burst");
        let more = pace.take(STREAM_BYTES_PER_SECOND);
        assert!(
            tokio::time::timeout(Duration::from_millis(20), more).await.is_err(),
            "then a wait"
        );
        let other = paces.of(&"other".parse().unwrap());
        let free = tokio::time::timeout(Duration::from_millis(500), other.take(1000)).await;
        assert!(free.is_ok(), "another tenant does not wait");
    }
}
