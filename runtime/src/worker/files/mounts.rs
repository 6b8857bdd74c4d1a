use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use bytes::Bytes;
use image::FileIndex;

use super::{
    filesystem::{
        DescriptorFlags, DescriptorType, ErrorCode, Filesystem, NewTimes, OpenFile, OpenFlags,
        Opened, Opening, Result, Stat,
    },
    union::{self, Reached, Union},
    volume::{self, AnyVolume, Volume},
};

/// Everything that the instances of one container see as files: the union, and what is mounted in
/// it.
pub(crate) struct Files {
    pub(super) union: Union,
    mounts: Vec<Mount>,
}

struct Mount {
    root: Arc<OwnedFd>,
    filesystem: Box<AnyVolume>,
}

/// What a guest's descriptor stands for.
pub enum Handle {
    Folder(Folder),
    File { file: Box<dyn OpenFile>, flags: DescriptorFlags },
}

/// A folder, and the filesystem that it is in.
pub enum Folder {
    Union(union::Folder),
    Mounted(usize, Arc<OwnedFd>),
}

/// Where a guest is in a folder's entries.
pub enum Listing {
    Union(union::Listing),
    Volume(volume::Listing),
}

/// Where a path ended, and in which filesystem.
enum Place {
    Union(union::Place),
    Mounted(usize, volume::Place),
}

/// Calls the filesystem that `$at` is in.
macro_rules! at {
    ($files:ident, $at:expr, |$filesystem:ident, $place:ident| $call:expr) => {
        match $at {
            Place::Union($place) => {
                let $filesystem = &$files.union;
                $call
            }
            Place::Mounted(mount, $place) => {
                let $filesystem = &$files.mounts[mount].filesystem;
                $call
            }
        }
    };
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
        secrets: Vec<(String, Vec<u8>)>,
        writable_bytes_max: u64,
    ) -> Result<Self, String> {
        let union = Union::new(index, layers, writable_bytes_max)?;
        for (name, content) in secrets {
            union.put_fixed(&format!("run/secrets/{name}"), content);
        }
        let mut mounts = Vec::new();
        for (path, volume) in volumes {
            if !union.put_mount(&path, mounts.len()) {
                return Err(
                    "a volume cannot be mounted at `/`: give it a folder of its own".to_owned()
                );
            }
            mounts.push(Mount { root: volume.root(), filesystem: volume::mounted(volume) });
        }
        Ok(Self { union, mounts })
    }

    /// The roots of the volumes.
    pub fn volumes(&self) -> Vec<BorrowedFd<'_>> {
        self.mounts.iter().map(|mount| mount.root.as_fd()).collect()
    }

    pub(super) fn root(&self) -> Handle {
        Handle::Folder(Folder::Union(self.union.root()))
    }

    /// Walks `path` from a folder, into whatever is mounted on the way.
    fn walk(&self, base: &Handle, path: &str, follow: bool) -> Result<Place> {
        let Handle::Folder(folder) = base else { return Err(ErrorCode::NotDirectory) };
        let (mount, from, path) = match folder {
            Folder::Union(from) => match self.union.walk(*from, path, follow)? {
                Reached::Here(place) => return Ok(Place::Union(place)),
                Reached::Mount { mount, rest } => (mount, &self.mounts[mount].root, rest),
            },
            Folder::Mounted(mount, from) => (*mount, from, union::checked(path)?.to_owned()),
        };
        Ok(Place::Mounted(mount, volume::Place { from: from.clone(), path, follow }))
    }

    pub(super) fn open(&self, base: &Handle, path: &str, opening: Opening) -> Result<Handle> {
        if opening.open.contains(OpenFlags::CREATE | OpenFlags::DIRECTORY) {
            return Err(ErrorCode::Invalid);
        }
        let opened = match self.walk(base, path, opening.follow)? {
            Place::Union(place) => self.union.open(place, opening)?.map(Folder::Union),
            Place::Mounted(mount, place) => {
                let opened = self.mounts[mount].filesystem.open(place, opening)?;
                opened.map(|folder| Folder::Mounted(mount, folder))
            }
        };
        Ok(match opened {
            Opened::Folder(folder) => Handle::Folder(folder),
            Opened::File(file) => Handle::File { file, flags: opening.flags },
        })
    }

    pub(super) fn stat(&self, handle: &Handle) -> Result<Stat> {
        match handle {
            Handle::Folder(Folder::Union(folder)) => self.union.stat((*folder).into()),
            Handle::Folder(Folder::Mounted(_, fd)) => volume::stat(fd),
            Handle::File { file, .. } => file.stat(),
        }
    }

    pub(super) fn stat_at(&self, base: &Handle, path: &str, follow: bool) -> Result<Stat> {
        at!(self, self.walk(base, path, follow)?, |filesystem, place| filesystem.stat(place))
    }

    pub(super) fn list(&self, handle: &Handle) -> Result<Listing> {
        match handle {
            Handle::Folder(Folder::Union(folder)) => self.union.list(folder).map(Listing::Union),
            Handle::Folder(Folder::Mounted(mount, folder)) => {
                self.mounts[*mount].filesystem.list(folder).map(Listing::Volume)
            }
            Handle::File { .. } => Err(ErrorCode::NotDirectory),
        }
    }

    pub(super) fn next_entry(
        &self,
        listing: &mut Listing,
    ) -> Result<Option<(String, DescriptorType)>> {
        match listing {
            Listing::Union(listing) => Ok(self.union.next_entry(listing)),
            Listing::Volume(listing) => listing.next_entry(),
        }
    }

    pub(super) fn read_link(&self, base: &Handle, path: &str) -> Result<String> {
        at!(self, self.walk(base, path, false)?, |filesystem, place| filesystem.read_link(place))
    }

    /// The text of a link, also of one that the guest may not read because it is absolute.
    pub(super) fn link_target(&self, base: &Handle, path: &str) -> Result<String> {
        match self.walk(base, path, false)? {
            Place::Union(place) => match place.entry.ok_or(ErrorCode::NoEntry)? {
                union::Entry::Link(target) => Ok(target.into()),
                _ => Err(ErrorCode::Invalid),
            },
            Place::Mounted(mount, place) => self.mounts[mount].filesystem.read_link(place),
        }
    }

    /// Whether a file may be made under one name and then get another one there.
    pub(super) fn may_rename(&self, base: &Handle, path: &str) -> bool {
        match self.walk(base, path, false) {
            Ok(Place::Mounted(mount, place)) => {
                !place.path.is_empty() && self.mounts[mount].filesystem.may_rename()
            }
            Ok(Place::Union(_)) | Err(_) => true,
        }
    }

    pub(super) fn make_folder(&self, base: &Handle, path: &str) -> Result<()> {
        at!(self, self.walk(base, path, false)?, |filesystem, place| filesystem.make_folder(place))
    }

    pub(super) fn make_link(&self, base: &Handle, target: &str, path: &str) -> Result<()> {
        match target {
            "" => return Err(ErrorCode::Invalid),
            _ if target.contains('\0') => return Err(ErrorCode::Invalid),
            _ if target.starts_with('/') => return Err(ErrorCode::NotPermitted),
            _ => {}
        }
        at!(self, self.walk(base, path, false)?, |filesystem, place| {
            filesystem.make_link(target, place)
        })
    }

    pub(super) fn unlink(&self, base: &Handle, path: &str) -> Result<()> {
        at!(self, self.walk(base, path, false)?, |filesystem, place| filesystem.unlink(place))
    }

    pub(super) fn remove_folder(&self, base: &Handle, path: &str) -> Result<()> {
        at!(self, self.walk(base, path, false)?, |filesystem, place| {
            filesystem.remove_folder(place)
        })
    }

    pub(super) fn rename(&self, from: (&Handle, &str), to: (&Handle, &str)) -> Result<()> {
        match (self.walk(from.0, from.1, false)?, self.walk(to.0, to.1, false)?) {
            (Place::Union(from), Place::Union(to)) => self.union.rename(from, to),
            (Place::Mounted(mount, from), Place::Mounted(other, to)) if mount == other => {
                self.mounts[mount].filesystem.rename(from, to)
            }
            (Place::Union(_) | Place::Mounted(..), _) => Err(ErrorCode::CrossDevice),
        }
    }

    pub(super) fn link(
        &self,
        (base, path, follow): (&Handle, &str, bool),
        to: (&Handle, &str),
    ) -> Result<()> {
        match (self.walk(base, path, follow)?, self.walk(to.0, to.1, false)?) {
            (Place::Union(from), Place::Union(to)) => self.union.link(from, to),
            (Place::Mounted(mount, from), Place::Mounted(other, to)) if mount == other => {
                self.mounts[mount].filesystem.link(from, to)
            }
            (Place::Union(_) | Place::Mounted(..), _) => Err(ErrorCode::CrossDevice),
        }
    }

    pub(super) fn set_times(&self, handle: &Handle, times: NewTimes) -> Result<()> {
        if times == NewTimes::default() {
            return Ok(());
        }
        match handle {
            Handle::Folder(Folder::Union(folder)) => self.union.set_folder_times(folder, times),
            Handle::Folder(Folder::Mounted(mount, folder)) => {
                self.mounts[*mount].filesystem.set_folder_times(folder, times)
            }
            Handle::File { file, .. } => file.set_times(times),
        }
    }

    pub(super) fn set_times_at(
        &self,
        base: &Handle,
        path: &str,
        follow: bool,
        times: NewTimes,
    ) -> Result<()> {
        let flags = match self.stat_at(base, path, follow)?.kind {
            DescriptorType::RegularFile => DescriptorFlags::READ | DescriptorFlags::WRITE,
            _ => DescriptorFlags::READ,
        };
        let opening = Opening { follow, open: OpenFlags::empty(), flags };
        self.set_times(&self.open(base, path, opening)?, times)
    }
}

