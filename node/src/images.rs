//! From blobs on this machine to something that can run.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read, Seek},
    path::{Path, PathBuf},
    time::SystemTime,
};

use blobs::{
    DOCUMENT_BYTES_MAX, FileBlobStore,
    collect::{self, Item, Marked, Removal},
};
use engine::StartFailure;
use image::{Document, LayerContent, Plan};
use runtime::World;
use spec::{Descriptor, Digest, Platform, Want};

use crate::{
    error::{Error, Result, chain},
    home::Home,
};

/// An image that can run now.
#[derive(Debug)]
pub(crate) enum Ready {
    Wasm { plan: Box<Plan>, prepared: runtime::Prepared },
    Native(Native),
}

/// A Linux image whose layers are unpacked, and what is to run it.
#[derive(Debug)]
pub(crate) struct Native {
    pub plan: Box<Plan>,
    pub layers: Vec<shim::Layer>,
    pub runtime: shim::Runtime,
    /// What is known against the runtime, when it is used for the first time.
    pub warning: Option<String>,
}

impl Ready {
    /// What its author says that it needs.
    pub fn wants(&self) -> &[Want] {
        match self {
            Self::Wasm { plan, .. } | Self::Native(Native { plan, .. }) => &plan.wants,
        }
    }

    /// How many requests its author lets one instance answer.
    pub fn reuse(&self) -> Option<u32> {
        match self {
            Self::Wasm { plan, .. } => plan.reuse,
            Self::Native(_) => None,
        }
    }

    /// What its owner is to know once about what runs it.
    pub fn warning(&self) -> Option<&str> {
        match self {
            Self::Wasm { .. } => None,
            Self::Native(native) => native.warning.as_deref(),
        }
    }

    /// Whether it answers requests, a fresh instance for each.
    pub fn serves_requests(&self) -> bool {
        matches!(self, Self::Wasm { prepared, .. } if prepared.facts.world == World::Http)
    }

    /// Whether `args` begin with the program that the image names. A Wasm image has one.
    pub fn is_own_program(&self, args: &[String]) -> bool {
        let Self::Native(native) = self else { return true };
        let image = native.plan.execution();
        let words = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let own = words(&image.entrypoint).into_iter().chain(words(&image.cmd)).next();
        own.as_ref() == args.first()
    }

    /// The ports on which it serves: those that its image exposes, and 80 for a Wasm program that
    /// answers requests on none that is named.
    pub fn served_ports(&self) -> Vec<u16> {
        match self {
            Self::Wasm { plan, .. } if self.serves_requests() => {
                let exposed = plan.exposed_ports();
                if exposed.is_empty() { vec![HTTP_PORT] } else { exposed }
            }
            Self::Wasm { .. } => Vec::new(),
            Self::Native(native) => native.plan.exposed_ports(),
        }
    }
}

/// Where a program answers requests that names no port.
const HTTP_PORT: u16 = 80;

/// The blobs of the OCI layout in `folder`.
pub(crate) fn blobs_of(folder: &Path) -> FileBlobStore {
    FileBlobStore::of_oci_layout(folder, UNFINISHED)
}

/// Where blobs of a node are being pulled, in the layout that they go to.
const UNFINISHED: &str = "incoming";

/// What the image `digest` is made of: of an index, the entry that this machine runs best.
pub(crate) fn plan(store: &FileBlobStore, name: &str, digest: &Digest) -> Result<Plan> {
    let missing = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Error::NoSuchImage(name.to_owned()),
        _ => Error::file("read", store.path(digest))(error),
    };
    let refused = |error: image::Error| named(refused(digest, &error), name);
    let mut bytes = document(store, digest).map_err(missing)?;
    if let Document::Index(index) = image::parse_document(&bytes).map_err(refused)? {
        let entry = image::choose(&index, &native_platforms()).map_err(refused)?.digest;
        bytes = document(store, &entry).map_err(missing)?;
    }
    image::plan(&bytes, |descriptor: &Descriptor| document(store, &descriptor.digest))
        .map_err(refused)
}

/// A manifest, an index or a config, which has no descriptor where only its digest is known.
fn document(store: &FileBlobStore, digest: &Digest) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    store.open_file(digest)?.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    match Digest::of(&bytes) == *digest || digest.algorithm() != spec::Algorithm::Sha256 {
        true => Ok(bytes),
        false => {
            let why = format!("blob `{digest}` is damaged");
            Err(io::Error::new(io::ErrorKind::InvalidData, why))
        }
    }
}

/// The failure to prepare an image, with the name that its user knows it by.
pub(crate) fn named(error: Error, name: &str) -> Error {
    match error {
        Error::Prepare { why, hint, failure, .. } => {
            Error::Start { task: name.to_owned(), why, hint, exit_code: failure.exit_code() }
        }
        other => other,
    }
}

