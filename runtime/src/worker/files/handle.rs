use std::{
    hash::{DefaultHasher, Hash, Hasher},
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::fs::FileExt},
    sync::Arc,
};

use bytes::Bytes;
use image::{FileNode, NodeId};
use rustix::fs::{FileType, Mode, OFlags, RawDir, Timespec, Timestamps};

use super::{
    Files,
    host::{DescriptorFlags, DescriptorType, ErrorCode, OpenFlags},
    memory::{MemoryFile, now},
    tree::{Folder, Thing},
    volume::{OpenFile, Opened, code, io_code},
    walk::{Reached, Walk},
};

/// What a guest's descriptor stands for.
pub enum Handle {
    Folder(Folder),
    /// A file of the image.
    Layered {
        id: NodeId,
        bytes: Bytes,
        mtime: i64,
    },
    /// A file of the writable layer.
    Memory {
        file: Arc<MemoryFile>,
        flags: DescriptorFlags,
    },
    VolumeFolder {
        volume: usize,
        fd: Arc<OwnedFd>,
    },
    VolumeFile {
        volume: usize,
        file: OpenFile,
        flags: DescriptorFlags,
    },
}

/// What can be known of a thing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stat {
    pub kind: DescriptorType,
    pub size: u64,
    pub links: u64,
    /// Seconds and nanoseconds since 1970.
    pub mtime: (i64, u32),
    /// The same for the same thing, different for others.
    pub identity: u64,
}

impl Stat {
    fn of(kind: DescriptorType, size: u64, mtime: i64, identity: impl Hash) -> Self {
        Self { kind, size, links: 1, mtime: (mtime, 0), identity: hashed((kind as u8, identity)) }
    }
}

fn hashed(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// How a file is to be opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    pub follow: bool,
    pub open: OpenFlags,
    pub flags: DescriptorFlags,
}

/// Where a guest is in a folder's entries. Small whatever the folder holds: a guest may keep as
/// many as it has handles.
pub enum Listing {
    /// After this name.
    Folder {
        folder: Folder,
        after: String,
    },
    Volume(FdListing),
}

/// A place where something is or could be made.
enum Spot {
    Here {
        folder: Folder,
        name: String,
        thing: Option<Thing>,
    },
    /// The folder itself: no name to change.
    Itself(Folder),
    Volume {
        volume: usize,
        from: Arc<OwnedFd>,
        rest: String,
    },
}

impl Files {
    /// The root of everything.
    pub(super) fn root(&self) -> Handle {
        Handle::Folder(self.read().root())
    }

    fn spot(&self, base: &Handle, path: &str, follow: bool) -> Result<Spot, ErrorCode> {
        match base {
            Handle::Folder(from) => match (Walk { from: *from, follow })
                .along(&self.read(), path)?
            {
                Reached::Folder(folder) => Ok(Spot::Itself(folder)),
                Reached::Entry { folder, name, thing } => Ok(Spot::Here { folder, name, thing }),
                Reached::Volume { volume, rest } => {
                    Ok(Spot::Volume { volume, from: self.volumes[volume].root(), rest })
                }
            },
            Handle::VolumeFolder { volume, fd } => {
                let rest = super::walk::checked(path)?.to_owned();
                Ok(Spot::Volume { volume: *volume, from: fd.clone(), rest })
            }
            Handle::Layered { .. } | Handle::Memory { .. } | Handle::VolumeFile { .. } => {
                Err(ErrorCode::NotDirectory)
            }
        }
    }

    fn must_write(&self) -> Result<(), ErrorCode> {
        if self.writable { Ok(()) } else { Err(ErrorCode::ReadOnly) }
    }

