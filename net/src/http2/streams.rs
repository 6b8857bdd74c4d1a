use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    frames::{DATA, Frame, HEADERS},
    times::Http2Limits,
};
use crate::{ConnectionLimits, ConnectionPermit, activity::Activity};

/// What is open on one connection: known to the stream of bytes, which sees frames, and to the
/// requests, which hyper runs apart.
#[derive(Debug)]
pub(super) struct Streams {
    open: Mutex<Open>,
    pub activity: Arc<Activity>,
}

#[derive(Debug)]
struct Open {
    /// Streams without the end of a response on the wire.
    streams: HashSet<u32>,
    last: u32,
    /// One for each of them that became a request, and for no stream in particular.
    permits: Vec<ConnectionPermit>,
    /// Requests and the bodies of their responses.
    alive: usize,
    next: u64,
    /// Bodies of which a piece was handed over and not taken since.
    waiting: BTreeMap<u64, Instant>,
    /// Frames of responses on the wire.
    written: u64,
    /// Since when there is an end of a response that is not on the wire, while nothing was written.
    stuck: Option<(u64, Instant)>,
    /// Since when nothing is open.
    idle: Option<Instant>,
    has_asked: bool,
}

/// How a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Fine,
    /// Nothing was asked for a while.
    Idle,
    /// The client takes nothing of a response.
    Stalled,
}

/// One request until the last of its response was handed over.
#[derive(Debug)]
pub(super) struct Alive {
    streams: Arc<Streams>,
    number: u64,
}

impl Streams {
    pub fn new(now: Instant, activity: Arc<Activity>) -> Self {
        let open = Open {
            streams: HashSet::new(),
            last: 0,
            permits: Vec::new(),
            alive: 0,
            next: 0,
            waiting: BTreeMap::new(),
            written: 0,
            stuck: None,
            idle: Some(now),
            has_asked: false,
        };
        Self { open: Mutex::new(open), activity }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A frame has come. Returns whether it opens a stream beyond `streams_max`.
    pub fn came(&self, frame: &Frame, streams_max: usize) -> bool {
        let opens = frame.kind == HEADERS;
        let resets = frame.kind != DATA && !opens && frame.ends_stream();
        if !opens && !resets {
            return false;
        }
        let mut open = self.open();
        if resets {
            open.streams.remove(&frame.stream);
            open.settle(&self.activity);
            return false;
        }
        if frame.stream <= open.last {
            return false; // trailers
        }
        open.last = frame.stream;
        if open.streams.len() >= streams_max {
            return true;
        }
        open.streams.insert(frame.stream);
        (open.idle, open.has_asked) = (None, true);
        self.activity.ask();
        false
    }

    /// A frame was written. Returns whether it is one of a response.
    pub fn wrote(&self, frame: &Frame) -> bool {
        let is_response = matches!(frame.kind, DATA | HEADERS);
        if is_response || frame.ends_stream() {
            let mut open = self.open();
            open.written += u64::from(is_response);
            if frame.ends_stream() {
                open.streams.remove(&frame.stream);
                open.settle(&self.activity);
            }
        }
        is_response
    }

    /// Counts a request as one of its client's. False when that has too many.
    pub fn admit(&self, limits: &ConnectionLimits, client: IpAddr) -> bool {
        let permit = limits.try_admit_from(client);
        let is_admitted = permit.is_some();
        let mut open = self.open();
        open.permits.extend(permit);
        open.settle(&self.activity);
        is_admitted
    }

    pub fn begin(self: &Arc<Self>) -> Alive {
        let mut open = self.open();
        open.alive += 1;
        open.next += 1;
        Alive { streams: self.clone(), number: open.next }
    }

    pub fn standing(&self, limits: &Http2Limits, now: Instant) -> Standing {
        let mut open = self.open();
        let over =
            |since: &Instant, time_max: Duration| now.saturating_duration_since(*since) >= time_max;
        // The end of a response may wait in h2, when nothing here is alive any more.
        let is_stuck = open.streams.len() > open.alive;
        let same = |stuck: &(u64, Instant)| is_stuck && stuck.0 == open.written;
        open.stuck = open.stuck.filter(same).or(is_stuck.then_some((open.written, now)));
        let stuck = open.stuck.iter().map(|(_, since)| since);
        if open.waiting.values().chain(stuck).any(|since| over(since, limits.take_time_max)) {
            return Standing::Stalled;
        }
        let idle_max = if open.has_asked { limits.idle_time_max } else { limits.first_time_max };
        match open.idle {
            Some(since) if open.alive == 0 && over(&since, idle_max) => Standing::Idle,
            Some(_) | None => Standing::Fine,
        }
    }
}

impl Open {
    /// Gives back what closed streams had.
    fn settle(&mut self, activity: &Activity) {
        self.permits.truncate(self.streams.len());
        if self.streams.is_empty() && self.idle.is_none() {
            self.idle = Some(Instant::now());
            activity.rest();
        }
    }
}

impl Alive {
    /// A piece of its response was handed over.
    pub fn handed_over(&self) {
        self.streams.open().waiting.insert(self.number, Instant::now());
        self.streams.activity.wait();
    }

