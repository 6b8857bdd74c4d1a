use std::{collections::BTreeMap, sync::Arc};

use spec::{Descriptor, Hasher};

use crate::path::ancestors;

/// What one new layer holds, before it has bytes: paths (relative and normal) in the order in which
/// they are written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Items(pub(crate) BTreeMap<String, Item>);

#[derive(Debug, Clone)]
pub(crate) enum Item {
    Folder { mode: u32 },
    File { mode: u32, source: Source },
    Symlink { target: String },
}

/// The source of a file's bytes.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A file of the build context.
    Context(ContextFile),
    /// These bytes.
    Bytes(Arc<[u8]>),
    /// A part of something that has to be uncompressed first.
    Part { origin: Origin, offset: u64, len: u64 },
}

/// A blob or archive that has to be uncompressed.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// A layer of another image.
    Layer(Arc<Descriptor>),
    /// A layer that is a file itself: nothing to uncompress.
    Raw(Arc<Descriptor>),
    /// A tar of the build context.
    Archive(ContextFile),
}

/// A file of the build context, as it was when it was found. If it is another one when it is read,
/// the build fails.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ContextFile {
    /// Relative to the context.
    pub(crate) path: String,
    pub(crate) stat: Stat,
}

/// The metadata that differs between two states of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Stat {
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) mtime_ns: i128,
    pub(crate) ctime_ns: i128,
}

/// Folders, and files that their owner may execute.
pub(crate) const MODE_EXECUTABLE: u32 = 0o755;
/// Every other file.
pub(crate) const MODE_PLAIN: u32 = 0o644;

/// The one of two modes that a file gets: the building user and the umask must not show.
pub(crate) fn masked(mode: u32) -> u32 {
    if mode & 0o100 != 0 { MODE_EXECUTABLE } else { MODE_PLAIN }
}

impl Items {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds `item` at `path`, with the folders above it as `folder_mode` says. What stood there is
    /// replaced.
    pub(crate) fn put(
        &mut self,
        path: &str,
        item: Item,
        folder_mode: &dyn Fn(&str) -> Option<u32>,
    ) {
        for parent in ancestors(path) {
            let mode = || folder_mode(parent).unwrap_or(MODE_EXECUTABLE);
            if !matches!(self.0.get(parent), Some(Item::Folder { .. })) {
                self.0.insert(parent.to_owned(), Item::Folder { mode: mode() });
            }
        }
        if path.is_empty() {
            return; // the root is always there
        }
        let item = match item {
            Item::Symlink { target } if image::link_leaves(path, &target) => {
                Item::Symlink { target: within_root(path, &target) }
            }
            item => item,
        };
        match (&item, self.0.get(path)) {
            (Item::File { .. } | Item::Symlink { .. }, Some(Item::Folder { .. })) => {
                let below = format!("{path}/");
                self.0.retain(|other, _| !other.starts_with(&below));
                self.0.insert(path.to_owned(), item);
            }
            _ => {
                self.0.insert(path.to_owned(), item);
            }
        }
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &Source)> {
        self.0.iter().filter_map(|(path, item)| match item {
            Item::File { source, .. } => Some((path.as_str(), source)),
            Item::Folder { .. } | Item::Symlink { .. } => None,
        })
    }

    /// When the youngest of the context's files was changed, in nanoseconds since 1970.
    pub(crate) fn newest_change_ns(&self) -> Option<i128> {
        self.files()
            .filter_map(|(_, source)| match source {
                Source::Context(file) | Source::Part { origin: Origin::Archive(file), .. } => {
                    Some(file.stat.ctime_ns)
                }
                Source::Bytes(_) | Source::Part { .. } => None,
            })
            .max()
    }

    /// Takes in everything that decides which bytes the layer will have.
    pub(crate) fn hash_into(&self, hasher: &mut Hasher) {
        for (path, item) in &self.0 {
            let text = match item {
                Item::Folder { mode } => format!("d {mode:o}"),
                Item::Symlink { target } => format!("l {target}"),
                Item::File { mode, source } => format!("f {mode:o} {}", source.identity()),
            };
            // Lengths in front, so that no two lists read the same.
            hasher.update(format!("{} {path} {} {text}\n", path.len(), text.len()).as_bytes());
        }
    }
}

/// `target` without the `..` that would go above the root, where Linux stays at the root: images
/// hold no link that leaves them.
fn within_root(path: &str, target: &str) -> String {
    let mut depth = if target.starts_with('/') { 0 } else { path.matches('/').count() };
    let kept = target.split('/').filter(|part| match *part {
        "" | "." => true,
        ".." if depth == 0 => false,
        ".." => {
            depth -= 1;
            true
        }
        _ => {
            depth += 1;
            true
        }
    });
    let kept = kept.collect::<Vec<_>>().join("/");
    if kept.is_empty() { "/".to_owned() } else { kept }
}

impl Source {
    /// The same text means the same bytes.
    pub(crate) fn identity(&self) -> String {
        match self {
            Self::Context(file) => file.identity(),
            Self::Bytes(bytes) => spec::Digest::of(bytes).to_string(),
            Self::Part { origin, offset, len } => match origin {
                Origin::Layer(blob) | Origin::Raw(blob) => {
                    format!("{} {offset} {len}", blob.digest)
                }
                Origin::Archive(file) => format!("{} {offset} {len}", file.identity()),
            },
        }
    }

    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Context(file) => file.stat.size,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Part { len, .. } => *len,
        }
    }
}

impl ContextFile {
    fn identity(&self) -> String {
        let Stat { size, mode: _, device, inode, mtime_ns, ctime_ns } = self.stat;
        format!("{} {} {size} {device} {inode} {mtime_ns} {ctime_ns}", self.path.len(), self.path)
    }
}
