use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    sync::Arc,
};

use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, OFlags};
use spec::Rights;

use super::{
    kernel::{
        NewFiles, code, flags, io_code, make_folder, make_link, open, open_or_make, remove, rename,
        set_times, stat,
    },
    listing::Listing,
};
use crate::worker::files::filesystem::{
    ErrorCode, Filesystem, NewTimes, OpenFile, Opened, Opening, Result, Stat,
};

/// A granted folder of the host (or one file), with what may be done in it.
pub(crate) struct Volume {
    root: Arc<OwnedFd>,
    is_file: bool,
    new: NewFiles,
    rights: Rights,
    max_bytes: Option<u64>,
}

/// A path below a folder: the kernel walks it.
pub(crate) struct Place {
    pub from: Arc<OwnedFd>,
    pub path: String,
    /// Whether a link at its end is followed.
    pub follow: bool,
}

/// What opening led to, before anything is counted.
pub(super) enum Node {
    Folder(OwnedFd),
    File { file: VolumeFile, inode: u64 },
}

impl Volume {
    /// # Errors
    /// When nothing is known about `root`.
    pub fn new(root: OwnedFd, rights: Rights, max_bytes: Option<u64>) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&root)?;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let new = match stat.st_uid == rustix::process::geteuid().as_raw() {
            true => NewFiles::ForOwner,
            false => NewFiles::ForAll,
        };
        Ok(Self { root: Arc::new(root), is_file, new, rights, max_bytes })
    }

    /// For the sandbox: where opening stays allowed. A file is open already.
    pub fn folder(&self) -> Option<BorrowedFd<'_>> {
        (!self.is_file).then(|| self.root.as_fd())
    }

    /// Whether anything may be changed in it.
    pub fn is_writable(&self) -> bool {
        self.rights.write || self.rights.delete
    }

    /// How much may be in it. A single file is limited as each file is.
    pub fn max_bytes(&self) -> Option<u64> {
        self.max_bytes.filter(|_| !self.is_file)
    }

    pub(super) fn new_files(&self) -> NewFiles {
        self.new
    }

    pub(crate) fn root(&self) -> Arc<OwnedFd> {
        self.root.clone()
    }

    fn must_write(&self) -> Result<()> {
        if self.rights.write { Ok(()) } else { Err(ErrorCode::ReadOnly) }
    }

    fn must_delete(&self) -> Result<()> {
        match (self.rights.delete, self.rights.write) {
            (true, _) => Ok(()),
            (false, true) => Err(ErrorCode::NotPermitted),
            (false, false) => Err(ErrorCode::ReadOnly),
        }
    }

    pub(super) fn may_open(&self, opening: Opening) -> Result<()> {
        match opening.writes() || opening.creates() || opening.truncates() {
            true => self.must_write(),
            false => Ok(()),
        }
    }

    /// Opens a file or a folder for a guest.
    pub(super) fn find(&self, at: &Place, flags: OFlags) -> Result<Node> {
        if self.is_file {
            return self.itself(at, flags);
        }
        let fd = open_or_make(&at.from, &at.path, flags, at.follow, self.new)?;
        let stat = rustix::fs::fstat(&fd).map_err(code)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Ok(Node::Folder(fd)),
            FileType::RegularFile => {
                let file = VolumeFile { file: fd.into(), writable: self.rights.write };
                Ok(Node::File { file, inode: stat.st_ino })
            }
            // A pipe or socket leads to some program of the host.
            _ => Err(ErrorCode::NotPermitted),
        }
    }

    /// The one file that is mounted: it is read and written by offset, so one that is open serves
    /// every opening.
    fn itself(&self, at: &Place, flags: OFlags) -> Result<Node> {
        match flags {
            _ if !at.path.is_empty() => return Err(ErrorCode::NotDirectory),
            _ if flags.contains(OFlags::DIRECTORY) => return Err(ErrorCode::NotDirectory),
            _ if flags.contains(OFlags::CREATE | OFlags::EXCL) => return Err(ErrorCode::Exist),
            _ => {}
        }
        let inode = rustix::fs::fstat(&self.root).map_err(code)?.st_ino;
        let file = self.root.try_clone().map_err(io_code)?.into();
        Ok(Node::File { file: VolumeFile { file, writable: self.rights.write }, inode })
    }
}

impl Filesystem for Volume {
    type Folder = Arc<OwnedFd>;
    type Place = Place;
    type Listing = Listing;

    fn open(&self, at: Place, opening: Opening) -> Result<Opened<Arc<OwnedFd>>> {
        self.may_open(opening)?;
        match self.find(&at, flags(opening))? {
            Node::Folder(fd) => Ok(Opened::Folder(Arc::new(fd))),
            Node::File { file, .. } => {
                if opening.truncates() {
                    file.set_len(0)?;
                }
                Ok(Opened::File(Box::new(file)))
            }
        }
    }

