use crate::{error::Error, limits::LINKS_MAX};

/// The root filesystem that the layers of an image make together: names, and where in which layer
/// the bytes are.
///
/// The bytes themselves stay in the uncompressed layers, which a reader maps. Stored with
/// [`FileIndex::to_bytes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileIndex {
    /// Level by level; the children of a folder stand next to each other, sorted by name. The root
    /// is first.
    pub(crate) records: Vec<Record>,
    /// Names and link targets.
    pub(crate) text: Box<str>,
    pub(crate) layers: u32,
}

/// One thing in the tree, flat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) name_at: u32,
    pub(crate) name_len: u16,
    pub(crate) kind: RecordKind,
    pub(crate) mode: u16,
    pub(crate) parent: u32,
    pub(crate) layer: u32,
    /// File: offset. Folder: first child. Link: where its target is in the text.
    pub(crate) at: u64,
    /// File: length. Folder: number of children. Link: length of its target.
    pub(crate) len: u64,
    pub(crate) mtime: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    Folder,
    File,
    Symlink,
}

/// Names one node of one [`FileIndex`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

/// What a [`NodeId`] names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node<'a> {
    /// A file.
    File(FileNode),
    /// A folder.
    Directory {
        /// Permission bits, and the sticky one.
        mode: u32,
        /// Seconds since 1970.
        mtime: i64,
    },
    /// A symbolic link.
    Symlink {
        /// Its text; absolute ones begin at the root of the image.
        target: &'a str,
    },
}

/// Where a file's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileNode {
    /// The number of the layer, 0 the lowest.
    pub layer: u32,
    /// Its first byte in the uncompressed layer.
    pub offset: u64,
    /// Its size in bytes.
    pub len: u64,
    /// Permission bits.
    pub mode: u32,
    /// Seconds since 1970.
    pub mtime: i64,
}

/// A name in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The name, without a `/`.
    pub name: &'a str,
    /// The node of this name.
    pub id: NodeId,
}

/// Why a path leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// There is nothing of that name.
    #[error("there is nothing of that name")]
    NotFound,
    /// It leads through something that is not a folder.
    #[error("it leads through something that is not a folder")]
    NotADirectory,
    /// It leads through more than 40 links, as Linux allows.
    #[error("it leads through more than 40 links")]
    TooManyLinks,
}

impl FileIndex {
    pub(crate) fn from_parts(records: Vec<Record>, text: Box<str>, layers: u32) -> Self {
        Self { records, text, layers }
    }

    /// The root folder.
    pub fn root(&self) -> NodeId {
        NodeId(0)
    }

    /// How many layers it was made from; a [`FileNode`]'s layer is below.
    pub fn layers(&self) -> u32 {
        self.layers
    }

    /// How many nodes there are, the root included.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is nothing but the root.
    pub fn is_empty(&self) -> bool {
        self.records.len() == 1
    }

