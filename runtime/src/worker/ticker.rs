//! One thread that advances the engine's epoch each millisecond while something runs, and sleeps
//! while nothing does: an idle worker costs no processor. It also looks at the heap, which holds
//! what the host keeps for guests: header fields, bodies on their way, handles. Each of these has a
//! limit; this one is for all of them together.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::Thread,
};

use wasmtime::Engine;

use crate::limits::{TICK, TICKS_PER_HEAP_CHECK};

#[derive(Debug, Clone)]
pub(crate) struct Ticker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    running: AtomicUsize,
    thread: std::sync::OnceLock<Thread>,
}

impl Ticker {
    /// Starts the thread. It lasts as long as the process, or until the heap has more than
    /// `heap_bytes_max`: then it calls `outgrown`, and ends.
    pub fn start(
        engine: &Engine,
        heap_bytes_max: u64,
        outgrown: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Self> {
        let inner =
            Arc::new(Inner { running: AtomicUsize::new(0), thread: std::sync::OnceLock::new() });
        let (shared, engine) = (inner.clone(), engine.weak());
        let handle = std::thread::Builder::new()
            .name("ticker".to_owned())
            .stack_size(64 << 10)
            .spawn(move || {
                let mut ticks = 0u32;
                loop {
                    while shared.running.load(Ordering::Acquire) > 0 {
                        std::thread::sleep(TICK);
                        match engine.upgrade() {
                            Some(engine) => engine.increment_epoch(),
                            None => return,
                        }
                        ticks = ticks.wrapping_add(1);
                        if ticks.is_multiple_of(TICKS_PER_HEAP_CHECK)
                            && heap_bytes() > heap_bytes_max
                        {
                            return outgrown();
                        }
                    }
                    std::thread::park();
                }
            })?;
        inner.thread.get_or_init(|| handle.thread().clone());
        Ok(Self(inner))
    }

    /// Ticks until the guard goes.
    pub fn run(&self) -> Running {
        if self.0.running.fetch_add(1, Ordering::AcqRel) == 0
            && let Some(thread) = self.0.thread.get()
        {
            thread.unpark();
        }
        Running(self.0.clone())
    }
}

/// Bytes that the allocator has given out.
#[cfg(target_env = "gnu")]
pub(crate) fn heap_bytes() -> u64 {
    // SAFETY: it only reads the allocator's own counters, under the allocator's own locks.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks as u64).saturating_add(info.hblkhd as u64)
}

/// Other allocators do not report it.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn heap_bytes() -> u64 {
    0
}

/// Ticks as long as it lives.
#[derive(Debug)]
pub(crate) struct Running(Arc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_heap_that_outgrows_its_limit_is_noticed_while_something_runs() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let engine = crate::engine::compiler().unwrap();
        let ticker =
            Ticker::start(&engine, heap_bytes() + (256 << 20), move || sender.send(()).unwrap())
                .unwrap();
        let _running = ticker.run();
        assert!(receiver.recv_timeout(Duration::from_millis(200)).is_err(), "nothing has grown");
        let hoard = vec![1u8; 512 << 20];
        receiver.recv_timeout(Duration::from_secs(10)).expect("it is noticed");
        drop(std::hint::black_box(hoard));
    }
}
