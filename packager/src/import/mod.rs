use std::{
    cell::Cell,
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::Path,
};

use blobs::DOCUMENT_BYTES_MAX;
use image::{Budget, EntryKind, LayerReader, Sniffed, sniff};
use serde::Deserialize;
use spec::{Algorithm, Descriptor, Digest, ImageConfig, Index, MediaType, Reference};

use crate::{
    assemble::{described, manifest_over},
    build::{Build, Built, build},
    check::Told,
    error::{Error, ImportProblem, io_error},
    layout::{Layout, REF_NAME},
    limits::{ARCHIVE_BYTES_MAX, HEAD_BYTES, IMAGES_MAX},
    path::{as_name, clamped},
};

/// An image that was imported and tagged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    pub references: Vec<Reference>,
    pub descriptor: Descriptor,
    /// What is read otherwise than it is written in its layers, a line each.
    pub notes: Vec<String>,
}

/// How far an import has come: bytes that were read, of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportStep {
    /// The archive becomes blobs.
    Reading { bytes: u64, total: u64 },
    /// The layers are read to their end.
    Checking { bytes: u64, total: u64 },
}

/// containerd's annotation for the whole name; `ref.name` is only a tag there.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Imports images from a `docker save` tar (as docker and podman write it), an OCI layout (a
/// folder, or a tar of one; both also compressed), or a `.wasm` file, and gives them the names that
/// they carry; without any, that of the file. `progress` is told how far it is.
///
/// # Errors
/// [`Error::NotAnImage`], or what is wrong with the image or one of its layers; nothing has a name
/// then.
pub fn import(
    layout: &Layout,
    path: &Path,
    progress: &dyn Fn(ImportStep),
) -> Result<Vec<Imported>, Error> {
    let _hold = layout.hold()?;
    if path.is_dir() {
        return import_folder(layout, path, progress);
    }
    let mut head = Vec::new();
    let file = File::open(path).map_err(io_error("open", path))?;
    file.take(HEAD_BYTES).read_to_end(&mut head).map_err(io_error("read", path))?;
    match sniff(&head) {
        Sniffed::Module | Sniffed::Component | Sniffed::UnknownWasm => import_wasm(layout, path),
        Sniffed::Tar => import_tar(layout, path, progress),
        kind if kind.is_compressed() => import_tar(layout, path, progress),
        _ if head.is_empty() => Err(not_an_image(path, ImportProblem::NoBytes)),
        other => Err(not_an_image(path, ImportProblem::Kind(other))),
    }
}

fn not_an_image(path: &Path, problem: ImportProblem) -> Error {
    Error::NotAnImage { path: path.to_owned(), problem }
}

fn unusable(path: &Path, source: image::Error) -> Error {
    Error::Image { whose: format!("`{}` cannot be imported", path.display()), source }
}

fn import_wasm(layout: &Layout, path: &Path) -> Result<Vec<Imported>, Error> {
    let built = build(&Build::of(path, layout))?;
    let Built { references, descriptor, .. } = built;
    Ok(vec![Imported { references, descriptor, notes: Vec::new() }])
}

fn import_folder(
    layout: &Layout,
    path: &Path,
    progress: &dyn Fn(ImportStep),
) -> Result<Vec<Imported>, Error> {
    let index = path.join("index.json");
    let bytes = disk::read(&index, DOCUMENT_BYTES_MAX).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => not_an_image(path, ImportProblem::NoIndex),
        _ => io_error("read", &index)(error),
    })?;
    let source = Layout::of_others(path);
    let index = parse_index(path, &bytes)?;
    for entry in &index.manifests {
        for blob in source.closure(entry)? {
            copy_blob(layout, &source, &blob)?;
        }
    }
    name_all(layout, path, &index, progress)
}

fn copy_blob(layout: &Layout, source: &Layout, blob: &Descriptor) -> Result<(), Error> {
    if blobs::is_intact(layout.store(), &blob.digest) {
        return Ok(());
    }
    let mut writer = layout.blob_writer(blob.digest.algorithm())?;
    let mut file = source.store().open_file(&blob.digest)?.take(blob.size.saturating_add(1));
    io::copy(&mut file, &mut writer)
        .map_err(io_error("copy", source.store().path(&blob.digest)))?;
    writer.commit_as(&blob.digest)?;
    Ok(())
}