    pub(super) fn open(
        &self,
        base: &Handle,
        path: &str,
        opening: Opening,
    ) -> Result<Handle, ErrorCode> {
        let (open, writes) = (opening.open, opening.flags.contains(DescriptorFlags::WRITE));
        if open.contains(OpenFlags::CREATE | OpenFlags::DIRECTORY) {
            return Err(ErrorCode::Invalid);
        }
        match self.spot(base, path, opening.follow)? {
            Spot::Itself(_) | Spot::Here { thing: Some(_), .. }
                if open.contains(OpenFlags::CREATE | OpenFlags::EXCLUSIVE) =>
            {
                Err(ErrorCode::Exist)
            }
            Spot::Itself(folder) | Spot::Here { thing: Some(Thing::Folder(folder)), .. } => {
                match writes || open.contains(OpenFlags::TRUNCATE) {
                    true => Err(ErrorCode::IsDirectory),
                    false => Ok(Handle::Folder(folder)),
                }
            }
            Spot::Here { thing: Some(Thing::Link(_)), .. } => Err(ErrorCode::Loop),
            Spot::Here { thing: Some(_), .. } if open.contains(OpenFlags::DIRECTORY) => {
                Err(ErrorCode::NotDirectory)
            }
            Spot::Here { folder, name, thing: Some(Thing::Layered(id, file)) } => {
                self.open_layered(folder, &name, (id, file), opening)
            }
            Spot::Here { thing: Some(Thing::Memory(file)), .. } => open_memory(file, opening),
            Spot::Here { thing: Some(Thing::Mount(_)), .. } => Err(ErrorCode::Io),
            Spot::Here { folder, name, thing: None } => match open.contains(OpenFlags::CREATE) {
                false => Err(ErrorCode::NoEntry),
                true if path.ends_with('/') => Err(ErrorCode::IsDirectory),
                true => {
                    self.must_write()?;
                    let mut tree = self.change();
                    // Somebody else may have been quicker.
                    match tree.child(folder, &name) {
                        None => Ok(Handle::Memory {
                            file: tree.make_file(folder, &name)?,
                            flags: opening.flags,
                        }),
                        Some(_) if open.contains(OpenFlags::EXCLUSIVE) => Err(ErrorCode::Exist),
                        Some(Thing::Memory(file)) => open_memory(file, opening),
                        Some(_) => Err(ErrorCode::Busy),
                    }
                }
            },
            Spot::Volume { volume, from, rest } => {
                self.open_in_volume(volume, &from, &rest, opening)
            }
        }
    }

    fn open_layered(
        &self,
        folder: Folder,
        name: &str,
        (id, file): (NodeId, FileNode),
        opening: Opening,
    ) -> Result<Handle, ErrorCode> {
        let truncates = opening.open.contains(OpenFlags::TRUNCATE);
        if !truncates && !opening.flags.contains(DescriptorFlags::WRITE) {
            return Ok(Handle::Layered { id, bytes: self.read().content(file), mtime: file.mtime });
        }
        self.must_write()?;
        let mut tree = self.change();
        match tree.child(folder, name) {
            Some(Thing::Layered(_, file)) => {
                let file = tree.copy_up(folder, name, file, truncates)?;
                Ok(Handle::Memory { file, flags: opening.flags })
            }
            Some(Thing::Memory(file)) => open_memory(file, opening),
            Some(_) => Err(ErrorCode::Busy),
            None => Err(ErrorCode::NoEntry),
        }
    }

    fn open_in_volume(
        &self,
        volume: usize,
        from: &OwnedFd,
        rest: &str,
        opening: Opening,
    ) -> Result<Handle, ErrorCode> {
        let granted = &self.volumes[volume];
        let (open, writes) = (opening.open, opening.flags.contains(DescriptorFlags::WRITE));
        if writes || open.intersects(OpenFlags::CREATE | OpenFlags::TRUNCATE) {
            granted.must_write()?;
        }
        let mut flags = if writes { OFlags::RDWR } else { OFlags::RDONLY };
        flags.set(OFlags::CREATE, open.contains(OpenFlags::CREATE));
        flags.set(OFlags::EXCL, open.contains(OpenFlags::EXCLUSIVE));
        flags.set(OFlags::DIRECTORY, open.contains(OpenFlags::DIRECTORY));
        match granted.open_thing(from, rest, flags, opening.follow)? {
            Opened::Folder(fd) => Ok(Handle::VolumeFolder { volume, fd: Arc::new(fd) }),
            Opened::File(file) => {
                if open.contains(OpenFlags::TRUNCATE) {
                    truncate(granted, from, rest, opening.follow)?;
                }
                Ok(Handle::VolumeFile { volume, file, flags: opening.flags })
            }
        }
    }

    pub(super) fn stat(&self, handle: &Handle) -> Result<Stat, ErrorCode> {
        match handle {
            Handle::Folder(folder) => Ok(self.stat_folder(*folder)),
            Handle::Layered { id, bytes, mtime } => {
                Ok(Stat::of(DescriptorType::RegularFile, bytes.len() as u64, *mtime, id))
            }
            Handle::Memory { file, .. } => Ok(stat_memory(file)),
            Handle::VolumeFolder { fd, .. } => stat_fd(fd),
            Handle::VolumeFile { file, .. } => stat_fd(&**file),
        }
    }