fn refused(image: &Digest, error: &image::Error) -> Error {
    Error::Prepare {
        image: *image,
        why: chain(error),
        hint: error.hint(),
        failure: StartFailure::of_preparer(error.code()),
    }
}

/// What this machine runs without Wasm.
pub(crate) fn native_platforms() -> Vec<Platform> {
    vec![Platform {
        architecture: architecture().to_owned(),
        os: "linux".to_owned(),
        variant: None,
    }]
}

/// This machine's processor, in the words of images.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Where the image with this program is prepared. One image with two entrypoints is prepared twice.
fn prepared_folder(prepared: &Path, plan: &Plan, program: &str) -> PathBuf {
    let hex = plan.manifest.hex();
    match program == plan.args.first().map_or("", String::as_str) {
        true => prepared.join(hex),
        false => prepared.join(format!("{hex}-{}", Digest::of(program.as_bytes()).short())),
    }
}

/// Makes an image ready for `owner`, or finds that it is. `preparing` hears when it is not. Blocks:
/// compiling takes from 50 ms to several seconds.
pub(crate) fn make_ready(
    home: &Home,
    owner: &str,
    blobs: &FileBlobStore,
    name: &str,
    plan: Plan,
    args: &[String],
    preparing: &mut dyn FnMut(),
) -> Result<Ready> {
    let ready = match plan.kind_hint() {
        image::Kind::Wasm => wasm(home, owner, blobs, plan, args, preparing),
        image::Kind::Native => native(home, owner, blobs, name, plan, preparing),
    };
    ready.map_err(|error| named(error, name))
}

fn wasm(
    home: &Home,
    owner: &str,
    blobs: &FileBlobStore,
    plan: Plan,
    args: &[String],
    preparing: &mut dyn FnMut(),
) -> Result<Ready> {
    let digest = plan.manifest;
    let failed = |error: runtime::Error| Error::Prepare {
        image: digest,
        why: chain(&error),
        hint: error.hint(),
        failure: error.failure(),
    };
    let key = runtime::Key::open(&home.key()).map_err(failed)?;
    let program = args.first().map_or("", String::as_str);
    let folder = home.prepared(owner);
    let (out, layers_dir) = (prepared_folder(&folder, &plan, program), folder.join("layers"));
    if let Some(prepared) = runtime::prepare::open(&out, &layers_dir, &key).map_err(failed)? {
        return Ok(Ready::Wasm { plan: Box::new(plan), prepared });
    }
    preparing();
    crate::home::make_private(&folder)?;
    let open = |descriptor: &Descriptor| {
        let opened = blobs.open_file(&descriptor.digest).map_err(io::Error::from);
        opened.map_err(Error::file("open", blobs.path(&descriptor.digest)))
    };
    let program = match &plan.program {
        image::Program::Layer(at) => {
            let layer = plan.layers.get(*at).ok_or_else(|| Error::Prepare {
                image: digest,
                why: "its program is a layer that it does not have".to_owned(),
                hint: None,
                failure: StartFailure::NotFound,
            })?;
            runtime::prepare::Program::Blob {
                blob: open(&layer.descriptor)?,
                digest: layer.descriptor.digest,
            }
        }
        image::Program::File { name } => {
            let name = if program.is_empty() { name } else { program };
            runtime::prepare::Program::InLayers(path_in_layers(&plan, name))
        }
    };
    let mut layers = Vec::new();
    for layer in plan.layers.iter().filter(|layer| layer.content == LayerContent::Tar) {
        layers.push(runtime::LayerBlob {
            blob: open(&layer.descriptor)?,
            digest: layer.descriptor.digest,
            diff_id: layer.diff_id,
        });
    }
    let prepared = runtime::prepare(&runtime::Preparation {
        exe: exe(),
        arguments: vec!["prepare".into()],
        layers,
        program,
        layers_dir: &layers_dir,
        out: &out,
        key: &key,
        limits: Default::default(),
        place: cgroup_beside_tasks(home, owner, &out),
    })
    .map_err(failed)?;
    Ok(Ready::Wasm { plan: Box::new(plan), prepared })
}

