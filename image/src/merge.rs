use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    io::{Read, Write},
};

use crate::{
    error::Error,
    index::{FileIndex, FileNode, Node, NodeId, Record},
    layer::{Entry, EntryKind, LayerReader},
    notes::{Note, Notes},
    path::{InvalidName, normal_name, shown, through_links},
};

/// Puts layers on top of each other, lowest first, and becomes a [`FileIndex`].
///
/// Whiteouts take away only what lower layers have, wherever in their own layer they stand. A
/// folder and a folder become one; in every other case the upper thing replaces the lower one. The
/// last of two entries with one name wins. A name that leads through a link of its layer is where
/// the link leads. A hard link may stand in front of its file, or in a layer above it.
///
/// What no Wasm program could use (device nodes, pipes, sparse files, names that are not UTF-8) is
/// left out, with a note.
///
/// # Spec
/// OCI image-spec 1.1, "Image Layer Filesystem Changeset".
#[derive(Default)]
pub struct FileIndexBuilder {
    merged: Folder,
    current: Folder,
    layers: u32,
    /// Hard links of the current layer whose file has not come yet, with its name.
    waiting: Vec<(String, String)>,
    notes: Notes,
}

#[derive(Default)]
struct Folder {
    mode: Option<u32>,
    mtime: i64,
    /// Lower layers' content of this folder is gone.
    opaque: bool,
    children: BTreeMap<Box<str>, Slot>,
}

/// One name in one layer.
#[derive(Default)]
struct Slot {
    /// A whiteout: lower layers have nothing under this name.
    hides: bool,
    node: Option<TreeNode>,
}

enum TreeNode {
    Folder(Folder),
    File(FileNode),
    Symlink(Box<str>),
    /// A hard link in `waiting`.
    Waiting,
}

impl FileIndexBuilder {
    /// No layers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The layers of `index` are there already.
    pub fn on_top_of(index: &FileIndex) -> Self {
        let merged = unflatten(index, index.root());
        Self { merged, layers: index.layers(), ..Self::default() }
    }

    /// What was read otherwise than it is written, in the layers so far.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Reads the rest of `layer` as the next layer up, and gives the reader back to be finished.
    ///
    /// # Errors
    /// Whatever is wrong with the layer.
    pub fn read_layer<R: Read, W: Write>(
        &mut self,
        layer: &mut LayerReader<R, W>,
    ) -> Result<(), Error> {
        while let Some(entry) = layer.next_entry()? {
            self.add(&entry)?;
        }
        self.notes.extend(layer.notes());
        self.end_layer()
    }

    /// Adds one entry to the current layer.
    ///
    /// # Errors
    /// [`Error::LayerPath`] when its name leads through a file of the same layer.
    pub fn add(&mut self, entry: &Entry) -> Result<(), Error> {
        let Some(path) = entry.utf8_path() else {
            self.notes.add(Note::NotUtf8, &entry.path);
            return Ok(());
        };
        self.add_at(path, entry)
            .map_err(|why| Error::LayerPath { name: shown(entry.path.as_slice()), why })
    }

    fn add_at(&mut self, path: &str, entry: &Entry) -> Result<(), InvalidName> {
        let resolved = self.resolved(path)?;
        if resolved != path {
            self.notes.add(Note::ThroughLink, path.as_bytes());
        }
        let path = resolved.as_ref();
        let node = match &entry.kind {
            EntryKind::Whiteout => {
                self.slot(path)?.hides = true;
                return Ok(());
            }
            EntryKind::Opaque => {
                self.opaque_folder(path)?.opaque = true;
                return Ok(());
            }
            EntryKind::Directory => {
                let folder = self.replacing_folder(path)?;
                // The sticky bit of /tmp is the one special bit that protects users from each
                // other.
                folder.mode = Some(entry.mode & 0o1777);
                folder.mtime = entry.mtime;
                return Ok(());
            }
            EntryKind::Device => return self.leave_out(path, None),
            EntryKind::Pipe => return self.leave_out(path, Some(Note::Pipe)),
            EntryKind::SparseFile => return self.leave_out(path, Some(Note::Sparse)),
            EntryKind::File => TreeNode::File(FileNode {
                layer: self.layers,
                offset: entry.offset,
                len: entry.size,
                mode: entry.mode & 0o777,
                mtime: entry.mtime,
            }),
            EntryKind::Symlink { target } => match str::from_utf8(target) {
                Ok(target) => TreeNode::Symlink(target.into()),
                Err(_) => return self.leave_out(path, Some(Note::NotUtf8)),
            },
            EntryKind::Hardlink { target } => match str::from_utf8(target) {
                Ok(target) if target == path && self.slot(path)?.node.is_some() => return Ok(()),
                Ok(target) => match self.current.linked(target)? {
                    Some(node) => node,
                    None => {
                        self.waiting.push((path.to_owned(), target.to_owned()));
                        TreeNode::Waiting
                    }
                },
                Err(_) => return self.leave_out(path, Some(Note::NotUtf8)),
            },
        };
        self.slot(path)?.node = Some(node);
        Ok(())
    }