    fn stat_folder(&self, folder: Folder) -> Stat {
        let tree = self.read();
        Stat::of(DescriptorType::Directory, 0, tree.mtime(folder), tree.identity(folder))
    }

    pub(super) fn stat_at(
        &self,
        base: &Handle,
        path: &str,
        follow: bool,
    ) -> Result<Stat, ErrorCode> {
        match self.spot(base, path, follow)? {
            Spot::Itself(folder) | Spot::Here { thing: Some(Thing::Folder(folder)), .. } => {
                Ok(self.stat_folder(folder))
            }
            Spot::Here { thing: Some(Thing::Layered(id, file)), .. } => {
                Ok(Stat::of(DescriptorType::RegularFile, file.len, file.mtime, id))
            }
            Spot::Here { thing: Some(Thing::Memory(file)), .. } => Ok(stat_memory(&file)),
            Spot::Here { folder, name, thing: Some(Thing::Link(target)) } => {
                let identity = (self.read().identity(folder), name);
                Ok(Stat::of(DescriptorType::SymbolicLink, target.len() as u64, 0, identity))
            }
            Spot::Here { thing: Some(Thing::Mount(_)), .. } => Err(ErrorCode::Io),
            Spot::Here { thing: None, .. } => Err(ErrorCode::NoEntry),
            Spot::Volume { volume, from, rest } => {
                stat_fd(&self.volumes[volume].open(&from, &rest, OFlags::PATH, follow)?)
            }
        }
    }

    pub(super) fn list(&self, handle: &Handle) -> Result<Listing, ErrorCode> {
        match handle {
            Handle::Folder(folder) => Ok(Listing::Folder { folder: *folder, after: String::new() }),
            Handle::VolumeFolder { fd, .. } => FdListing::new(fd).map(Listing::Volume),
            Handle::Layered { .. } | Handle::Memory { .. } | Handle::VolumeFile { .. } => {
                Err(ErrorCode::NotDirectory)
            }
        }
    }

    pub(super) fn next_entry(
        &self,
        listing: &mut Listing,
    ) -> Result<Option<(String, DescriptorType)>, ErrorCode> {
        match listing {
            Listing::Folder { folder, after } => {
                Ok(self.read().next(*folder, after).map(|(name, thing)| {
                    after.clone_from(&name);
                    (name, kind_of(&thing))
                }))
            }
            Listing::Volume(listing) => listing.next(),
        }
    }

    pub(super) fn read_link(&self, base: &Handle, path: &str) -> Result<String, ErrorCode> {
        match self.spot(base, path, false)? {
            // As `wasi:filesystem` asks: an absolute target would promise a way out.
            Spot::Here { thing: Some(Thing::Link(target)), .. } if target.starts_with('/') => {
                Err(ErrorCode::NotPermitted)
            }
            Spot::Here { thing: Some(Thing::Link(target)), .. } => Ok(target.into()),
            Spot::Here { thing: None, .. } => Err(ErrorCode::NoEntry),
            Spot::Itself(_) | Spot::Here { .. } => Err(ErrorCode::Invalid),
            Spot::Volume { volume, from, rest } => self.volumes[volume].read_link(&from, &rest),
        }
    }

    pub(super) fn make_folder(&self, base: &Handle, path: &str) -> Result<(), ErrorCode> {
        match self.spot(base, path, false)? {
            Spot::Itself(_) | Spot::Here { thing: Some(_), .. } => Err(ErrorCode::Exist),
            Spot::Here { folder, name, thing: None } => {
                self.must_write()?;
                self.change().make_folder(folder, &name)
            }
            Spot::Volume { rest, .. } if rest.is_empty() => Err(ErrorCode::Exist),
            Spot::Volume { volume, from, rest } => self.volumes[volume].make_folder(&from, &rest),
        }
    }

