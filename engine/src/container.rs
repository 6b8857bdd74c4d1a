use std::{fmt::Debug, path::Path, pin::Pin, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use spec::{Capabilities, Usage};

use crate::{Assignment, Ended, Event, Listeners, StartError};

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How containers of one kind are started and found again.
pub trait Engine {
    /// What it needs beyond what all kinds of containers are handed.
    type Program;

    /// Starts a container. [`Event::Started`] follows when its program runs.
    ///
    /// # Errors
    /// Nothing of the container is left then.
    fn start(
        &self,
        assignment: Assignment<Self::Program>,
    ) -> impl Future<Output = Result<Box<dyn Container>, StartError>> + Send;

    /// Finds what became of the container of `folder`, which an earlier supervisor has started, and
    /// clears away what a killed one left. `grants` are from the caller's own record, never from
    /// the container.
    fn adopt(&self, folder: &Path, grants: Capabilities) -> impl Future<Output = Adopted> + Send;
}

/// What was found in a container's folder.
#[derive(Debug)]
pub enum Adopted {
    /// It runs, behind these listeners.
    Running(Box<dyn Container>, Listeners),
    /// It ended meanwhile, and how.
    Ended(Ended),
    /// Its process is gone and has left no exit, or cannot be spoken to; why.
    Gone(String),
}

/// How a container is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// When it is over, the container is killed.
    pub grace: Duration,
    /// What the program is sent in place of its own stop signal, where programs of its kind have
    /// signals.
    #[serde(default)]
    pub signal: Option<i32>,
}

impl Stop {
    /// The grace of a stop that waits without end: a century, which clocks can add to now.
    pub const GRACE_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
}

impl From<Duration> for Stop {
    fn from(grace: Duration) -> Self {
        Self { grace, signal: None }
    }
}

/// A container that runs. It keeps running when this is dropped.
pub trait Container: Debug + Send + Sync {
    /// What happens next; [`Event::Exited`] is the last, and comes again.
    fn next_event(&mut self) -> BoxFuture<'_, Event>;

    /// Asks it to end within a grace, and ends it then. Returns at once; its end is an event.
    fn stop(&self, stop: Stop) -> BoxFuture<'_, ()>;

    /// Hands a signal to its program, where programs of its kind have signals.
    fn signal(&self, signal: i32) -> BoxFuture<'_, ()>;

    /// Tells its terminal a new size, where that is not the supervisor's own.
    fn resize(&self, rows: u16, columns: u16) -> BoxFuture<'_, ()>;

    /// Ends it at once.
    fn kill(&self);

    /// The process that ends with it: its worker, or its shim.
    fn pid(&self) -> u32;

    fn usage(&self) -> Arc<dyn UsageSource>;
}

/// The counters of a container, readable for as long as it runs and afterwards.
pub trait UsageSource: Debug + Send + Sync {
    /// What has been counted; `None` when the counters cannot be read. May block.
    fn read(&self) -> Option<Usage>;
}
