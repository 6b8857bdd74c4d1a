use std::{collections::BTreeMap, time::Instant};

use spec::{MetricName, Timestamp};

use super::{Shared, now, records::ServiceKey};
use crate::limits::METRIC_KEPT_FOR;

/// What clients report of services that scale by it, in memory alone: the next report comes within
/// minutes, and no report writes to the store.
#[derive(Debug, Default)]
pub(crate) struct OwnMetrics(Shared<BTreeMap<ServiceKey, BTreeMap<MetricName, OwnMetric>>>);

/// One of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnMetric {
    pub value: u32,
    pub label: Timestamp,
    at: Instant,
}

impl OwnMetrics {
    /// Takes a report, and forgets what is too old to be read: what there is at one time is what
    /// targets of services name.
    pub fn put(&self, service: ServiceKey, name: MetricName, value: u32) {
        let mut services = self.0.write();
        let at = Instant::now();
        services.retain(|_, metrics| {
            metrics.retain(|_, metric| metric.is_fresh(at));
            !metrics.is_empty()
        });
        let metric = OwnMetric { value, label: now(), at };
        services.entry(service).or_default().insert(name, metric);
    }

    /// Those of a service that were reported lately.
    pub fn of(&self, service: &ServiceKey) -> BTreeMap<MetricName, OwnMetric> {
        let now = Instant::now();
        let mut metrics = self.0.read().get(service).cloned().unwrap_or_default();
        metrics.retain(|_, metric| metric.is_fresh(now));
        metrics
    }
}

impl OwnMetric {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < METRIC_KEPT_FOR
    }
}
