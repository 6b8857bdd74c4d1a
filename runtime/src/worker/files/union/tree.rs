use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;
use image::{FileIndex, FileNode, Node, NodeId};

use super::memory::{MemoryFile, Quota, now};
use crate::limits::{PATH_BYTES_MAX, UNION_ENTRY_BYTES, UNION_FOLDER_BYTES};
use crate::worker::files::filesystem::{ErrorCode, NewTimes, Result, Times};

/// The merged tree. A folder of the image stays a row in its index until something in it changes.
pub(crate) struct Tree {
    index: FileIndex,
    layers: Vec<Bytes>,
    upper: Vec<UpperFolder>,
    /// Slots whose folder was removed.
    free: Vec<usize>,
    /// Folders of the image that have changed, and where they are now.
    copied_up: HashMap<NodeId, Slot>,
    pub quota: Quota,
}

/// A folder: as it is in the image, or as it became.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Folder {
    Lower(NodeId),
    Upper(Slot),
}

/// Where a changed folder is. A slot is used again: a descriptor that outlives its folder has an
/// older generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    at: usize,
    generation: u32,
}

/// A folder that has changed.
struct UpperFolder {
    /// What the image has there, unless something here hides it.
    lower: Option<NodeId>,
    parent: Folder,
    children: BTreeMap<Box<str>, Change>,
    times: Times,
    generation: u32,
}

/// A change to one name of a folder.
#[derive(Clone)]
enum Change {
    /// The image's entry of this name is hidden.
    Whiteout,
    Entry(Entry),
}

impl Change {
    /// What it costs under `name`.
    fn cost(&self, name: &str) -> u64 {
        let own = match self {
            Self::Entry(Entry::Link(target)) => target.len(),
            Self::Whiteout
            | Self::Entry(
                Entry::Folder(_) | Entry::Layered(..) | Entry::Memory(_) | Entry::Mount(_),
            ) => 0,
        };
        UNION_ENTRY_BYTES + (name.len() + own) as u64
    }
}

/// What a name leads to.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    Folder(Folder),
    /// A file of the image.
    Layered(NodeId, FileNode),
    /// A file of the writable layer.
    Memory(Arc<MemoryFile>),
    Link(Box<str>),
    /// The root of this volume.
    Mount(usize),
}

impl Tree {
    pub fn new(index: FileIndex, layers: Vec<Bytes>, quota: Quota) -> Self {
        Self {
            index,
            layers,
            upper: Vec::new(),
            free: Vec::new(),
            copied_up: HashMap::new(),
            quota,
        }
    }

    pub fn root(&self) -> Folder {
        self.current(Folder::Lower(self.index.root()))
    }

    /// Slots of changed folders, used and free.
    #[cfg(test)]
    pub fn folders(&self) -> usize {
        self.upper.len()
    }

    /// The bytes of a file of the image. Checked against the layers when the tree was made.
    pub fn content(&self, file: FileNode) -> Bytes {
        let layer = &self.layers[file.layer as usize];
        layer.slice(file.offset as usize..(file.offset + file.len) as usize)
    }

    /// A folder under its present name: one of the image may have changed meanwhile.
    fn current(&self, folder: Folder) -> Folder {
        match folder {
            Folder::Lower(id) => {
                self.copied_up.get(&id).map_or(folder, |slot| Folder::Upper(*slot))
            }
            Folder::Upper(_) => folder,
        }
    }

    /// A changed folder, unless it was removed.
    fn upper(&self, slot: Slot) -> Option<&UpperFolder> {
        self.upper.get(slot.at).filter(|upper| upper.generation == slot.generation)
    }

    fn upper_mut(&mut self, slot: Slot) -> Result<&mut UpperFolder> {
        self.upper
            .get_mut(slot.at)
            .filter(|upper| upper.generation == slot.generation)
            .ok_or(ErrorCode::NoEntry)
    }

