use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use blobs::collect::{self, Marked, Roots};
use blobs::{BlobStore as _, BlobWriter, DOCUMENT_BYTES_MAX, FileBlobStore, INDEX_DEPTH_MAX};
use disk::{Lock, Survives};
use spec::{Algorithm, Descriptor, Digest, Index, Manifest, MediaType, Platform, Reference};

use crate::error::{Error, io_error, unusable};

/// The annotation of an OCI layout that holds an image's name.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// 50 000 images of 600 bytes each.
const INDEX_BYTES_MAX: u64 = 32 << 20;

/// Where blobs are being written.
const UNFINISHED: &str = "tmp";

/// The disk is full, or read-only.
fn takes_nothing(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
}

/// A folder of images: an OCI layout, usable by every other tool that reads one.
///
/// Readers take no lock: blobs are immutable, and the table of names is replaced in one rename.
///
/// # Spec
/// OCI image-spec 1.1, "Image Layout".
#[derive(Debug, Clone)]
pub struct Layout {
    dir: PathBuf,
    pub(crate) store: FileBlobStore,
}

/// An image that has a name here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalImage {
    /// Its name.
    pub reference: Reference,
    /// Its manifest or index.
    pub descriptor: Descriptor,
    /// What it is for; several for an index.
    pub platforms: Vec<Platform>,
    /// Bytes of all its blobs, each counted once.
    pub size: u64,
    /// When it was built, RFC 3339, if it says so.
    pub created: Option<String>,
}

/// While one of these exists, [`Layout::prune`] waits: blobs may be written before anything names
/// them.
#[derive(Debug)]
pub struct Hold {
    _lock: Lock,
}