    fn stat(&self, at: Place) -> Result<Stat> {
        if self.is_file && at.path.is_empty() {
            return stat(&self.root);
        }
        stat(&open(&at.from, &at.path, OFlags::PATH, at.follow)?)
    }

    fn list(&self, folder: &Arc<OwnedFd>) -> Result<Listing> {
        Listing::of(folder)
    }

    fn read_link(&self, at: Place) -> Result<String> {
        let (folder, name) = at.parent()?;
        let target = rustix::fs::readlinkat(&folder, name, Vec::new()).map_err(code)?;
        target.into_string().map_err(|_| ErrorCode::IllegalByteSequence)
    }

    fn make_folder(&self, at: Place) -> Result<()> {
        let (folder, name) = self.to_make_folder(&at)?;
        make_folder(&folder, name, self.new)
    }

    fn make_link(&self, target: &str, at: Place) -> Result<()> {
        let (folder, name) = self.to_make_link(&at)?;
        make_link(target, &folder, name)
    }

    fn unlink(&self, at: Place) -> Result<()> {
        let (folder, name) = self.to_remove(&at, false)?;
        remove(&folder, name, AtFlags::empty())
    }

    fn remove_folder(&self, at: Place) -> Result<()> {
        let (folder, name) = self.to_remove(&at, true)?;
        remove(&folder, name, AtFlags::REMOVEDIR)
    }

    fn may_rename(&self) -> bool {
        self.rights.write && self.rights.delete
    }

    fn rename(&self, from: Place, to: Place) -> Result<()> {
        let ((folder, name), (new_folder, new_name)) = self.to_rename(&from, &to)?;
        rename((&folder, name), (&new_folder, new_name))
    }

    fn set_folder_times(&self, folder: &Arc<OwnedFd>, times: NewTimes) -> Result<()> {
        self.must_write()?;
        set_times(folder, times)
    }
}

impl Place {
    /// The folder that holds the last name, and that name.
    fn parent(&self) -> Result<Name<'_>> {
        let trimmed = self.path.trim_end_matches('/');
        let (folder, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
        if matches!(name, "" | "." | "..") {
            return Err(ErrorCode::NotPermitted);
        }
        Ok((open(&self.from, folder, OFlags::PATH | OFlags::DIRECTORY, true)?, name))
    }

    /// The mount point has no name of its own here: `otherwise`.
    fn must_be_below(&self, otherwise: ErrorCode) -> Result<()> {
        if self.path.is_empty() { Err(otherwise) } else { Ok(()) }
    }
}

/// A name in a folder.
pub(super) type Name<'a> = (OwnedFd, &'a str);

/// Rights, and then the name that is to change.
impl Volume {
    pub(super) fn to_make_folder<'a>(&self, at: &'a Place) -> Result<Name<'a>> {
        at.must_be_below(ErrorCode::Exist)?;
        self.must_write()?;
        at.parent()
    }

    pub(super) fn to_make_link<'a>(&self, at: &'a Place) -> Result<Name<'a>> {
        self.must_write()?;
        at.parent()
    }

    pub(super) fn to_remove<'a>(&self, at: &'a Place, folder: bool) -> Result<Name<'a>> {
        let is_busy = folder || self.is_file;
        at.must_be_below(if is_busy { ErrorCode::Busy } else { ErrorCode::IsDirectory })?;
        if !folder && at.path.ends_with('/') {
            return Err(ErrorCode::NotDirectory);
        }
        self.must_delete()?;
        at.parent()
    }

    pub(super) fn to_rename<'a>(
        &self,
        from: &'a Place,
        to: &'a Place,
    ) -> Result<(Name<'a>, Name<'a>)> {
        self.must_delete()?;
        self.must_write()?;
        Ok((from.parent()?, to.parent()?))
    }
}

/// A file of a volume.
pub(super) struct VolumeFile {
    file: File,
    writable: bool,
}

impl VolumeFile {
    pub(super) fn len(&self) -> Result<u64> {
        self.file.metadata().map(|metadata| metadata.len()).map_err(io_code)
    }
}

impl OpenFile for VolumeFile {
    fn stat(&self) -> Result<Stat> {
        stat(&self.file)
    }

    fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let mut bytes = vec![0; len];
        let n = self.file.read_at(&mut bytes, offset).map_err(io_code)?;
        bytes.truncate(n);
        Ok(bytes.into())
    }

    fn write_at(&self, offset: Option<u64>, bytes: &[u8]) -> Result<u64> {
        let from = offset.map_or_else(|| self.len(), Ok)?;
        let end = from.checked_add(bytes.len() as u64).ok_or(ErrorCode::FileTooLarge)?;
        self.file.write_all_at(bytes, from).map_err(io_code)?;
        Ok(end)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len).map_err(io_code)
    }

    fn set_times(&self, times: NewTimes) -> Result<()> {
        if self.writable { set_times(&self.file, times) } else { Err(ErrorCode::ReadOnly) }
    }

    fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.file).map_err(code)
    }
}
