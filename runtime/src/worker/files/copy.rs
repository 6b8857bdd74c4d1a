//! A guest's files as an archive, and back, for the client of a copy: the same tree with the same
//! rights and quotas as the guest has.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, BufWriter, Read, Write},
    os::fd::OwnedFd,
};

use engine::{
    COPY_BYTES_MAX, COPY_DEPTH_MAX, COPY_ENTRIES_MAX,
    exec::{Answer, Ask, Copied, FileKind, FileStat, Link, Place},
};
use image::{ArchiveWriter, Attributes, Budget, Entry, EntryKind, LayerReader};

use super::{
    filesystem::{DescriptorFlags, DescriptorType, ErrorCode, NewTimes, OpenFlags, Opening, Stat},
    mounts::{Files, Handle},
};
use crate::limits::READ_BYTES_MAX;

/// Does what a client asks. Blocks for as long as its pipe does.
pub(crate) fn answer(files: &Files, ask: Ask, stream: Option<OwnedFd>) -> Answer {
    let done = match (ask, stream) {
        (Ask::Exec(_), _) => Err(wrong("no program can run here".to_owned())),
        (Ask::Stat(place), _) => stat(files, &place).map(Answer::Found),
        (Ask::Pack { place, name }, Some(stream)) => {
            pack(files, &place, &name, File::from(stream)).map(Answer::Copied)
        }
        (Ask::Unpack { folder, .. }, Some(stream)) => {
            unpack(files, &folder, File::from(stream)).map(Answer::Copied)
        }
        (Ask::Pack { .. } | Ask::Unpack { .. }, None) => {
            Err(wrong("a copy comes with a pipe".to_owned()))
        }
    };
    done.unwrap_or_else(|error| Answer::refused(error.to_string()))
}

fn wrong(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// An error with its path.
fn named(path: &str) -> impl FnOnce(ErrorCode) -> io::Error + use<> {
    let path = path.escape_debug().to_string();
    move |code| {
        let why = match code {
            ErrorCode::ReadOnly => "it is read-only",
            ErrorCode::NoEntry => "no such file or folder",
            ErrorCode::NotDirectory => "not a folder",
            ErrorCode::InsufficientSpace | ErrorCode::Quota => {
                "no space left: what the task may write there is full"
            }
            ErrorCode::NotPermitted | ErrorCode::Access => "the task has no right to that",
            ErrorCode::Busy => "something is mounted there",
            ErrorCode::NameTooLong => "its name is too long",
            ErrorCode::Loop => "a link is in the way",
            ErrorCode::FileTooLarge => "it is too large",
            other => return wrong(format!("`/{path}`: {other:?}")),
        };
        wrong(format!("`/{path}`: {why}"))
    }
}

/// As walks from the root take it.
fn relative(path: &str) -> String {
    match path.trim_matches('/') {
        "" => ".".to_owned(),
        path => path.to_owned(),
    }
}

fn below(folder: &str, name: &str) -> String {
    if folder == "." { name.to_owned() } else { format!("{folder}/{name}") }
}

fn kind_of(stat: &Stat) -> FileKind {
    match stat.kind {
        DescriptorType::Directory => FileKind::Folder,
        DescriptorType::RegularFile => FileKind::File,
        DescriptorType::SymbolicLink => FileKind::Link,
        _ => FileKind::Other,
    }
}

fn stat(files: &Files, place: &Place) -> io::Result<Option<FileStat>> {
    let (root, path) = (files.root(), relative(&place.path));
    let stat = match files.stat_at(&root, &path, place.link == Link::Target) {
        Ok(stat) => stat,
        Err(ErrorCode::NoEntry | ErrorCode::NotDirectory) => return Ok(None),
        Err(code) => return Err(named(&path)(code)),
    };
    let kind = kind_of(&stat);
    let target = match kind {
        FileKind::Link => Some(files.link_target(&root, &path).map_err(named(&path))?),
        FileKind::Folder | FileKind::File | FileKind::Other => None,
    };
    Ok(Some(FileStat { kind, bytes: stat.size, target }))
}

fn open(files: &Files, path: &str, follow: bool) -> io::Result<Handle> {
    let opening = Opening { follow, open: OpenFlags::empty(), flags: DescriptorFlags::READ };
    files.open(&files.root(), path, opening).map_err(named(path))
}

/// WASI has neither owners nor modes.
fn attributes(stat: &Stat) -> Attributes {
    let mode = match kind_of(stat) {
        FileKind::Folder => 0o755,
        FileKind::Link => 0o777,
        FileKind::File | FileKind::Other => 0o644,
    };
    Attributes { mode, mtime: stat.times.modified.0, ..Attributes::default() }
}

fn pack(files: &Files, place: &Place, name: &str, out: File) -> io::Result<Copied> {
    let out = BufWriter::with_capacity(64 << 10, out);
    let mut packer = Packer {
        files,
        archive: ArchiveWriter::new(out),
        copied: Copied::default(),
        entries: 0,
        bytes: 0,
    };
    packer.entry(&relative(&place.path), name, place.link, 0)?;
    packer.archive.finish()?;
    Ok(packer.copied)
}

struct Packer<'a, W> {
    files: &'a Files,
    archive: ArchiveWriter<W>,
    copied: Copied,
    entries: u64,
    bytes: u64,
}

