//! The engine for each kind of container: the one place that tells kinds apart.

use std::{os::fd::OwnedFd, path::Path, sync::Arc, time::Duration};

use engine::{Adopted, BoxFuture, Ended, Engine as _, UsageSource, cgroup};
use runtime::{UsagePage, WasmEngine};
use shim::{Connector, NativeEngine};
use spec::{Capabilities, OutboundGrant, Usage};

use crate::{
    error::chain,
    images::exe,
    tasks::{Kind, ProcessId, TaskFolder, kill, terminate},
};

/// What a task shim may take beyond the grace before it is ended by force: its container's output
/// has half of it.
const SHIM_TIME_MAX: Duration = Duration::from_secs(10);

/// Finds what an earlier supervisor has left running in a container's folder.
pub(crate) async fn adopt(
    kind: Kind,
    folder: &Path,
    owner: &str,
    grants: Capabilities,
    broker: runtime::Broker,
) -> Adopted {
    match kind {
        Kind::Wasm => WasmEngine::new(broker, None).of(owner, None).adopt(folder, grants).await,
        Kind::Native => native(broker).adopt(folder, grants).await,
    }
}

/// The engine of Linux images, whose connections to others `broker` makes.
pub(crate) fn native(broker: runtime::Broker) -> NativeEngine {
    NativeEngine::new(exe(), Arc::new(NativeConnector(broker)))
}

#[derive(Debug)]
struct NativeConnector(runtime::Broker);

impl Connector for NativeConnector {
    fn local_ports(&self) -> Vec<u16> {
        self.0.local_ports()
    }

    fn connect<'a>(
        &'a self,
        grants: &'a [OutboundGrant],
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, Result<OwnedFd, String>> {
        Box::pin(self.0.connect_native(grants, host, port))
    }
}

/// What the container of a folder has used since its counters began: a worker's go on across
/// starts, those of a native container begin at each.
pub(crate) fn usage(folder: &TaskFolder, process: Option<ProcessId>) -> Option<Usage> {
    match folder.record().kind {
        Kind::Wasm => UsagePage::of(folder.path()).read(),
        Kind::Native if process.is_some_and(ProcessId::is_alive) => {
            match shim::Task::adopt(folder.path()) {
                Ok(shim::Adopted::Running(task)) => task.read(),
                Ok(shim::Adopted::Ended(..)) | Err(_) => None,
            }
        }
        Kind::Native => None,
    }
}

/// The counters that stay in a folder when its process is gone, where its kind has any.
pub(crate) fn kept_counters(folder: &TaskFolder) -> Option<Arc<dyn UsageSource>> {
    match folder.record().kind {
        Kind::Wasm => Some(Arc::new(UsagePage::of(folder.path()))),
        Kind::Native => None,
    }
}

/// Ends whatever still runs in a folder without a supervisor, within `grace`, and clears away what
/// is left. How it ended, where that is known. Blocks.
pub(crate) fn end(
    folder: &TaskFolder,
    process: Option<ProcessId>,
    grace: Duration,
) -> Option<Ended> {
    let ended = match folder.record().kind {
        Kind::Wasm => {
            if let Some(worker) = process.filter(|_| !grace.is_zero()) {
                let _ = terminate(worker);
                worker.wait(grace);
            }
            None
        }
        // Through its shim, whose death alone would leave the container running.
        Kind::Native => match shim::Task::adopt(folder.path()) {
            Ok(shim::Adopted::Running(running)) => {
                // One that cannot be asked any more is swept below.
                let _ = running.stop(grace);
                let ended = running.end(grace + SHIM_TIME_MAX).ok();
                ended.map(|(exit, usage)| Ended { exit, usage: Some(usage) })
            }
            Ok(shim::Adopted::Ended(..)) | Err(_) => None,
        },
    };
    sweep(folder);
    if let Some(process) = process {
        let _ = kill(process);
    }
    ended
}

/// Clears away what a killed supervisor has left of a container outside its folder.
pub(crate) fn sweep(folder: &TaskFolder) {
    match folder.record().kind {
        Kind::Wasm => {
            if let Some(place) = cgroup::Place::of(folder.path(), folder.record().origin.owner()) {
                place.remove();
            }
        }
        Kind::Native => {
            if let Err(error) = shim::sweep(folder.path()) {
                tracing::warn!(error = chain(&error), "a native container left something behind");
            }
        }
    }
}