/// Makes `name` ready, a program of the image that `main` runs already: a path in its files, or the
/// name of a file where programs lie.
pub(crate) fn another_program(
    home: &Home,
    owner: &str,
    blobs: &FileBlobStore,
    plan: Plan,
    main: &[String],
    name: &str,
    preparing: &mut dyn FnMut(),
) -> Result<runtime::Prepared> {
    let image = plan.manifest;
    let ready = |program: &[String], preparing: &mut dyn FnMut()| match wasm(
        home,
        owner,
        blobs,
        plan.clone(),
        program,
        preparing,
    )? {
        Ready::Wasm { prepared, .. } => Ok(prepared),
        Ready::Native(_) => Err(Error::NoSuchImage(image.to_string())),
    };
    let own = ready(main, &mut *preparing)?;
    if matches!(plan.program, image::Program::Layer(_)) && main.first().is_some_and(|m| m == name) {
        return Ok(own);
    }
    let mut index = Vec::new();
    let read = (&own.index)
        .rewind()
        .and_then(|()| (&own.index).read_to_end(&mut index))
        .map_err(|source| Error::System { verb: "read an image's index", source });
    read?;
    let index = image::FileIndex::from_bytes(&index).map_err(|error| refused(&image, &error))?;
    let found = candidates(&plan, name).into_iter().find(|path| index.file(path).is_some());
    let path = found.ok_or_else(|| Error::Prepare {
        image,
        why: format!("it has no program `{name}`"),
        hint: Some("give its path in the image, or a file of this machine: margay exec --program FILE TASK".into()),
        failure: StartFailure::NotFound,
    })?;
    ready(&[path], preparing)
}

/// Where a program of this name may lie.
fn candidates(plan: &Plan, name: &str) -> Vec<String> {
    let mut paths = vec![format!("/{}", path_in_layers(plan, name))];
    if !name.contains('/') {
        let env = plan.execution().env.as_deref().unwrap_or_default();
        let path = env.iter().find_map(|line| line.strip_prefix("PATH="));
        let folders = path.unwrap_or("/usr/local/bin:/usr/bin:/bin:/").split(':');
        paths.extend(folders.map(|folder| format!("{}/{name}", folder.trim_end_matches('/'))));
    }
    let with_ending: Vec<_> = paths.iter().map(|path| format!("{path}.wasm")).collect();
    paths.into_iter().chain(with_ending).collect()
}

/// Makes the program in `wasm` ready, a file of this machine at `path`.
pub(crate) fn program_file(
    home: &Home,
    owner: &str,
    mut wasm: File,
    path: &Path,
    preparing: &mut dyn FnMut(),
) -> Result<runtime::Prepared> {
    let mut bytes = Vec::new();
    let limits = runtime::prepare::PrepareLimits::default();
    (&mut wasm)
        .take(limits.program_bytes_max + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::file("read", path))?;
    wasm.rewind().map_err(Error::file("read", path))?;
    let digest = Digest::of(&bytes);
    let failed = |error: runtime::Error| Error::Prepare {
        image: digest,
        why: chain(&error),
        hint: error.hint(),
        failure: error.failure(),
    };
    let key = runtime::Key::open(&home.key()).map_err(failed)?;
    let folder = home.prepared(owner);
    let (out, layers_dir) = (folder.join(format!("{}-file", digest.hex())), folder.join("layers"));
    if let Some(prepared) = runtime::prepare::open(&out, &layers_dir, &key).map_err(failed)? {
        return Ok(prepared);
    }
    preparing();
    crate::home::make_private(&folder)?;
    runtime::prepare(&runtime::Preparation {
        exe: exe(),
        arguments: vec!["prepare".into()],
        layers: Vec::new(),
        program: runtime::prepare::Program::Blob { blob: wasm, digest },
        layers_dir: &layers_dir,
        out: &out,
        key: &key,
        limits,
        place: cgroup_beside_tasks(home, owner, &out),
    })
    .map_err(failed)
}

/// Removes what the operator's images were prepared into, but for those with marked manifests. A
/// worker has its files open, and keeps them. Returns how many bytes are gone.
///
/// # Errors
/// When something cannot be read or removed.
pub fn prune_prepared(home: &Home, marked: &Marked) -> Result<u64> {
    let folder = home.prepared(spec::OPERATOR);
    if !folder.exists() {
        return Ok(0);
    }
    let key = runtime::Key::open(&home.key())
        .map_err(|error| Error::System { verb: "open the key", source: io::Error::other(error) })?;
    let manifests: HashSet<String> = marked.manifests.iter().map(Digest::hex).collect();
    let is_marked = |path: &PathBuf| manifest_of(path).is_some_and(|hex| manifests.contains(hex));
    // Every other folder is one of several images' parts.
    let images = entries(&folder)?.into_iter().filter(|(path, _)| manifest_of(path).is_some());
    let mut items = Vec::new();
    for (path, _) in images {
        let bytes = entries(&path)?.iter().map(|(_, bytes)| bytes).sum();
        items.push(Item { used: SystemTime::UNIX_EPOCH, key: path, bytes });
    }
    let mut layers = HashSet::new();
    for item in items.iter().filter(|item| is_marked(&item.key)) {
        layers.extend(runtime::prepare::layer_files(&item.key, &key));
    }
    let (images, result) = collect::sweep(collect::unmarked(items, is_marked), |path| {
        std::fs::remove_dir_all(path)
            .map(|()| Removal::Removed)
            .map_err(Error::file("remove", path))
    });
    result?;
    // One with another ending is being written.
    let files = entries(&folder.join("layers"))?.into_iter();
    let items = files
        .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "tar"))
        .map(|(path, bytes)| Item { used: SystemTime::UNIX_EPOCH, key: path, bytes });
    let candidates = collect::unmarked(items, |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| layers.contains(name))
    });
    let (layers, result) = collect::sweep(candidates, |path| {
        collect::remove_file(path).map_err(Error::file("remove", path))
    });
    result.map(|()| images.bytes + layers.bytes)
}