    /// What `id` names.
    pub fn node(&self, id: NodeId) -> Node<'_> {
        let record = self.record(id);
        let mode = u32::from(record.mode);
        match record.kind {
            RecordKind::Folder => Node::Directory { mode, mtime: record.mtime },
            RecordKind::Symlink => Node::Symlink { target: self.slice(record.at, record.len) },
            RecordKind::File => Node::File(FileNode {
                layer: record.layer,
                offset: record.at,
                len: record.len,
                mode,
                mtime: record.mtime,
            }),
        }
    }

    /// The folder that `id` is in; the root is in itself.
    pub fn parent(&self, id: NodeId) -> NodeId {
        NodeId(self.record(id).parent)
    }

    /// The name of `id` in its folder; empty for the root.
    pub fn name(&self, id: NodeId) -> &str {
        let record = self.record(id);
        self.slice(u64::from(record.name_at), u64::from(record.name_len))
    }

    /// What `folder` holds under `name`, links not followed.
    pub fn child(&self, folder: NodeId, name: &str) -> Option<NodeId> {
        let range = self.child_range(folder);
        let found = self.records[range.clone()].binary_search_by(|record| {
            self.slice(u64::from(record.name_at), u64::from(record.name_len)).cmp(name)
        });
        found.ok().and_then(|at| u32::try_from(range.start + at).ok()).map(NodeId)
    }

    /// Everything in `folder`, sorted by name; nothing when it is no folder.
    pub fn children(&self, folder: NodeId) -> impl ExactSizeIterator<Item = DirEntry<'_>> {
        self.child_range(folder).map(|at| {
            let id = NodeId(at as u32);
            DirEntry { name: self.name(id), id }
        })
    }

    /// What comes after `name` in `folder`, whether `name` is there or not.
    pub fn children_after(&self, folder: NodeId, name: &str) -> impl Iterator<Item = DirEntry<'_>> {
        let range = self.child_range(folder);
        let passed = self.records[range.clone()].partition_point(|record| {
            self.slice(u64::from(record.name_at), u64::from(record.name_len)) <= name
        });
        (range.start + passed..range.end).map(|at| {
            let id = NodeId(at as u32);
            DirEntry { name: self.name(id), id }
        })
    }

    /// What `path` leads to, following every link; the root of the image is the root of all paths.
    ///
    /// # Errors
    /// Says why it leads nowhere.
    pub fn lookup(&self, path: &str) -> Result<NodeId, LookupError> {
        self.resolve(self.root(), path, true)
    }

    /// What `path` leads to; if that is a link, the link itself.
    ///
    /// # Errors
    /// Says why it leads nowhere.
    pub fn lookup_link(&self, path: &str) -> Result<NodeId, LookupError> {
        self.resolve(self.root(), path, false)
    }

    /// What `path` leads to from the folder `from`. `..` stops at the root. `follow` is for a link
    /// in the last place; links on the way are always followed.
    ///
    /// # Errors
    /// Says why it leads nowhere.
    pub fn resolve(&self, from: NodeId, path: &str, follow: bool) -> Result<NodeId, LookupError> {
        let mut here = if path.starts_with('/') { self.root() } else { from };
        let mut ahead: Vec<&str> = parts(path);
        let mut links = 0;
        while let Some(part) = ahead.pop() {
            if self.record(here).kind != RecordKind::Folder {
                return Err(LookupError::NotADirectory);
            }
            if part == ".." {
                here = self.parent(here);
                continue;
            }
            let next = self.child(here, part).ok_or(LookupError::NotFound)?;
            match self.node(next) {
                Node::Symlink { target } if follow || !ahead.is_empty() || path.ends_with('/') => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(LookupError::TooManyLinks);
                    }
                    if target.starts_with('/') {
                        here = self.root();
                    }
                    ahead.append(&mut parts(target));
                }
                _ => here = next,
            }
        }
        match path.ends_with('/') && self.record(here).kind != RecordKind::Folder {
            true => Err(LookupError::NotADirectory),
            false => Ok(here),
        }
    }

    /// The file at `path`, links followed.
    pub fn file(&self, path: &str) -> Option<FileNode> {
        match self.node(self.lookup(path).ok()?) {
            Node::File(file) => Some(file),
            Node::Directory { .. } | Node::Symlink { .. } => None,
        }
    }

    /// The path of `id` without a `/` in front; empty for the root.
    pub fn path(&self, id: NodeId) -> String {
        let mut names = Vec::new();
        let mut here = id;
        while here != self.root() {
            names.push(self.name(here));
            here = self.parent(here);
        }
        names.reverse();
        names.join("/")
    }

    /// Every node with its path, level by level, the root first.
    pub fn iter(&self) -> impl Iterator<Item = (String, NodeId)> + '_ {
        (0..self.records.len()).map(|at| {
            let id = NodeId(at as u32);
            (self.path(id), id)
        })
    }

    /// Checks that every file lies within its layer, given how long each uncompressed layer is.
    ///
    /// # Errors
    /// [`Error::Index`] names the first file that does not.
    pub fn check_layers(&self, lengths: &[u64]) -> Result<(), Error> {
        for (at, record) in self.records.iter().enumerate() {
            let fits = record.kind != RecordKind::File
                || lengths.get(record.layer as usize).is_some_and(|length| {
                    record.at.checked_add(record.len).is_some_and(|end| end <= *length)
                });
            if !fits {
                let why = format!("`{}` is not within its layer", self.path(NodeId(at as u32)));
                return Err(Error::Index { why });
            }
        }
        Ok(())
    }

    fn record(&self, id: NodeId) -> &Record {
        &self.records[id.0 as usize]
    }

    fn child_range(&self, folder: NodeId) -> std::ops::Range<usize> {
        let record = self.record(folder);
        match record.kind {
            RecordKind::Folder => record.at as usize..(record.at + record.len) as usize,
            RecordKind::File | RecordKind::Symlink => 0..0,
        }
    }

    fn slice(&self, at: u64, len: u64) -> &str {
        &self.text[at as usize..(at + len) as usize]
    }
}

/// The parts of a path, last first, so that the next one is popped.
fn parts(path: &str) -> Vec<&str> {
    path.split('/').rev().filter(|part| !matches!(*part, "" | ".")).collect()
}

impl Record {
    pub(crate) fn new_folder(name: (u64, usize), parent: u32, mode: u32, mtime: i64) -> Self {
        Self { mode: mode as u16, mtime, ..Self::named(RecordKind::Folder, name, parent) }
    }

