use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use bytes::Bytes;
use image::{FileIndex, FileNode, Node, NodeId};

use super::{
    host::ErrorCode,
    memory::{MemoryFile, Quota, now},
};

/// What one name costs beyond its content: without this, a quota of bytes would allow names without end.
const ENTRY_BYTES: u64 = 256;

/// The merged tree. A folder of the image stays a row in its index until something in it changes.
pub(super) struct Tree {
    index: FileIndex,
    layers: Vec<Bytes>,
    upper: Vec<Upper>,
    /// Places in `upper` whose folder was removed.
    free: Vec<usize>,
    /// Folders of the image that have changed, and what they are now.
    promoted: HashMap<NodeId, Place>,
    pub quota: Quota,
}

/// A folder: as it is in the image, or as it became.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Folder {
    Lower(NodeId),
    Upper(Place),
}

/// Where a changed folder is, and in which life of that place: a descriptor may outlive its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    at: usize,
    life: u32,
}

/// A folder that has changed.
struct Upper {
    /// What the image has there, unless something here hides it.
    lower: Option<NodeId>,
    parent: Folder,
    children: BTreeMap<Box<str>, Child>,
    mtime: i64,
    life: u32,
}

/// A change to one name of a folder.
#[derive(Clone)]
enum Child {
    /// The image's entry of this name is hidden.
    Gone,
    Here(Thing),
}