impl Layout {
    /// The layout in `dir`, made if there is none.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let dir = dir.into();
        let layout = Self { store: FileBlobStore::of_oci_layout(&dir, UNFINISHED), dir };
        let marker = layout.dir.join("oci-layout");
        if marker.exists() {
            return Ok(layout);
        }
        match layout.create(&marker) {
            // It has no image, which can be seen without writing.
            Err(Error::Io { source, .. }) if takes_nothing(&source) => Ok(layout),
            created => created.map(|()| layout),
        }
    }

    fn create(&self, marker: &Path) -> Result<(), Error> {
        let folder = self.dir.join("blobs/sha256");
        disk::private_folder(&folder).map_err(io_error("create", folder))?;
        let _hold = self.hold()?;
        self.replace_file(marker, OCI_LAYOUT)
    }

    /// The layout of another tool in `dir`: only read, never written.
    pub(crate) fn of_others(dir: &Path) -> Self {
        Self { store: FileBlobStore::of_oci_layout(dir, UNFINISHED), dir: dir.to_owned() }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its blobs.
    pub fn store(&self) -> &FileBlobStore {
        &self.store
    }

    /// Whether there is a blob of that name and size.
    pub fn has_blob(&self, digest: &Digest, size: u64) -> bool {
        self.store.size(digest).is_ok_and(|found| found == Some(size))
    }

    /// Opens a blob. Its bytes are not checked: compare while reading (`image::Verified`).
    ///
    /// # Errors
    /// [`Error::NoBlob`].
    pub fn open_blob(&self, digest: &Digest) -> Result<File, Error> {
        Ok(self.store.open_file(digest)?)
    }

    /// The bytes of a blob, checked, at most `bytes_max`.
    ///
    /// # Errors
    /// [`Error::NoBlob`], or [`Error::Image`] when the bytes are not those of the descriptor.
    pub fn read_blob(&self, descriptor: &Descriptor, bytes_max: u64) -> Result<Vec<u8>, Error> {
        Ok(blobs::read(&self.store, descriptor, bytes_max)?)
    }

    /// A new blob whose bytes are still to come.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn blob_writer(&self, algorithm: Algorithm) -> Result<BlobWriter, Error> {
        Ok(self.store.writer(algorithm)?)
    }

    /// Stores `bytes`, unless they are here already.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_blob(&self, bytes: &[u8]) -> Result<Digest, Error> {
        Ok(blobs::write(&self.store, bytes)?)
    }

    /// Keeps [`Layout::prune`] away. Take one before the first blob is written, and drop it after
    /// the image has its tag.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn hold(&self) -> Result<Hold, Error> {
        Ok(Hold { _lock: self.lock("prune.lock", Lock::shared)? })
    }

    /// What `reference` names here. Reads one small file and no blob.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn resolve(&self, reference: &Reference) -> Result<Option<Descriptor>, Error> {
        let index = self.read_index()?;
        Ok(find(&index, reference).cloned())
    }

    /// Gives the image at `descriptor` the name `reference`; whatever had it loses it.
    ///
    /// # Errors
    /// [`Error::NoBlob`] when the manifest is not here.
    pub fn tag(&self, reference: &Reference, descriptor: &Descriptor) -> Result<(), Error> {
        self.tag_all(&[(reference, descriptor)])
    }

    /// Like [`Layout::tag`] for several, all at once: when one of them cannot be, nothing has a new
    /// name.
    pub(crate) fn tag_all(&self, names: &[(&Reference, &Descriptor)]) -> Result<(), Error> {
        if let Some((_, lost)) =
            names.iter().find(|(_, image)| !self.has_blob(&image.digest, image.size))
        {
            return Err(Error::NoBlob(lost.digest));
        }
        let entries = names.iter().map(|(reference, descriptor)| {
            let mut entry = Descriptor::clone(descriptor);
            entry.annotations.insert(REF_NAME.to_owned(), key(reference));
            entry
        });
        let entries: Vec<Descriptor> = entries.collect();
        let there = self.read_index()?.manifests;
        if entries.iter().all(|entry| there.contains(entry)) {
            return Ok(()); // the way of every build without a change
        }
        self.update(|index| {
            for entry in entries {
                index
                    .manifests
                    .retain(|old| key_of(old).as_ref() != entry.annotations.get(REF_NAME));
                index.manifests.push(entry);
            }
            index
                .manifests
                .sort_by(|a, b| a.annotations.get(REF_NAME).cmp(&b.annotations.get(REF_NAME)));
        })
    }

    /// Takes the name `reference` away; the blobs stay until [`Layout::prune`]. Says what it named.
    ///
    /// # Errors
    /// [`Error::NoImage`] when nothing has that name.
    pub fn untag(&self, reference: &Reference) -> Result<Descriptor, Error> {
        let mut removed = None;
        self.update(|index| {
            let Some(name) =
                find(index, reference).and_then(|entry| entry.annotations.get(REF_NAME)).cloned()
            else {
                return;
            };
            removed = index
                .manifests
                .extract_if(.., |entry| entry.annotations.get(REF_NAME) == Some(&name))
                .next();
        })?;
        removed.ok_or_else(|| Error::NoImage(reference.clone()))
    }

    /// Every image that has a name, sorted by it. One whose blobs are damaged is listed with what
    /// is known.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn list(&self) -> Result<Vec<LocalImage>, Error> {
        let index = self.read_index()?;
        let named = index.manifests.into_iter().filter_map(|entry| {
            let reference: Reference = entry.annotations.get(REF_NAME)?.parse().ok()?;
            Some((reference.local(), entry))
        });
        Ok(named.map(|(reference, descriptor)| self.describe(reference, descriptor)).collect())
    }

    /// The manifests under `descriptor`: itself, or the entries of an index (and of those in it)
    /// that are here.
    ///
    /// # Errors
    /// [`Error::Image`] when it is malformed.
    pub fn manifests(&self, descriptor: &Descriptor) -> Result<Vec<(Descriptor, Manifest)>, Error> {
        let documents = blobs::documents(&self.store, descriptor)?.into_iter();
        Ok(documents.filter_map(|found| Some((found.descriptor, found.manifest?))).collect())
    }

    /// Every blob of the image at `descriptor`, its own included, each once: what to push, in an
    /// order in which nothing comes before what it names.
    ///
    /// # Errors
    /// [`Error::Image`] when it is malformed.
    pub fn closure(&self, descriptor: &Descriptor) -> Result<Vec<Descriptor>, Error> {
        Ok(blobs::closure(&self.store, descriptor)?)
    }

    /// Everything that images with a name need, with the manifests that tasks are `running` from.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Image`] when one cannot be read, because then nothing says what it
    /// needs.
    pub fn mark(&self, running: &[Digest]) -> Result<Marked, Error> {
        let roots = Roots { named: self.read_index()?.manifests, running: running.to_vec() };
        Ok(collect::mark(&self.store, &roots)?)
    }

    fn describe(&self, reference: Reference, descriptor: Descriptor) -> LocalImage {
        let blobs = self.closure(&descriptor).unwrap_or_default();
        let mut found = LocalImage {
            reference,
            platforms: Vec::new(),
            size: blobs.iter().map(|blob| blob.size).sum(),
            created: None,
            descriptor,
        };
        for (entry, _) in self.manifests(&found.descriptor).unwrap_or_default() {
            let Ok(plan) = self.plan(&entry) else { continue };
            found.created = found.created.or_else(|| plan.config.created.clone());
            found.platforms.push(entry.platform.unwrap_or(plan.platform));
        }
        found
    }

    /// What the image with this manifest is made of.
    ///
    /// # Errors
    /// [`Error::NoBlob`], [`Error::Image`].
    pub fn plan(&self, manifest: &Descriptor) -> Result<image::Plan, Error> {
        let bytes = self.read_blob(manifest, DOCUMENT_BYTES_MAX)?;
        let read =
            |blob: &Descriptor| self.read_blob(blob, DOCUMENT_BYTES_MAX).map_err(io::Error::other);
        image::plan(&bytes, read).map_err(unusable(&manifest.digest))
    }

    /// The manifest to run from what `descriptor` names: itself, or the best entry of an index,
    /// where `native` lists the platforms of this host.
    ///
    /// # Errors
    /// [`Error::Image`] when no entry runs on this host.
    pub fn choose(
        &self,
        descriptor: &Descriptor,
        native: &[Platform],
    ) -> Result<Descriptor, Error> {
        let wrong = unusable(&descriptor.digest);
        let mut chosen = descriptor.clone();
        for _ in 0..INDEX_DEPTH_MAX {
            match image::parse_document(&self.read_blob(&chosen, DOCUMENT_BYTES_MAX)?)
                .map_err(wrong)?
            {
                image::Document::Manifest(_) => break,
                image::Document::Index(index) => {
                    chosen = image::choose(&index, native).cloned().map_err(wrong)?
                }
            }
            if !chosen.media_type.is_index() {
                break;
            }
        }
        Ok(chosen)
    }

    fn read_index(&self) -> Result<Index, Error> {
        let path = self.dir.join("index.json");
        let read = disk::read_optional(&path, INDEX_BYTES_MAX).map_err(io_error("read", &path));
        let Some(bytes) = read? else { return Ok(index_over(Vec::new())) };
        spec::json::from_slice(&bytes).map_err(|error| Error::Io {
            doing: "read",
            path,
            source: error.into(),
        })
    }

    fn update(&self, change: impl FnOnce(&mut Index)) -> Result<(), Error> {
        let _hold = self.hold()?;
        let _alone = self.lock("index.lock", Lock::exclusive)?;
        let mut index = self.read_index()?;
        let before = index.clone();
        change(&mut index);
        match index == before {
            true => Ok(()),
            false => {
                let bytes =
                    serde_json::to_vec_pretty(&index).expect("an index has string keys only");
                self.replace_file(&self.dir.join("index.json"), &bytes)
            }
        }
    }

    /// Writes a file of this layout, so that a reader sees the old bytes or the new ones, and a
    /// loss of power leaves one of the two. The caller keeps `prune` away.
    pub(crate) fn replace_file(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let mut file = self.store.new_file()?;
        let written = file.write_all(bytes).and_then(|()| file.commit(path, Survives::PowerLoss));
        written.map_err(io_error("write", path))
    }

    pub(crate) fn lock(
        &self,
        name: &str,
        wait: fn(&Path) -> io::Result<Lock>,
    ) -> Result<Lock, Error> {
        let path = self.dir.join(name);
        wait(&path).map_err(io_error("lock", path))
    }
}

