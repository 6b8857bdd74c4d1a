//! The image's layers below, the writable layer in memory above: one tree, whose changes a quota
//! counts.

mod memory; // files in memory, and the quota that they share
mod tree; // the union of layers and memory: one lookup, all changes
mod walk; // a guest's path to a place, step by step, never out of where it began

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use image::{FileIndex, FileNode, NodeId};

use super::filesystem::{
    DescriptorType, ErrorCode, Filesystem, NewTimes, OpenFile, Opened, Opening, Result, Stat,
    Times, hashed,
};
use memory::{MemoryFile, Quota};
use tree::Tree;
use walk::Walk;

pub(in crate::worker::files) use memory::now;
pub(in crate::worker::files) use tree::{Entry, Folder};
pub(in crate::worker::files) use walk::{Place, Reached, checked};

pub(super) struct Union {
    tree: RwLock<Tree>,
    writable: bool,
}

/// Where a guest is in a folder's entries. Small whatever the folder holds: a guest may keep as
/// many as it has handles.
pub struct Listing {
    folder: Folder,
    /// The name that was given last.
    after: String,
}

impl Union {
    /// # Errors
    /// When the index does not fit the layers.
    pub fn new(
        index: FileIndex,
        layers: Vec<Bytes>,
        writable_bytes_max: u64,
    ) -> Result<Self, String> {
        let lengths: Vec<u64> = layers.iter().map(|layer| layer.len() as u64).collect();
        index.check_layers(&lengths).map_err(|e| e.to_string())?;
        let tree = Tree::new(index, layers, Quota::new(writable_bytes_max));
        Ok(Self { tree: RwLock::new(tree), writable: writable_bytes_max > 0 })
    }

    /// Puts a file that nothing may change at a path relative to the root.
    pub fn put_fixed(&self, path: &str, content: Vec<u8>) {
        self.change().put_fixed(path, content);
    }

    /// Puts a mount point in the place of whatever the image has there; `false` at the root, which
    /// nothing replaces.
    #[must_use]
    pub fn put_mount(&self, path: &str, mount: usize) -> bool {
        self.change().put_mount(path, mount)
    }

    pub fn root(&self) -> Folder {
        self.read().root()
    }

    pub fn walk(&self, from: Folder, path: &str, follow: bool) -> Result<Reached> {
        Walk { from, follow }.along(&self.read(), path)
    }

    pub fn next_entry(&self, listing: &mut Listing) -> Option<(String, DescriptorType)> {
        let (name, entry) = self.read().next(listing.folder, &listing.after)?;
        listing.after.clone_from(&name);
        let kind = match entry {
            Entry::Folder(_) | Entry::Mount(_) => DescriptorType::Directory,
            Entry::Layered(..) | Entry::Memory(_) => DescriptorType::RegularFile,
            Entry::Link(_) => DescriptorType::SymbolicLink,
        };
        Some((name, kind))
    }

    pub fn read(&self) -> RwLockReadGuard<'_, Tree> {
        self.tree.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Tree> {
        self.tree.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tree to change, where there is a writable layer.
    fn writing(&self) -> Result<RwLockWriteGuard<'_, Tree>> {
        if self.writable { Ok(self.change()) } else { Err(ErrorCode::ReadOnly) }
    }

    fn create(&self, folder: Folder, name: &str, opening: Opening) -> Result<Box<dyn OpenFile>> {
        let mut tree = self.writing()?;
        // Another instance may have made it since the walk.
        match tree.child(folder, name) {
            None => Ok(Box::new(tree.make_file(folder, name)?)),
            Some(_) if opening.is_exclusive() => Err(ErrorCode::Exist),
            Some(Entry::Memory(file)) => open_memory(file, opening),
            Some(_) => Err(ErrorCode::Busy),
        }
    }

    fn open_layered(
        &self,
        name: Option<(Folder, String)>,
        (id, file): (NodeId, FileNode),
        opening: Opening,
    ) -> Result<Box<dyn OpenFile>> {
        if !opening.truncates() && !opening.writes() {
            let bytes = self.read().content(file);
            return Ok(Box::new(LayeredFile { id, bytes, times: Times::at(file.mtime) }));
        }
        let (folder, name) = name.ok_or(ErrorCode::IsDirectory)?;
        let mut tree = self.writing()?;
        match tree.child(folder, &name) {
            Some(Entry::Layered(_, file)) => {
                Ok(Box::new(tree.copy_up(folder, &name, file, opening.truncates())?))
            }
            Some(Entry::Memory(file)) => open_memory(file, opening),
            Some(_) => Err(ErrorCode::Busy),
            None => Err(ErrorCode::NoEntry),
        }
    }
}

fn open_memory(file: Arc<MemoryFile>, opening: Opening) -> Result<Box<dyn OpenFile>> {
    if file.fixed && (opening.truncates() || opening.writes()) {
        return Err(ErrorCode::ReadOnly);
    }
    if opening.truncates() {
        file.set_len(0)?;
    }
    Ok(Box::new(file))
}

impl Filesystem for Union {
    type Folder = Folder;
    type Place = Place;
    type Listing = Listing;

