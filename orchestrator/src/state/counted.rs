//! What tasks were asked, as the ingress of their node counts it. An ingress that begins anew
//! counts from zero; what it had counted before stays counted.

use std::{collections::BTreeMap, time::Instant};

use spec::wire::{NodeReport, RequestCounts};

use super::records::TaskKey;
use crate::limits::COUNTED_KEPT_FOR;

/// What one node has told of its tasks.
#[derive(Debug, Default)]
pub(super) struct CountedTasks(BTreeMap<TaskKey, Counted>);

#[derive(Debug, Clone, Copy)]
struct Counted {
    /// By ingresses before the one that counts now.
    before: RequestCounts,
    last: RequestCounts,
    at: Instant,
}

impl CountedTasks {
    pub fn read(&mut self, report: &NodeReport, at: Instant) {
        for task in &report.tasks {
            let Some(counts) = task.requests else { continue };
            let key = (task.tenant.clone(), task.id.clone());
            let none = RequestCounts::default();
            let known = self.0.entry(key).or_insert(Counted { before: none, last: none, at });
            if counts.requests < known.last.requests {
                known.before = sum(known.before, known.last);
            }
            (known.last, known.at) = (counts, at);
        }
        self.0.retain(|_, known| at.duration_since(known.at) < COUNTED_KEPT_FOR);
    }

    pub fn get(&self, task: &TaskKey) -> RequestCounts {
        self.0.get(task).map_or_else(RequestCounts::default, Counted::total)
    }

    pub fn all(&self) -> BTreeMap<TaskKey, RequestCounts> {
        self.0.iter().map(|(task, known)| (task.clone(), known.total())).collect()
    }
}

impl Counted {
    fn total(&self) -> RequestCounts {
        sum(self.before, self.last)
    }
}

fn sum(one: RequestCounts, other: RequestCounts) -> RequestCounts {
    RequestCounts {
        requests: one.requests.saturating_add(other.requests),
        failed_requests: one.failed_requests.saturating_add(other.failed_requests),
        in_flight_ms: one.in_flight_ms.saturating_add(other.in_flight_ms),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn counts_go_on_when_an_ingress_begins_anew_and_are_forgotten_with_their_task() {
        let begin = Instant::now();
        let report = |requests: Option<u64>| -> NodeReport {
            serde_json::from_value(serde_json::json!({
                "version": 1, "boot": "b", "seq": 1, "revision": 1,
                "spec": { "capacity": { "cpu_millis": 1, "memory_bytes": 1 }, "zone": "a",
                    "architecture": "amd64", "runs_native": false, "labels": {} },
                "tasks": [{
                    "tenant": "me", "id": "cats-1", "status": { "phase": "running" },
                    "requests": requests.map(|requests| serde_json::json!({
                        "requests": requests, "failed_requests": 0, "in_flight_ms": 0,
                    })),
                }],
            }))
            .unwrap()
        };
        let task = ("me".parse().unwrap(), "cats-1".parse().unwrap());
        let mut counted = CountedTasks::default();
        for (seconds, requests, want) in [
            (0, Some(10), 10),
            (3, Some(30), 30),
            (6, None, 30), // it was being written
            (9, Some(4), 34),
            (12, Some(9), 39),
            (71, None, 39),
            (72, None, 0),
        ] {
            counted.read(&report(requests), begin + Duration::from_secs(seconds));
            assert_eq!(counted.get(&task).requests, want, "{seconds} s");
        }
    }
}