    /// Nothing is at `path`, also of what was there.
    fn leave_out(&mut self, path: &str, note: Option<Note>) -> Result<(), InvalidName> {
        if let Some(note) = note {
            self.notes.add(note, path.as_bytes());
        }
        let slot = self.slot(path)?;
        (slot.hides, slot.node) = (true, None);
        Ok(())
    }

    /// Adds a file whose bytes are not in a tar: a layer that is the file itself. `node` says where
    /// they are.
    ///
    /// # Errors
    /// [`Error::LayerPath`] as in [`FileIndexBuilder::add`].
    pub fn add_file(&mut self, path: &str, node: FileNode) -> Result<(), Error> {
        let invalid = |why| Error::LayerPath { name: shown(path.as_bytes()), why };
        match normal_name(path.trim_start_matches('/').as_bytes()).map_err(invalid)? {
            "" => Err(invalid(InvalidName::Empty)),
            name => {
                self.slot(name).map_err(invalid)?.node = Some(TreeNode::File(node));
                Ok(())
            }
        }
    }

    /// The current layer is complete; what comes next is above it.
    ///
    /// # Errors
    /// [`Error::LayerPath`] for a hard link to something that is a file neither in this layer nor
    /// below.
    pub fn end_layer(&mut self) -> Result<(), Error> {
        for (path, target) in std::mem::take(&mut self.waiting) {
            let invalid = |why| Error::LayerPath { name: shown(path.as_bytes()), why };
            if !matches!(self.slot(&path).map_err(invalid)?.node, Some(TreeNode::Waiting)) {
                continue; // an entry further down took its place
            }
            let here = self.current.linked(&target).map_err(invalid)?;
            let node = match here {
                Some(node) => node,
                None => self
                    .merged
                    .linked(&target)
                    .map_err(invalid)?
                    .ok_or_else(|| invalid(InvalidName::LinkAbsent))?,
            };
            self.slot(&path).map_err(invalid)?.node = Some(node);
        }
        let upper = std::mem::take(&mut self.current);
        merge(&mut self.merged, upper);
        self.layers += 1;
        Ok(())
    }

    /// The index of all layers that were ended.
    ///
    /// # Errors
    /// [`Error::Budget`] when names and links together need more than 4 GiB.
    pub fn finish(self) -> Result<FileIndex, Error> {
        flatten(self.merged, self.layers)
    }

    /// `path`, or where it leads when links of the current layer are among its folders.
    fn resolved<'p>(&self, path: &'p str) -> Result<Cow<'p, str>, InvalidName> {
        self.current.resolved(path)
    }

    /// The folder at `path` of this layer, made on the way if this layer did not mention it.
    fn folder(&mut self, path: &str) -> Result<&mut Folder, InvalidName> {
        let mut folder = &mut self.current;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let slot = folder.children.entry(part.into()).or_default();
            folder = match slot.node.get_or_insert_with(|| TreeNode::Folder(Folder::default())) {
                TreeNode::Folder(folder) => folder,
                TreeNode::File(_) | TreeNode::Symlink(_) | TreeNode::Waiting => {
                    return Err(InvalidName::ThroughLink);
                }
            };
        }
        Ok(folder)
    }

    /// The folder that a marker at `path` means, also when a link of this layer leads there.
    fn opaque_folder(&mut self, path: &str) -> Result<&mut Folder, InvalidName> {
        let inside = format!("{path}/x");
        let resolved = self.current.resolved(&inside)?;
        let folder = resolved.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        self.folder(&folder)
    }

    /// Like [`Self::folder`], and what the layer had there before is replaced when it is no folder.
    fn replacing_folder(&mut self, path: &str) -> Result<&mut Folder, InvalidName> {
        if !path.is_empty() {
            let slot = self.slot(path)?;
            if !matches!(slot.node, Some(TreeNode::Folder(_))) {
                slot.node = Some(TreeNode::Folder(Folder::default()));
            }
        }
        self.folder(path)
    }

    fn slot(&mut self, path: &str) -> Result<&mut Slot, InvalidName> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok(self.folder(parent)?.children.entry(name.into()).or_default())
    }
}

