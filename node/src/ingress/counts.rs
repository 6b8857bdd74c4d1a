use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;
use spec::wire::RequestCounts;

/// What one replica was asked through this ingress.
#[derive(Debug, Default)]
pub(super) struct Counts {
    requests: AtomicU64,
    failed: AtomicU64,
    in_flight_ms: AtomicU64,
}

impl Counts {
    pub fn answered(&self, status: StatusCode) {
        self.count(status.is_server_error());
    }

    /// It had the request, and no answer came.
    pub fn lost(&self) {
        self.count(true);
    }

    fn count(&self, failed: bool) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(u64::from(failed), Ordering::Relaxed);
    }

    /// So many requests were under way for so long.
    pub fn under_way(&self, requests: u64, millis: u64) {
        self.in_flight_ms.fetch_add(requests.saturating_mul(millis), Ordering::Relaxed);
    }

    pub fn so_far(&self) -> RequestCounts {
        RequestCounts {
            requests: self.requests.load(Ordering::Relaxed),
            failed_requests: self.failed.load(Ordering::Relaxed),
            in_flight_ms: self.in_flight_ms.load(Ordering::Relaxed),
        }
    }
}
