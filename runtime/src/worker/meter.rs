//! What runs use, and what stops them: memory summed over the container, CPU time measured where it
//! is spent.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use wasmtime::{ResourceLimiter, Store, UpdateDeadline};

use crate::usage::{UsagePage, add};

/// What all instances of a container share.
#[derive(Debug)]
pub(crate) struct Meter {
    pub page: UsagePage,
    memory_now: AtomicU64,
    memory_max: u64,
}

impl Meter {
    pub fn new(page: UsagePage, memory_max: u64) -> Self {
        Self { page, memory_now: AtomicU64::new(0), memory_max }
    }

    fn take(&self, bytes: u64) -> bool {
        let taken = self.memory_now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
            now.checked_add(bytes).filter(|sum| *sum <= self.memory_max)
        });
        match taken {
            Ok(before) => {
                self.page.memory_bytes_peak.fetch_max(before + bytes, Ordering::Relaxed);
                true
            }
            Err(_) => false,
        }
    }

    /// Whether at most half of the memory is taken.
    pub fn has_half_left(&self) -> bool {
        self.memory_now.load(Ordering::Relaxed) <= self.memory_max / 2
    }

    fn give_back(&self, bytes: u64) {
        self.memory_now.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Why a run was ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Cut {
    #[error("its CPU time is used up")]
    Cpu,
}

/// What one run holds of the container's memory. Gives it back when the store goes.
pub(crate) struct Held {
    clock: Arc<RunClock>,
    bytes: u64,
    /// Up to when `byte_ns` counts, on the run's clock.
    since_ns: u64,
    byte_ns: u128,
    refused: bool,
}

impl Held {
    pub fn new(clock: Arc<RunClock>) -> Self {
        Self { clock, bytes: 0, since_ns: 0, byte_ns: 0, refused: false }
    }

    /// Whether more memory was refused.
    pub fn was_refused(&self) -> bool {
        self.refused
    }

    fn grow(&mut self, more: u64) -> bool {
        if !self.clock.meter.take(more) {
            self.refused = true;
            return false;
        }
        // An instance grows a dozen times while it is made. Each counts from the last reading of
        // the clock on, a millisecond early at most.
        self.settle(self.clock.read_ns());
        self.bytes += more;
        true
    }

    fn settle(&mut self, now_ns: u64) {
        self.byte_ns += u128::from(self.bytes) * u128::from(now_ns - self.since_ns);
        self.since_ns = now_ns;
    }

    /// Bills what was held so far: a run that is killed has been billed up to its last tick.
    fn bill(&mut self) {
        self.settle(self.clock.now());
        let byte_ms = u64::try_from(self.byte_ns / 1_000_000).unwrap_or(u64::MAX);
        self.byte_ns %= 1_000_000;
        add(&self.clock.meter.page.memory_byte_ms, byte_ms);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.bill();
        self.clock.meter.give_back(self.bytes);
    }
}

/// Bytes of one table element on the host's side.
const ELEMENT_BYTES: usize = 16;

impl ResourceLimiter for Held {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(maximum.is_none_or(|maximum| desired <= maximum)
            && self.grow((desired - current) as u64))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let bytes = (desired - current).saturating_mul(ELEMENT_BYTES) as u64;
        Ok(maximum.is_none_or(|maximum| desired <= maximum) && self.grow(bytes))
    }
}

/// The time that one run has spent on a processor, readable while it runs.
#[derive(Debug)]
pub(crate) struct RunClock {
    meter: Arc<Meter>,
    began: Instant,
    /// The last reading, in nanoseconds since `began`.
    read_ns: AtomicU64,
    cpu_ns: AtomicU64,
    /// How much of that is in the usage page.
    billed_ns: AtomicU64,
    /// Start of the current poll, in nanoseconds since `began`.
    poll_ns: AtomicU64,
    yielded: AtomicBool,
    /// What a guest with a frozen clock sees.
    frozen_ns: AtomicU64,
}

