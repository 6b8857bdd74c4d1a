use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
};

use image::FileIndex;
use spec::{EnvGrant, FileGrant, Rights, SecretGrant, SecretName};
use wasmtime::{
    Engine,
    component::{Component, InstancePre, Linker},
};

use super::{
    files::{Files, Volume, mapped},
    guest::Guest,
};
use crate::{Assignment, VolumeMount, VolumeSource, volume};

/// What an assignment's descriptors became.
pub(super) struct Loaded {
    pub pre: InstancePre<Guest>,
    pub files: Arc<Files>,
    pub env: Vec<(String, String)>,
    /// Lines that would have granted what was left out.
    pub denied: Vec<String>,
}

/// The granted volumes by their paths, and the lines that would have granted the others.
#[derive(Default)]
pub(super) struct Mounted {
    pub volumes: Vec<(String, Volume)>,
    denied: Vec<String>,
}

/// Opens the volumes, for which it takes a capability and paths.
pub(super) fn mount(assignment: &mut Assignment) -> Result<Mounted, String> {
    let mut mounted = Mounted::default();
    for mount in std::mem::take(&mut assignment.volumes) {
        let path = mount.path.clone();
        match granted(mount, &assignment.grants.files) {
            Ok(mount) => mounted.volumes.push((path, opened(mount)?)),
            Err(line) => mounted.denied.push(line),
        }
    }
    Ok(mounted)
}

/// Links the program and reads the index. Both are what a preparer wrote.
pub(super) fn load(
    engine: &Engine,
    linker: &Linker<Guest>,
    assignment: &mut Assignment,
    mounted: Mounted,
) -> Result<Loaded, String> {
    let Mounted { volumes, mut denied } = mounted;
    let pre = program(engine, linker, &assignment.code)?;
    let cannot = |what: &str, error: io::Error| format!("cannot {what}: {error}");
    let index = mapped(&assignment.index).map_err(|e| cannot("read the index", e))?;
    let index = FileIndex::from_bytes(&index).map_err(|e| e.to_string())?;
    let layers = assignment.layers.iter().map(mapped).collect::<io::Result<_>>();
    let layers = layers.map_err(|e| cannot("map a layer", e))?;
    let secrets = std::mem::take(&mut assignment.secrets);
    let env = environment(assignment, &secrets, &mut denied);
    let secret_files = secrets.into_iter().filter(|(name, _)| {
        let grant = SecretGrant { name: name.clone(), as_env: false };
        let granted = assignment.grants.secrets.contains(&grant);
        if !granted && !granted_as_env(assignment, name) {
            denied.push(grant.to_string());
        }
        granted
    });
    let secret_files = secret_files.map(|(name, bytes)| (name.to_string(), bytes));
    let secret_files: Vec<_> = secret_files.collect();
    let files = Files::new(
        index,
        layers,
        volumes,
        secret_files.into_iter(),
        assignment.limits.writable_bytes_max,
    )?;
    Ok(Loaded { pre, files: Arc::new(files), env, denied })
}

fn program(
    engine: &Engine,
    linker: &Linker<Guest>,
    code: &File,
) -> Result<InstancePre<Guest>, String> {
    let path = format!("/proc/self/fd/{}", code.as_raw_fd());
    // SAFETY: machine code that our own preparer has made from Wasm and our supervisor has found
    // sealed; a blank worker takes assignments from its supervisor only.
    let component = unsafe { Component::deserialize_file(engine, path) };
    let component = component.map_err(|e| format!("the machine code cannot be loaded: {e:#}"))?;
    linker.instantiate_pre(&component).map_err(|e| format!("the program cannot be linked: {e:#}"))
}

/// A mount cut to what was granted at its path, or the line that would grant it.
fn granted(mount: VolumeMount, grants: &[FileGrant]) -> Result<VolumeMount, String> {
    let at_its_path = |grant: &&FileGrant| grant.volume.is_some() && grant.path == mount.path;
    let Some(&FileGrant { rights, max_bytes: max, .. }) = grants.iter().find(at_its_path) else {
        return Err(format!("fs:{}#{};volume=NAME", mount.path, mount.rights));
    };
    let both = Rights {
        read: rights.read && mount.rights.read,
        write: rights.write && mount.rights.write,
        execute: false,
        delete: rights.delete && mount.rights.delete,
    };
    let max_bytes = match (mount.max_bytes, max) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    Ok(VolumeMount { rights: both, max_bytes, ..mount })
}

fn opened(mount: VolumeMount) -> Result<Volume, String> {
    let root: OwnedFd = match mount.source {
        VolumeSource::Detached(fd) => fd,
        VolumeSource::Folder(path) => volume::detach(&path, mount.rights).map_err(|e| {
            match std::error::Error::source(&e) {
                Some(cause) => format!("{e}: {cause}"),
                None => e.to_string(),
            }
        })?,
    };
    Ok(Volume::new(root, mount.rights, mount.max_bytes))
}

fn granted_as_env(assignment: &Assignment, name: &SecretName) -> bool {
    let grant = SecretGrant { name: name.clone(), as_env: true };
    assignment.grants.secrets.contains(&grant)
}

/// The image's own variables, those that were granted, and secrets that are handed over so.
fn environment(
    assignment: &Assignment,
    secrets: &BTreeMap<SecretName, Vec<u8>>,
    denied: &mut Vec<String>,
) -> Vec<(String, String)> {
    let mut env = assignment.image_env.clone();
    for (name, value) in &assignment.env {
        let grant = EnvGrant { name: name.clone() };
        match assignment.grants.env.contains(&grant) {
            true => drop(env.insert(name.clone(), value.clone())),
            false => denied.push(grant.to_string()),
        }
    }
    for (name, value) in secrets {
        if granted_as_env(assignment, name)
            && let Ok(value) = String::from_utf8(value.clone())
        {
            env.insert(name.to_string(), value);
        }
    }
    env.into_iter().collect()
}
