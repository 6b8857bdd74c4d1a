use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;
use image::{FileIndex, FileNode, Node, NodeId};

use super::{
    host::ErrorCode,
    memory::{MemoryFile, Quota, now},
    walk::PATH_BYTES_MAX,
};

/// What one name costs beyond its content: without this, a quota of bytes would allow names without
/// end.
const ENTRY_BYTES: u64 = 256;
/// What a folder that was made or changed costs beyond its names: a map's first entry takes room
/// for eleven.
const FOLDER_BYTES: u64 = 1024;

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

impl Child {
    /// What it costs under `name`.
    fn cost(&self, name: &str) -> u64 {
        let own = match self {
            Self::Here(Thing::Link(target)) => target.len(),
            Self::Gone
            | Self::Here(
                Thing::Folder(_) | Thing::Layered(..) | Thing::Memory(_) | Thing::Mount(_),
            ) => 0,
        };
        ENTRY_BYTES + (name.len() + own) as u64
    }
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

    /// Places of changed folders, used and free.
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
                self.promoted.get(&id).map_or(folder, |place| Folder::Upper(*place))
            }
            Folder::Upper(_) => folder,
        }
    }

    /// A changed folder, unless it was removed.
    fn upper(&self, place: Place) -> Option<&Upper> {
        self.upper.get(place.at).filter(|upper| upper.life == place.life)
    }

    fn upper_mut(&mut self, place: Place) -> Result<&mut Upper, ErrorCode> {
        self.upper
            .get_mut(place.at)
            .filter(|upper| upper.life == place.life)
            .ok_or(ErrorCode::NoEntry)
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

    /// The first name in a folder after `name`, with what it leads to. Nothing is kept between two
    /// calls, so that a guest that lists a folder holds no copy of it.
    pub fn next(&self, folder: Folder, name: &str) -> Option<(String, Thing)> {
        let folder = self.current(folder);
        let (lower, upper) = match folder {
            Folder::Lower(id) => (Some(id), None),
            Folder::Upper(place) => {
                let upper = self.upper(place)?;
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
            if let Child::Here(thing) = child {
                return Some((name.to_string(), thing.clone()));
            }
        }
        below.next().map(|entry| (entry.name.to_owned(), self.lower(entry.id)))
    }

    fn is_empty(&self, folder: Folder) -> bool {
        self.next(folder, "").is_none()
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
            Folder::Upper(place) => {
                self.upper(place).map_or(self.root(), |upper| self.current(upper.parent))
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
    fn changing(&mut self, folder: Folder) -> Result<Place, ErrorCode> {
        match self.current(folder) {
            Folder::Upper(place) => Ok(place),
            Folder::Lower(id) => {
                self.quota.take(FOLDER_BYTES)?;
                Ok(self.promote(id))
            }
        }
    }

    fn promote(&mut self, id: NodeId) -> Place {
        let (parent, mtime) = (Folder::Lower(self.index.parent(id)), self.mtime(Folder::Lower(id)));
        let place = self.add_upper(Some(id), parent, mtime);
        self.promoted.insert(id, place);
        place
    }

    fn put(&mut self, folder: Folder, name: &str, thing: Thing) -> Result<(), ErrorCode> {
        let place = self.changing(folder)?;
        self.set(place, name, Child::Here(thing))
    }

    /// Takes a name away. Where the image has it too, a mark stays that hides it.
    fn take(&mut self, folder: Folder, name: &str) -> Result<(), ErrorCode> {
        let place = self.changing(folder)?;
        self.upper_mut(place)?;
        self.quota.take(self.cost_of_leaving(place, name))?;
        self.take_paid(place, name)
    }

    /// What taking `name` away costs beyond what it costs to have it.
    fn cost_of_leaving(&self, place: Place, name: &str) -> u64 {
        let held = self
            .upper(place)
            .and_then(|upper| upper.children.get(name))
            .map_or(0, |child| child.cost(name));
        match self.is_in_image(place, name) {
            true => Child::Gone.cost(name).saturating_sub(held),
            false => 0,
        }
    }

    /// Takes a name away whose [leaving](Self::cost_of_leaving) is paid for.
    fn take_paid(&mut self, place: Place, name: &str) -> Result<(), ErrorCode> {
        let mark = self.is_in_image(place, name).then_some(Child::Gone);
        let quota = self.quota.clone();
        let folder = self.upper_mut(place)?;
        let old = folder.children.remove(name).map_or(0, |old| old.cost(name));
        quota.give_back(old.saturating_sub(mark.as_ref().map_or(0, |mark| mark.cost(name))));
        if let Some(mark) = mark {
            folder.children.insert(name.into(), mark);
        }
        folder.mtime = now();
        Ok(())
    }

    fn is_in_image(&self, place: Place, name: &str) -> bool {
        let lower = self.upper(place).and_then(|upper| upper.lower);
        lower.is_some_and(|id| self.index.child(id, name).is_some())
    }

    /// Puts `child` in place of what was there; the quota pays the difference.
    fn set(&mut self, place: Place, name: &str, child: Child) -> Result<(), ErrorCode> {
        let quota = self.quota.clone();
        let folder = self.upper_mut(place)?;
        let old = folder.children.get(name).map_or(0, |old| old.cost(name));
        let new = child.cost(name);
        quota.take(new.saturating_sub(old))?;
        quota.give_back(old.saturating_sub(new));
        folder.children.insert(name.into(), child);
        folder.mtime = now();
        Ok(())
    }

    pub fn make_folder(&mut self, parent: Folder, name: &str) -> Result<(), ErrorCode> {
        if self.child(parent, name).is_some() {
            return Err(ErrorCode::Exist);
        }
        let parent = Folder::Upper(self.changing(parent)?);
        self.quota.take(FOLDER_BYTES)?;
        let made = self.add_upper(None, parent, now());
        let put = self.put(parent, name, Thing::Folder(Folder::Upper(made)));
        if put.is_err() {
            self.forget(made);
        }
        put
    }

    /// Frees the place of an empty folder, with the marks in it. Whoever still holds it finds
    /// nothing there.
    fn forget(&mut self, place: Place) {
        let quota = self.quota.clone();
        if let Ok(upper) = self.upper_mut(place) {
            upper.life += 1;
            upper.lower = None;
            let marks: u64 = std::mem::take(&mut upper.children)
                .iter()
                .map(|(name, mark)| mark.cost(name))
                .sum();
            quota.give_back(FOLDER_BYTES + marks);
            self.free.push(place.at);
        }
    }

    /// Forgets an empty folder that nothing leads to any more.
    fn forget_folder(&mut self, folder: Folder) {
        let place = match self.current(folder) {
            Folder::Upper(place) => place,
            // One of the image that never changed: who holds it must not write into it from now on.
            Folder::Lower(id) => {
                self.quota.force(FOLDER_BYTES);
                self.promote(id)
            }
        };
        self.forget(place);
    }

    pub fn make_file(&mut self, folder: Folder, name: &str) -> Result<Arc<MemoryFile>, ErrorCode> {
        let file = Arc::new(MemoryFile::new(&[], now(), &self.quota)?);
        self.put(folder, name, Thing::Memory(file.clone()))?;
        Ok(file)
    }

    pub fn make_link(&mut self, folder: Folder, name: &str, target: &str) -> Result<(), ErrorCode> {
        if self.child(folder, name).is_some() {
            return Err(ErrorCode::Exist);
        }
        if target.len() > PATH_BYTES_MAX {
            return Err(ErrorCode::NameTooLong);
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
        let content = if empty { Bytes::new() } else { self.content(file) };
        let copied = Arc::new(MemoryFile::new(&content, file.mtime, &self.quota)?);
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
            Thing::Folder(folder) if !self.is_empty(folder) => Err(ErrorCode::NotEmpty),
            Thing::Folder(folder) => {
                self.take(parent, name)?;
                self.forget_folder(folder);
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

    /// Gives a thing another name, or changes nothing: whatever could be refused is taken before
    /// the first change.
    pub fn rename(&mut self, from: (Folder, &str), to: (Folder, &str)) -> Result<(), ErrorCode> {
        let moved = self.child(from.0, from.1).ok_or(ErrorCode::NoEntry)?;
        if (self.current(from.0), from.1) == (self.current(to.0), to.1) {
            return Ok(());
        }
        let replaced = self.child(to.0, to.1);
        match (&moved, &replaced) {
            (Thing::Mount(_), _) | (_, Some(Thing::Mount(_))) => return Err(ErrorCode::Busy),
            (Thing::Memory(file), _) if file.fixed => return Err(ErrorCode::ReadOnly),
            (_, Some(Thing::Memory(file))) if file.fixed => return Err(ErrorCode::ReadOnly),
            (Thing::Folder(folder), _) if self.is_within(to.0, *folder) => {
                return Err(ErrorCode::Invalid);
            }
            (Thing::Folder(_), Some(Thing::Folder(there))) if !self.is_empty(*there) => {
                return Err(ErrorCode::NotEmpty);
            }
            (Thing::Folder(_), None | Some(Thing::Folder(_))) => {}
            (Thing::Folder(_), Some(_)) => return Err(ErrorCode::NotDirectory),
            (_, Some(Thing::Folder(_))) => return Err(ErrorCode::IsDirectory),
            (Thing::Layered(..) | Thing::Memory(_) | Thing::Link(_), _) => {}
        }
        let (left, entered) = (self.changing(from.0)?, self.changing(to.0)?);
        let moved = match moved {
            Thing::Folder(folder) => Thing::Folder(Folder::Upper(self.changing(folder)?)),
            // Under its new name it must not follow what the image has under the old one.
            Thing::Layered(_, file) => Thing::Memory(Arc::new(MemoryFile::new(
                &self.content(file),
                file.mtime,
                &self.quota,
            )?)),
            thing @ (Thing::Memory(_) | Thing::Link(_) | Thing::Mount(_)) => thing,
        };
        // Both lives must be looked at before one of them changes.
        self.upper_mut(left)?;
        self.upper_mut(entered)?;
        let mark = self.cost_of_leaving(left, from.1);
        self.quota.take(mark)?;
        if let Err(error) = self.set(entered, to.1, Child::Here(moved.clone())) {
            self.quota.give_back(mark);
            return Err(error);
        }
        if let Thing::Folder(Folder::Upper(place)) = moved {
            self.upper_mut(place)?.parent = Folder::Upper(entered);
        }
        if let Some(Thing::Folder(there)) = replaced {
            self.forget_folder(there);
        }
        self.take_paid(left, from.1)
    }

    pub fn set_mtime(&mut self, folder: Folder, mtime: i64) -> Result<(), ErrorCode> {
        let place = self.changing(folder)?;
        self.upper_mut(place)?.mtime = mtime;
        Ok(())
    }

    /// A file that was there before the guest, at a path relative to the root; folders are made on
    /// the way.
    pub fn place_file(&mut self, path: &str, content: Vec<u8>) {
        self.place(path, Thing::Memory(Arc::new(MemoryFile::fixed(content))));
    }

    /// A volume's root, in place of whatever the image has there; `false` at the root, which
    /// nothing replaces.
    #[must_use]
    pub fn place_mount(&mut self, path: &str, volume: usize) -> bool {
        let named = path.split('/').any(|name| !name.is_empty());
        if named {
            self.place(path, Thing::Mount(volume));
        }
        named
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
        let place = match self.current(folder) {
            Folder::Upper(place) => place,
            Folder::Lower(id) => self.promote(id),
        };
        if let Ok(folder) = self.upper_mut(place) {
            folder.children.insert(name.into(), Child::Here(thing));
        }
    }
}
