//! A guest's files: read-only layers below, one writable layer in memory above, volumes mounted in
//! between.
//!
//! All of it lives in this process. The only paths that ever reach the kernel are those below a
//! granted volume, and they go through `openat2`, which does not leave it.

mod memory; // files in memory, and the quota that they share
mod tree; // the union of layers and memory: one lookup, all changes
mod walk; // a guest's path to a thing, step by step, never out of where it began
mod volume; // a granted folder of the host
mod handle; // what a guest's descriptor stands for
mod stream; // reading and writing through streams
mod host; // the two interfaces of wasi:filesystem

#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io,
    os::fd::AsFd,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;
use image::FileIndex;
use rustix::mm::{MapFlags, ProtFlags};

pub(crate) use host::{View, add_to_linker};
use memory::Quota;
use tree::Tree;
pub(crate) use volume::Volume;

/// Everything that the instances of one container see as files.
pub(crate) struct Files {
    tree: RwLock<Tree>,
    volumes: Vec<Volume>,
    writable: bool,
}

impl Files {
    /// Puts an image's layers, a container's volumes (each with its absolute path) and its secrets
    /// together.
    ///
    /// # Errors
    /// When the index does not fit the layers, or a volume is to be mounted at `/`.
    pub fn new(
        index: FileIndex,
        layers: Vec<Bytes>,
        volumes: Vec<(String, Volume)>,
        secrets: impl Iterator<Item = (String, Vec<u8>)>,
        writable_bytes_max: u64,
    ) -> Result<Self, String> {
        let lengths: Vec<u64> = layers.iter().map(|layer| layer.len() as u64).collect();
        index.check_layers(&lengths).map_err(|e| e.to_string())?;
        let mut tree = Tree::new(index, layers, Quota::new(writable_bytes_max));
        for (name, content) in secrets {
            tree.place_file(&format!("run/secrets/{name}"), content);
        }
        let mut kept = Vec::new();
        for (path, volume) in volumes {
            if !tree.place_mount(path.trim_start_matches('/'), kept.len()) {
                return Err(
                    "a volume cannot be mounted at `/`: give it a folder of its own".to_owned()
                );
            }
            kept.push(volume);
        }
        Ok(Self { tree: RwLock::new(tree), volumes: kept, writable: writable_bytes_max > 0 })
    }

    /// For the walls.
    pub fn volumes(&self) -> &[Volume] {
        &self.volumes
    }

    fn read(&self) -> RwLockReadGuard<'_, Tree> {
        self.tree.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Tree> {
        self.tree.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All of `file` as memory that is read from disk when it is touched.
pub(crate) fn mapped(file: &File) -> io::Result<Bytes> {
    let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    if len == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: a fresh private mapping of nothing but this file. The file is ours, complete and
    // never written again; were it cut short all the same, touching what is missing would end this
    // one worker.
    let at = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            len,
            ProtFlags::READ,
            MapFlags::PRIVATE,
            file.as_fd(),
            0,
        )?
    };
    Ok(Bytes::from_owner(Mapped { at, len }))
}

struct Mapped {
    at: *mut std::ffi::c_void,
    len: usize,
}

// SAFETY: memory that nobody writes may be read from everywhere.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: mapped for as long as `self` lives, and never written.
        unsafe { std::slice::from_raw_parts(self.at.cast(), self.len) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped; `&mut self` says that nobody looks.
        let _ = unsafe { rustix::mm::munmap(self.at, self.len) };
    }
}