/// What an archive holds, by name: every file became a blob.
#[derive(Default)]
struct Archive {
    files: BTreeMap<String, (Digest, u64)>,
    links: BTreeMap<String, String>,
}

fn import_tar(
    layout: &Layout,
    path: &Path,
    progress: &dyn Fn(ImportStep),
) -> Result<Vec<Imported>, Error> {
    let archive = read_archive(layout, path, progress)?;
    if archive.files.contains_key("oci-layout") && archive.files.contains_key("index.json") {
        let index = parse_index(path, &archive.read(layout, path, "index.json")?)?;
        archive.check_names(path)?;
        return name_all(layout, path, &index, progress);
    }
    if archive.files.contains_key("manifest.json") {
        return import_docker(layout, path, &archive, progress);
    }
    Err(not_an_image(path, ImportProblem::NeitherIndexNorManifest))
}

fn read_archive(
    layout: &Layout,
    path: &Path,
    progress: &dyn Fn(ImportStep),
) -> Result<Archive, Error> {
    // What is read here is the archive, and none of the layers in it.
    let wrong = |source| match source {
        image::Error::Media { why, .. } => Error::Archive { path: path.to_owned(), why },
        source => unusable(path, source),
    };
    let budget = Budget { bytes_max: ARCHIVE_BYTES_MAX, ..Budget::default() };
    let file = File::open(path).map_err(io_error("open", path))?;
    let total = file.metadata().map_or(0, |metadata| metadata.len());
    let step = |bytes| ImportStep::Reading { bytes, total };
    let seen = Cell::new(0);
    let moved = |bytes| progress(step(added(&seen, bytes)));
    let told = Told { inner: file, moved: &moved };
    let mut reader = LayerReader::new(told, budget).map_err(wrong)?;
    let mut archive = Archive::default();
    while let Some(entry) = reader.next_entry().map_err(wrong)? {
        // Nothing that an image is made of has such a name.
        let Ok(name) = String::from_utf8(entry.path) else { continue };
        match entry.kind {
            EntryKind::File | EntryKind::SparseFile => {
                let mut blob = layout.blob_writer(Algorithm::Sha256)?;
                let copied = io::copy(&mut reader.content(), &mut blob);
                copied.map_err(|error| match error.downcast::<image::Error>() {
                    Ok(source) => wrong(source),
                    Err(error) => io_error("read", path)(error),
                })?;
                archive.files.insert(name, blob.commit()?);
            }
            // docker writes a layer that two images share once, and a link for the second.
            EntryKind::Symlink { target } => {
                let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                let target = String::from_utf8_lossy(&target);
                let target = match target.starts_with('/') {
                    true => clamped(&target),
                    false => clamped(&format!("{folder}/{target}")),
                };
                archive.links.insert(name, target);
            }
            EntryKind::Hardlink { target } => {
                archive.links.insert(name, String::from_utf8_lossy(&target).into_owned());
            }
            EntryKind::Directory
            | EntryKind::Pipe
            | EntryKind::Device
            | EntryKind::Whiteout
            | EntryKind::Opaque => {}
        }
    }
    reader.finish().map_err(wrong)?;
    Ok(archive)
}

impl Archive {
    /// The blob that the file `name` became. `path` is that of the archive.
    fn find(&self, path: &Path, name: &str) -> Result<(Digest, u64), Error> {
        let inner = name.strip_prefix("./").unwrap_or(name);
        let found = self.files.get(inner).or_else(|| self.files.get(self.links.get(inner)?));
        found.copied().ok_or_else(|| not_an_image(path, ImportProblem::Missing(name.to_owned())))
    }

    fn read(&self, layout: &Layout, path: &Path, name: &str) -> Result<Vec<u8>, Error> {
        let (digest, size) = self.find(path, name)?;
        layout.read_blob(&described(MediaType::OCI_EMPTY, digest, size), DOCUMENT_BYTES_MAX)
    }

