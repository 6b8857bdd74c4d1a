use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use disk::Lock;
use engine::cgroup::Place;
use spec::Digest;

use super::{chore, sandbox};
use crate::{Error, host::rights::check_rights};

/// An unpacked layer, which no sweep removes while this is held. A container's shim holds those it
/// runs from.
#[derive(Debug, Clone)]
pub struct Layer {
    folder: PathBuf,
    mark: Arc<Lock>,
}

impl Layer {
    /// Holds the layer that was unpacked to `folder`.
    ///
    /// # Errors
    /// [`Error::Io`], also when it is not there any more.
    pub fn hold(folder: &Path) -> Result<Self, Error> {
        let holding = || format!("use the layer `{}`", folder.display());
        let layer = Self::expect(folder).map_err(Error::io(holding()))?;
        if !folder.is_dir() {
            return Err(Error::Io { what: holding(), source: io::ErrorKind::NotFound.into() });
        }
        layer.touch();
        Ok(layer)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Says that it was used until now.
    pub(crate) fn touch(&self) {
        // After a failure the layer is only removed a little earlier.
        let _ = self.mark.file().set_modified(SystemTime::now());
    }

    /// The same for one that may have to be unpacked yet.
    fn expect(folder: &Path) -> io::Result<Self> {
        let mark = Lock::shared(&mark_of(folder))?;
        Ok(Self { folder: folder.to_owned(), mark: Arc::new(mark) })
    }
}

/// How layers are unpacked: 2 keeps set-user-id bits.
const FORMAT: u32 = 2;

/// Unpacked layers, each a folder named by its diffID, shared by every image that has the layer.
/// One with hard links to files of layers below is named by the digest of all of them.
///
/// Owned by the users of containers, below a folder that only root may enter. Unpacked files are
/// not flushed to disk one by one, so the cache counts for one boot of the machine: after a loss of
/// power its content is unknown.
///
/// Beside each layer is its mark, `LAYER.used`: locked by the processes that use the layer, changed
/// when they last did, and containing what the layer takes of the disk. What has no final name yet,
/// or none any more, is in a `.part` folder, locked by the process that works on it; one without a
/// lock was left by a process that died.
#[derive(Debug, Clone)]
pub struct Layers {
    folder: PathBuf,
    /// The cgroup of the process that unpacks.
    place: Option<Place>,
}

impl Layers {
    /// The cache in `folder`, which is made if it is not there. Caches of earlier boots and
    /// unfinished work of processes that died are removed.
    ///
    /// # Errors
    /// Those of [`check_rights`](crate::check_rights), [`Error::Io`].
    pub fn open(folder: &Path) -> Result<Self, Error> {
        check_rights()?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(Error::io("read this boot's name"))?;
        let this_boot = format!("boot-{}", boot.trim());
        let current = folder.join(format!("{this_boot}-{FORMAT}"));
        let making = || format!("make the layer cache `{}`", current.display());
        fs::create_dir_all(&current).map_err(Error::io(making()))?;
        rustix::fs::chmod(folder, rustix::fs::Mode::RWXU).map_err(Error::io(making()))?;
        for entry in fs::read_dir(folder).map_err(Error::io(making()))?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // Containers may still run from what another version unpacked since this boot.
            if name.starts_with("boot-") && !name.starts_with(&this_boot) {
                remove(&entry.path())?;
            }
        }
        let layers = Self { folder: current, place: None };
        layers.remove_unfinished()?;
        Ok(layers)
    }

    /// Has layers unpacked in the cgroup `place`, where there are any.
    #[must_use]
    pub fn unpacked_in(self, place: Option<Place>) -> Self {
        Self { place, ..self }
    }

