//! One thread that advances the engine's epoch each millisecond while something runs, and sleeps while nothing does: an
//! idle worker costs no processor.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::Thread,
    time::Duration,
};

use wasmtime::Engine;

/// The unit of CPU limits and of fairness between runs.
const TICK: Duration = Duration::from_millis(1);

#[derive(Debug, Clone)]
pub(crate) struct Ticker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    running: AtomicUsize,
    thread: std::sync::OnceLock<Thread>,
}

impl Ticker {
    /// Starts the thread. It lasts as long as the process.
    pub fn start(engine: &Engine) -> std::io::Result<Self> {
        let inner = Arc::new(Inner { running: AtomicUsize::new(0), thread: std::sync::OnceLock::new() });
        let (theirs, engine) = (inner.clone(), engine.weak());
        let handle = std::thread::Builder::new().name("ticker".to_owned()).stack_size(64 << 10).spawn(move || {
            loop {
                while theirs.running.load(Ordering::Acquire) > 0 {
                    std::thread::sleep(TICK);
                    match engine.upgrade() {
                        Some(engine) => engine.increment_epoch(),
                        None => return,
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

/// Something runs.
#[derive(Debug)]
pub(crate) struct Running(Arc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}
