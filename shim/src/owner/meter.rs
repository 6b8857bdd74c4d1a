use std::time::{Duration, Instant};

use engine::Exit;
use spec::{Limits, Usage};

use crate::{
    limits::{OOM_TIME_MAX, SAMPLE_INTERVAL},
    owner::{members::Members, relay::Relay},
};

/// What a container has used, read at intervals.
pub(crate) struct Meter {
    members: Members,
    started: Instant,
    sampled: Instant,
    usage: Usage,
    /// At the last sample.
    memory_bytes: u64,
    oom_kills: u64,
    /// When the kernel last killed one of its processes for want of memory.
    oom_at: Option<Instant>,
}

impl Meter {
    /// Of a container that starts now.
    pub(crate) fn new(members: Members) -> Self {
        let now = Instant::now();
        let usage = Usage { runs: 1, ..Usage::default() };
        Self {
            members,
            started: now,
            sampled: now,
            usage,
            memory_bytes: 0,
            oom_kills: 0,
            oom_at: None,
        }
    }

    /// Until the next sample is due.
    pub(crate) fn timeout(&self) -> Duration {
        SAMPLE_INTERVAL.saturating_sub(self.sampled.elapsed())
    }

    /// Reads the counters.
    pub(crate) fn sample(&mut self, relay: &Relay) -> Usage {
        let reading = self.members.read();
        self.memory_bytes = reading.memory_bytes;
        let held_ms = u64::try_from(self.sampled.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.sampled = Instant::now();
        self.usage.cpu_ns = self.usage.cpu_ns.max(reading.cpu_ns);
        self.usage.memory_bytes_peak = self.usage.memory_bytes_peak.max(reading.memory_bytes_peak);
        if reading.oom_kills > self.oom_kills {
            self.oom_kills = reading.oom_kills;
            self.oom_at = Some(self.sampled);
        }
        let more = reading.memory_bytes.saturating_mul(held_ms);
        self.usage.memory_byte_ms = self.usage.memory_byte_ms.saturating_add(more);
        self.usage.bytes_in = relay.bytes_in;
        self.usage.bytes_out = relay.bytes_out;
        self.usage
    }

    /// The limit that the last sample exceeds, and that the kernel does not keep.
    pub(crate) fn exceeded(&self, limits: &Limits) -> Option<Exit> {
        let bytes_max = limits.memory_bytes_max;
        if !self.members.are_limited() && self.memory_bytes > bytes_max {
            return Some(Exit::out_of_memory(bytes_max));
        }
        match (limits.cpu_time_max, limits.wall_time_max) {
            (Some(max), _) if u128::from(self.usage.cpu_ns) > max.as_nanos() => {
                Some(Exit::out_of_cpu(max))
            }
            (_, Some(max)) if self.started.elapsed() > max => Some(Exit::out_of_time(max)),
            _ => None,
        }
    }

    /// Whether a kill for want of memory explains an end at `died_at`.
    pub(crate) fn ran_out_of_memory(&self, died_at: Instant) -> bool {
        self.oom_at.is_some_and(|at| at + OOM_TIME_MAX >= died_at && at <= died_at)
    }
}