    pub(crate) fn file(name: (u64, usize), parent: u32, node: FileNode) -> Self {
        Self {
            mode: (node.mode & 0o777) as u16,
            layer: node.layer,
            at: node.offset,
            len: node.len,
            mtime: node.mtime,
            ..Self::named(RecordKind::File, name, parent)
        }
    }

    pub(crate) fn symlink(name: (u64, usize), parent: u32, target: (u64, usize)) -> Self {
        Self {
            mode: 0o777,
            at: target.0,
            len: target.1 as u64,
            ..Self::named(RecordKind::Symlink, name, parent)
        }
    }

    pub(crate) fn set_children(&mut self, first: usize, count: usize) {
        (self.at, self.len) = (first as u64, count as u64);
    }

    fn named(kind: RecordKind, name: (u64, usize), parent: u32) -> Self {
        // `flatten` checks at the end that the text is shorter than 4 GiB; a name has at most 255
        // bytes.
        let (name_at, name_len) = (name.0 as u32, name.1 as u16);
        Self { name_at, name_len, kind, mode: 0, parent, layer: 0, at: 0, len: 0, mtime: 0 }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        layer::{Entry, EntryKind},
        merge::FileIndexBuilder,
    };

    /// One layer: `f` a file, `a->b` a link.
    pub(crate) fn index(words: &str) -> FileIndex {
        let mut builder = FileIndexBuilder::new();
        for (n, word) in words.split_whitespace().enumerate() {
            let (path, kind) = match word.split_once("->") {
                Some((path, target)) => (path, EntryKind::Symlink { target: target.into() }),
                None => (word, EntryKind::File),
            };
            let (path, offset) = (path.into(), 512 * n as u64);
            let entry = Entry {
                path,
                kind,
                mode: 0o600,
                uid: 0,
                gid: 0,
                mtime: 7,
                size: 9,
                offset,
                xattrs: Vec::new(),
            };
            builder.add(&entry).unwrap();
        }
        builder.end_layer().unwrap();
        builder.finish().unwrap()
    }

    #[test]
    fn a_path_leads_where_it_would_in_a_chroot() {
        let index = index(
            "etc/hosts lib->usr/lib usr/lib/x up/and->../../../usr abs->/usr/lib loop->loop \
             a/b->../etc",
        );
        for (path, want) in [
            ("/etc/hosts", Ok("etc/hosts")),
            ("etc//./hosts", Ok("etc/hosts")),
            ("lib/x", Ok("usr/lib/x")),
            ("/abs/x", Ok("usr/lib/x")),
            ("a/b/hosts", Ok("etc/hosts")),
            ("up/and/lib/x", Ok("usr/lib/x")), // `..` stops at the root
            ("../../etc/hosts", Ok("etc/hosts")),
            ("", Ok("")),
            ("/", Ok("")),
            ("etc/", Ok("etc")),
            ("lib/", Ok("usr/lib")),
            ("etc/hosts/", Err(LookupError::NotADirectory)),
            ("etc/hosts/..", Err(LookupError::NotADirectory)),
            ("etc/none", Err(LookupError::NotFound)),
            ("loop", Err(LookupError::TooManyLinks)),
            ("loop/x", Err(LookupError::TooManyLinks)),
        ] {
            assert_eq!(
                index.lookup(path).map(|id| index.path(id)),
                want.map(str::to_owned),
                "{path}"
            );
        }
        assert_eq!(index.path(index.lookup_link("lib").unwrap()), "lib");
        assert_eq!(index.file("/abs/x").unwrap().len, 9);
        assert!(index.file("/etc").is_none());
    }

    #[test]
    fn children_are_sorted_and_found() {
        let index = index("d/b d/a d/c/x d/B");
        let folder = index.lookup("d").unwrap();
        assert_eq!(
            index.children(folder).map(|e| e.name).collect::<Vec<_>>(),
            ["B", "a", "b", "c"]
        );
        for entry in index.children(folder) {
            assert_eq!(index.child(folder, entry.name), Some(entry.id));
            assert_eq!(index.parent(entry.id), folder);
        }
        for (name, after) in [("", "B a b c"), ("B", "a b c"), ("aa", "b c"), ("c", ""), ("z", "")]
        {
            let names: Vec<_> = index.children_after(folder, name).map(|e| e.name).collect();
            assert_eq!(names.join(" "), after, "after {name:?}");
        }
        assert_eq!(index.child(folder, "x"), None);
        assert_eq!(index.child(index.lookup("d/a").unwrap(), "x"), None);
    }

    #[test]
    fn a_file_beyond_its_layer_is_named() {
        let index = index("a b");
        index.check_layers(&[521]).unwrap();
        let error = index.check_layers(&[520]).unwrap_err().to_string();
        assert_eq!(error, "the file index cannot be used: `b` is not within its layer");
        assert!(index.check_layers(&[]).is_err());
    }
}
