//! What the processes of a platform share: a runtime, a log, and shutdown by a signal or with their
//! parent.

use std::{io::IsTerminal as _, os::fd::RawFd, time::Duration};

use anyhow::{Context as _, ensure};
use rustix::{
    process::{Pid, Signal, getppid, set_parent_process_death_signal},
    thread::capabilities,
};
use sandbox::Service;
use tokio::signal::unix::{Signal as Listener, SignalKind, signal};
use tracing_subscriber::{
    filter::{LevelFilter, ParseError, Targets},
    fmt,
    prelude::*,
};

use crate::output::{notice, printable};

use crate::{failure, rights::AGENT};

/// Options that `margay up` passes to the processes that it starts.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Child {
    /// End when this process ends
    #[arg(long, hide = true, value_name = "PID")]
    parent: Option<i32>,
}

impl Child {
    pub fn has_parent(&self) -> bool {
        self.parent.is_some()
    }

    /// Has the end of the parent told by a signal of its own, for a process that ends otherwise
    /// then than when it is asked to.
    pub fn tell_orphans_apart(&self) -> anyhow::Result<()> {
        self.on_end_of_parent(Signal::HUP)
    }

    /// Sets up a process that serves: its log, its end with its parent, and no descriptors but the
    /// standard streams and `kept`. To be called before the process has opened anything.
    pub fn begin(&self, kept: &[RawFd]) -> anyhow::Result<()> {
        self.end_with_parent()?;
        sandbox::close_other_descriptors(kept).context("cannot close inherited descriptors")?;
        log();
        if !self.has_parent() {
            say_few_descriptors();
        }
        Ok(())
    }

    /// Gives up everything that `service` does not name. To be called before the process has a
    /// second thread.
    pub fn confine(&self, service: &Service<'_>) -> anyhow::Result<()> {
        let confined = service.confine(|| self.end_with_parent_or_exit());
        let confined = confined.context("cannot give up what this process does not need")?;
        if !confined.own_files {
            tracing::warn!(
                "this kernel has no Landlock: this process keeps what its user may read"
            );
        }
        Ok(())
    }

    /// The kernel forgets whose child this is when its user changes: said again after that.
    pub fn end_with_parent_or_exit(&self) {
        if let Err(error) = self.end_with_parent() {
            failure::report(&error);
            std::process::exit(1);
        }
    }

    /// Ends this process with `margay up`, which may be killed without time to stop it. To be
    /// called before the process has a second thread.
    pub fn end_with_parent(&self) -> anyhow::Result<()> {
        self.on_end_of_parent(Signal::TERM)
    }

    fn on_end_of_parent(&self, signal: Signal) -> anyhow::Result<()> {
        let Some(parent) = self.parent else { return Ok(()) };
        set_parent_process_death_signal(Some(signal))?;
        // It may have ended before the line above.
        ensure!(getppid() == Pid::from_raw(parent), "the parent of this process has exited");
        Ok(())
    }
}

/// Said once for all processes of a platform, by the first: each has as many connections as it may
/// have descriptors.
pub fn say_few_descriptors() {
    if let Some(have) = net::Descriptors::allowed().few() {
        notice(format_args!(
            "a process may have {have} open files here, which is few connections; for more: \
             ulimit -Hn {}",
            net::DESCRIPTORS_MIN
        ));
    }
}

/// The capabilities of root that an agent does not use go for ever, for it and for whatever it
/// starts. To be called before the process has a second thread.
pub fn keep_agent_capabilities() -> anyhow::Result<()> {
    let held = capabilities(None)?.permitted;
    let kept = held & AGENT;
    sandbox::keep_capabilities(kept, kept).context("cannot give up capabilities")
}

/// Logs to stderr: warnings, or the levels in `MARGAY_LOG` (`info`, `debug`, `registry=trace`, …).
fn log() {
    let asked = std::env::var("MARGAY_LOG").unwrap_or_default();
    let filter = levels(&asked).unwrap_or_else(|error| {
        notice(format_args!("ignoring `MARGAY_LOG`, which is `{}`: {error}", printable(&asked)));
        Targets::new().with_default(LevelFilter::WARN)
    });
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    // A second call in one process changes nothing.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
}

/// What is not named has the level of warnings.
fn levels(asked: &str) -> Result<Targets, ParseError> {
    let asked = asked.trim();
    let named = if asked.is_empty() { Targets::new() } else { asked.parse()? };
    Ok(match named.default_level() {
        Some(_) => named,
        None => named.with_default(LevelFilter::WARN),
    })
}

/// Runs a future on this thread: verbs that talk to one peer need no more.
pub fn block_on<T, E: Into<anyhow::Error>>(
    work: impl Future<Output = Result<T, E>>,
) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work).map_err(Into::into)
}

/// Runs a server with several threads until SIGINT or SIGTERM. `work` gets the future to stop at.
pub fn until_shutdown<E: Into<anyhow::Error>, F: Future<Output = Result<(), E>>>(
    work: impl FnOnce(Stop) -> F,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let mut shutdown = ShutdownSignal::listen()?;
        work(Box::pin(async move { shutdown.recv().await })).await.map_err(Into::into)
    });
    // Blocking threads are not waited for: a read or a write on one is safe to cut.
    runtime.shutdown_timeout(Duration::from_millis(200));
    result
}

/// SIGINT and SIGTERM. Once listened to, they no longer end the process by themselves.
pub struct ShutdownSignal {
    interrupt: Listener,
    terminate: Listener,
}

impl ShutdownSignal {
    pub fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    pub async fn recv(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Ready once the parent has ended, after [`Child::tell_orphans_apart`].
pub async fn orphaned() {
    match signal(SignalKind::hangup()) {
        Ok(mut hangup) => drop(hangup.recv().await),
        Err(_) => std::future::pending().await,
    }
}

pub type Stop = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn levels_are_asked_for_by_name_and_the_rest_stays_at_warnings() {
        for (asked, registry, others) in [
            ("", Level::WARN, Level::WARN),
            (" ", Level::WARN, Level::WARN),
            ("info", Level::INFO, Level::INFO),
            ("DEBUG", Level::DEBUG, Level::DEBUG),
            ("registry=trace", Level::TRACE, Level::WARN),
            ("error,registry=info", Level::INFO, Level::ERROR),
        ] {
            let levels = levels(asked).unwrap_or_else(|error| panic!("{asked}: {error}"));
            for (target, most) in [("registry::server", registry), ("node", others)] {
                for level in [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE] {
                    let want = level <= most;
                    assert_eq!(
                        levels.would_enable(target, &level),
                        want,
                        "{asked} {target} {level}"
                    );
                }
            }
        }
        assert!(levels("registry=loud").is_err() && levels("a=b=c").is_err());
    }
}
