use std::io::ErrorKind;

use image::{Wasi, WasmFacts};

use super::{adapter, debug_lines, direct_imports, preparation::Facts};
use crate::{World, engine, worker::linker};

/// Why an image cannot run: code, sentence, next step.
pub(super) struct Unfit {
    pub code: String,
    pub message: String,
    pub hint: Option<String>,
}

impl Unfit {
    fn new(code: &str, message: String) -> Self {
        Self { code: code.to_owned(), message, hint: None }
    }
}

impl From<image::Error> for Unfit {
    fn from(error: image::Error) -> Self {
        let chain = std::iter::successors(std::error::Error::source(&error), |e| e.source());
        let message = chain.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
        let hint = match &error {
            image::Error::Read { source, .. } if source.kind() == ErrorKind::StorageFull => {
                Some("the disk is full: make room, for example with margay prune".to_owned())
            }
            other => other.hint(),
        };
        Self { code: error.code().to_owned(), message, hint }
    }
}

/// A program that can run.
pub(super) struct Compiled {
    pub code: Vec<u8>,
    /// The lines of its source, where it has them; see [`SourceLines`](crate::source_lines).
    pub lines: Option<Vec<u8>>,
    pub facts: Facts,
}

/// Machine code for `wasm`, and what is known about it. `what` is its name in errors.
pub(super) fn compile(what: &str, wasm: &[u8]) -> Result<Compiled, Unfit> {
    let facts = image::inspect_wasm(what, wasm)?;
    facts.check_runnable(what)?;
    let adapted = facts.wasi == Wasi::P1;
    let component = match adapted {
        true => adapter::componentize(wasm).map_err(|why| {
            Unfit::new("E_COMPILE", format!("{what} cannot become a component: {why}"))
        })?,
        false => wasm.to_vec(),
    };
    // What cannot be read here the engine refuses, with words of its own.
    let component = direct_imports::direct(&component).ok().flatten().unwrap_or(component);
    let code = machine_code(what, &component)?;
    let lines = debug_lines::table(wasm, &component);
    Ok(Compiled { code, lines, facts: described(wasm, facts, adapted) })
}

fn machine_code(what: &str, component: &[u8]) -> Result<Vec<u8>, Unfit> {
    let cannot =
        |e: wasmtime::Error| Unfit::new("E_COMPILE", format!("{what} does not compile: {e:#}"));
    let engine = engine::compiler().map_err(cannot)?;
    let compiled = wasmtime::component::Component::new(&engine, component).map_err(cannot)?;
    // Linking runs nothing; it finds imports of the right name and the wrong type before a task
    // starts.
    linker(&engine)
        .and_then(|linker| linker.instantiate_pre(&compiled))
        .map_err(|e| Unfit::new("E_IMPORT", format!("{what} cannot be linked: {e:#}")))?;
    compiled.serialize().map_err(cannot)
}

fn described(wasm: &[u8], facts: WasmFacts, adapted: bool) -> Facts {
    let world = match facts.world {
        image::World::Http => World::Http,
        image::World::Command | image::World::Library => World::Command,
    };
    Facts {
        world,
        wasm: spec::Digest::of(wasm),
        adapted,
        imports: facts.imports,
        layers: Vec::new(),
    }
}
