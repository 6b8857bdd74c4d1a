use serde::{Deserialize, Serialize};
use spec::{Resources, Timestamp, Usage};

use crate::limits::{
    USAGE_BACKLOG_GAP, USAGE_BYTES_PER_SECOND_MAX, USAGE_MEMORY_FACTOR, USAGE_RUNS_PER_SECOND_MAX,
    USAGE_SLACK, USAGE_WINDOW_MIN,
};

/// What a node may still have used: it fills with time, as fast as the node's capacity allows, and
/// every record that is accepted takes from it. So the sum of all that a node bills is at most its
/// capacity multiplied by the time, whatever it sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Allowance {
    /// When it was filled last.
    at: Timestamp,
    /// It holds no more than is used in this time: as long as the node was silent before, so that a
    /// log that was kept meanwhile is billed, and unused time does not pile up.
    window_millis: u64,
    left: Usage,
}

impl Allowance {
    /// Of a node that has not sent any usage yet.
    pub fn since(joined: Timestamp, capacity: Resources) -> Self {
        let slack = USAGE_SLACK.as_millis() as u64;
        Self { at: joined, window_millis: 0, left: most(capacity, slack) }
    }

    /// The same at `now`.
    pub fn filled(&self, capacity: Resources, now: Timestamp) -> Self {
        let gap = now.since(self.at);
        let gap_millis = gap.as_millis() as u64;
        let window_millis = match gap < USAGE_BACKLOG_GAP {
            true => self.window_millis, // the next part of a long log
            false => gap_millis,
        };
        let window_millis = window_millis.max(USAGE_WINDOW_MIN.as_millis() as u64);
        let left =
            at_most(self.left.plus(most(capacity, gap_millis)), most(capacity, window_millis));
        Self { at: self.at.max(now), window_millis, left }
    }

    /// How much of `claim` is accepted, of a task that was placed at `placed`.
    pub fn take(&mut self, claim: Usage, capacity: Resources, placed: Timestamp) -> Usage {
        let lived = self.at.since(placed) + USAGE_SLACK;
        let accepted = at_most(at_most(claim, most(capacity, lived.as_millis() as u64)), self.left);
        self.left = self.left.since(accepted);
        accepted
    }
}

/// The most that a machine can use in a time.
fn most(capacity: Resources, millis: u64) -> Usage {
    let memory_bytes = capacity.memory_bytes.saturating_mul(USAGE_MEMORY_FACTOR);
    let per_second = |rate: u64| rate.saturating_mul(millis) / 1000;
    Usage {
        runs: per_second(USAGE_RUNS_PER_SECOND_MAX),
        failed_runs: per_second(USAGE_RUNS_PER_SECOND_MAX),
        // Thousandths of a processor for a millisecond are a thousand nanoseconds.
        cpu_ns: u64::from(capacity.cpu_millis).saturating_mul(1000).saturating_mul(millis),
        memory_byte_ms: memory_bytes.saturating_mul(millis),
        memory_bytes_peak: memory_bytes,
        bytes_in: per_second(USAGE_BYTES_PER_SECOND_MAX),
        bytes_out: per_second(USAGE_BYTES_PER_SECOND_MAX),
    }
}

/// The smaller of both, for each number.
fn at_most(usage: Usage, most: Usage) -> Usage {
    Usage {
        runs: usage.runs.min(most.runs),
        failed_runs: usage.failed_runs.min(most.failed_runs),
        cpu_ns: usage.cpu_ns.min(most.cpu_ns),
        memory_byte_ms: usage.memory_byte_ms.min(most.memory_byte_ms),
        memory_bytes_peak: usage.memory_bytes_peak.min(most.memory_bytes_peak),
        bytes_in: usage.bytes_in.min(most.bytes_in),
        bytes_out: usage.bytes_out.min(most.bytes_out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: Resources = Resources { cpu_millis: 4000, memory_bytes: 4 << 30 };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000_000 + seconds * 1000)
    }

    fn cpu(seconds: u64) -> Usage {
        Usage { cpu_ns: seconds * 1_000_000_000, ..Usage::default() }
    }

    /// Sends records of `claim` at each of `times`; how much processor time was accepted.
    fn billed(times: impl Iterator<Item = u64>, claim: u64, placed: u64) -> u64 {
        let mut allowance = Allowance::since(at(0), CAPACITY);
        let accepted = times.map(|time| {
            allowance = allowance.filled(CAPACITY, at(time));
            allowance.take(cpu(claim), CAPACITY, at(placed)).cpu_ns
        });
        accepted.sum::<u64>() / 1_000_000_000
    }

    #[test]
    fn what_an_honest_node_sends_is_accepted() {
        assert_eq!(
            billed((1..1000).map(|n| n * 10), 40, 0),
            999 * 40,
            "all of its four processors"
        );
        assert_eq!(billed(std::iter::once(1), 4, 0), 4, "just after it has joined");
        // Two days without the control plane, and then all of it in many parts.
        let days = 2 * 86_400;
        assert_eq!(billed((0..1000).map(|_| days), days * 4 / 1000, 0), days * 4 / 1000 * 1000);
    }

    #[test]
    fn a_lying_node_bills_no_more_than_it_has() {
        let slack = USAGE_SLACK.as_secs() * 4;
        assert_eq!(billed((1..=1000).map(|n| n * 10), 1_000_000, 0), 40_000 + slack);
        assert_eq!(billed((0..1000).map(|_| 100), 1_000_000, 0), 400 + slack, "in many requests");
        // A task that was placed a moment ago has not used what the node has saved up.
        assert_eq!(billed(std::iter::once(3000), 1_000_000, 2990), 40 + slack);
        // Idle time is forgotten after a window.
        let idle = (1..=1000).map(|n| n * 3600).map(|time| (time, 0));
        let mut allowance = Allowance::since(at(0), CAPACITY);
        for (time, claim) in idle {
            allowance = allowance.filled(CAPACITY, at(time));
            allowance.take(cpu(claim), CAPACITY, at(0));
        }
        let hours = USAGE_WINDOW_MIN.as_secs();
        let accepted = allowance.take(cpu(u64::MAX / 2_000_000_000), CAPACITY, at(0));
        assert_eq!(accepted.cpu_ns / 1_000_000_000, 4 * hours);
        let everything = Usage {
            runs: u64::MAX,
            failed_runs: u64::MAX,
            cpu_ns: u64::MAX,
            memory_byte_ms: u64::MAX,
            memory_bytes_peak: u64::MAX,
            bytes_in: u64::MAX,
            bytes_out: u64::MAX,
        };
        let mut allowance = Allowance::since(at(0), CAPACITY).filled(CAPACITY, at(1));
        let accepted = allowance.take(everything, CAPACITY, at(0));
        assert!(accepted.memory_bytes_peak == 8 << 30 && accepted.bytes_in < 1 << 40);
        assert_eq!(allowance.left.cpu_ns, 0);
        let backwards = allowance.filled(CAPACITY, at(0));
        assert_eq!(backwards.left.cpu_ns, 0, "a clock that was set back gives nothing");
    }
}
