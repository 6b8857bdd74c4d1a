//! What a task does in a second, from readings of counters that go up.

use std::time::{Duration, Instant};

use spec::{TaskStatus, Usage, wire::RequestCounts};

use crate::limits::{RATE_WINDOW, RATE_WINDOW_MIN};

/// Readings of the counters of one task: rates are those since the first one, which is one to two
/// windows ago.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Readings {
    first: Reading,
    middle: Reading,
    last: Reading,
    /// When it last had a request, or was first seen.
    asked: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    usage: Usage,
    requests: RequestCounts,
}

/// What a task does on average.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TaskRate {
    /// Thousandths of a processor.
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    /// Requests answered in a thousand seconds.
    pub requests_per_1000_s: u64,
    /// Thousandths of a request under way at one time.
    pub in_flight_millis: u64,
}

impl Readings {
    pub fn new(status: &TaskStatus, requests: RequestCounts, at: Instant) -> Self {
        let reading = Reading { at, usage: total(status), requests };
        Self { first: reading, middle: reading, last: reading, asked: at }
    }

    pub fn read(&mut self, status: &TaskStatus, requests: RequestCounts, at: Instant) {
        if self.last.requests != requests {
            self.asked = at;
        }
        self.last = Reading { at, usage: total(status), requests };
        if at.duration_since(self.middle.at) >= RATE_WINDOW {
            (self.first, self.middle) = (self.middle, self.last);
        }
    }

    /// From its last request on, as its ingress counts them, to the last reading.
    pub fn quiet_for(&self) -> Duration {
        self.last.at.saturating_duration_since(self.asked)
    }

    /// Nothing while they are too close to each other.
    pub fn rate(&self) -> Option<TaskRate> {
        let time = self.last.at.duration_since(self.first.at);
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if time < RATE_WINDOW_MIN || time > 3 * RATE_WINDOW {
            return None;
        }
        let used = self.last.usage.since(self.first.usage);
        let (first, last) = (self.first.requests, self.last.requests);
        // A Linux program counts no requests of its own; the ingress counts none of a host port.
        let requests = used.runs.max(last.requests.saturating_sub(first.requests));
        let in_flight_ms = last.in_flight_ms.saturating_sub(first.in_flight_ms);
        Some(TaskRate {
            cpu_millis: used.cpu_ns / 1000 / millis,
            memory_bytes: used.memory_byte_ms / millis,
            requests_per_1000_s: requests.saturating_mul(1_000_000) / millis,
            in_flight_millis: in_flight_ms.saturating_mul(1000) / millis,
        })
    }
}

/// Of all its containers.
fn total(status: &TaskStatus) -> Usage {
    status.containers.iter().fold(Usage::default(), |sum, one| sum.plus(one.usage))
}

#[cfg(test)]
mod tests {
    use spec::{ContainerPhase, ContainerStatus, Digest, TaskPhase};

    use super::*;

    fn status(seconds: u64) -> TaskStatus {
        let usage = Usage {
            runs: 20 * seconds,
            cpu_ns: 500_000_000 * seconds,
            memory_byte_ms: 1000 * seconds * (64 << 20),
            ..Usage::default()
        };
        let container = ContainerStatus {
            name: "app".parse().unwrap(),
            image: Digest::of(b"cats"),
            phase: ContainerPhase::Running,
            exit_code: None,
            reason: None,
            health: None,
            idle: false,
            restarts: 0,
            ports: Vec::new(),
            usage,
        };
        TaskStatus {
            phase: TaskPhase::Running,
            reason: None,
            ready: None,
            host: None,
            containers: vec![container],
        }
    }

    #[test]
    fn a_rate_is_that_of_the_last_readings_once_there_are_enough() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let asked = |seconds: u64| RequestCounts {
            requests: 15 * seconds,
            in_flight_ms: 2500 * seconds,
            ..RequestCounts::default()
        };
        let mut readings = Readings::new(&status(0), asked(0), begin);
        readings.read(&status(3), asked(3), at(3));
        assert_eq!(readings.rate(), None);
        let want = TaskRate {
            cpu_millis: 500,
            memory_bytes: 64 << 20,
            requests_per_1000_s: 20_000,
            in_flight_millis: 2500,
        };
        for seconds in [12, 15, 18, 30, 33, 45] {
            readings.read(&status(seconds), asked(seconds), at(seconds));
            assert_eq!(readings.rate(), Some(want), "{seconds}");
        }
        assert_eq!(readings.quiet_for(), Duration::ZERO);
        // It stands still from now on.
        for seconds in [48, 60, 63, 75, 78] {
            readings.read(&status(45), asked(45), at(seconds));
        }
        assert_eq!(readings.rate().map(|rate| rate.cpu_millis), Some(0));
        assert_eq!(readings.quiet_for(), Duration::from_secs(33));
        // A silent node says nothing about a load.
        readings.read(&status(45), asked(45), at(300));
        assert_eq!(readings.rate(), None);
    }
}