impl RunClock {
    pub fn new(meter: Arc<Meter>, began: Instant) -> Self {
        Self {
            meter,
            began,
            read_ns: AtomicU64::new(0),
            cpu_ns: AtomicU64::new(0),
            billed_ns: AtomicU64::new(0),
            poll_ns: AtomicU64::new(0),
            yielded: AtomicBool::new(false),
            frozen_ns: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        let now = self.began.elapsed().as_nanos() as u64;
        self.read_ns.store(now, Ordering::Relaxed);
        now
    }

    fn read_ns(&self) -> u64 {
        self.read_ns.load(Ordering::Relaxed)
    }

    /// The next request of the same instance: its processor time counts from zero, and the guest's
    /// clock goes on.
    pub fn begins_again(&self) {
        self.cpu_ns.store(0, Ordering::Relaxed);
        self.billed_ns.store(0, Ordering::Relaxed);
        self.yielded.store(false, Ordering::Relaxed);
    }

    pub fn began(&self) -> Instant {
        self.began
    }

    /// Nanoseconds since the start, as of the last import that waited.
    pub fn frozen(&self) -> u64 {
        self.frozen_ns.load(Ordering::Relaxed)
    }

    /// Bills what was spent up to `spent`, in nanoseconds, as far as it is not billed yet.
    fn bill(&self, spent: u64) {
        let before = self.billed_ns.fetch_max(spent, Ordering::Relaxed);
        add(&self.meter.page.cpu_ns, spent.saturating_sub(before));
    }

    fn poll_begins(&self) {
        let now = self.now();
        ThreadClock::mark(self.began + Duration::from_nanos(now));
        self.poll_ns.store(now, Ordering::Relaxed);
        if !self.yielded.swap(false, Ordering::Relaxed) {
            self.frozen_ns.store(now, Ordering::Relaxed);
        }
    }

    /// What the current poll has cost so far.
    fn poll_cost(&self) -> u64 {
        ThreadClock::spent(self.now() - self.poll_ns.load(Ordering::Relaxed))
    }

    fn poll_ends(&self) {
        let cost = self.poll_cost();
        ThreadClock::count(cost);
        let before = self.cpu_ns.fetch_add(cost, Ordering::Relaxed);
        self.bill(before + cost);
    }

    /// A millisecond has passed within one poll; whether the run may go on.
    fn tick(&self, cpu_max: Option<Duration>) -> bool {
        let spent = self.cpu_ns.load(Ordering::Relaxed) + self.poll_cost();
        self.bill(spent);
        self.yielded.store(true, Ordering::Relaxed);
        cpu_max.is_none_or(|max| u128::from(spent) <= max.as_nanos())
    }
}

/// A shorter time is taken as it passed: to ask the kernel costs a third of a microsecond.
const ASKED_FROM: Duration = Duration::from_millis(1);
/// How old the mark may be that a longer time is measured from.
const MARK_AGE_MAX: Duration = Duration::from_millis(10);

/// The processor time of this thread, asked for seldom. Of the time that passes in a poll, the
/// thread may have had the processor for a part only: others had it, or its cgroup had none left.
#[derive(Debug, Clone, Copy)]
struct ThreadClock {
    marked: Option<Instant>,
    /// As of that moment.
    cpu_ns: u64,
    /// What runs were counted for since.
    counted_ns: u64,
}

thread_local! {
    static THREAD: Cell<ThreadClock> =
        const { Cell::new(ThreadClock { marked: None, cpu_ns: 0, counted_ns: 0 }) };
}

impl ThreadClock {
    fn mark(now: Instant) {
        let old = |marked: Instant| now.saturating_duration_since(marked) > MARK_AGE_MAX;
        if THREAD.get().marked.is_none_or(old) {
            THREAD.set(Self { marked: Some(now), cpu_ns: thread_time(), counted_ns: 0 });
        }
    }

    /// How much of the last `passed` nanoseconds this thread was running for.
    fn spent(passed: u64) -> u64 {
        if u128::from(passed) < ASKED_FROM.as_nanos() {
            return passed;
        }
        let Self { cpu_ns, counted_ns, .. } = THREAD.get();
        passed.min(thread_time().saturating_sub(cpu_ns).saturating_sub(counted_ns))
    }