    /// In a layout, the name of a blob's file is its digest: a lie there would only come out much
    /// later.
    fn check_names(&self, path: &Path) -> Result<(), Error> {
        for (name, (found, _)) in &self.files {
            let Some(hex) = name.strip_prefix("blobs/sha256/") else { continue };
            let expected: Digest =
                format!("sha256:{hex}").parse().map_err(|reason: spec::ParseError| {
                    not_an_image(path, ImportProblem::BlobName { name: name.clone(), reason })
                })?;
            if expected != *found {
                let source = image::Error::WrongDigest {
                    what: format!("`{name}`"),
                    expected,
                    found: *found,
                };
                return Err(unusable(path, source));
            }
        }
        Ok(())
    }
}

fn parse_index(path: &Path, bytes: &[u8]) -> Result<Index, Error> {
    let wrong = |source| unusable(path, source);
    match image::parse_document(bytes).map_err(wrong)? {
        image::Document::Index(index) if index.manifests.is_empty() => {
            Err(not_an_image(path, ImportProblem::Empty))
        }
        image::Document::Index(index) if index.manifests.len() > IMAGES_MAX => {
            Err(not_an_image(path, ImportProblem::TooManyImages(IMAGES_MAX)))
        }
        image::Document::Index(index) => Ok(index),
        image::Document::Manifest(_) => Err(not_an_image(path, ImportProblem::ManifestAsIndex)),
    }
}

fn added(sum: &Cell<u64>, bytes: u64) -> u64 {
    sum.set(sum.get() + bytes);
    sum.get()
}

/// Names every image of `index` whose blobs are all in `layout`.
fn name_all(
    layout: &Layout,
    path: &Path,
    index: &Index,
    progress: &dyn Fn(ImportStep),
) -> Result<Vec<Imported>, Error> {
    let mut all: Vec<Imported> = Vec::new();
    for entry in &index.manifests {
        for blob in layout.closure(entry)? {
            if !layout.has_blob(&blob.digest, blob.size) {
                return Err(Error::NoBlob(blob.digest));
            }
        }
        let descriptor = Descriptor { annotations: BTreeMap::new(), ..entry.clone() };
        let reference = name_of(entry, path);
        match all.iter_mut().find(|image| image.descriptor == descriptor) {
            Some(same) => same.references.push(reference),
            None => {
                let references = vec![reference];
                all.push(Imported { references, descriptor, notes: Vec::new() });
            }
        }
    }
    check_and_tag_all(layout, &mut all, progress)?;
    Ok(all)
}

/// Nothing has a name before all layers of all images are what they should be.
fn check_and_tag_all(
    layout: &Layout,
    images: &mut [Imported],
    progress: &dyn Fn(ImportStep),
) -> Result<(), Error> {
    let sizes = images.iter().map(|image| layout.layer_bytes(&image.descriptor));
    let total = sizes.sum::<Result<u64, _>>()?;
    let seen = Cell::new(0);
    let moved = |bytes| progress(ImportStep::Checking { bytes: added(&seen, bytes), total });
    for image in images.iter_mut() {
        image.notes = layout.check_layers(&image.descriptor, &moved)?;
    }
    let names = images
        .iter()
        .flat_map(|image| image.references.iter().map(|name| (name, &image.descriptor)));
    layout.tag_all(&names.collect::<Vec<_>>())
}

/// The whole name if the entry carries one; else that of the file, with whatever tag there is.
fn name_of(entry: &Descriptor, path: &Path) -> Reference {
    let annotation = |key: &str| entry.annotations.get(key).map(String::as_str);
    let whole = annotation(CONTAINERD_NAME)
        .or_else(|| annotation(REF_NAME).filter(|name| name.contains(['/', ':'])));
    if let Some(Ok(reference)) = whole.map(local_name) {
        return reference;
    }
    let tag = annotation(REF_NAME).filter(|tag| Reference::is_tag(tag)).unwrap_or("latest");
    let stem = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let stem = stem.split(".tar").next().unwrap_or_default();
    let stem = as_name(stem);
    let named = format!("{stem}:{tag}").parse().or_else(|_| format!("image:{tag}").parse());
    named.expect("`image` with a tag that is one is a name")
}