    fn add_upper(&mut self, lower: Option<NodeId>, parent: Folder, times: Times) -> Slot {
        let fresh = |generation| UpperFolder {
            lower,
            parent,
            children: BTreeMap::new(),
            times,
            generation,
        };
        match self.free.pop() {
            Some(at) => {
                let generation = self.upper[at].generation;
                self.upper[at] = fresh(generation);
                Slot { at, generation }
            }
            None => {
                self.upper.push(fresh(0));
                Slot { at: self.upper.len() - 1, generation: 0 }
            }
        }
    }

    pub fn child(&self, folder: Folder, name: &str) -> Option<Entry> {
        match self.current(folder) {
            Folder::Lower(id) => self.index.child(id, name).map(|child| self.lower(child)),
            Folder::Upper(slot) => {
                let folder = self.upper(slot)?;
                match folder.children.get(name) {
                    Some(Change::Whiteout) => None,
                    Some(Change::Entry(entry)) => Some(entry.clone()),
                    None => self.index.child(folder.lower?, name).map(|child| self.lower(child)),
                }
            }
        }
    }

    fn lower(&self, id: NodeId) -> Entry {
        match self.index.node(id) {
            Node::File(file) => Entry::Layered(id, file),
            Node::Directory { .. } => Entry::Folder(self.current(Folder::Lower(id))),
            Node::Symlink { target } => Entry::Link(target.into()),
        }
    }

    /// The first name in a folder after `name`, with what it leads to. Nothing is kept between two
    /// calls, so that a guest that lists a folder holds no copy of it.
    pub fn next(&self, folder: Folder, name: &str) -> Option<(String, Entry)> {
        let folder = self.current(folder);
        let (lower, upper) = match folder {
            Folder::Lower(id) => (Some(id), None),
            Folder::Upper(slot) => {
                let upper = self.upper(slot)?;
                (upper.lower, Some(upper))
            }
        };
        let mut below =
            lower.into_iter().flat_map(|id| self.index.children_after(id, name)).peekable();
        let after = (Bound::Excluded(name), Bound::Unbounded);
        for (name, child) in
            upper.into_iter().flat_map(|upper| upper.children.range::<str, _>(after))
        {
            if below.peek().is_some_and(|entry| *entry.name < **name) {
                break;
            }
            below.next_if(|entry| *entry.name == **name);
            if let Change::Entry(entry) = child {
                return Some((name.to_string(), entry.clone()));
            }
        }
        below.next().map(|entry| (entry.name.to_owned(), self.lower(entry.id)))
    }

    fn is_empty(&self, folder: Folder) -> bool {
        self.next(folder, "").is_none()
    }

    pub fn times(&self, folder: Folder) -> Times {
        match self.current(folder) {
            Folder::Upper(slot) => self.upper(slot).map_or(Times::default(), |upper| upper.times),
            Folder::Lower(id) => match self.index.node(id) {
                Node::Directory { mtime, .. } => Times::at(mtime),
                Node::File(_) | Node::Symlink { .. } => Times::default(),
            },
        }
    }

    /// A number that no other folder has, and that stays while the folder lives.
    pub fn identity(&self, folder: Folder) -> u64 {
        let lower = match folder {
            Folder::Lower(id) => Some(id),
            Folder::Upper(slot) => self.upper(slot).and_then(|upper| upper.lower),
        };
        let mut hasher = DefaultHasher::new();
        match lower {
            Some(id) => id.hash(&mut hasher),
            None => folder.hash(&mut hasher),
        }
        hasher.finish()
    }

    fn parent(&self, folder: Folder) -> Folder {
        match self.current(folder) {
            Folder::Lower(id) => self.current(Folder::Lower(self.index.parent(id))),
            Folder::Upper(slot) => {
                self.upper(slot).map_or(self.root(), |upper| self.current(upper.parent))
            }
        }
    }

    /// Whether `folder` is `ancestor` or somewhere below it.
    fn is_within(&self, folder: Folder, ancestor: Folder) -> bool {
        let (mut here, ancestor, root) =
            (self.current(folder), self.current(ancestor), self.root());
        loop {
            if here == ancestor {
                return true;
            }
            let above = self.parent(here);
            if here == root || above == here {
                return false;
            }
            here = above;
        }
    }