    pub(super) fn make_link(
        &self,
        base: &Handle,
        target: &str,
        path: &str,
    ) -> Result<(), ErrorCode> {
        if target.is_empty() || target.contains('\0') {
            return Err(ErrorCode::Invalid);
        }
        if target.starts_with('/') {
            return Err(ErrorCode::NotPermitted);
        }
        match self.spot(base, path, false)? {
            Spot::Itself(_) | Spot::Here { thing: Some(_), .. } => Err(ErrorCode::Exist),
            Spot::Here { thing: None, .. } if path.ends_with('/') => Err(ErrorCode::NoEntry),
            Spot::Here { folder, name, thing: None } => {
                self.must_write()?;
                self.change().make_link(folder, &name, target)
            }
            Spot::Volume { volume, from, rest } => {
                self.volumes[volume].make_link(&from, &rest, target)
            }
        }
    }

    pub(super) fn unlink(&self, base: &Handle, path: &str) -> Result<(), ErrorCode> {
        match self.spot(base, path, false)? {
            Spot::Itself(_) => Err(ErrorCode::IsDirectory),
            Spot::Here { folder, name, thing } => {
                thing.ok_or(ErrorCode::NoEntry)?;
                self.must_write()?;
                self.change().unlink(folder, &name)
            }
            Spot::Volume { rest, .. } if rest.is_empty() => Err(ErrorCode::IsDirectory),
            Spot::Volume { rest, .. } if rest.ends_with('/') => Err(ErrorCode::NotDirectory),
            Spot::Volume { volume, from, rest } => self.volumes[volume].unlink(&from, &rest),
        }
    }

    pub(super) fn remove_folder(&self, base: &Handle, path: &str) -> Result<(), ErrorCode> {
        match self.spot(base, path, false)? {
            Spot::Itself(_) => Err(ErrorCode::Busy),
            Spot::Here { folder, name, thing } => {
                thing.ok_or(ErrorCode::NoEntry)?;
                self.must_write()?;
                self.change().remove_folder(folder, &name)
            }
            Spot::Volume { rest, .. } if rest.is_empty() => Err(ErrorCode::Busy),
            Spot::Volume { volume, from, rest } => self.volumes[volume].remove_folder(&from, &rest),
        }
    }

    pub(super) fn rename(
        &self,
        from: (&Handle, &str),
        to: (&Handle, &str),
    ) -> Result<(), ErrorCode> {
        match (self.spot(from.0, from.1, false)?, self.spot(to.0, to.1, false)?) {
            (Spot::Itself(_), _) | (_, Spot::Itself(_)) => Err(ErrorCode::Busy),
            (
                Spot::Here { folder, name, thing },
                Spot::Here { folder: new_folder, name: new_name, .. },
            ) => {
                let thing = thing.ok_or(ErrorCode::NoEntry)?;
                if to.1.ends_with('/') && !matches!(thing, Thing::Folder(_)) {
                    return Err(ErrorCode::NotDirectory);
                }
                self.must_write()?;
                self.change().rename((folder, &name), (new_folder, &new_name))
            }
            (
                Spot::Volume { volume, from, rest },
                Spot::Volume { volume: v, from: new, rest: new_rest },
            ) if volume == v => self.volumes[volume].rename((&from, &rest), (&new, &new_rest)),
            (Spot::Volume { .. }, _) | (_, Spot::Volume { .. }) => Err(ErrorCode::CrossDevice),
        }
    }

    pub(super) fn link(
        &self,
        (base, path, follow): (&Handle, &str, bool),
        to: (&Handle, &str),
    ) -> Result<(), ErrorCode> {
        match (self.spot(base, path, follow)?, self.spot(to.0, to.1, false)?) {
            (Spot::Itself(_), _) => Err(ErrorCode::NotPermitted),
            (_, Spot::Itself(_)) => Err(ErrorCode::Exist),
            (
                Spot::Here { folder, name, .. },
                Spot::Here { folder: new_folder, name: new_name, .. },
            ) => {
                if to.1.ends_with('/') {
                    return Err(ErrorCode::NoEntry);
                }
                self.must_write()?;
                self.change().link((folder, &name), (new_folder, &new_name))
            }
            (Spot::Volume { volume, .. }, Spot::Volume { volume: other, .. })
                if volume == other =>
            {
                self.volumes[volume].must_write()?;
                Err(ErrorCode::Unsupported)
            }
            (Spot::Volume { .. }, _) | (_, Spot::Volume { .. }) => Err(ErrorCode::CrossDevice),
        }
    }

