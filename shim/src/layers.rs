use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use spec::{Descriptor, Digest};

use crate::{Error, walls};

/// A compressed layer that somebody opened for us.
#[derive(Debug)]
pub struct LayerBlob {
    /// Open for reading, at its start.
    pub file: File,
    /// What its bytes must be.
    pub descriptor: Descriptor,
    /// What they must unpack to, from the image's config.
    pub diff_id: Digest,
}

/// Unpacked layers, each a folder named by its diffID, shared by every image that has the layer.
///
/// Owned by the users of containers, below a folder that only root may enter. Unpacked files are not flushed to disk one
/// by one, so the cache counts for one boot of the machine: after a power cut nobody could trust it.
#[derive(Debug, Clone)]
pub struct Layers {
    folder: PathBuf,
}

impl Layers {
    /// The cache in `folder`, which is made if it is not there. Caches of earlier boots and unfinished work of processes
    /// that died are removed.
    ///
    /// # Errors
    /// [`Error::NotRoot`], [`Error::Io`].
    pub fn open(folder: &Path) -> Result<Self, Error> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(Error::io("read this boot's name"))?;
        let ours = folder.join(format!("boot-{}", boot.trim()));
        let making = || format!("make the layer cache `{}`", ours.display());
        fs::create_dir_all(&ours).map_err(Error::io(making()))?;
        rustix::fs::chmod(folder, rustix::fs::Mode::RWXU).map_err(Error::io(making()))?;
        for entry in fs::read_dir(folder).map_err(Error::io(making()))?.flatten() {
            let stale = entry.file_name().to_string_lossy().starts_with("boot-") && entry.path() != ours;
            if stale {
                remove(&entry.path())?;
            }
        }
        let layers = Self { folder: ours };
        layers.remove_unfinished()?;
        Ok(layers)
    }

    /// The folders of `blobs`, in the same order. What is not there yet is unpacked by a process of its own (`exe` with
    /// the argument `shim`) that may touch nothing but the new folder.
    ///
    /// # Errors
    /// [`Error::Layer`] names the layer that is broken or hostile. Nothing of it is left then.
    pub fn unpacked(&self, exe: &Path, blobs: Vec<LayerBlob>) -> Result<Vec<PathBuf>, Error> {
        blobs.into_iter().map(|blob| self.one(exe, blob)).collect()
    }

    /// Whether a layer is there.
    pub fn has(&self, diff_id: &Digest) -> bool {
        self.place(diff_id).is_dir()
    }

    /// Removes every layer that `keep` does not name, and says how many.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn prune(&self, keep: &[Digest]) -> Result<usize, Error> {
        let keep: Vec<_> = keep.iter().map(|digest| self.place(digest)).collect();
        let listing = || format!("list `{}`", self.folder.display());
        let mut removed = 0;
        for entry in fs::read_dir(&self.folder).map_err(Error::io(listing()))? {
            let path = entry.map_err(Error::io(listing()))?.path();
            let unfinished = path.extension().is_some();
            if !unfinished && !keep.contains(&path) {
                remove(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// What somebody began and never finished. No unpacking takes as long.
    fn remove_unfinished(&self) -> Result<(), Error> {
        let listing = || format!("list `{}`", self.folder.display());
        for entry in fs::read_dir(&self.folder).map_err(Error::io(listing()))?.flatten() {
            let unfinished = entry.path().extension().is_some();
            let begun = entry.metadata().and_then(|meta| meta.modified()).ok();
            let old = begun.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > UNFINISHED_TIME_MAX);
            if unfinished && old {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    fn place(&self, diff_id: &Digest) -> PathBuf {
        self.folder.join(diff_id.to_string().replace(':', "-"))
    }

    fn one(&self, exe: &Path, blob: LayerBlob) -> Result<PathBuf, Error> {
        let place = self.place(&blob.diff_id);
        if place.is_dir() {
            return Ok(place);
        }
        let work = tempfile::Builder::new()
            .prefix("unpacking-")
            .suffix(".part")
            .tempdir_in(&self.folder)
            .map_err(Error::io(format!("make a folder in `{}`", self.folder.display())))?;
        let result = walls::unpack(exe, work.path(), blob).and_then(|()| settle(work.path(), &place));
        // Also takes back the disk space of a layer that turned out hostile in its middle.
        let removed = remove(work.path());
        result.and(removed)?;
        Ok(place)
    }
}

/// Twice what an unpacking process gets.
const UNFINISHED_TIME_MAX: Duration = Duration::from_secs(1200);

/// Gives a finished folder its name, unless somebody else was faster with the same content.
fn settle(work: &Path, place: &Path) -> Result<(), Error> {
    match fs::rename(work, place) {
        Ok(()) => Ok(()),
        Err(_) if place.is_dir() => Ok(()),
        Err(source) => Err(Error::Io { what: format!("keep the layer `{}`", place.display()), source }),
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Io { what: format!("remove `{}`", path.display()), source })
        }
        _ => Ok(()),
    }
}