    /// `folder`, ready to be changed.
    fn changing(&mut self, folder: Folder) -> Result<Slot> {
        match self.current(folder) {
            Folder::Upper(slot) => Ok(slot),
            Folder::Lower(id) => {
                self.quota.take(UNION_FOLDER_BYTES)?;
                Ok(self.copy_up_folder(id))
            }
        }
    }

    fn copy_up_folder(&mut self, id: NodeId) -> Slot {
        let (parent, times) = (Folder::Lower(self.index.parent(id)), self.times(Folder::Lower(id)));
        let slot = self.add_upper(Some(id), parent, times);
        self.copied_up.insert(id, slot);
        slot
    }

    fn put(&mut self, folder: Folder, name: &str, entry: Entry) -> Result<()> {
        let slot = self.changing(folder)?;
        self.set(slot, name, Change::Entry(entry))
    }

    /// Takes a name away. Where the image has it too, a whiteout stays.
    fn take(&mut self, folder: Folder, name: &str) -> Result<()> {
        let slot = self.changing(folder)?;
        self.upper_mut(slot)?;
        self.quota.take(self.cost_of_removing(slot, name))?;
        self.take_paid(slot, name)
    }

    /// What taking `name` away costs beyond what it costs to have it.
    fn cost_of_removing(&self, slot: Slot, name: &str) -> u64 {
        let held = self
            .upper(slot)
            .and_then(|upper| upper.children.get(name))
            .map_or(0, |child| child.cost(name));
        match self.is_in_image(slot, name) {
            true => Change::Whiteout.cost(name).saturating_sub(held),
            false => 0,
        }
    }

    /// Takes a name away whose [removal](Self::cost_of_removing) is paid for.
    fn take_paid(&mut self, slot: Slot, name: &str) -> Result<()> {
        let whiteout = self.is_in_image(slot, name).then_some(Change::Whiteout);
        let quota = self.quota.clone();
        let folder = self.upper_mut(slot)?;
        let old = folder.children.remove(name).map_or(0, |old| old.cost(name));
        quota.give_back(old.saturating_sub(whiteout.as_ref().map_or(0, |new| new.cost(name))));
        if let Some(whiteout) = whiteout {
            folder.children.insert(name.into(), whiteout);
        }
        folder.times.modified = (now(), 0);
        Ok(())
    }

    fn is_in_image(&self, slot: Slot, name: &str) -> bool {
        let lower = self.upper(slot).and_then(|upper| upper.lower);
        lower.is_some_and(|id| self.index.child(id, name).is_some())
    }

    /// Puts `child` in the place of what was there; the quota pays the difference.
    fn set(&mut self, slot: Slot, name: &str, child: Change) -> Result<()> {
        let quota = self.quota.clone();
        let folder = self.upper_mut(slot)?;
        let old = folder.children.get(name).map_or(0, |old| old.cost(name));
        let new = child.cost(name);
        quota.take(new.saturating_sub(old))?;
        quota.give_back(old.saturating_sub(new));
        folder.children.insert(name.into(), child);
        folder.times.modified = (now(), 0);
        Ok(())
    }

    pub fn make_folder(&mut self, parent: Folder, name: &str) -> Result<()> {
        if self.child(parent, name).is_some() {
            return Err(ErrorCode::Exist);
        }
        let parent = Folder::Upper(self.changing(parent)?);
        self.quota.take(UNION_FOLDER_BYTES)?;
        let made = self.add_upper(None, parent, Times::at(now()));
        let put = self.put(parent, name, Entry::Folder(Folder::Upper(made)));
        if put.is_err() {
            self.free_slot(made);
        }
        put
    }

    /// Frees the slot of an empty folder, with the whiteouts in it. A descriptor
    /// that still holds it finds nothing there.
    fn free_slot(&mut self, slot: Slot) {
        let quota = self.quota.clone();
        if let Ok(upper) = self.upper_mut(slot) {
            upper.generation += 1;
            upper.lower = None;
            let whiteouts: u64 = std::mem::take(&mut upper.children)
                .iter()
                .map(|(name, whiteout)| whiteout.cost(name))
                .sum();
            quota.give_back(UNION_FOLDER_BYTES + whiteouts);
            self.free.push(slot.at);
        }
    }