    /// The layers of `blobs`, in the same order, each once: one that is there twice stands where it
    /// is uppermost, and what it had further down is hidden by itself. What is not there yet is
    /// unpacked by a process of its own (`exe` with the argument `shim`) that may touch nothing but
    /// the new folder.
    ///
    /// # Errors
    /// [`Error::Layer`] names the layer that is broken or hostile. Nothing of it is left then.
    pub fn unpacked(
        &self,
        exe: &Path,
        blobs: Vec<sandbox::LayerBlob>,
    ) -> Result<Vec<Layer>, Error> {
        let mut layers: Vec<Layer> = Vec::new();
        for blob in blobs {
            let layer = self.one(exe, blob, &layers)?;
            layers.push(layer);
        }
        let is_uppermost =
            |at: usize| layers[at + 1..].iter().all(|above| above.folder != layers[at].folder);
        let uppermost: Vec<bool> = (0..layers.len()).map(is_uppermost).collect();
        let mut keep = uppermost.into_iter();
        layers.retain(|_| keep.next().unwrap_or(true));
        Ok(layers)
    }

    /// Whether the layers of an image, lowest first, are all there.
    pub fn has_all(&self, diff_ids: &[Digest]) -> bool {
        let mut lower = Vec::new();
        diff_ids.iter().all(|diff_id| {
            let places = [self.place(diff_id), self.linked_place(diff_id, &lower)];
            let place = places.into_iter().find(|place| place.is_dir());
            let is_there = place.is_some();
            lower.extend(place);
            is_there
        })
    }