/// The name under which a reference stands in the table: a digest only where there is no tag, and
/// Docker Hub's names without their registry.
fn key(reference: &Reference) -> String {
    let reference = reference.local();
    let text = reference.to_string();
    match (reference.tag(), text.split_once('@')) {
        (Some(_), Some((name, _))) => name.to_owned(),
        _ => text,
    }
}

/// The name of an entry, as [`key`] gives it: other tools write other spellings.
fn key_of(entry: &Descriptor) -> Option<String> {
    let name = entry.annotations.get(REF_NAME)?;
    Some(name.parse::<Reference>().map_or_else(|_| name.clone(), |reference| key(&reference)))
}

fn find<'a>(index: &'a Index, reference: &Reference) -> Option<&'a Descriptor> {
    let name = key(reference);
    match reference.digest() {
        None => index.manifests.iter().find(|entry| key_of(entry).as_ref() == Some(&name)),
        Some(digest) => index
            .manifests
            .iter()
            .find(|entry| entry.digest == digest && same_repository(entry, reference)),
    }
}

/// A digest is asked for by the name of an image: under another name the same bytes are another
/// image.
fn same_repository(entry: &Descriptor, reference: &Reference) -> bool {
    let name = entry.annotations.get(REF_NAME).and_then(|name| name.parse::<Reference>().ok());
    let reference = reference.local();
    name.map(|name| name.local()).is_some_and(|name| {
        name.registry() == reference.registry() && name.repository() == reference.repository()
    })
}

pub(crate) fn index_over(manifests: Vec<Descriptor>) -> Index {
    Index {
        schema_version: 2,
        media_type: Some(MediaType::OCI_INDEX.into()),
        artifact_type: None,
        manifests,
        subject: None,
        annotations: Default::default(),
    }
}

#[cfg(test)]
mod tests;