/// What a name leads to.
#[derive(Debug, Clone)]
pub(super) enum Thing {
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
        Self { index, layers, upper: Vec::new(), free: Vec::new(), promoted: HashMap::new(), quota }
    }

    pub fn root(&self) -> Folder {
        self.current(Folder::Lower(self.index.root()))
    }

    /// The bytes of a file of the image. Checked against the layers when the tree was made.
    pub fn content(&self, file: FileNode) -> Bytes {
        let layer = &self.layers[file.layer as usize];
        layer.slice(file.offset as usize..(file.offset + file.len) as usize)
    }

    /// A folder under its present name: one of the image may have changed meanwhile.
    fn current(&self, folder: Folder) -> Folder {
        match folder {
            Folder::Lower(id) => self.promoted.get(&id).map_or(folder, |place| Folder::Upper(*place)),
            Folder::Upper(_) => folder,
        }
    }

    /// A changed folder, unless it was removed.
    fn upper(&self, place: Place) -> Option<&Upper> {
        self.upper.get(place.at).filter(|upper| upper.life == place.life)
    }

    fn upper_mut(&mut self, place: Place) -> Result<&mut Upper, ErrorCode> {
        self.upper.get_mut(place.at).filter(|upper| upper.life == place.life).ok_or(ErrorCode::NoEntry)
    }

    fn add_upper(&mut self, lower: Option<NodeId>, parent: Folder, mtime: i64) -> Place {
        let fresh = |life| Upper { lower, parent, children: BTreeMap::new(), mtime, life };
        match self.free.pop() {
            Some(at) => {
                let life = self.upper[at].life;
                self.upper[at] = fresh(life);
                Place { at, life }
            }
            None => {
                self.upper.push(fresh(0));
                Place { at: self.upper.len() - 1, life: 0 }
            }
        }
    }

    pub fn child(&self, folder: Folder, name: &str) -> Option<Thing> {
        match self.current(folder) {
            Folder::Lower(id) => self.index.child(id, name).map(|child| self.lower(child)),
            Folder::Upper(place) => {
                let folder = self.upper(place)?;
                match folder.children.get(name) {
                    Some(Child::Gone) => None,
                    Some(Child::Here(thing)) => Some(thing.clone()),
                    None => self.index.child(folder.lower?, name).map(|child| self.lower(child)),
                }
            }
        }
    }

    fn lower(&self, id: NodeId) -> Thing {
        match self.index.node(id) {
            Node::File(file) => Thing::Layered(id, file),
            Node::Directory { .. } => Thing::Folder(self.current(Folder::Lower(id))),
            Node::Symlink { target } => Thing::Link(target.into()),
        }
    }

    /// The names in a folder, in order, each with what it leads to.
    pub fn list(&self, folder: Folder) -> Vec<(String, Thing)> {
        let folder = self.current(folder);
        let lower = match folder {
            Folder::Lower(id) => Some(id),
            Folder::Upper(place) => self.upper(place).and_then(|upper| upper.lower),
        };
        let mut all: BTreeMap<&str, Thing> = BTreeMap::new();
        if let Some(id) = lower {
            all.extend(self.index.children(id).map(|entry| (entry.name, self.lower(entry.id))));
        }
        if let Folder::Upper(place) = folder
            && let Some(upper) = self.upper(place)
        {
            for (name, child) in &upper.children {
                match child {
                    Child::Gone => drop(all.remove(&**name)),
                    Child::Here(thing) => drop(all.insert(name, thing.clone())),
                }
            }
        }
        all.into_iter().map(|(name, thing)| (name.to_owned(), thing)).collect()
    }

    pub fn mtime(&self, folder: Folder) -> i64 {
        match self.current(folder) {
            Folder::Upper(place) => self.upper(place).map_or(0, |upper| upper.mtime),
            Folder::Lower(id) => match self.index.node(id) {
                Node::Directory { mtime, .. } => mtime,
                Node::File(_) | Node::Symlink { .. } => 0,
            },
        }
    }

    /// A number that no other folder has, and that stays while the folder lives.
    pub fn identity(&self, folder: Folder) -> u64 {
        let lower = match folder {
            Folder::Lower(id) => Some(id),
            Folder::Upper(place) => self.upper(place).and_then(|upper| upper.lower),
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
            Folder::Upper(place) => self.upper(place).map_or(self.root(), |upper| self.current(upper.parent)),
        }
    }

    /// Whether `folder` is `ancestor` or somewhere below it.
    fn is_within(&self, folder: Folder, ancestor: Folder) -> bool {
        let (mut here, ancestor, root) = (self.current(folder), self.current(ancestor), self.root());
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
    fn changing(&mut self, folder: Folder) -> Place {
        match self.current(folder) {
            Folder::Upper(place) => place,
            Folder::Lower(id) => {
                let (parent, mtime) = (Folder::Lower(self.index.parent(id)), self.mtime(folder));
                let place = self.add_upper(Some(id), parent, mtime);
                self.promoted.insert(id, place);
                place
            }
        }
    }

    fn put(&mut self, folder: Folder, name: &str, thing: Thing) -> Result<(), ErrorCode> {
        let place = self.changing(folder);
        let quota = self.quota.clone();
        let folder = self.upper_mut(place)?;
        if !folder.children.contains_key(name) {
            quota.take(cost(name))?;
        }
        folder.children.insert(name.into(), Child::Here(thing));
        folder.mtime = now();
        Ok(())
    }

    /// Takes a name away. Where the image has it too, a mark stays that hides it.
    fn take(&mut self, folder: Folder, name: &str) -> Result<(), ErrorCode> {
        let place = self.changing(folder);
        let lower = self.upper_mut(place)?.lower;
        let below = lower.is_some_and(|id| self.index.child(id, name).is_some());
        let quota = self.quota.clone();
        let folder = self.upper_mut(place)?;
        match (below, folder.children.contains_key(name)) {
            (true, false) => quota.take(cost(name))?,
            (false, true) => quota.give_back(cost(name)),
            (true, true) | (false, false) => {}
        }
        match below {
            true => folder.children.insert(name.into(), Child::Gone),
            false => folder.children.remove(name),
        };
        folder.mtime = now();
        Ok(())
    }

    pub fn make_folder(&mut self, parent: Folder, name: &str) -> Result<(), ErrorCode> {
        if self.child(parent, name).is_some() {
            return Err(ErrorCode::Exist);
        }
        let parent = Folder::Upper(self.changing(parent));
        let made = self.add_upper(None, parent, now());
        let put = self.put(parent, name, Thing::Folder(Folder::Upper(made)));
        if put.is_err() {
            self.forget(made);
        }
        put
    }

    /// Frees a folder's place. Whoever still holds it finds nothing there.
    fn forget(&mut self, place: Place) {
        if let Ok(upper) = self.upper_mut(place) {
            upper.life += 1;
            upper.children.clear();
            upper.lower = None;
            self.free.push(place.at);
        }
    }

    pub fn make_file(&mut self, folder: Folder, name: &str) -> Result<Arc<MemoryFile>, ErrorCode> {
        let file = Arc::new(MemoryFile::new(Vec::new(), now(), &self.quota)?);
        self.put(folder, name, Thing::Memory(file.clone()))?;
        Ok(file)
    }

    pub fn make_link(&mut self, folder: Folder, name: &str, target: &str) -> Result<(), ErrorCode> {
        if self.child(folder, name).is_some() {
            return Err(ErrorCode::Exist);
        }
        self.put(folder, name, Thing::Link(target.into()))
    }

    /// A file of the image as one of the writable layer, with its content or without.
    pub fn copy_up(
        &mut self,
        folder: Folder,
        name: &str,
        file: FileNode,
        empty: bool,
    ) -> Result<Arc<MemoryFile>, ErrorCode> {
        let content = if empty { Vec::new() } else { self.content(file).to_vec() };
        let copied = Arc::new(MemoryFile::new(content, file.mtime, &self.quota)?);
        self.put(folder, name, Thing::Memory(copied.clone()))?;
        Ok(copied)
    }

    pub fn unlink(&mut self, folder: Folder, name: &str) -> Result<(), ErrorCode> {
        match self.child(folder, name).ok_or(ErrorCode::NoEntry)? {
            Thing::Folder(_) | Thing::Mount(_) => Err(ErrorCode::IsDirectory),
            Thing::Memory(file) if file.fixed => Err(ErrorCode::ReadOnly),
            Thing::Layered(..) | Thing::Memory(_) | Thing::Link(_) => self.take(folder, name),
        }
    }

    pub fn remove_folder(&mut self, parent: Folder, name: &str) -> Result<(), ErrorCode> {
        match self.child(parent, name).ok_or(ErrorCode::NoEntry)? {
            Thing::Folder(folder) if !self.list(folder).is_empty() => Err(ErrorCode::NotEmpty),
            Thing::Folder(folder) => {
                self.take(parent, name)?;
                let place = self.changing(folder);
                self.forget(place);
                Ok(())
            }
            Thing::Mount(_) => Err(ErrorCode::Busy),
            Thing::Layered(..) | Thing::Memory(_) | Thing::Link(_) => Err(ErrorCode::NotDirectory),
        }
    }

    /// Another name for a file.
    pub fn link(&mut self, from: (Folder, &str), to: (Folder, &str)) -> Result<(), ErrorCode> {
        if self.child(to.0, to.1).is_some() {
            return Err(ErrorCode::Exist);
        }
        match self.child(from.0, from.1).ok_or(ErrorCode::NoEntry)? {
            Thing::Layered(_, file) => {
                let file = self.copy_up(from.0, from.1, file, false)?;
                self.put(to.0, to.1, Thing::Memory(file))
            }
            Thing::Memory(file) if file.fixed => Err(ErrorCode::ReadOnly),
            thing @ (Thing::Memory(_) | Thing::Link(_)) => self.put(to.0, to.1, thing),
            Thing::Folder(_) | Thing::Mount(_) => Err(ErrorCode::NotPermitted),
        }
    }

    pub fn rename(&mut self, from: (Folder, &str), to: (Folder, &str)) -> Result<(), ErrorCode> {
        let moved = self.child(from.0, from.1).ok_or(ErrorCode::NoEntry)?;
        if (self.current(from.0), from.1) == (self.current(to.0), to.1) {
            return Ok(());
        }
        let replaced = self.child(to.0, to.1);
        let moved = match (moved, &replaced) {
            (Thing::Mount(_), _) | (_, Some(Thing::Mount(_))) => return Err(ErrorCode::Busy),
            (Thing::Memory(file), _) if file.fixed => return Err(ErrorCode::ReadOnly),
            (_, Some(Thing::Memory(file))) if file.fixed => return Err(ErrorCode::ReadOnly),
            (Thing::Folder(folder), _) if self.is_within(to.0, folder) => return Err(ErrorCode::Invalid),
            (Thing::Folder(_), Some(Thing::Folder(there))) if !self.list(*there).is_empty() => {
                return Err(ErrorCode::NotEmpty);
            }
            (Thing::Folder(folder), None | Some(Thing::Folder(_))) => {
                let (place, parent) = (self.changing(folder), self.current(to.0));
                self.upper_mut(place)?.parent = parent;
                Thing::Folder(Folder::Upper(place))
            }
            (Thing::Folder(_), Some(_)) => return Err(ErrorCode::NotDirectory),
            (_, Some(Thing::Folder(_))) => return Err(ErrorCode::IsDirectory),
            // Under its new name it must not follow what the image has under the old one.
            (Thing::Layered(_, file), _) => Thing::Memory(self.copy_up(from.0, from.1, file, false)?),
            (thing @ (Thing::Memory(_) | Thing::Link(_)), _) => thing,
        };
        self.put(to.0, to.1, moved)?;
        self.take(from.0, from.1)
    }

    pub fn set_mtime(&mut self, folder: Folder, mtime: i64) -> Result<(), ErrorCode> {
        let place = self.changing(folder);
        self.upper_mut(place)?.mtime = mtime;
        Ok(())
    }

    /// A file that was there before the guest, at a path relative to the root; folders are made on the way.
    pub fn place_file(&mut self, path: &str, content: Vec<u8>) {
        self.place(path, Thing::Memory(Arc::new(MemoryFile::fixed(content))));
    }

    /// A volume's root, in place of whatever the image has there.
    pub fn place_mount(&mut self, path: &str, volume: usize) {
        self.place(path, Thing::Mount(volume));
    }

    fn place(&mut self, path: &str, thing: Thing) {
        let mut names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        let Some(last) = names.pop() else { return };
        let mut here = self.root();
        for name in names {
            here = match self.child(here, name) {
                Some(Thing::Folder(folder)) => folder,
                _ => {
                    let fresh = Folder::Upper(self.add_upper(None, self.current(here), now()));
                    self.place_child(here, name, Thing::Folder(fresh));
                    fresh
                }
            };
        }
        self.place_child(here, last, thing);
    }

    fn place_child(&mut self, folder: Folder, name: &str, thing: Thing) {
        let place = self.changing(folder);
        if let Ok(folder) = self.upper_mut(place) {
            folder.children.insert(name.into(), Child::Here(thing));
        }
    }
}

fn cost(name: &str) -> u64 {
    ENTRY_BYTES + name.len() as u64
}
