use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use engine::{
    Adopted, BoxFuture, Container, Ended, Engine, Event, Exit, StartError, Stop, UsageSource,
};
use spec::{Capabilities, OutboundGrant, Usage};
use tokio::{sync::oneshot, task::spawn_blocking};

use crate::{
    Assignment, Connector, Error, NativeProgram, Task,
    client::{connect::keep_connecting, task},
};

/// Native containers: each under an OCI runtime, with a task shim beside it.
#[derive(Debug, Clone)]
pub struct NativeEngine {
    exe: PathBuf,
    connector: Arc<dyn Connector>,
}

impl NativeEngine {
    /// `exe` is a program that calls [`main`](crate::main) when its first argument is `shim`, and
    /// `connector` reaches what containers were granted.
    pub fn new(exe: PathBuf, connector: Arc<dyn Connector>) -> Self {
        Self { exe, connector }
    }

    fn connects(&self, task: &Task, grants: Vec<OutboundGrant>) -> Result<(), Error> {
        match grants.is_empty() && self.connector.local_ports().is_empty() {
            true => Ok(()),
            false => keep_connecting(task.clone(), grants, self.connector.clone()),
        }
    }
}

impl Engine for NativeEngine {
    type Program = NativeProgram;

    async fn start(&self, mut assignment: Assignment) -> Result<Box<dyn Container>, StartError> {
        let engine = self.clone();
        assignment.program.local_ports = engine.connector.local_ports();
        let spawned = spawn_blocking(move || {
            let grants = assignment.grants.outbound.clone();
            let (task, shim) = Task::spawn_under(&engine.exe, assignment)?;
            engine.connects(&task, grants)?;
            NativeContainer::boxed(task, shim.as_raw_nonzero().get().unsigned_abs(), false)
        });
        let spawned = spawned.await.map_err(|error| StartError::host(error.to_string()))?;
        spawned.map_err(|error| StartError {
            failure: error.failure(),
            message: error.chain(),
            hint: error.hint(),
        })
    }

    async fn adopt(&self, folder: &Path, grants: Capabilities) -> Adopted {
        let (folder, engine) = (folder.to_owned(), self.clone());
        let found = spawn_blocking(move || match Task::adopt(&folder)? {
            task::Adopted::Running(task) => {
                let listeners = task.listeners()?;
                engine.connects(&task, grants.outbound)?;
                // One that has ended already has no shim, and says so by its end.
                let shim_pid = task.status().map_or(0, |status| status.shim_pid);
                Ok(Adopted::Running(NativeContainer::boxed(task, shim_pid, true)?, listeners))
            }
            task::Adopted::Ended(exit, usage) => {
                Ok(Adopted::Ended(Ended { exit, usage: Some(usage) }))
            }
        });
        let lost = |why: String| Adopted::Ended(Ended::of(Exit::Lost(why)));
        match found.await {
            Ok(Ok(adopted)) => adopted,
            Ok(Err(error)) => lost(Error::chain(&error)),
            Err(error) => lost(error.to_string()),
        }
    }
}

/// A container beside its task shim, and the thread that waits for its end.
#[derive(Debug)]
struct NativeContainer {
    task: Task,
    shim_pid: u32,
    started: bool,
    exited: Option<Ended>,
    ended: oneshot::Receiver<Ended>,
}

impl NativeContainer {
    /// `started` says that [`Event::Started`] is known already.
    fn boxed(task: Task, shim_pid: u32, started: bool) -> Result<Box<dyn Container>, Error> {
        let (sender, ended) = oneshot::channel();
        let waiting = task.clone();
        // A thread of its own: it waits for as long as the container runs.
        let waiter =
            std::thread::Builder::new().name("native-wait".to_owned()).stack_size(128 << 10);
        let spawned = waiter.spawn(move || {
            let _ = sender.send(match waiting.wait() {
                Ok((exit, usage)) => Ended { exit, usage: Some(usage) },
                Err(error) => Ended::of(Exit::Lost(error.chain())),
            });
        });
        spawned.map_err(Error::io("wait for a native container"))?;
        Ok(Box::new(Self { task, shim_pid, started, exited: None, ended }))
    }

    /// Asks its shim for something; one that is gone already says so by its end.
    fn ask(
        &self,
        ask: impl FnOnce(&Task) -> Result<(), Error> + Send + 'static,
    ) -> BoxFuture<'_, ()> {
        let task = self.task.clone();
        Box::pin(async move { drop(spawn_blocking(move || ask(&task)).await) })
    }
}

impl Container for NativeContainer {
    fn next_event(&mut self) -> BoxFuture<'_, Event> {
        Box::pin(async {
            if !std::mem::replace(&mut self.started, true) {
                return Event::Started;
            }
            if self.exited.is_none() {
                self.exited = (&mut self.ended).await.ok();
            }
            let unknown = || Ended::of(Exit::Lost("E_SHIM_LOST: its end is not known".to_owned()));
            Event::Exited(self.exited.clone().unwrap_or_else(unknown))
        })
    }

    fn stop(&self, stop: Stop) -> BoxFuture<'_, ()> {
        self.ask(move |task| task.stop(stop))
    }

    fn signal(&self, signal: i32) -> BoxFuture<'_, ()> {
        self.ask(move |task| task.kill(signal))
    }

    fn resize(&self, rows: u16, columns: u16) -> BoxFuture<'_, ()> {
        self.ask(move |task| task.resize(rows, columns))
    }

    fn kill(&self) {
        // Not the shim, whose death alone would leave the container running.
        let _ = self.task.kill(9);
    }

    fn pid(&self) -> u32 {
        self.shim_pid
    }

    fn usage(&self) -> Arc<dyn UsageSource> {
        Arc::new(self.task.clone())
    }
}

impl UsageSource for Task {
    /// The kernel counts, and the shim asks.
    fn read(&self) -> Option<Usage> {
        self.status().ok().map(|status| status.usage)
    }
}
