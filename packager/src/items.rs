use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use spec::{Descriptor, Hasher};

use crate::path::ancestors;

/// What one new layer holds, before it has bytes: paths (relative and normal) in the order in which
/// they are written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Items(pub(crate) BTreeMap<String, Item>);

#[derive(Debug, Clone)]
pub(crate) enum Item {
    Folder { meta: Meta },
    File { meta: Meta, source: Source },
    Symlink { target: String, owner: Owner },
}

/// The numbers of a user and of a group; root's by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The permissions of a file or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) mode: u32,
    pub(crate) owner: Owner,
}

impl Meta {
    /// Root's.
    pub(crate) const fn of(mode: u32) -> Self {
        Self { mode, owner: Owner { uid: 0, gid: 0 } }
    }
}

impl Item {
    pub(crate) fn is_folder(&self) -> bool {
        matches!(self, Self::Folder { .. })
    }

    /// With what `change` makes of its permissions; links have only an owner.
    pub(crate) fn with_meta(self, change: impl FnOnce(Meta) -> Meta) -> Self {
        match self {
            Self::Folder { meta } => Self::Folder { meta: change(meta) },
            Self::File { meta, source } => Self::File { meta: change(meta), source },
            Self::Symlink { target, owner } => {
                let meta = change(Meta { mode: 0o777, owner });
                Self::Symlink { target, owner: meta.owner }
            }
        }
    }
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

/// The one of two modes that a file of a `margay.toml` gets: the building user and the umask do not
/// show.
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

    /// Adds `item` at `path`, with the folders above it as `folder` says. What stood there is
    /// replaced.
    pub(crate) fn put(&mut self, path: &str, item: Item, folder: &dyn Fn(&str) -> Option<Meta>) {
        for parent in ancestors(path) {
            let meta = || folder(parent).unwrap_or(Meta::of(MODE_EXECUTABLE));
            if !matches!(self.0.get(parent), Some(Item::Folder { .. })) {
                self.0.insert(parent.to_owned(), Item::Folder { meta: meta() });
            }
        }
        if path.is_empty() {
            return; // the root is always there
        }
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
            let (letter, meta, rest) = match item {
                Item::Folder { meta } => ('d', *meta, String::new()),
                Item::Symlink { target, owner } => {
                    ('l', Meta { mode: 0, owner: *owner }, target.clone())
                }
                Item::File { meta, source } => ('f', *meta, source.identity()),
            };
            let Meta { mode, owner: Owner { uid, gid } } = meta;
            let text = format!("{letter} {mode:o} {uid} {gid} {rest}");
            // Lengths in front, so that no two lists read the same.
            hasher.update(format!("{} {path} {} {text}\n", path.len(), text.len()).as_bytes());
        }
    }
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