    /// Removes what a process that died began and never finished, and the marks of layers that
    /// never came to be.
    fn remove_unfinished(&self) -> Result<(), Error> {
        for path in self.entries()? {
            let extension = path.extension().and_then(|extension| extension.to_str());
            match extension {
                Some("part") if Work::is_left(&path) => remove(&path)?,
                Some("used") if !path.with_extension("").exists() => {
                    let removing = || format!("remove `{}`", path.display());
                    if let Some(mark) = Lock::try_exclusive(&path).map_err(Error::io(removing()))? {
                        mark.remove().map_err(Error::io(removing()))?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn entries(&self) -> Result<Vec<PathBuf>, Error> {
        let listing = || format!("list `{}`", self.folder.display());
        let entries = fs::read_dir(&self.folder).map_err(Error::io(listing()))?;
        entries.map(|entry| Ok(entry.map_err(Error::io(listing()))?.path())).collect()
    }

    fn place(&self, diff_id: &Digest) -> PathBuf {
        self.folder.join(diff_id.to_string().replace(':', "-"))
    }

    /// The layer of `blob`, which stands on `lower`.
    fn one(&self, exe: &Path, blob: sandbox::LayerBlob, lower: &[Layer]) -> Result<Layer, Error> {
        let below: Vec<PathBuf> = lower.iter().map(|layer| layer.folder.clone()).collect();
        let (alone, linked) = (self.place(&blob.diff_id), self.linked_place(&blob.diff_id, &below));
        let expect = |place: &Path| {
            Layer::expect(place).map_err(Error::io(format!("mark the layer `{}`", place.display())))
        };
        for place in [&alone, &linked] {
            if !place.is_dir() {
                continue;
            }
            // Looked at again while it is held: it may have been removed in between.
            let layer = expect(place)?;
            if place.is_dir() {
                layer.touch();
                return Ok(layer);
            }
        }
        let work = Work::begin(&self.folder)?;
        let name = blob.diff_id.to_string();
        let unpacked = sandbox::unpack(exe, &work.path, &work.lock, blob, self.place.clone())
            .and_then(|links| {
                let layer = expect(if links.is_empty() { &alone } else { &linked })?;
                chore::link(&name, &work.path, links, &below)?;
                settle(&work, &layer)?;
                Ok(layer)
            });
        // Also takes back the disk space of a layer that turned out hostile in its middle.
        let removed = remove(&work.path);
        let layer = unpacked?;
        removed?;
        layer.touch();
        Ok(layer)
    }

    /// Where a layer is kept that has files of those below it.
    fn linked_place(&self, diff_id: &Digest, lower: &[PathBuf]) -> PathBuf {
        let mut hasher = spec::Hasher::new(spec::Algorithm::Sha256);
        for folder in lower {
            hasher.update(folder.as_os_str().as_encoded_bytes());
            hasher.update(b"\0");
        }
        hasher.update(diff_id.to_string().as_bytes());
        self.folder.join(format!("linked-{}", hasher.finish().hex()))
    }
}

/// An unpacked layer, as its cache weighs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackedLayer {
    pub folder: PathBuf,
    /// When a container last used it.
    pub used: SystemTime,
    /// What it takes of the disk.
    pub bytes: u64,
}

/// The layers that are unpacked in `folder`, which is as given to [`Layers::open`].
///
/// # Errors
/// Those of [`check_rights`](crate::check_rights), [`Error::Io`].
pub fn unpacked_layers(folder: &Path) -> Result<Vec<UnpackedLayer>, Error> {
    let entries = Layers::open(folder)?.entries()?;
    let folders = entries.into_iter().filter(|path| path.extension().is_none());
    let weighed = folders.map(|folder| {
        let (used, bytes) = weigh(&folder)?;
        Ok(UnpackedLayer { folder, used, bytes })
    });
    weighed.collect()
}

/// When a layer was used last, and what it takes of the disk.
fn weigh(place: &Path) -> Result<(SystemTime, u64), Error> {
    let read = || {
        let mark = open_mark(&mark_of(place))?;
        Ok::<_, io::Error>((mark.metadata()?.modified()?, io::read_to_string(mark)?))
    };
    let (used, noted) = read().map_err(Error::io(format!("weigh `{}`", place.display())))?;
    Ok((used, noted.trim().parse().or_else(|_| chore::weigh(place))?))
}

/// Removes the layer that is unpacked in `place`, unless a container or a start holds it. Returns
/// whether it is gone.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_unused_layer(place: &Path) -> Result<bool, Error> {
    let removing = || format!("remove the layer `{}`", place.display());
    let Some(mark) = Lock::try_exclusive(&mark_of(place)).map_err(Error::io(removing()))? else {
        return Ok(false);
    };
    let folder = place.parent().unwrap_or(Path::new("/"));
    // Out of sight in one step: a layer that has its name is whole, whenever this process is
    // killed.
    let work = Work::begin(folder)?;
    fs::rename(place, work.path.join("layer"))
        // An ordinary user may not move one that is closed to its own root.
        .or_else(|_| fs::rename(place, &work.path))
        .map_err(Error::io(removing()))?;
    mark.remove().map_err(Error::io(removing()))?;
    remove(&work.path)?;
    Ok(true)
}

/// A folder for what is not whole, locked by the process that works on it.
struct Work {
    path: PathBuf,
    lock: File,
}

impl Work {
    fn begin(folder: &Path) -> Result<Self, Error> {
        let making = || format!("make a folder in `{}`", folder.display());
        loop {
            let made = tempfile::Builder::new().prefix("work-").suffix(".part").tempdir_in(folder);
            let path = made.map_err(Error::io(making()))?.keep();
            match File::open(&path) {
                Ok(lock) if lock.try_lock().is_ok() && disk::is_at(&path, &lock) => {
                    return Ok(Self { path, lock });
                }
                // Another process took it for left behind, between the two.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(Error::Io { what: making(), source }),
            }
        }
    }

    fn is_left(path: &Path) -> bool {
        File::open(path).is_ok_and(|folder| folder.try_lock().is_ok())
    }
}

/// Gives a finished folder its name, unless another process was faster with the same content.
fn settle(work: &Work, layer: &Layer) -> Result<(), Error> {
    let keeping = || format!("keep the layer `{}`", layer.folder.display());
    let bytes = chore::weigh(&work.path)?;
    fs::write(mark_of(&layer.folder), bytes.to_string()).map_err(Error::io(keeping()))?;
    match fs::rename(&work.path, &layer.folder) {
        Ok(()) => Ok(()),
        Err(_) if layer.folder.is_dir() => Ok(()),
        Err(source) => Err(Error::Io { what: keeping(), source }),
    }
}

fn mark_of(place: &Path) -> PathBuf {
    place.with_extension("used")
}

fn open_mark(path: &Path) -> io::Result<File> {
    disk::open(path, disk::Purpose::Keep)
}

fn remove(path: &Path) -> Result<(), Error> {
    match chore::remove_tree(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Io { what: format!("remove `{}`", path.display()), source })
        }
        _ => Ok(()),
    }
}
