//! A process that runs a container, whichever kind it is.

use std::{path::PathBuf, time::Duration};

use spec::Usage;

use crate::{images::exe, tasks::ProcessId};

/// A container's process.
#[derive(Debug)]
pub(crate) enum Running {
    Wasm(Box<runtime::Worker>),
    Native(Native),
}

/// A native container, and the thread that waits for its end.
#[derive(Debug)]
pub(crate) struct Native {
    task: shim::Task,
    started: bool,
    ended: tokio::sync::oneshot::Receiver<Ended>,
}

/// What happens to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Happening {
    Started,
    Denied { line: String, count: u64 },
    Ended(Ended),
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub exit_code: i32,
    pub reason: Option<String>,
    /// Whether it never got as far as its program: trying again will hardly help.
    pub never_started: bool,
    /// What a native container used, by the kernel's count. A worker's counters lie in its folder.
    pub usage: Option<Usage>,
}

impl Ended {
    pub fn of_worker(exit: runtime::Exit) -> Self {
        Self {
            exit_code: exit.code(),
            reason: exit.message(),
            never_started: matches!(exit, runtime::Exit::NotStarted(_)),
            usage: None,
        }
    }

    pub fn of_native((exit, usage): (shim::Exit, Usage)) -> Self {
        Self {
            exit_code: exit.code(),
            reason: exit.message(),
            never_started: matches!(exit, shim::Exit::NotStarted(_)),
            usage: Some(usage),
        }
    }

    /// Nobody knows.
    pub fn lost(why: impl Into<String>) -> Self {
        Self { exit_code: 137, reason: Some(why.into()), never_started: false, usage: None }
    }
}

impl Running {
    pub fn wasm(worker: runtime::Worker) -> Self {
        Self::Wasm(Box::new(worker))
    }

    /// Starts a native container in `folder`.
    pub async fn native(
        folder: PathBuf,
        assignment: shim::Assignment,
    ) -> Result<Self, shim::Error> {
        let spawned =
            tokio::task::spawn_blocking(move || shim::Task::spawn(&exe(), &folder, assignment))
                .await;
        let task = spawned.map_err(|error| shim::Error::Io {
            what: "wait for the task shim".to_owned(),
            source: std::io::Error::other(error),
        })??;
        Ok(Self::adopted_native(task))
    }

    /// A native container that runs already.
    pub fn adopted_native(task: shim::Task) -> Self {
        let (tell, ended) = tokio::sync::oneshot::channel();
        let waiting = task.clone();
        // A thread of its own: it waits for as long as the container runs, and nobody waits for it.
        let waiter =
            std::thread::Builder::new().name("native-wait".to_owned()).stack_size(128 << 10);
        let spawned = waiter.spawn(move || {
            let _ = tell.send(match waiting.wait() {
                Ok(ended) => Ended::of_native(ended),
                Err(error) => Ended::lost(crate::error::chain(&error)),
            });
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "nobody waits for a native container");
        }
        Self::Native(Native { task, started: false, ended })
    }

    /// What happens next. Ends with [`Happening::Ended`].
    pub async fn next(&mut self) -> Happening {
        match self {
            Self::Wasm(worker) => loop {
                match worker.next_event().await {
                    Some(runtime::Event::Started) => return Happening::Started,
                    Some(runtime::Event::Denied { line, count }) => {
                        return Happening::Denied { line, count };
                    }
                    Some(runtime::Event::Exited(exit)) => {
                        return Happening::Ended(Ended::of_worker(exit));
                    }
                    Some(_) => {}
                    None => return Happening::Ended(Ended::of_worker(runtime::Exit::Lost)),
                }
            },
            Self::Native(native) if !native.started => {
                native.started = true;
                Happening::Started
            }
            Self::Native(native) => Happening::Ended(match (&mut native.ended).await {
                Ok(ended) => ended,
                Err(_) => Ended::lost("E_SHIM_LOST: nobody waited for the container"),
            }),
        }
    }

    /// Asks it to end within `grace`.
    pub async fn stop(&self, grace: Duration) {
        // One that is gone already will say so by its end.
        match self {
            Self::Wasm(worker) => drop(worker.stop(grace).await),
            Self::Native(native) => {
                let task = native.task.clone();
                drop(tokio::task::spawn_blocking(move || task.stop(grace)).await);
            }
        }
    }

    /// Hands a signal to its program. A Wasm program has none.
    pub async fn pass(&self, signal: i32) {
        if let Self::Native(native) = self {
            let task = native.task.clone();
            drop(tokio::task::spawn_blocking(move || task.kill(signal)).await);
        }
    }

    /// Tells its terminal a new size, rows and columns. A Wasm program has ours.
    pub async fn resize(&self, size: Option<(u16, u16)>) {
        if let (Self::Native(native), Some((rows, columns))) = (self, size) {
            let task = native.task.clone();
            drop(tokio::task::spawn_blocking(move || task.resize(rows, columns)).await);
        }
    }

    /// Ends it at once.
    pub fn kill(&self) {
        match self {
            Self::Wasm(worker) => worker.kill(),
            Self::Native(native) => drop(native.task.kill(9)),
        }
    }

    /// The native container, if it is one.
    pub fn as_native(&self) -> Option<&shim::Task> {
        match self {
            Self::Wasm(_) => None,
            Self::Native(native) => Some(&native.task),
        }
    }

    /// Its process.
    pub fn process(&self) -> Option<ProcessId> {
        let pid = match self {
            Self::Wasm(worker) => worker.pid(),
            Self::Native(native) => native.task.status().ok()?.shim_pid,
        };
        ProcessId::of(i32::try_from(pid).ok()?)
    }
}
