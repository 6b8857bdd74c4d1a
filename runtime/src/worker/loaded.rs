use std::{fs::File, io, os::fd::AsRawFd, sync::Arc};

use image::FileIndex;
use wasmtime::{
    Engine,
    component::{Component, InstancePre, Linker},
};

use super::{
    capability::{env, secrets},
    environment::Environment,
    files::{Files, Volume, mapped},
    guest::Guest,
};
use crate::{Assignment, source_lines::SourceLines};

/// What an assignment's descriptors became.
pub(super) struct Loaded {
    pub pre: InstancePre<Guest>,
    pub lines: SourceLines,
    pub files: Arc<Files>,
    pub environment: Arc<Environment>,
}

/// Links the program and reads the index. Both are what a preparer wrote.
pub(super) fn load(
    engine: &Engine,
    linker: &Linker<Guest>,
    assignment: &mut Assignment,
    volumes: Vec<(String, Volume)>,
    denied: &mut Vec<String>,
) -> Result<Loaded, String> {
    let pre = program(engine, linker, &assignment.program.code)?;
    let cannot = |what: &str, error: io::Error| format!("cannot {what}: {error}");
    let index = mapped(&assignment.program.index).map_err(|e| cannot("read the index", e))?;
    let index = FileIndex::from_bytes(&index).map_err(|e| e.to_string())?;
    let lines = assignment.program.lines.as_ref().map(mapped).transpose();
    let lines = lines.map_err(|e| cannot("map the lines of the source", e))?;
    let layers = assignment.program.layers.iter().map(mapped).collect::<io::Result<_>>();
    let layers = layers.map_err(|e| cannot("map a layer", e))?;
    let grants = &assignment.grants;
    let (image_env, outside) =
        (std::mem::take(&mut assignment.program.image_env), std::mem::take(&mut assignment.env));
    let mut env = env::granted(image_env, outside, &grants.env, denied);
    let secrets =
        secrets::granted(std::mem::take(&mut assignment.program.secrets), &grants.secrets, denied);
    env.extend(secrets.variables);
    let writable_bytes_max = assignment.limits.writable_bytes_max;
    let files = Files::new(index, layers, volumes, secrets.files, writable_bytes_max)?;
    let environment = Environment::of(
        std::mem::take(&mut assignment.args),
        env.into_iter().collect(),
        std::mem::take(&mut assignment.program.working_dir),
    )?;
    let lines = SourceLines::of(lines.unwrap_or_default());
    Ok(Loaded { pre, lines, files: Arc::new(files), environment: Arc::new(environment) })
}

fn program(
    engine: &Engine,
    linker: &Linker<Guest>,
    code: &File,
) -> Result<InstancePre<Guest>, String> {
    let path = format!("/proc/self/fd/{}", code.as_raw_fd());
    // SAFETY: machine code that the node's preparer has made from Wasm and the supervisor has found
    // sealed; a spare worker takes assignments from its supervisor only.
    let component = unsafe { Component::deserialize_file(engine, path) };
    let component = component.map_err(|e| format!("the machine code cannot be loaded: {e:#}"))?;
    linker.instantiate_pre(&component).map_err(|e| format!("the program cannot be linked: {e:#}"))
}