impl Handle {
    pub(super) fn flags(&self) -> DescriptorFlags {
        match self {
            Self::Folder(_) => DescriptorFlags::READ | DescriptorFlags::MUTATE_DIRECTORY,
            Self::File { flags, .. } => *flags,
        }
    }

    /// Its file, where the guest may do this with it.
    fn file(&self, right: DescriptorFlags) -> Result<&dyn OpenFile> {
        match self {
            Self::File { file, flags } if flags.contains(right) => Ok(&**file),
            Self::File { .. } => Err(ErrorCode::BadDescriptor),
            Self::Folder(_) => Err(ErrorCode::IsDirectory),
        }
    }

    pub(super) fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        self.file(DescriptorFlags::READ)?.read_at(offset, len)
    }

    pub(super) fn write_at(&self, offset: Option<u64>, bytes: &[u8]) -> Result<u64> {
        self.file(DescriptorFlags::WRITE)?.write_at(offset, bytes)
    }

    pub(super) fn set_len(&self, len: u64) -> Result<()> {
        self.file(DescriptorFlags::WRITE)?.set_len(len)
    }

    pub(super) fn sync(&self) -> Result<()> {
        match self {
            Self::File { file, .. } => file.sync(),
            // Of a folder opened for nothing but its name, the kernel keeps no promise either.
            Self::Folder(_) => Ok(()),
        }
    }
}