    /// Up to `len` bytes from `offset`; fewer only at the end.
    pub(super) fn read_at(
        &self,
        handle: &Handle,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, ErrorCode> {
        match handle {
            Handle::Layered { bytes, .. } => Ok(part(bytes, offset, len)),
            Handle::Memory { file, flags } if flags.contains(DescriptorFlags::READ) => {
                Ok(file.read(offset, len).into())
            }
            Handle::VolumeFile { file, flags, .. } if flags.contains(DescriptorFlags::READ) => {
                let mut bytes = vec![0; len];
                let n = file.read_at(&mut bytes, offset).map_err(io_code)?;
                bytes.truncate(n);
                Ok(bytes.into())
            }
            Handle::Memory { .. } | Handle::VolumeFile { .. } => Err(ErrorCode::BadDescriptor),
            Handle::Folder(_) | Handle::VolumeFolder { .. } => Err(ErrorCode::IsDirectory),
        }
    }

    /// Writes all of `bytes` at `offset`, or at the end; where it ended.
    pub(super) fn write_at(
        &self,
        handle: &Handle,
        offset: Option<u64>,
        bytes: &[u8],
    ) -> Result<u64, ErrorCode> {
        match handle {
            Handle::Memory { file, .. } if file.fixed => Err(ErrorCode::ReadOnly),
            Handle::Memory { file, flags } if flags.contains(DescriptorFlags::WRITE) => {
                file.write(offset, bytes)
            }
            Handle::VolumeFile { volume, file, flags }
                if flags.contains(DescriptorFlags::WRITE) =>
            {
                self.volumes[*volume].write(file, offset, bytes)
            }
            Handle::Layered { .. } | Handle::Memory { .. } | Handle::VolumeFile { .. } => {
                Err(ErrorCode::BadDescriptor)
            }
            Handle::Folder(_) | Handle::VolumeFolder { .. } => Err(ErrorCode::IsDirectory),
        }
    }

    pub(super) fn set_len(&self, handle: &Handle, len: u64) -> Result<(), ErrorCode> {
        match handle {
            Handle::Memory { file, .. } if file.fixed => Err(ErrorCode::ReadOnly),
            Handle::Memory { file, flags } if flags.contains(DescriptorFlags::WRITE) => {
                file.set_len(len)
            }
            Handle::VolumeFile { volume, file, flags }
                if flags.contains(DescriptorFlags::WRITE) =>
            {
                self.volumes[*volume].set_len(file, len)
            }
            Handle::Layered { .. } | Handle::Memory { .. } | Handle::VolumeFile { .. } => {
                Err(ErrorCode::BadDescriptor)
            }
            Handle::Folder(_) | Handle::VolumeFolder { .. } => Err(ErrorCode::IsDirectory),
        }
    }

    pub(super) fn sync(&self, handle: &Handle) -> Result<(), ErrorCode> {
        match handle {
            Handle::VolumeFile { file, .. } => rustix::fs::fsync(&**file).map_err(code),
            // Of a folder opened for nothing but its name, the kernel keeps no promise either.
            Handle::Folder(_)
            | Handle::Layered { .. }
            | Handle::Memory { .. }
            | Handle::VolumeFolder { .. } => Ok(()),
        }
    }

    /// Sets when something was changed; `None` leaves it. When it was read is not kept.
    pub(super) fn set_times(
        &self,
        handle: &Handle,
        mtime: Option<(i64, u32)>,
    ) -> Result<(), ErrorCode> {
        let Some(mtime) = mtime else { return Ok(()) };
        match handle {
            Handle::Memory { file, .. } if file.fixed => Err(ErrorCode::ReadOnly),
            Handle::Memory { file, .. } => {
                file.set_mtime(mtime.0);
                Ok(())
            }
            Handle::Folder(folder) => {
                self.must_write()?;
                self.change().set_mtime(*folder, mtime.0)
            }
            Handle::Layered { .. } => Err(ErrorCode::NotPermitted),
            Handle::VolumeFile { volume, file, .. } => {
                self.volumes[*volume].set_times(&**file, &times(mtime))
            }
            Handle::VolumeFolder { volume, fd } => {
                self.volumes[*volume].set_times(&**fd, &times(mtime))
            }
        }
    }

    pub(super) fn set_times_at(
        &self,
        base: &Handle,
        path: &str,
        follow: bool,
        mtime: Option<(i64, u32)>,
    ) -> Result<(), ErrorCode> {
        let flags = match self.stat_at(base, path, follow)?.kind {
            DescriptorType::RegularFile => DescriptorFlags::READ | DescriptorFlags::WRITE,
            _ => DescriptorFlags::READ,
        };
        let opening = Opening { follow, open: OpenFlags::empty(), flags };
        self.set_times(&self.open(base, path, opening)?, mtime)
    }
}

fn open_memory(file: Arc<MemoryFile>, opening: Opening) -> Result<Handle, ErrorCode> {
    let truncates = opening.open.contains(OpenFlags::TRUNCATE);
    if file.fixed && (truncates || opening.flags.contains(DescriptorFlags::WRITE)) {
        return Err(ErrorCode::ReadOnly);
    }
    if truncates {
        file.set_len(0)?;
    }
    Ok(Handle::Memory { file, flags: opening.flags })
}

/// Empties a file through a descriptor of its own: the guest's may be for reading only.
fn truncate(
    volume: &super::Volume,
    from: &OwnedFd,
    rest: &str,
    follow: bool,
) -> Result<(), ErrorCode> {
    match volume.open_thing(from, rest, OFlags::WRONLY, follow)? {
        Opened::File(file) => volume.set_len(&file, 0),
        Opened::Folder(_) => Err(ErrorCode::IsDirectory),
    }
}

fn stat_memory(file: &Arc<MemoryFile>) -> Stat {
    Stat::of(DescriptorType::RegularFile, file.len(), file.mtime(), Arc::as_ptr(file) as usize)
}

fn stat_fd(fd: &impl std::os::fd::AsFd) -> Result<Stat, ErrorCode> {
    let stat = rustix::fs::fstat(fd).map_err(code)?;
    Ok(Stat {
        kind: kind_of_mode(FileType::from_raw_mode(stat.st_mode)),
        size: stat.st_size.cast_unsigned(),
        links: stat.st_nlink,
        mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
        identity: hashed((stat.st_dev, stat.st_ino)),
    })
}

/// Entries of a folder of the host, a few at a time.
pub struct FdListing {
    fd: OwnedFd,
    /// Read and not yet given, the next one last.
    ready: Vec<(String, DescriptorType)>,
    ended: bool,
}

/// What one look into a folder takes from the kernel: at least one name of 255 bytes, and at most
/// forty short ones.
const ENTRIES_BYTES: usize = 1024;

impl FdListing {
    fn new(fd: &OwnedFd) -> Result<Self, ErrorCode> {
        // A folder's own descriptor keeps a position that other listings would move.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd =
            rustix::fs::openat2(fd, ".", flags, Mode::empty(), rustix::fs::ResolveFlags::BENEATH)
                .map_err(code)?;
        Ok(Self { fd, ready: Vec::new(), ended: false })
    }