/// What podman calls `localhost/x` is `x` among local images, as Docker Hub's images are.
fn local_name(name: &str) -> Result<Reference, spec::ParseError> {
    let name = name.strip_prefix("localhost/").unwrap_or(name);
    name.parse::<Reference>().map(|reference| reference.local())
}

/// One image of a `docker save` archive.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    /// `null` for an image without any.
    #[serde(default)]
    layers: Option<Vec<String>>,
}

fn import_docker(
    layout: &Layout,
    path: &Path,
    archive: &Archive,
    progress: &dyn Fn(ImportStep),
) -> Result<Vec<Imported>, Error> {
    let malformed =
        |why: String| unusable(path, image::Error::Malformed { document: "manifest.json", why });
    let saved: Vec<Saved> = spec::json::from_slice(&archive.read(layout, path, "manifest.json")?)
        .map_err(|error| malformed(error.to_string()))?;
    if saved.is_empty() || saved.len() > IMAGES_MAX {
        return Err(malformed(format!("it names {} images", saved.len())));
    }
    let mut images = saved
        .iter()
        .map(|image| import_saved(layout, path, archive, image))
        .collect::<Result<Vec<_>, _>>()?;
    check_and_tag_all(layout, &mut images, progress)?;
    Ok(images)
}

fn import_saved(
    layout: &Layout,
    path: &Path,
    archive: &Archive,
    saved: &Saved,
) -> Result<Imported, Error> {
    let (digest, size) = archive.find(path, &saved.config)?;
    let config = described(MediaType::OCI_CONFIG, digest, size);
    let parsed: ImageConfig =
        spec::json::from_slice(&layout.read_blob(&config, DOCUMENT_BYTES_MAX)?)
            .map_err(|error| not_an_image(path, ImportProblem::Config(error)))?;
    let names = saved.layers.as_deref().unwrap_or_default();
    if parsed.rootfs.diff_ids.len() != names.len() {
        let (named, found) = (parsed.rootfs.diff_ids.len(), names.len());
        return Err(not_an_image(path, ImportProblem::LayerCount { named, found }));
    }
    let mut layers = Vec::new();
    for name in names {
        layers.push(saved_layer(layout, path, archive.find(path, name)?)?);
    }
    let bytes = serde_json::to_vec(&manifest_over(config, layers));
    let bytes = bytes.expect("a manifest has string keys only");
    layout.write_blob(&bytes)?;
    let descriptor = Descriptor::of(MediaType::OCI_MANIFEST, &bytes);
    let named = saved.repo_tags.iter().flatten().filter_map(|name| local_name(name).ok());
    let mut references: Vec<Reference> = named.collect();
    if references.is_empty() {
        references.push(name_of(&descriptor, path));
    }
    Ok(Imported { references, descriptor, notes: Vec::new() })
}

/// The layer in a file of an archive. OCI has no media type for xz and bzip2: such a layer is
/// unpacked.
fn saved_layer(
    layout: &Layout,
    path: &Path,
    (digest, size): (Digest, u64),
) -> Result<Descriptor, Error> {
    let mut head = Vec::new();
    let read = layout.open_blob(&digest)?.take(HEAD_BYTES).read_to_end(&mut head);
    read.map_err(io_error("read", path))?;
    let media_type = match sniff(&head) {
        Sniffed::Gzip => MediaType::OCI_LAYER_GZIP,
        Sniffed::Zstd => MediaType::OCI_LAYER_ZSTD,
        Sniffed::Xz | Sniffed::Bzip2 => {
            let wrong = |source| Error::Layer { layer: digest, refusal: source };
            let copy = layout.blob_writer(Algorithm::Sha256)?;
            let blob = layout.open_blob(&digest)?;
            let reader = LayerReader::copying_to(blob, copy, Budget::default()).map_err(wrong)?;
            let (_, copy) = reader.finish_with_copy().map_err(wrong)?;
            let (digest, size) = copy.commit()?;
            return Ok(described(MediaType::OCI_LAYER_TAR, digest, size));
        }
        _ => MediaType::OCI_LAYER_TAR,
    };
    Ok(described(media_type, digest, size))
}

#[cfg(test)]
mod tests;