impl Folder {
    /// What is at `path`, links not followed.
    fn at(&self, path: &str) -> Option<&TreeNode> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut folder = self;
        for part in parent.split('/').filter(|part| !part.is_empty()) {
            match folder.children.get(part)?.node.as_ref()? {
                TreeNode::Folder(inner) => folder = inner,
                _ => return None,
            }
        }
        folder.children.get(name)?.node.as_ref()
    }

    /// `path`, or where it leads when links are among its folders.
    fn resolved<'p>(&self, path: &'p str) -> Result<Cow<'p, str>, InvalidName> {
        if !self.is_through_link(path) {
            return Ok(Cow::Borrowed(path));
        }
        let resolved =
            through_links(path.as_bytes(), |path| match self.at(str::from_utf8(path).ok()?)? {
                TreeNode::Symlink(target) => Some(target.as_bytes().to_vec()),
                _ => None,
            })?;
        String::from_utf8(resolved).map(Cow::Owned).map_err(|_| InvalidName::NotUtf8)
    }

    fn is_through_link(&self, path: &str) -> bool {
        let Some((parent, _)) = path.rsplit_once('/') else { return false };
        let mut folder = self;
        for part in parent.split('/') {
            match folder.children.get(part).and_then(|slot| slot.node.as_ref()) {
                Some(TreeNode::Folder(inner)) => folder = inner,
                Some(TreeNode::Symlink(_)) => return true,
                Some(TreeNode::File(_) | TreeNode::Waiting) | None => return false,
            }
        }
        false
    }

    /// What is at `path`, when that can have a second name.
    fn linked(&self, path: &str) -> Result<Option<TreeNode>, InvalidName> {
        Ok(match self.at(&self.resolved(path)?) {
            Some(TreeNode::File(node)) => Some(TreeNode::File(*node)),
            Some(TreeNode::Symlink(target)) => Some(TreeNode::Symlink(target.clone())),
            Some(TreeNode::Folder(_) | TreeNode::Waiting) | None => None,
        })
    }
}

/// Puts `upper` on top of `lower`. What remains has no whiteouts. Names are at most 256 deep, so
/// this may recurse.
fn merge(lower: &mut Folder, upper: Folder) {
    if upper.opaque {
        lower.children.clear();
    }
    if let Some(mode) = upper.mode {
        (lower.mode, lower.mtime) = (Some(mode), upper.mtime);
    }
    for (name, slot) in upper.children {
        if slot.hides {
            lower.children.remove(&name);
        }
        match slot.node {
            None => {}
            Some(TreeNode::Folder(upper)) => {
                let below = lower.children.entry(name).or_default();
                if !matches!(below.node, Some(TreeNode::Folder(_))) {
                    below.node = Some(TreeNode::Folder(Folder::default()));
                }
                if let Some(TreeNode::Folder(lower)) = &mut below.node {
                    merge(lower, upper);
                }
            }
            Some(node) => {
                lower.children.insert(name, Slot { hides: false, node: Some(node) });
            }
        }
    }
}

/// The inverse of [`flatten`]. Names in an index are at most 256 deep, so this may recurse.
fn unflatten(index: &FileIndex, id: NodeId) -> Folder {
    let mut folder = Folder::default();
    if let Node::Directory { mode, mtime } = index.node(id) {
        (folder.mode, folder.mtime) = (Some(mode), mtime);
    }
    for entry in index.children(id) {
        let node = match index.node(entry.id) {
            Node::Directory { .. } => TreeNode::Folder(unflatten(index, entry.id)),
            Node::File(file) => TreeNode::File(file),
            Node::Symlink { target } => TreeNode::Symlink(target.into()),
        };
        folder.children.insert(entry.name.into(), Slot { hides: false, node: Some(node) });
    }
    folder
}

/// Level by level, so that the children of a folder stand next to each other.
fn flatten(root: Folder, layers: u32) -> Result<FileIndex, Error> {
    let mut text = String::new();
    let mut records = vec![Record::folder((0, 0), 0, &root)];
    let mut queue = VecDeque::from([(0usize, root.children)]);
    while let Some((at, children)) = queue.pop_front() {
        let first = records.len();
        records[at].set_children(first, children.len());
        for (name, slot) in children {
            let Some(node) = slot.node else { continue };
            let named = put(&mut text, &name);
            let parent = u32::try_from(at).map_err(|_| too_large())?;
            match node {
                TreeNode::File(node) => records.push(Record::file(named, parent, node)),
                TreeNode::Symlink(target) => {
                    let target = put(&mut text, &target);
                    records.push(Record::symlink(named, parent, target));
                }
                TreeNode::Waiting => unreachable!("the end of a layer resolves what waits in it"),
                TreeNode::Folder(folder) => {
                    let here = records.len();
                    records.push(Record::folder(named, parent, &folder));
                    queue.push_back((here, folder.children));
                }
            }
        }
    }
    match u32::try_from(text.len()).is_ok() && u32::try_from(records.len()).is_ok() {
        true => Ok(FileIndex::from_parts(records, text.into_boxed_str(), layers)),
        false => Err(too_large()),
    }
}