    fn next(&mut self) -> Result<Option<(String, DescriptorType)>, ErrorCode> {
        while self.ready.is_empty() && !self.ended {
            self.read()?;
        }
        Ok(self.ready.pop())
    }

    fn read(&mut self) -> Result<(), ErrorCode> {
        let mut space = [MaybeUninit::uninit(); ENTRIES_BYTES];
        let mut entries = RawDir::new(&self.fd, &mut space);
        loop {
            let Some(entry) = entries.next() else {
                self.ended = true;
                break;
            };
            let entry = entry.map_err(code)?;
            // A name that is no UTF-8 has no form in `wasi:filesystem`; it is left out.
            if let Ok(name) = entry.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                self.ready.push((name.to_owned(), kind_of_mode(entry.file_type())));
            }
            if entries.is_buffer_empty() {
                break;
            }
        }
        self.ready.reverse();
        Ok(())
    }
}

fn kind_of(thing: &Thing) -> DescriptorType {
    match thing {
        Thing::Folder(_) | Thing::Mount(_) => DescriptorType::Directory,
        Thing::Layered(..) | Thing::Memory(_) => DescriptorType::RegularFile,
        Thing::Link(_) => DescriptorType::SymbolicLink,
    }
}

fn kind_of_mode(kind: FileType) -> DescriptorType {
    match kind {
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Directory => DescriptorType::Directory,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::Fifo => DescriptorType::Fifo,
        FileType::Socket => DescriptorType::Socket,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        FileType::Unknown => DescriptorType::Unknown,
    }
}

pub(super) fn part(bytes: &Bytes, offset: u64, len: usize) -> Bytes {
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(from..from.saturating_add(len).min(bytes.len()))
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    Timestamps {
        last_access: omit,
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
    }
}

/// Now, as [`Files::set_times`] takes it.
pub(super) fn just_now() -> (i64, u32) {
    (now(), 0)
}
