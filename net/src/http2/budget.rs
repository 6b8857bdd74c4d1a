use tokio::time::Instant;

use super::frames::{DATA, Frame, HEADERS, RST_STREAM};
use crate::limits::{
    HTTP2_OVERHEAD_MAX, HTTP2_OVERHEAD_PER_RESPONSE_FRAME, HTTP2_OVERHEAD_PER_SECOND,
    HTTP2_RESET_COST,
};

/// How many frames that carry nothing a client may still send: pings, settings, priorities, window
/// updates, empty pieces, resets. Each costs work, and none is bounded by a window. Responses earn
/// some, because clients that take many of them answer with updates of windows and pings.
#[derive(Debug)]
pub(super) struct Budget {
    left: u32,
    since: Instant,
}

impl Budget {
    pub fn new(now: Instant) -> Self {
        Self { left: HTTP2_OVERHEAD_MAX, since: now }
    }

    /// Takes what a frame of the client costs. `is_refused` says that it opens a stream that is one
    /// too many. False when there is not enough left.
    #[must_use]
    pub fn take(&mut self, frame: &Frame, is_refused: bool, now: Instant) -> bool {
        let cost = match frame.kind {
            DATA if frame.length > 0 || frame.ends_stream() => 0,
            HEADERS if !is_refused => 0,
            HEADERS | RST_STREAM => HTTP2_RESET_COST,
            _ => 1,
        };
        self.spend(cost, now)
    }

    /// The same of a server. Each head of it counts, which may be one of a response or before it.
    #[must_use]
    pub fn take_of_server(&mut self, frame: &Frame, now: Instant) -> bool {
        match frame.kind {
            DATA if frame.length > 0 || frame.ends_stream() => true,
            _ => self.spend(1, now),
        }
    }

    fn spend(&mut self, cost: u32, now: Instant) -> bool {
        if cost > self.left {
            self.refill(now);
        }
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    fn refill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        let earned = seconds * f64::from(HTTP2_OVERHEAD_PER_SECOND);
        if earned >= 1.0 {
            self.since = now;
            self.earn(earned.min(f64::from(HTTP2_OVERHEAD_MAX)) as u32);
        }
    }

    /// A frame with a part of a request or a response was written.
    pub fn earn_frame(&mut self) {
        self.earn(HTTP2_OVERHEAD_PER_RESPONSE_FRAME);
    }

    fn earn(&mut self, more: u32) {
        self.left = (self.left + more).min(HTTP2_OVERHEAD_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, length: u32) -> Frame {
        Frame { length, kind, flags: 0, stream: 1 }
    }

    #[test]
    fn frames_that_carry_nothing_run_out_and_come_back_with_time_and_responses() {
        let start = Instant::now();
        for (kind, length, is_refused, want) in [
            (DATA, 1, false, None),
            (HEADERS, 10, false, None),
            (DATA, 0, false, Some(1)),
            (4, 0, false, Some(1)),
            (6, 8, false, Some(1)),
            (8, 4, false, Some(1)),
            (0xfe, 0, false, Some(1)),
            (RST_STREAM, 4, false, Some(HTTP2_RESET_COST)),
            (HEADERS, 10, true, Some(HTTP2_RESET_COST)),
        ] {
            let mut budget = Budget::new(start);
            let many = HTTP2_OVERHEAD_MAX * 2;
            let taken = (0..many).filter(|_| budget.take(&frame(kind, length), is_refused, start));
            let want = want.map_or(many, |cost| HTTP2_OVERHEAD_MAX / cost);
            assert_eq!(taken.count() as u32, want, "kind {kind}");
        }
        let mut budget = Budget::new(start);
        let ping = frame(6, 8);
        let count = |budget: &mut Budget, now| {
            (0..HTTP2_OVERHEAD_MAX * 2).filter(|_| budget.take(&ping, false, now)).count() as u32
        };
        assert_eq!(count(&mut budget, start), HTTP2_OVERHEAD_MAX);
        let later = start + Duration::from_secs(1);
        assert_eq!(count(&mut budget, later), HTTP2_OVERHEAD_PER_SECOND);
        budget.earn_frame();
        assert_eq!(count(&mut budget, later), HTTP2_OVERHEAD_PER_RESPONSE_FRAME);
        assert_eq!(count(&mut budget, later + Duration::from_secs(3600)), HTTP2_OVERHEAD_MAX);
    }
}