    fn open(&self, at: Place, opening: Opening) -> Result<Opened<Folder>> {
        let Place { name, entry, wants_folder } = at;
        let file = match entry {
            Some(_) if opening.is_exclusive() => Err(ErrorCode::Exist),
            Some(Entry::Folder(_)) if opening.writes() || opening.truncates() => {
                Err(ErrorCode::IsDirectory)
            }
            Some(Entry::Folder(folder)) => return Ok(Opened::Folder(folder)),
            Some(Entry::Link(_)) => Err(ErrorCode::Loop),
            Some(_) if opening.wants_folder() => Err(ErrorCode::NotDirectory),
            Some(Entry::Layered(id, file)) => self.open_layered(name, (id, file), opening),
            Some(Entry::Memory(file)) => open_memory(file, opening),
            // The walk goes on behind a mount point.
            Some(Entry::Mount(_)) => Err(ErrorCode::Io),
            None if !opening.creates() => Err(ErrorCode::NoEntry),
            None if wants_folder => Err(ErrorCode::IsDirectory),
            None => {
                let (folder, name) = name.ok_or(ErrorCode::IsDirectory)?;
                self.create(folder, &name, opening)
            }
        };
        file.map(Opened::File)
    }

    fn stat(&self, at: Place) -> Result<Stat> {
        match at.entry.ok_or(ErrorCode::NoEntry)? {
            Entry::Folder(folder) => {
                let tree = self.read();
                let identity = tree.identity(folder);
                Ok(stat(DescriptorType::Directory, 0, tree.times(folder), identity))
            }
            Entry::Layered(id, file) => {
                Ok(stat(DescriptorType::RegularFile, file.len, Times::at(file.mtime), id))
            }
            Entry::Memory(file) => file.stat(),
            Entry::Link(target) => {
                let identity = at.name.map(|(folder, name)| (self.read().identity(folder), name));
                Ok(stat(
                    DescriptorType::SymbolicLink,
                    target.len() as u64,
                    Times::default(),
                    identity,
                ))
            }
            Entry::Mount(_) => Err(ErrorCode::Io),
        }
    }

    fn list(&self, folder: &Folder) -> Result<Listing> {
        Ok(Listing { folder: *folder, after: String::new() })
    }

    fn read_link(&self, at: Place) -> Result<String> {
        match at.entry.ok_or(ErrorCode::NoEntry)? {
            // As `wasi:filesystem` asks: an absolute target would promise a way out.
            Entry::Link(target) if target.starts_with('/') => Err(ErrorCode::NotPermitted),
            Entry::Link(target) => Ok(target.into()),
            _ => Err(ErrorCode::Invalid),
        }
    }

    fn make_folder(&self, at: Place) -> Result<()> {
        let (folder, name) = at.free()?;
        self.writing()?.make_folder(folder, &name)
    }

    fn make_link(&self, target: &str, at: Place) -> Result<()> {
        if at.entry.is_none() && at.wants_folder {
            return Err(ErrorCode::NoEntry);
        }
        let (folder, name) = at.free()?;
        self.writing()?.make_link(folder, &name, target)
    }

    fn unlink(&self, at: Place) -> Result<()> {
        at.entry.as_ref().ok_or(ErrorCode::NoEntry)?;
        let (folder, name) = at.named(ErrorCode::IsDirectory)?;
        self.writing()?.unlink(folder, &name)
    }

    fn remove_folder(&self, at: Place) -> Result<()> {
        at.entry.as_ref().ok_or(ErrorCode::NoEntry)?;
        let (folder, name) = at.named(ErrorCode::Busy)?;
        self.writing()?.remove_folder(folder, &name)
    }

    fn rename(&self, from: Place, to: Place) -> Result<()> {
        let is_folder = matches!(from.entry, Some(Entry::Folder(_)));
        let (is_there, to_folder) = (from.entry.is_some(), to.wants_folder);
        let (folder, name) = from.named(ErrorCode::Busy)?;
        let (new_folder, new_name) = to.named(ErrorCode::Busy)?;
        match () {
            () if !is_there => Err(ErrorCode::NoEntry),
            () if to_folder && !is_folder => Err(ErrorCode::NotDirectory),
            () => self.writing()?.rename((folder, &name), (new_folder, &new_name)),
        }
    }

    fn link(&self, from: Place, to: Place) -> Result<()> {
        let to_folder = to.wants_folder;
        let (folder, name) = from.named(ErrorCode::NotPermitted)?;
        let (new_folder, new_name) = to.named(ErrorCode::Exist)?;
        match to_folder {
            true => Err(ErrorCode::NoEntry),
            false => self.writing()?.link((folder, &name), (new_folder, &new_name)),
        }
    }

    fn set_folder_times(&self, folder: &Folder, times: NewTimes) -> Result<()> {
        self.writing()?.set_times(*folder, times)
    }
}

/// A file of the image.
struct LayeredFile {
    id: NodeId,
    bytes: Bytes,
    times: Times,
}

impl OpenFile for LayeredFile {
    fn stat(&self) -> Result<Stat> {
        Ok(stat(DescriptorType::RegularFile, self.bytes.len() as u64, self.times, self.id))
    }

    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes.len());
        Ok(self.bytes.slice(from..from.saturating_add(len).min(self.bytes.len())))
    }
}

impl OpenFile for Arc<MemoryFile> {
    fn stat(&self) -> Result<Stat> {
        let identity = Arc::as_ptr(self) as usize;
        Ok(stat(DescriptorType::RegularFile, self.len(), self.times(), identity))
    }

    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        Ok(self.read(offset, len).into())
    }

    fn write_at(&self, offset: Option<u64>, bytes: &[u8]) -> Result<u64> {
        self.write(offset, bytes)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        MemoryFile::set_len(self, len)
    }

    fn set_times(&self, times: NewTimes) -> Result<()> {
        if self.fixed {
            return Err(ErrorCode::ReadOnly);
        }
        MemoryFile::set_times(self, times);
        Ok(())
    }
}

fn stat(kind: DescriptorType, size: u64, times: Times, identity: impl std::hash::Hash) -> Stat {
    let identity = hashed((kind as u8, identity));
    Stat { kind, size, links: 1, times, identity }
}
