use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use spec::ClockLevel;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtxBuilder};

use crate::worker::meter::RunClock;

/// Gives a guest its clocks, as well as they were granted.
pub(crate) fn set(builder: &mut WasiCtxBuilder, level: ClockLevel, run: &Arc<RunClock>) {
    builder
        .monotonic_clock(Clock { level, run: run.clone() })
        .wall_clock(Clock { level, run: run.clone() });
}

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