impl<W: Write> Packer<'_, W> {
    fn entry(&mut self, path: &str, name: &str, link: Link, depth: usize) -> io::Result<()> {
        if depth > COPY_DEPTH_MAX {
            return Err(wrong(format!("`/{path}` lies more than {COPY_DEPTH_MAX} folders deep")));
        }
        let follow = link == Link::Target;
        let stat = match self.files.stat_at(&self.files.root(), path, follow) {
            Ok(stat) => stat,
            // It was removed meanwhile.
            Err(ErrorCode::NoEntry) if depth > 0 => return Ok(()),
            Err(code) => return Err(named(path)(code)),
        };
        match kind_of(&stat) {
            FileKind::Folder => self.folder(path, name, link, &stat, depth),
            FileKind::File => self.file(path, name, link),
            FileKind::Link => {
                let target = self.files.link_target(&self.files.root(), path);
                let target = target.map_err(named(path))?;
                self.archive.symlink(name.as_bytes(), target.as_bytes(), attributes(&stat))
            }
            FileKind::Other => {
                self.copied.leave_out(name.as_bytes());
                Ok(())
            }
        }
    }

    fn folder(
        &mut self,
        path: &str,
        name: &str,
        link: Link,
        stat: &Stat,
        depth: usize,
    ) -> io::Result<()> {
        if !name.is_empty() {
            self.archive.folder(name.as_bytes(), attributes(stat))?;
        }
        let folder = open(self.files, path, link == Link::Target)?;
        let mut listing = self.files.list(&folder).map_err(named(path))?;
        let mut names = Vec::new();
        while let Some((inner, _)) = self.files.next_entry(&mut listing).map_err(named(path))? {
            self.entries += 1;
            if self.entries > COPY_ENTRIES_MAX {
                let why = format!("there are more than {COPY_ENTRIES_MAX} files to copy");
                return Err(wrong(why));
            }
            names.push(inner);
        }
        names.sort_unstable();
        for inner in names {
            let shown = if name.is_empty() { inner.clone() } else { format!("{name}/{inner}") };
            self.entry(&below(path, &inner), &shown, Link::Itself, depth + 1)?;
        }
        Ok(())
    }

    fn file(&mut self, path: &str, name: &str, link: Link) -> io::Result<()> {
        let file = open(self.files, path, link == Link::Target)?;
        let stat = self.files.stat(&file).map_err(named(path))?;
        self.bytes = self.bytes.saturating_add(stat.size);
        if self.bytes > COPY_BYTES_MAX {
            let why = format!("with `/{path}` there are more than {COPY_BYTES_MAX} bytes to copy");
            return Err(wrong(why));
        }
        let mut content = Content { file: &file, path, at: 0 };
        self.archive.file(name.as_bytes(), stat.size, &mut content, attributes(&stat))
    }
}

struct Content<'a> {
    file: &'a Handle,
    path: &'a str,
    at: u64,
}

impl Read for Content<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len().min(READ_BYTES_MAX as usize);
        let bytes = self.file.read_at(self.at, len).map_err(named(self.path))?;
        buf[..bytes.len()].copy_from_slice(&bytes);
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }
}

fn unpack(files: &Files, folder: &str, archive: File) -> io::Result<Copied> {
    let folder = relative(folder);
    let budget =
        Budget { bytes_max: COPY_BYTES_MAX, entries_max: COPY_ENTRIES_MAX, ..Budget::default() };
    let mut archive = LayerReader::new(archive, budget).map_err(refused)?;
    let mut unpacker = Unpacker {
        files,
        root: files.root(),
        folder,
        staged: HashMap::new(),
        written: HashSet::new(),
        times: Vec::new(),
        copied: Copied::default(),
    };
    let read = unpacker.read(&mut archive).and_then(|()| {
        if !archive.has_end_mark() {
            return Err(wrong("the archive was cut short: it has no end mark".to_owned()));
        }
        archive.finish().map(drop).map_err(refused)
    });
    let kept = read.and_then(|()| unpacker.keep());
    if kept.is_err() {
        unpacker.clean_up();
    }
    kept.map(|()| unpacker.copied)
}

fn refused(error: image::Error) -> io::Error {
    let mut why = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        why = format!("{why}: {inner}");
        cause = inner.source();
    }
    wrong(why.replace("the layer", "the archive").replace("the whole layer", "all of it"))
}

