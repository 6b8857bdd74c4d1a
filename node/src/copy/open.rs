//! The files of a container that does not run.

use engine::{Assignment, Engine as _, Listeners, Stdio};
use runtime::{WasmEngine, WasmProgram};

use crate::{
    error::{Error, Result, chain},
    home::Home,
    images::{Ready, exe},
    launch::Launch,
    tasks::TaskFolder,
};

/// A process that has them, and ends with this.
pub(super) enum OpenFiles {
    Wasm(Box<dyn engine::Container>),
    Native(shim::Visit),
}

impl OpenFiles {
    /// The process that has the files of a Linux container.
    pub fn visit(&self) -> Option<&shim::Visit> {
        match self {
            Self::Native(visit) => Some(visit),
            Self::Wasm(_) => None,
        }
    }
}

impl Drop for OpenFiles {
    fn drop(&mut self) {
        if let Self::Wasm(worker) = self {
            worker.kill();
        }
    }
}

/// Starts a process that has the files which `launch` would start with, and runs nothing.
pub(super) async fn open_files(
    launch: &Launch,
    home: &Home,
    folder: &TaskFolder,
) -> Result<OpenFiles> {
    let shared = launch.assignment(home, folder, &Listeners::default(), Stdio::default())?;
    let mut shared = Assignment { log: None, adoptable: false, ..shared };
    let failed = |message: String, hint: Option<String>| Error::Copy {
        what: format!("look into `{}`", folder.record().name),
        why: message,
        hint,
    };
    match &launch.ready {
        Ready::Wasm { plan, prepared } => {
            // Its writable layer was in memory, and is gone.
            shared.limits.writable_bytes_max = 0;
            let program = launch.wasm_program(plan, prepared)?;
            let program = WasmProgram { files_only: true, ..program };
            let engine = WasmEngine::new(runtime::Broker::default(), None);
            let mut worker = match engine.start(shared.with(program)).await {
                Ok(worker) => worker,
                Err(error) => return Err(failed(error.message, error.hint)),
            };
            match worker.next_event().await {
                engine::Event::Started => Ok(OpenFiles::Wasm(worker)),
                other => Err(failed(format!("its worker did not start: {other:?}"), None)),
            }
        }
        Ready::Native(native) => {
            let assignment = shared.with(launch.native_program(native, folder));
            let opened = shim::Visit::open(&exe(), assignment);
            opened.map(OpenFiles::Native).map_err(|error| failed(chain(&error), error.hint()))
        }
    }
}