    fn count(cost: u64) {
        let clock = THREAD.get();
        THREAD.set(Self { counted_ns: clock.counted_ns + cost, ..clock });
    }
}

fn thread_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// Gives `store` its limits on memory and CPU time, and makes it yield at every tick.
pub(crate) fn limit<T: 'static>(
    store: &mut Store<T>,
    held: fn(&mut T) -> &mut Held,
    clock: Arc<RunClock>,
    cpu_max: Option<Duration>,
) {
    store.limiter(move |guest| held(guest));
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |mut store| {
        held(store.data_mut()).bill();
        match clock.tick(cpu_max) {
            true => Ok(UpdateDeadline::Yield(1)),
            false => Err(Cut::Cpu.into()),
        }
    });
}

/// A future whose polls are a run's time on a processor, its drop included.
pub(crate) struct Timed<F> {
    future: Option<Pin<Box<F>>>,
    clock: Arc<RunClock>,
}

impl<F: Future> Timed<F> {
    pub fn new(future: F, clock: Arc<RunClock>) -> Self {
        Self { future: Some(Box::pin(future)), clock }
    }
}

impl<F: Future> Future for Timed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.clock.poll_begins();
        let future = self.future.as_mut().expect("a future is not polled after its end");
        let polled = future.as_mut().poll(cx);
        if polled.is_ready() {
            self.future = None;
        }
        self.clock.poll_ends();
        polled
    }
}

impl<F> Drop for Timed<F> {
    fn drop(&mut self) {
        if self.future.is_some() {
            self.clock.poll_begins();
            self.future = None;
            self.clock.poll_ends();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_billed_from_the_last_reading_of_the_clock_to_its_release() {
        const MIB: u64 = 1 << 20;
        let second = Duration::from_secs(1);
        let file = tempfile::tempfile().unwrap();
        file.set_len(crate::usage::PAGE_BYTES).unwrap();
        let meter = Arc::new(Meter::new(UsagePage::map(&file).unwrap(), 4 * MIB));
        let billed = |is_read_before: bool| {
            let began = Instant::now().checked_sub(second).expect("the machine is up for longer");
            let clock = Arc::new(RunClock::new(meter.clone(), began));
            if is_read_before {
                clock.poll_begins();
            }
            let before = meter.page.memory_byte_ms.load(Ordering::Relaxed);
            let mut held = Held::new(clock);
            assert!(held.grow(MIB) && held.grow(3 * MIB) && !held.grow(1) && held.was_refused());
            drop(held);
            assert_eq!(meter.memory_now.load(Ordering::Relaxed), 0);
            meter.page.memory_byte_ms.load(Ordering::Relaxed) - before
        };
        let a_second = 4 * MIB * 1000;
        assert!((a_second..2 * a_second).contains(&billed(false)));
        assert!(billed(true) < a_second / 2, "what was before the reading is not billed");
    }

    /// What a run is billed for `work`, in milliseconds.
    fn billed(work: impl Fn()) -> u64 {
        let file = tempfile::tempfile().unwrap();
        file.set_len(crate::usage::PAGE_BYTES).unwrap();
        let meter = Arc::new(Meter::new(UsagePage::map(&file).unwrap(), 0));
        let clock = Arc::new(RunClock::new(meter.clone(), Instant::now()));
        let mut run = Box::pin(Timed::new(async { work() }, clock));
        let waker = std::task::Waker::noop();
        assert!(run.as_mut().poll(&mut Context::from_waker(waker)).is_ready());
        meter.page.cpu_ns.load(Ordering::Relaxed) / 1_000_000
    }

    #[test]
    fn time_without_a_processor_is_not_billed() {
        // As a thread has none whose cgroup has used up its quota.
        let waited = billed(|| std::thread::sleep(Duration::from_millis(200)));
        assert!(waited < 20, "{waited} ms of 200 that it slept");
        let spin = || {
            let before = thread_time();
            while thread_time() - before < 50_000_000 {}
        };
        let spun = billed(spin);
        assert!((50..70).contains(&spun), "{spun} ms of 50 that it was running");
        let both = billed(|| {
            std::thread::sleep(Duration::from_millis(100));
            spin();
        });
        assert!((50..80).contains(&both), "{both} ms of 50 that it was running");
    }
}
