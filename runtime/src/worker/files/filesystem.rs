use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;

pub(super) use super::host::{DescriptorFlags, DescriptorType, ErrorCode, OpenFlags};

pub(super) type Result<T, E = ErrorCode> = std::result::Result<T, E>;

/// Seconds and nanoseconds since 1970.
pub(super) type Time = (i64, u32);

/// When a file was read and changed. Reading changes neither here, as with `noatime`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Times {
    pub accessed: Time,
    pub modified: Time,
}

impl Times {
    /// Both at once, in whole seconds, as layers and archives have them.
    pub fn at(seconds: i64) -> Self {
        Self { accessed: (seconds, 0), modified: (seconds, 0) }
    }
}

/// Times to set; one that is none stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct NewTimes {
    pub accessed: Option<Time>,
    pub modified: Option<Time>,
}

impl NewTimes {
    /// As archives have it, in whole seconds.
    pub fn modified(seconds: i64) -> Self {
        Self { accessed: None, modified: Some((seconds, 0)) }
    }

    pub fn over(self, times: Times) -> Times {
        Times {
            accessed: self.accessed.unwrap_or(times.accessed),
            modified: self.modified.unwrap_or(times.modified),
        }
    }
}

/// A tree of files: the image with its writable layer, or what is mounted in it. A path was walked
/// to a place before; rights and limits are the implementation's to hold.
pub(super) trait Filesystem: Send + Sync {
    /// A folder, as a descriptor holds it.
    type Folder;
    /// Where a path ended: something is there, or could be made.
    type Place;
    type Listing;

    fn open(&self, at: Self::Place, opening: Opening) -> Result<Opened<Self::Folder>>;
    fn stat(&self, at: Self::Place) -> Result<Stat>;
    fn list(&self, folder: &Self::Folder) -> Result<Self::Listing>;
    fn read_link(&self, at: Self::Place) -> Result<String>;
    fn make_folder(&self, at: Self::Place) -> Result<()>;
    fn make_link(&self, target: &str, at: Self::Place) -> Result<()>;
    fn unlink(&self, at: Self::Place) -> Result<()>;
    fn remove_folder(&self, at: Self::Place) -> Result<()>;
    /// Whether names may change at all.
    fn may_rename(&self) -> bool {
        true
    }
    fn rename(&self, from: Self::Place, to: Self::Place) -> Result<()>;
    /// Gives a file a second name.
    fn link(&self, _from: Self::Place, _to: Self::Place) -> Result<()> {
        Err(ErrorCode::Unsupported)
    }
    fn set_folder_times(&self, folder: &Self::Folder, times: NewTimes) -> Result<()>;
}

/// A file that is open. Whether its descriptor may read or write was checked before.
pub(super) trait OpenFile: Send + Sync {
    fn stat(&self) -> Result<Stat>;
    /// Up to `len` bytes from `offset`; fewer only at the end.
    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes>;
    /// Writes all of `bytes` at `offset`, or at the end; where it ended.
    fn write_at(&self, _offset: Option<u64>, _bytes: &[u8]) -> Result<u64> {
        Err(ErrorCode::BadDescriptor)
    }
    fn set_len(&self, _len: u64) -> Result<()> {
        Err(ErrorCode::BadDescriptor)
    }
    fn set_times(&self, _times: NewTimes) -> Result<()> {
        Err(ErrorCode::NotPermitted)
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// What opening led to.
pub(super) enum Opened<F> {
    Folder(F),
    File(Box<dyn OpenFile>),
}

impl<F> Opened<F> {
    pub fn map<G>(self, folder: impl FnOnce(F) -> G) -> Opened<G> {
        match self {
            Self::Folder(opened) => Opened::Folder(folder(opened)),
            Self::File(file) => Opened::File(file),
        }
    }
}

/// How a file is to be opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    pub follow: bool,
    pub open: OpenFlags,
    pub flags: DescriptorFlags,
}

impl Opening {
    pub fn writes(self) -> bool {
        self.flags.contains(DescriptorFlags::WRITE)
    }

    pub fn creates(self) -> bool {
        self.open.contains(OpenFlags::CREATE)
    }

    pub fn is_exclusive(self) -> bool {
        self.open.contains(OpenFlags::CREATE | OpenFlags::EXCLUSIVE)
    }

    pub fn truncates(self) -> bool {
        self.open.contains(OpenFlags::TRUNCATE)
    }

    pub fn wants_folder(self) -> bool {
        self.open.contains(OpenFlags::DIRECTORY)
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Stat {
    pub kind: DescriptorType,
    pub size: u64,
    pub links: u64,
    pub times: Times,
    /// The same for the same file or folder, different for others.
    pub identity: u64,
}

pub(super) fn hashed(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