struct Unpacker<'a> {
    files: &'a Files,
    root: Handle,
    folder: String,
    /// New folders, by the name that they will have, under a hidden one until all of it is there.
    staged: HashMap<String, String>,
    /// Files of the archive, for hard links.
    written: HashSet<String>,
    times: Vec<(String, i64)>,
    copied: Copied,
}

fn hidden_name() -> String {
    format!(".margay-cp-{}", disk::random_hex::<8>())
}

impl Unpacker<'_> {
    fn read(&mut self, archive: &mut LayerReader<File>) -> io::Result<()> {
        while let Some(entry) = archive.next_entry().map_err(refused)? {
            if entry.path.is_empty() {
                continue;
            }
            let Some(path) = entry.utf8_path().map(str::to_owned) else {
                let why = format!(
                    "`{}`: its name is no UTF-8, and WASI has no other",
                    entry.shown_path()
                );
                return Err(wrong(why));
            };
            self.write(&path, &entry, archive)?;
        }
        Ok(())
    }

    /// Where `path` of the archive is for now.
    fn place(&self, path: &str) -> String {
        let (top, rest) =
            path.split_once('/').map_or((path, None), |(top, rest)| (top, Some(rest)));
        let top = self.staged.get(top).map_or(top, String::as_str);
        let inside = rest.map_or(top.to_owned(), |rest| format!("{top}/{rest}"));
        below(&self.folder, &inside)
    }

    fn kind_at(&self, place: &str) -> io::Result<Option<FileKind>> {
        match self.files.stat_at(&self.root, place, false) {
            Ok(stat) => Ok(Some(kind_of(&stat))),
            Err(ErrorCode::NoEntry) => Ok(None),
            Err(code) => Err(named(place)(code)),
        }
    }

    fn write(
        &mut self,
        path: &str,
        entry: &Entry,
        archive: &mut LayerReader<File>,
    ) -> io::Result<()> {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.make_folder(parent)?;
        }
        let place = self.place(path);
        match &entry.kind {
            EntryKind::Whiteout | EntryKind::Opaque => Err(wrong(format!(
                "`{path}`: names that begin with `.wh.` are those of deletions in an image"
            ))),
            EntryKind::Pipe | EntryKind::Device => {
                self.copied.leave_out(path.as_bytes());
                Ok(())
            }
            EntryKind::Directory => {
                self.make_folder(path)?;
                self.times.push((path.to_owned(), entry.mtime));
                Ok(())
            }
            _ if self.kind_at(&place)? == Some(FileKind::Folder) => {
                Err(wrong(format!("cannot overwrite folder `/{place}` with what is none")))
            }
            EntryKind::Symlink { target } => {
                let target = String::from_utf8_lossy(target).into_owned();
                if target.starts_with('/') {
                    let place = self.shown(&place);
                    let why = format!(
                        "`/{place}` is a link to `{target}`, and a Wasm task has no absolute ones"
                    );
                    return Err(wrong(why));
                }
                self.replace(&place, |files, root, place| files.make_link(root, &target, place))
            }
            EntryKind::Hardlink { target } => {
                let target = String::from_utf8_lossy(target).into_owned();
                if !self.written.contains(&target) {
                    let why = format!(
                        "`{path}` is a hard link to `{target}`, which is not in the archive before it"
                    );
                    return Err(wrong(why));
                }
                let from = open(self.files, &self.place(&target), false)?;
                let size = self.files.stat(&from).map_err(named(&place))?.size;
                let mut content = Content { file: &from, path: &target, at: 0 };
                self.file(&place, &mut content, size, entry.mtime)
            }
            EntryKind::File | EntryKind::SparseFile => {
                self.file(&place, &mut archive.content(), entry.size, entry.mtime)?;
                self.written.insert(path.to_owned());
                Ok(())
            }
        }
    }

    /// Makes the folder `path` of the archive, with those above it, where there is none.
    fn make_folder(&mut self, path: &str) -> io::Result<()> {
        let parent = path.rsplit_once('/').map(|(parent, _)| parent);
        if let Some(parent) = parent {
            self.make_folder(parent)?;
        }
        let place = self.place(path);
        match self.kind_at(&place)? {
            Some(FileKind::Folder) => Ok(()),
            // A link of the task to a folder of the task.
            Some(FileKind::Link)
                if self
                    .files
                    .stat_at(&self.root, &place, true)
                    .is_ok_and(|stat| kind_of(&stat) == FileKind::Folder) =>
            {
                Ok(())
            }
            Some(_) => Err(wrong(format!(
                "cannot overwrite `/{place}`, which is no folder, with a folder"
            ))),
            None => {
                let place = match parent {
                    None if self.files.may_rename(&self.root, &place) => {
                        let hidden = hidden_name();
                        let place = below(&self.folder, &hidden);
                        self.staged.insert(path.to_owned(), hidden);
                        place
                    }
                    _ => place,
                };
                self.files.make_folder(&self.root, &place).map_err(named(&self.shown(&place)))
            }
        }
    }

    /// A place as its user knows it.
    fn shown(&self, place: &str) -> String {
        let hidden = self.staged.iter().find(|(_, hidden)| place.contains(hidden.as_str()));
        hidden.map_or(place.to_owned(), |(name, hidden)| place.replacen(hidden, name, 1))
    }

    /// Makes something new at `place`, and takes away what was there only once it is made.
    fn replace(
        &self,
        place: &str,
        make: impl FnOnce(&Files, &Handle, &str) -> Result<(), ErrorCode>,
    ) -> io::Result<()> {
        let failed = || named(&self.shown(place));
        let (folder, _) = place.rsplit_once('/').unwrap_or((".", place));
        let hidden = below(folder, &hidden_name());
        make(self.files, &self.root, &hidden).map_err(failed())?;
        let renamed = self.files.rename((&self.root, &hidden), (&self.root, place));
        if renamed.is_err() {
            let _ = self.files.unlink(&self.root, &hidden);
        }
        renamed.map_err(failed())
    }

    fn file(&self, place: &str, content: &mut impl Read, size: u64, mtime: i64) -> io::Result<()> {
        let failed = || named(&self.shown(place));
        let renames = self.files.may_rename(&self.root, place);
        let (folder, _) = place.rsplit_once('/').unwrap_or((".", place));
        let (at, how) = match renames {
            true => (below(folder, &hidden_name()), OpenFlags::CREATE | OpenFlags::EXCLUSIVE),
            // Where nothing may be removed, nothing can be put in place of anything.
            false => (place.to_owned(), OpenFlags::CREATE | OpenFlags::TRUNCATE),
        };
        let flags = DescriptorFlags::READ | DescriptorFlags::WRITE;
        let opening = Opening { follow: false, open: how, flags };
        let file = self.files.open(&self.root, &at, opening).map_err(failed())?;
        let written = fill(&file, content, size).map_err(|error| match error {
            Failed::Write(code) => failed()(code),
            Failed::Read(error) => error,
        });
        let _ = self.files.set_times(&file, NewTimes::modified(mtime));
        drop(file);
        let done = written.and_then(|()| match renames {
            true => self.files.rename((&self.root, &at), (&self.root, place)).map_err(failed()),
            false => Ok(()),
        });
        if done.is_err() && renames {
            let _ = self.files.unlink(&self.root, &at);
        }
        done
    }

    /// Gives new folders their names.
    fn keep(&mut self) -> io::Result<()> {
        for (path, mtime) in std::mem::take(&mut self.times).iter().rev() {
            let (place, times) = (self.place(path), NewTimes::modified(*mtime));
            let _ = self.files.set_times_at(&self.root, &place, false, times);
        }
        for (name, hidden) in std::mem::take(&mut self.staged) {
            let (from, to) = (below(&self.folder, &hidden), below(&self.folder, &name));
            if let Err(code) = self.files.rename((&self.root, &from), (&self.root, &to)) {
                self.staged.insert(name, hidden);
                return Err(named(&to)(code));
            }
        }
        Ok(())
    }

    fn clean_up(&self) {
        for hidden in self.staged.values() {
            self.remove(&below(&self.folder, hidden), 0);
        }
    }

    fn remove(&self, folder: &str, depth: usize) {
        let Ok(handle) = open(self.files, folder, false) else { return };
        let Ok(mut listing) = self.files.list(&handle) else { return };
        while let Ok(Some((name, kind))) = self.files.next_entry(&mut listing) {
            let inner = below(folder, &name);
            match kind {
                DescriptorType::Directory if depth < COPY_DEPTH_MAX => {
                    self.remove(&inner, depth + 1)
                }
                _ => drop(self.files.unlink(&self.root, &inner)),
            }
        }
        let _ = self.files.remove_folder(&self.root, folder);
    }
}

enum Failed {
    Read(io::Error),
    Write(ErrorCode),
}

/// Writes the content of a file, and leaves holes for zeros.
fn fill(file: &Handle, content: &mut impl Read, size: u64) -> Result<(), Failed> {
    let mut buffer = vec![0; 64 << 10];
    let mut at = 0;
    loop {
        let n =
            content.read(&mut buffer).map_err(|error| match error.downcast::<image::Error>() {
                Ok(error) => Failed::Read(refused(error)),
                Err(error) => Failed::Read(error),
            })?;
        if n == 0 {
            return file.set_len(size).map_err(Failed::Write);
        }
        if buffer[..n].iter().any(|byte| *byte != 0) {
            file.write_at(Some(at), &buffer[..n]).map_err(Failed::Write)?;
        }
        at += n as u64;
    }
}