    /// Frees an empty folder that nothing leads to any more.
    fn free_folder(&mut self, folder: Folder) {
        let slot = match self.current(folder) {
            Folder::Upper(slot) => slot,
            // One of the image that never changed: a descriptor that holds it must not write into
            // it from now on.
            Folder::Lower(id) => {
                self.quota.force(UNION_FOLDER_BYTES);
                self.copy_up_folder(id)
            }
        };
        self.free_slot(slot);
    }

    pub fn make_file(&mut self, folder: Folder, name: &str) -> Result<Arc<MemoryFile>> {
        let file = Arc::new(MemoryFile::new(&[], Times::at(now()), &self.quota)?);
        self.put(folder, name, Entry::Memory(file.clone()))?;
        Ok(file)
    }

    pub fn make_link(&mut self, folder: Folder, name: &str, target: &str) -> Result<()> {
        if self.child(folder, name).is_some() {
            return Err(ErrorCode::Exist);
        }
        if target.len() > PATH_BYTES_MAX {
            return Err(ErrorCode::NameTooLong);
        }
        self.put(folder, name, Entry::Link(target.into()))
    }

    /// A file of the image as one of the writable layer, with its content or without.
    pub fn copy_up(
        &mut self,
        folder: Folder,
        name: &str,
        file: FileNode,
        empty: bool,
    ) -> Result<Arc<MemoryFile>> {
        let content = if empty { Bytes::new() } else { self.content(file) };
        let copied = Arc::new(MemoryFile::new(&content, Times::at(file.mtime), &self.quota)?);
        self.put(folder, name, Entry::Memory(copied.clone()))?;
        Ok(copied)
    }

    pub fn unlink(&mut self, folder: Folder, name: &str) -> Result<()> {
        match self.child(folder, name).ok_or(ErrorCode::NoEntry)? {
            Entry::Folder(_) | Entry::Mount(_) => Err(ErrorCode::IsDirectory),
            Entry::Memory(file) if file.fixed => Err(ErrorCode::ReadOnly),
            Entry::Layered(..) | Entry::Memory(_) | Entry::Link(_) => self.take(folder, name),
        }
    }

    pub fn remove_folder(&mut self, parent: Folder, name: &str) -> Result<()> {
        match self.child(parent, name).ok_or(ErrorCode::NoEntry)? {
            Entry::Folder(folder) if !self.is_empty(folder) => Err(ErrorCode::NotEmpty),
            Entry::Folder(folder) => {
                self.take(parent, name)?;
                self.free_folder(folder);
                Ok(())
            }
            Entry::Mount(_) => Err(ErrorCode::Busy),
            Entry::Layered(..) | Entry::Memory(_) | Entry::Link(_) => Err(ErrorCode::NotDirectory),
        }
    }

    /// Another name for a file.
    pub fn link(&mut self, from: (Folder, &str), to: (Folder, &str)) -> Result<()> {
        if self.child(to.0, to.1).is_some() {
            return Err(ErrorCode::Exist);
        }
        match self.child(from.0, from.1).ok_or(ErrorCode::NoEntry)? {
            Entry::Layered(_, file) => {
                let file = self.copy_up(from.0, from.1, file, false)?;
                self.put(to.0, to.1, Entry::Memory(file))
            }
            Entry::Memory(file) if file.fixed => Err(ErrorCode::ReadOnly),
            entry @ (Entry::Memory(_) | Entry::Link(_)) => self.put(to.0, to.1, entry),
            Entry::Folder(_) | Entry::Mount(_) => Err(ErrorCode::NotPermitted),
        }
    }

