//! Time and randomness as a guest sees them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use spec::{ClockLevel, RandomLevel};
use wasmtime_wasi::{Deterministic, HostMonotonicClock, HostWallClock, WasiCtxBuilder};

use super::meter::RunClock;

/// More random bytes at once than any honest program asks for.
const RANDOM_BYTES_MAX: u64 = 64 << 10;
/// A seeded sequence repeats after this many bytes.
const SEQUENCE_BYTES: usize = 4096;

/// A guest's two clocks, one beside the other.
struct Clock {
    level: ClockLevel,
    run: Arc<RunClock>,
}

impl Clock {
    fn step(&self) -> Duration {
        match self.level {
            ClockLevel::Fine => Duration::from_nanos(1),
            ClockLevel::None | ClockLevel::Frozen | ClockLevel::Coarse => Duration::from_millis(1),
        }
    }

    fn since_start(&self) -> Duration {
        match self.level {
            ClockLevel::None => Duration::ZERO,
            ClockLevel::Frozen => Duration::from_nanos(self.run.frozen()),
            ClockLevel::Coarse | ClockLevel::Fine => self.run.began().elapsed(),
        }
    }

    fn rounded(&self, time: Duration) -> Duration {
        match self.level {
            ClockLevel::Fine => time,
            ClockLevel::None | ClockLevel::Frozen | ClockLevel::Coarse => {
                Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
            }
        }
    }
}

impl HostMonotonicClock for Clock {
    fn resolution(&self) -> u64 {
        self.step().as_nanos() as u64
    }

    fn now(&self) -> u64 {
        self.rounded(self.since_start()).as_nanos() as u64
    }
}

impl HostWallClock for Clock {
    fn resolution(&self) -> Duration {
        self.step()
    }

    fn now(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        match self.level {
            ClockLevel::None => Duration::ZERO,
            ClockLevel::Frozen => {
                self.rounded(now.saturating_sub(self.run.began().elapsed()) + self.since_start())
            }
            ClockLevel::Coarse | ClockLevel::Fine => self.rounded(now),
        }
    }
}

/// Sets the clocks and the random numbers that were granted.
pub(super) fn set(
    builder: &mut WasiCtxBuilder,
    clock: ClockLevel,
    random: RandomLevel,
    run: &Arc<RunClock>,
) {
    builder
        .monotonic_clock(Clock { level: clock, run: run.clone() })
        .wall_clock(Clock { level: clock, run: run.clone() })
        .max_random_size(RANDOM_BYTES_MAX);
    match random {
        RandomLevel::Secure => {}
        RandomLevel::Seeded => fixed(builder, sequence(), 0x6d61_7267_6179),
        RandomLevel::None => fixed(builder, vec![0], 0),
    }
}

fn fixed(builder: &mut WasiCtxBuilder, bytes: Vec<u8>, seed: u128) {
    builder
        .secure_random(Deterministic::new(bytes.clone()))
        .insecure_random(Deterministic::new(bytes))
        .insecure_random_seed(seed);
}

/// The same in every run (xorshift64).
fn sequence() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    words.take(SEQUENCE_BYTES / 8).flat_map(u64::to_le_bytes).collect()
}