    /// The next one is asked for.
    pub fn taken(&self) {
        self.streams.open().waiting.remove(&self.number);
        self.streams.activity.moved(0); // its bytes are counted when they are written
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        let mut open = self.streams.open();
        open.alive -= 1;
        open.waiting.remove(&self.number);
        self.streams.activity.moved(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn frame(kind: u8, flags: u8, stream: u32) -> Frame {
        Frame { length: 1, kind, flags, stream }
    }

    fn limits() -> Http2Limits {
        Http2Limits {
            first_time_max: SECOND,
            idle_time_max: 5 * SECOND,
            take_time_max: 3 * SECOND,
            write_time_max: SECOND,
        }
    }

    #[test]
    fn a_request_counts_until_the_end_of_its_response_is_on_the_wire() {
        let now = Instant::now();
        let streams = Arc::new(Streams::new(now, Arc::default()));
        let all = ConnectionLimits::new(2, 2);
        let client: IpAddr = [10, 0, 0, 1].into();
        for stream in [1, 3, 5] {
            assert!(!streams.came(&frame(HEADERS, 5, stream), 3), "{stream}");
        }
        assert!(streams.came(&frame(HEADERS, 5, 7), 3), "a fourth one is too many");
        let admitted = [1, 3, 5].map(|_| streams.admit(&all, client));
        assert_eq!(admitted, [true, true, false]);
        // The response was handed over, and not written: it still counts.
        drop(streams.begin());
        assert_eq!(all.available(), 0);
        assert!(streams.wrote(&frame(HEADERS, 4, 1)));
        assert!(streams.wrote(&frame(DATA, 1, 1)));
        assert!(!streams.came(&frame(3, 0, 3), 3));
        assert_eq!(all.available(), 1);
        assert!(!streams.came(&frame(HEADERS, 5, 5), 3), "trailers open nothing");
        assert!(!streams.wrote(&frame(3, 0, 5)));
        assert_eq!(all.available(), 2);
    }

    #[test]
    fn a_connection_that_asks_for_nothing_or_takes_nothing_is_told_from_a_good_one() {
        let now = Instant::now();
        let streams = Arc::new(Streams::new(now, Arc::default()));
        let standing = |after: f64| streams.standing(&limits(), now + SECOND.mul_f64(after));
        assert_eq!((standing(0.5), standing(1.5)), (Standing::Fine, Standing::Idle));
        streams.came(&frame(HEADERS, 5, 1), 9);
        let alive = streams.begin();
        assert_eq!(standing(100.0), Standing::Fine, "a response may take its time");
        alive.handed_over();
        assert_eq!((standing(1.0), standing(9.0)), (Standing::Fine, Standing::Stalled));
        alive.taken();
        assert_eq!(standing(9.0), Standing::Fine);
        drop(alive);
        // Its end is not on the wire yet.
        assert_eq!((standing(10.0), standing(14.0)), (Standing::Fine, Standing::Stalled));
        streams.wrote(&frame(DATA, 0, 1));
        assert_eq!((standing(15.0), standing(17.0)), (Standing::Fine, Standing::Fine));
        streams.wrote(&frame(DATA, 1, 1));
        assert_eq!((standing(4.0), standing(20.0)), (Standing::Fine, Standing::Idle));
    }
}
