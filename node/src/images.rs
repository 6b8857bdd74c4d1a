//! From blobs on this machine to something that can run.

use std::{
    collections::HashSet,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use image::{Document, LayerContent, Plan};
use runtime::World;
use spec::{Descriptor, Digest, Platform, Want};

use crate::{
    error::{Error, Result, chain},
    home::Home,
};

/// Blobs by digest, as an OCI layout keeps them: `blobs/ALGORITHM/HEX`.
#[derive(Debug, Clone)]
pub(crate) struct Blobs(PathBuf);

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
}

impl Ready {
    /// What its author says that it needs.
    pub fn wants(&self) -> &[Want] {
        match self {
            Self::Wasm { plan, .. } | Self::Native(Native { plan, .. }) => &plan.wants,
        }
    }

    /// Whether it answers requests, a fresh instance for each.
    pub fn serves_requests(&self) -> bool {
        matches!(self, Self::Wasm { prepared, .. } if prepared.facts.world == World::Http)
    }
}

/// More than the distribution-spec asks a registry to take.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

impl Blobs {
    pub fn of_layout(layout: &Path) -> Self {
        Self(layout.join("blobs"))
    }

    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.0.join(digest.algorithm().name()).join(digest.hex())
    }

    pub fn open(&self, digest: &Digest) -> io::Result<File> {
        File::open(self.path(digest))
    }

    fn document(&self, digest: &Digest) -> io::Result<Vec<u8>> {
        use std::io::Read;
        let mut bytes = Vec::new();
        self.open(digest)?.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        match Digest::of(&bytes) == *digest || digest.algorithm() != spec::Algorithm::Sha256 {
            true => Ok(bytes),
            false => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("blob `{digest}` is damaged"),
            )),
        }
    }

    /// What the image `digest` is made of: of an index, the entry that this machine runs best.
    pub fn plan(&self, name: &str, digest: &Digest) -> Result<Plan> {
        let read = |digest: &Digest| {
            self.document(digest).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => Error::NoSuchImage(name.to_owned()),
                _ => Error::File { verb: "read", path: self.path(digest), source },
            })
        };
        let refused = |error: image::Error| refused(digest, &error);
        let mut bytes = read(digest)?;
        if let Document::Index(index) = image::parse_document(&bytes).map_err(refused)? {
            bytes = read(&image::choose(&index, &native_platforms()).map_err(refused)?.digest)?;
        }
        image::plan(&bytes, |descriptor: &Descriptor| self.document(&descriptor.digest))
            .map_err(refused)
    }
}

fn refused(image: &Digest, error: &image::Error) -> Error {
    Error::Prepare { image: *image, why: chain(error), hint: error.hint() }
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
    blobs: &Blobs,
    name: &str,
    plan: Plan,
    args: &[String],
    preparing: &mut dyn FnMut(),
) -> Result<Ready> {
    match plan.kind_hint() {
        image::Kind::Wasm => wasm(home, owner, blobs, plan, args, preparing),
        image::Kind::Native => native(&home.prepared(owner), blobs, name, plan, preparing),
    }
}