    /// Gives a entry another name, or changes nothing: whatever could be refused is taken before
    /// the first change.
    pub fn rename(&mut self, from: (Folder, &str), to: (Folder, &str)) -> Result<()> {
        let moved = self.child(from.0, from.1).ok_or(ErrorCode::NoEntry)?;
        if (self.current(from.0), from.1) == (self.current(to.0), to.1) {
            return Ok(());
        }
        let replaced = self.child(to.0, to.1);
        match (&moved, &replaced) {
            (Entry::Mount(_), _) | (_, Some(Entry::Mount(_))) => return Err(ErrorCode::Busy),
            (Entry::Memory(file), _) if file.fixed => return Err(ErrorCode::ReadOnly),
            (_, Some(Entry::Memory(file))) if file.fixed => return Err(ErrorCode::ReadOnly),
            (Entry::Folder(folder), _) if self.is_within(to.0, *folder) => {
                return Err(ErrorCode::Invalid);
            }
            (Entry::Folder(_), Some(Entry::Folder(there))) if !self.is_empty(*there) => {
                return Err(ErrorCode::NotEmpty);
            }
            (Entry::Folder(_), None | Some(Entry::Folder(_))) => {}
            (Entry::Folder(_), Some(_)) => return Err(ErrorCode::NotDirectory),
            (_, Some(Entry::Folder(_))) => return Err(ErrorCode::IsDirectory),
            (Entry::Layered(..) | Entry::Memory(_) | Entry::Link(_), _) => {}
        }
        let (left, entered) = (self.changing(from.0)?, self.changing(to.0)?);
        let moved = match moved {
            Entry::Folder(folder) => Entry::Folder(Folder::Upper(self.changing(folder)?)),
            // Under its new name it must not follow what the image has under the old one.
            Entry::Layered(_, file) => Entry::Memory(Arc::new(MemoryFile::new(
                &self.content(file),
                Times::at(file.mtime),
                &self.quota,
            )?)),
            entry @ (Entry::Memory(_) | Entry::Link(_) | Entry::Mount(_)) => entry,
        };
        // Both generations are looked at before one of the folders changes.
        self.upper_mut(left)?;
        self.upper_mut(entered)?;
        let whiteout = self.cost_of_removing(left, from.1);
        self.quota.take(whiteout)?;
        if let Err(error) = self.set(entered, to.1, Change::Entry(moved.clone())) {
            self.quota.give_back(whiteout);
            return Err(error);
        }
        if let Entry::Folder(Folder::Upper(slot)) = moved {
            self.upper_mut(slot)?.parent = Folder::Upper(entered);
        }
        if let Some(Entry::Folder(there)) = replaced {
            self.free_folder(there);
        }
        self.take_paid(left, from.1)
    }

    pub fn set_times(&mut self, folder: Folder, new: NewTimes) -> Result<()> {
        let slot = self.changing(folder)?;
        let upper = self.upper_mut(slot)?;
        upper.times = new.over(upper.times);
        Ok(())
    }

    /// A file that was there before the guest, at a path relative to the root; folders are made on
    /// the way.
    pub fn put_fixed(&mut self, path: &str, content: Vec<u8>) {
        self.put_at(path, Entry::Memory(Arc::new(MemoryFile::fixed(content))));
    }

    /// A volume's root, in the place of whatever the image has there; `false` at the root, which
    /// nothing replaces.
    #[must_use]
    pub fn put_mount(&mut self, path: &str, volume: usize) -> bool {
        let named = path.split('/').any(|name| !name.is_empty());
        if named {
            self.put_at(path, Entry::Mount(volume));
        }
        named
    }

    fn put_at(&mut self, path: &str, entry: Entry) {
        let mut names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        let Some(last) = names.pop() else { return };
        let mut here = self.root();
        for name in names {
            here = match self.child(here, name) {
                Some(Entry::Folder(folder)) => folder,
                _ => {
                    let fresh =
                        Folder::Upper(self.add_upper(None, self.current(here), Times::at(now())));
                    self.put_unpaid(here, name, Entry::Folder(fresh));
                    fresh
                }
            };
        }
        self.put_unpaid(here, last, entry);
    }

    fn put_unpaid(&mut self, folder: Folder, name: &str, entry: Entry) {
        let slot = match self.current(folder) {
            Folder::Upper(slot) => slot,
            Folder::Lower(id) => self.copy_up_folder(id),
        };
        if let Ok(folder) = self.upper_mut(slot) {
            folder.children.insert(name.into(), Change::Entry(entry));
        }
    }
}