fn too_large() -> Error {
    Error::Budget { why: "its names need more than 4 GiB".to_owned() }
}

fn put(text: &mut String, part: &str) -> (u64, usize) {
    let at = text.len() as u64;
    text.push_str(part);
    (at, part.len())
}

impl Record {
    fn folder(name: (u64, usize), parent: u32, folder: &Folder) -> Self {
        // A folder that no layer describes is readable for all users, as tar and Docker make it.
        Self::new_folder(name, parent, folder.mode.unwrap_or(0o755), folder.mtime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One entry per word: `f` a file, `d/` a folder, `a->b` a symbolic link, `a=b` a hard link,
    /// `-f` a whiteout, `!d` an opaque folder.
    fn entry(word: &str, n: usize) -> Entry {
        let symlink =
            |(a, b): (&str, &str)| (a.to_owned(), EntryKind::Symlink { target: b.into() });
        let hardlink =
            |(a, b): (&str, &str)| (a.to_owned(), EntryKind::Hardlink { target: b.into() });
        let (path, kind) = if let Some(path) = word.strip_prefix('-') {
            (path.to_owned(), EntryKind::Whiteout)
        } else if let Some(path) = word.strip_prefix('!') {
            (path.to_owned(), EntryKind::Opaque)
        } else if let Some(path) = word.strip_suffix('/') {
            (path.to_owned(), EntryKind::Directory)
        } else if let Some(link) = word.split_once("->") {
            symlink(link)
        } else if let Some(link) = word.split_once('=') {
            hardlink(link)
        } else {
            (word.to_owned(), EntryKind::File)
        };
        Entry {
            path: path.into(),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 0,
            size: 1,
            offset: n as u64,
            xattrs: Vec::new(),
        }
    }

    fn merged(layers: &[&str]) -> Result<String, Error> {
        let mut builder = FileIndexBuilder::new();
        for layer in layers {
            builder = FileIndexBuilder::on_top_of(&builder.finish()?);
            for (n, word) in layer.split_whitespace().enumerate() {
                builder.add(&entry(word, n))?;
            }
            builder.end_layer()?;
        }
        Ok(listing(&builder.finish()?))
    }

    /// Every node, files with `@LAYER.OFFSET`.
    fn listing(index: &FileIndex) -> String {
        let shown = |(path, id)| match index.node(id) {
            Node::Directory { .. } => format!("{path}/"),
            Node::File(file) => format!("{path}@{}.{}", file.layer, file.offset),
            Node::Symlink { target } => format!("{path}->{target}"),
        };
        index.iter().skip(1).map(shown).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn layers_merge_as_the_oci_spec_says() {
        for (layers, want) in [
            (&["b a"][..], "a@0.1 b@0.0"),
            (&["d/x"], "d/ d/x@0.0"),
            (&["a", "a"], "a@1.0"),
            (&["a b", "-a"], "b@0.1"),
            (&["d/x d/y", "-d/x"], "d/ d/y@0.1"),
            (&["d/x d/y", "-d"], ""),
            (&["d/x d/y", "!d d/z"], "d/ d/z@1.1"),
            (&["d/x d/y", "d/z !d"], "d/ d/z@1.0"), // whiteouts do not care where they stand
            (&["d/x", "-d d/y"], "d/ d/y@1.1"),
            (&["d/x", "d/y -d"], "d/ d/y@1.0"),
            (&["a", "a -a"], "a@1.0"),
            (&["a b", "!"], ""),
            (&["a b", "! c"], "c@1.1"),
            (&["-a a"], "a@0.1"),
            (&["-a -d/x"], "d/"), // nothing there to take away
            (&["d/x", "d"], "d@1.0"),
            (&["d/x", "d", "d/y"], "d/ d/y@2.0"),
            (&["d", "d/x"], "d/ d/x@1.0"),
            (&["d->e e/x", "d/"], "d/ e/ e/x@0.1"),
            (&["d->e e/x", "d/y"], "d/ e/ d/y@1.0 e/x@0.1"),
            (&["d/x", "d->e"], "d->e"),
            (&["d/x", "d/"], "d/ d/x@0.0"),
            (&["a a"], "a@0.1"),
            (&["a->b a/"], "a/"),
            (&["a b=a"], "a@0.0 b@0.0"),
            (&["a b=a", "-a"], "b@0.0"),
            (&["a->x b=a"], "a->x b->x"),
            (&["d/.wh.x d/y", "-d/y"], "d/ d/.wh.x@0.0"),
            // Through links of the same layer, to where they lead.
            (&["lib->usr/lib lib/x"], "lib->usr/lib usr/ usr/lib/ usr/lib/x@0.1"),
            (&["lib->/usr/lib usr/lib/ lib/x"], "lib->/usr/lib usr/ usr/lib/ usr/lib/x@0.2"),
            (&["up->../../etc up/x"], "etc/ up->../../etc etc/x@0.1"),
            (&["usr/lib/y", "lib->usr/lib -lib/y"], "lib->usr/lib usr/ usr/lib/"),
            (&["usr/y", "lib->usr !lib lib/x"], "lib->usr usr/ usr/x@1.2"),
            (&["d->e e/x b=d/x"], "b@0.1 d->e e/ e/x@0.1"),
            // Hard links in front of their file, and across layers.
            (&["b=a a"], "a@0.1 b@0.1"),
            (&["a", "b=a"], "a@0.0 b@0.0"),
            (&["a", "b=a c=b"], "a@0.0 b@0.0 c@0.0"),
            (&["a", "-a b=a"], "b@0.0"),
            (&["a", "b=a b"], "a@0.0 b@1.1"),
            (&["x->y", "b=x"], "b->y x->y"),
            (&["l->d d/a", "b=l/a"], "b@0.1 d/ l->d d/a@0.1"),
            (&["a a=a"], "a@0.0"),
            // A file in the place of a folder, and the other way.
            (&["d/x d"], "d@0.1"),
            (&["d d/"], "d/"),
        ] {
            assert_eq!(merged(layers).unwrap(), want, "{layers:?}");
        }
    }

    #[test]
    fn names_through_files_and_dangling_hard_links_are_refused() {
        for (layers, want) in [
            (&["f f/x"][..], InvalidName::ThroughLink),
            (&["f -f/x"], InvalidName::ThroughLink),
            (&["l->l l/x"], InvalidName::ThroughLink),
            (&["b=a b/x a"], InvalidName::ThroughLink),
            (&["b=a"], InvalidName::LinkAbsent),
            (&["a=a"], InvalidName::LinkAbsent),
            (&["d/ b=d"], InvalidName::LinkAbsent),
            (&["d/x", "b=d"], InvalidName::LinkAbsent),
            (&["a", "-a", "b=a"], InvalidName::LinkAbsent),
        ] {
            match merged(layers) {
                Err(Error::LayerPath { why, .. }) => assert_eq!(why, want, "{layers:?}"),
                other => panic!("{layers:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_no_program_can_use_is_left_out_and_noted() {
        let mut builder = FileIndexBuilder::new();
        let odd = |kind: EntryKind, path: &[u8]| Entry { kind, path: path.into(), ..entry("", 0) };
        builder.add(&entry("dev/null", 0)).unwrap();
        builder.end_layer().unwrap();
        for (kind, path) in [
            (EntryKind::Device, &b"dev/null"[..]),
            (EntryKind::Pipe, b"run/pipe"),
            (EntryKind::SparseFile, b"holes"),
            (EntryKind::File, b"caf\xe9"),
            (EntryKind::Symlink { target: b"caf\xe9".to_vec() }, b"cafe"),
        ] {
            builder.add(&odd(kind, path)).unwrap();
        }
        builder.end_layer().unwrap();
        let notes = builder.notes().lines(crate::Kind::Wasm).join("\n");
        for part in ["named pipe", "sparse file", "names are not UTF-8"] {
            assert!(notes.contains(part), "{part}: {notes}");
        }
        assert_eq!(listing(&builder.finish().unwrap()), "dev/ run/");
    }

    /// Threads have 2 MiB of stack by default, and this one is no other.
    #[test]
    fn the_deepest_tree_is_merged_stored_and_dropped() {
        let deepest = vec!["d"; crate::limits::DEPTH_MAX].join("/");
        let listed = merged(&[&deepest, &deepest]).unwrap();
        assert_eq!(listed.split(' ').count(), crate::limits::DEPTH_MAX);
        let mut builder = FileIndexBuilder::new();
        builder.add(&entry(&deepest, 0)).unwrap();
        builder.end_layer().unwrap();
        let index = builder.finish().unwrap();
        assert_eq!(FileIndex::from_bytes(&index.to_bytes()).unwrap(), index);
    }
}