fn wasm(
    home: &Home,
    owner: &str,
    blobs: &Blobs,
    plan: Plan,
    args: &[String],
    preparing: &mut dyn FnMut(),
) -> Result<Ready> {
    let digest = plan.manifest;
    let failed = |error: runtime::Error| Error::Prepare {
        image: digest,
        why: chain(&error),
        hint: error.hint(),
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
        blobs.open(&descriptor.digest).map_err(Error::file("open", blobs.path(&descriptor.digest)))
    };
    let program = match &plan.program {
        image::Program::Layer(at) => {
            let layer = plan.layers.get(*at).ok_or_else(|| Error::Prepare {
                image: digest,
                why: "its program is a layer that it does not have".to_owned(),
                hint: None,
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
    })
    .map_err(failed)?;
    Ok(Ready::Wasm { plan: Box::new(plan), prepared })
}

/// Removes what the operator's images were prepared into, but for those with these manifests. A
/// worker has its files open, and keeps them. Says how many bytes are gone.
///
/// # Errors
/// When something cannot be read or removed.
pub fn prune_prepared(home: &Home, needed: &HashSet<Digest>) -> Result<u64> {
    let folder = home.prepared(spec::OPERATOR);
    if !folder.exists() {
        return Ok(0);
    }
    let key = runtime::Key::open(&home.key())
        .map_err(|error| Error::System { verb: "open the key", source: io::Error::other(error) })?;
    let needed: HashSet<String> = needed.iter().map(Digest::hex).collect();
    let (mut layers, mut bytes) = (HashSet::new(), 0u64);
    for (path, name) in entries(&folder)? {
        // Every other folder is one of several images' parts.
        let Some(manifest) = name.split('-').next().filter(|part| part.len() >= 64) else {
            continue;
        };
        match needed.contains(manifest) {
            true => layers.extend(runtime::prepare::layer_files(&path, &key)),
            false => {
                bytes += entries(&path)?
                    .iter()
                    .map(|(file, _)| file.metadata().map_or(0, |found| found.len()))
                    .sum::<u64>();
                std::fs::remove_dir_all(&path).map_err(Error::file("remove", &path))?;
            }
        }
    }
    for (path, name) in entries(&folder.join("layers"))? {
        // One with another ending is being written.
        if name.ends_with(".tar") && !layers.contains(&name) {
            bytes += path.metadata().map_or(0, |found| found.len());
            std::fs::remove_file(&path).map_err(Error::file("remove", &path))?;
        }
    }
    Ok(bytes)
}

/// Removes what native images were unpacked into, where nothing runs from it. Says how many bytes
/// are gone.
///
/// # Errors
/// When something cannot be read or removed.
pub fn prune_unpacked(home: &Home) -> Result<u64> {
    let failed =
        |error| Error::System { verb: "remove unpacked layers", source: io::Error::other(error) };
    shim::sweep_layers(&home.all_unpacked(), 0).map_err(failed)
}

/// What lies in `folder`, with its name; nothing in one that is not there.
fn entries(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let found = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found.map_err(Error::file("list", folder))?,
    };
    Ok(found
        .flatten()
        .map(|entry| (entry.path(), entry.file_name().to_string_lossy().into_owned()))
        .collect())
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

fn native(
    prepared: &Path,
    blobs: &Blobs,
    name: &str,
    plan: Plan,
    preparing: &mut dyn FnMut(),
) -> Result<Ready> {
    let failed = |error: shim::Error| Error::Native {
        why: format!("cannot run native image `{name}`: {}", chain(&error)),
        hint: error.hint(),
    };
    let runtime = shim::Runtime::probe().map_err(failed)?;
    let cache = shim::Layers::open(&prepared.join("native")).map_err(failed)?;
    let mut layers = Vec::new();
    for layer in plan.layers.iter().filter(|layer| layer.content == LayerContent::Tar) {
        let path = blobs.path(&layer.descriptor.digest);
        let diff_id = layer.diff_id.ok_or_else(|| Error::Prepare {
            image: plan.manifest,
            why: "its config does not name the digests of its layers".to_owned(),
            hint: None,
        })?;
        let file = File::open(&path).map_err(Error::file("open", path))?;
        layers.push(shim::LayerBlob { file, descriptor: layer.descriptor.clone(), diff_id });
    }
    if !layers.iter().all(|layer| cache.has(&layer.diff_id)) {
        preparing();
    }
    let layers = cache.unpacked(&exe(), layers).map_err(failed)?;
    Ok(Ready::Native(Native { plan: Box::new(plan), layers, runtime }))
}

/// Our own binary, which is also the worker, the preparer and the task shim. By this name it is the
/// one that runs, even when an upgrade has replaced the file.
pub(crate) fn exe() -> PathBuf {
    "/proc/self/exe".into()
}