/// The hex digits of the manifest that `path` was prepared from.
fn manifest_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.split('-').next().filter(|part| part.len() >= 64)
}

/// Removes unpacked layers of native images until they take at most `bytes_max`, the least recently
/// used first and never one that a container holds. Returns how many bytes are gone.
///
/// # Errors
/// When something cannot be read or removed.
pub fn prune_unpacked(home: &Home, bytes_max: u64) -> Result<u64> {
    let failed =
        |error| Error::System { verb: "remove unpacked layers", source: io::Error::other(error) };
    let mut items = Vec::new();
    for folder in home.all_unpacked() {
        let layers = shim::unpacked_layers(&folder).map_err(failed)?.into_iter();
        items.extend(layers.map(|layer| Item {
            used: layer.used,
            key: layer.folder,
            bytes: layer.bytes,
        }));
    }
    let candidates = collect::least_recently_used(items, bytes_max);
    let (swept, result) = collect::sweep(candidates, |folder| {
        shim::remove_unused_layer(folder).map(|gone| match gone {
            true => Removal::Removed,
            false => Removal::InUse,
        })
    });
    result.map(|()| swept.bytes).map_err(failed)
}

/// What is in `folder`, with the bytes of each; nothing in one that is missing.
fn entries(folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let found = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found.map_err(Error::file("list", folder))?,
    };
    let bytes = |entry: &std::fs::DirEntry| entry.metadata().map_or(0, |found| found.len());
    Ok(found.flatten().map(|entry| (entry.path(), bytes(&entry))).collect())
}

/// `name` as ENTRYPOINT says it, from the root of the layers.
fn path_in_layers(plan: &Plan, name: &str) -> String {
    let folder = plan.execution().working_dir.as_deref().unwrap_or("/").trim_matches('/');
    let path = match name.strip_prefix('/') {
        Some(absolute) => absolute.to_owned(),
        None if folder.is_empty() => name.to_owned(),
        None => format!("{folder}/{name}"),
    };
    path.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/")
}

/// The cgroup of a process that makes an image ready: among those of the containers of `owner`,
/// with which it shares their part of the processors.
fn cgroup_beside_tasks(
    home: &Home,
    owner: &str,
    image: impl AsRef<Path>,
) -> Option<engine::cgroup::Place> {
    let name =
        format!("prepare-{}", Digest::of(image.as_ref().as_os_str().as_encoded_bytes()).short());
    engine::cgroup::Place::of(&home.tasks().join(name), owner)
}

fn native(
    home: &Home,
    owner: &str,
    blobs: &FileBlobStore,
    name: &str,
    plan: Plan,
    preparing: &mut dyn FnMut(),
) -> Result<Ready> {
    let failed = |error: shim::Error| Error::Native {
        why: format!("cannot run native image `{name}`: {}", chain(&error)),
        hint: error.hint(),
    };
    shim::check_rights().map_err(failed)?;
    let folder = home.prepared(owner).join("native");
    let cache = shim::Layers::open(&folder).map_err(failed)?;
    let cache = cache.unpacked_in(cgroup_beside_tasks(home, owner, plan.manifest.hex()));
    let (runtime, warning) = shim::Runtime::probe_from(&folder).map_err(failed)?;
    let mut layers = Vec::new();
    for layer in plan.layers.iter().filter(|layer| layer.content == LayerContent::Tar) {
        let path = blobs.path(&layer.descriptor.digest);
        let diff_id = layer.diff_id.ok_or_else(|| Error::Prepare {
            image: plan.manifest,
            why: "its config does not name the digests of its layers".to_owned(),
            hint: None,
            failure: StartFailure::Host,
        })?;
        let file = disk::open(&path, disk::Purpose::Read).map_err(Error::file("open", path))?;
        layers.push(shim::LayerBlob { file, descriptor: layer.descriptor.clone(), diff_id });
    }
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id).collect();
    if !cache.has_all(&diff_ids) {
        preparing();
    }
    let layers = cache.unpacked(&exe(), layers).map_err(failed)?;
    Ok(Ready::Native(Native { plan: Box::new(plan), layers, runtime, warning }))
}

/// This binary, which is also the worker, the preparer and the task shim. By this name it is the
/// one that runs, even when an upgrade has replaced the file.
pub(crate) fn exe() -> PathBuf {
    "/proc/self/exe".into()
}
