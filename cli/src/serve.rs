//! What the processes of a platform share: a runtime, a log, an end when they are asked to or their
//! parent is gone.

use std::{io::IsTerminal as _, time::Duration};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use tokio::signal::unix::{Signal as Listener, SignalKind, signal};
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

use crate::failure::{Advice, fail};

/// Options of every process that `margay up` starts, for `up` alone.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Child {
    /// End when this process ends
    #[arg(long, hide = true, value_name = "PID")]
    parent: Option<i32>,
}

impl Child {
    /// Whether `margay up` started this process.
    pub fn has_parent(&self) -> bool {
        self.parent.is_some()
    }

    /// Ties our life to that of `margay up`: it may be killed in a way that leaves it no time to
    /// tell us. To be called before the process has a second thread.
    pub fn settle(&self) -> anyhow::Result<()> {
        let Some(parent) = self.parent else { return Ok(()) };
        set_parent_process_death_signal(Some(Signal::TERM))?;
        // It may have ended before the line above.
        match getppid() == Pid::from_raw(parent) {
            true => Ok(()),
            false => fail(Advice::new("whoever started this process is gone")),
        }
    }
}

/// Lines on stderr: warnings, or what `MARGAY_LOG` asks for (`info`, `debug`, `registry=trace`, …).
pub fn log() {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::WARN.into())
        .with_env_var("MARGAY_LOG")
        .from_env_lossy();
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    // A second call in one process changes nothing.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
}

/// Runs a server with several threads until it is asked to end. `work` gets the future to stop at.
pub fn until_asked<F>(work: impl FnOnce(Stop) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let mut asked = Asked::listen()?;
        work(Box::pin(async move { asked.again().await })).await
    });
    // What still runs on a blocking thread is not waited for: it is a read or a write that is safe
    // to cut.
    runtime.shutdown_timeout(Duration::from_millis(200));
    result
}

/// The signals that ask this process to end. From the first of these on they end it no more by
/// themselves.
pub struct Asked {
    interrupt: Listener,
    terminate: Listener,
}

impl Asked {
    /// Starts to listen.
    pub fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Ready at the next SIGINT or SIGTERM.
    pub async fn again(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Ready when the process is asked to end.
pub type Stop = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
