//! `margay cp`: files in and out of a container, by Docker's rules.
//!
//! No path of a container is looked up by this process: its own process, or one that has only its
//! files, writes an archive into a pipe or reads one from it. What comes out is read as hostile
//! bytes, and written below the target without following a link.

mod rules; // where a copy goes
mod open; // the files of a container that does not run
mod far; // the container's end
mod stream; // the pipe between both

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use engine::exec::{Answer, Ask, Copied, FileKind, Link, Owners, Place};
use rustix::fs::{CWD, Mode, OFlags, openat};
use shim::{Extraction, Modes, Source};

use crate::{
    error::{Error, Result},
    home::Home,
    request::Note,
    tasks::TaskFolder,
};
use far::Far;
use rules::{Given, There};
use stream::{Signals, Stream};

/// How files are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyOptions {
    /// Keep users and groups by number.
    pub keep_owners: bool,
    /// Copy what a link at the end of the source leads to.
    pub follow: bool,
}

impl CopyOptions {
    fn owners(self) -> Owners {
        if self.keep_owners { Owners::Kept } else { Owners::Own }
    }

    fn link(self, from: &Given) -> Link {
        if self.follow || from.folder { Link::Target } else { Link::Itself }
    }
}

/// How a copy ended.
#[derive(Debug, PartialEq, Eq)]
pub enum CopyEnd {
    /// With so many bytes of archive, at this place.
    Done { bytes: u64, place: String, copied: Copied },
    /// By this signal to our process.
    Interrupted(i32),
}

/// What this process tells of a copy that goes on.
pub trait CopyWatch {
    /// What a start of the task would tell.
    fn note(&mut self, note: Note);
    /// So many bytes have moved.
    fn moved(&mut self, bytes: u64);
}

/// For a container that ends at each try, and is started again.
const TRIES_MAX: u32 = 3;
/// Links in a container that lead to each other.
const LINKS_MAX: usize = 40;

/// Copies what is at `from` of a task to `to` on this machine, or as an archive to our standard
/// output.
///
/// # Errors
/// When there is no such file or place, or something cannot be read or written. Files that were
/// complete stay then; a new folder is not there.
pub fn copy_out(
    home: &Home,
    task: TaskFolder,
    from: &str,
    to: Option<&Path>,
    options: CopyOptions,
    watch: &mut dyn CopyWatch,
) -> Result<CopyEnd> {
    // What has gone to standard output cannot be taken back.
    let tries_max = if to.is_some() { TRIES_MAX } else { 1 };
    again_when_it_ends(tries_max, || copy_out_once(home, task.clone(), from, to, options, watch))
}

/// Does something with a container that may be about to end: its files can be had all the same, in
/// another way.
fn again_when_it_ends(
    tries_max: u32,
    mut copy: impl FnMut() -> Result<CopyEnd>,
) -> Result<CopyEnd> {
    for _ in 1..tries_max {
        match copy() {
            Err(Error::NoAnswer { .. } | Error::NotJoinable { .. }) => {}
            done => return done,
        }
    }
    copy()
}

fn copy_out_once(
    home: &Home,
    task: TaskFolder,
    from: &str,
    to: Option<&Path>,
    options: CopyOptions,
    watch: &mut dyn CopyWatch,
) -> Result<CopyEnd> {
    let from = Given::inside(from);
    let far = Far::open(home, task, |note| watch.note(note))?;
    let link = options.link(&from);
    let missing = || Error::NoSuchFile { task: far.name().to_owned(), path: from.path.clone() };
    let stat = far.stat(&from.path, link)?.ok_or_else(missing)?;
    let shown = format!("{}:{}", far.name(), from.path);
    must_be_copied(&from, stat.kind, &shown)?;
    let target = match to {
        Some(to) => Some(place_outside(&from, stat.kind == FileKind::Folder, to)?),
        None => None,
    };
    let folder = target.as_ref().map(|target| open_folder(&target.folder)).transpose()?;
    let name = match target {
        Some(target) => target.name,
        None if from.content => String::new(),
        None => from.name.clone(),
    };
    let signals = Signals::listen()?;
    let (read, write) = stream::pipe()?;
    let place = Place { path: from.path.clone(), link };
    let socket = far.ask(Ask::Pack { place, name }, Some(write))?;
    let mut moved = |bytes| watch.moved(bytes);
    let mut stream = Stream::new(read, &signals, &mut moved);
    let mut theirs = None;
    // Before anything that is new gets its name.
    let mut confirm = || {
        let answer = theirs
            .insert(far.answer_unless(&socket, &signals).and_then(|answer| copied(&far, answer)));
        answer.as_ref().map(drop).map_err(|error| io::Error::other(error.to_string()))
    };
    let received = match &folder {
        Some(folder) => {
            let modes = if options.keep_owners { Modes::Kept } else { Modes::Plain };
            let how = Extraction { owners: options.owners(), modes };
            shim::extract(&mut stream, folder.as_fd(), how, &mut confirm)
        }
        None => own(io::stdout().as_fd())
            .and_then(|stdout| {
                pass(&mut stream, &mut Stream::new(stdout, &signals, &mut |_| {}))?;
                confirm()
            })
            .map(|()| Copied::default()),
    };
    if let Some(signal) = signals.ended_by() {
        return Ok(CopyEnd::Interrupted(signal));
    }
    let bytes = stream.bytes_moved();
    // The other end writes no more.
    drop(stream);
    let place = to.map_or("-".to_owned(), |to| absolute(to).display().to_string());
    match (received, theirs) {
        (Ok(ours), Some(Ok(theirs))) => {
            Ok(CopyEnd::Done { bytes, place, copied: both(theirs, ours) })
        }
        (_, Some(Err(error))) => Err(error),
        (Err(error), _) => {
            // A refusal of the other end is why there is no archive.
            if bytes == 0 || is_cut(&error) {
                far.answer_unless(&socket, &signals)?;
            }
            Err(failed(&shown, error.to_string()))
        }
        (Ok(_), None) => Err(failed(&shown, "the other end did not answer".to_owned())),
    }
}

fn must_be_copied(from: &Given, kind: FileKind, shown: &str) -> Result<()> {
    match kind {
        FileKind::Other => Err(failed(shown, "it is a device, a pipe or a socket".to_owned())),
        FileKind::File | FileKind::Link if from.folder => {
            Err(failed(shown, "it is not a folder".to_owned()))
        }
        FileKind::File | FileKind::Link | FileKind::Folder => Ok(()),
    }
}

/// What was left out at either end.
fn both(one: Copied, other: Copied) -> Copied {
    Copied {
        left_out: one.left_out.saturating_add(other.left_out),
        left_out_first: one.left_out_first.or(other.left_out_first),
        made_plain: one.made_plain.saturating_add(other.made_plain),
        made_plain_first: one.made_plain_first.or(other.made_plain_first),
    }
}

/// Copies what is at `from` on this machine, or the archive at our standard input, to `to` in a
/// task.
///
/// # Errors
/// As [`copy_out`].
pub fn copy_in(
    home: &Home,
    task: TaskFolder,
    from: Option<&Path>,
    to: &str,
    options: CopyOptions,
    watch: &mut dyn CopyWatch,
) -> Result<CopyEnd> {
    // What was read from standard input cannot be read again.
    let tries_max = if from.is_some() { TRIES_MAX } else { 1 };
    again_when_it_ends(tries_max, || copy_in_once(home, task.clone(), from, to, options, watch))
}

fn copy_in_once(
    home: &Home,
    task: TaskFolder,
    from: Option<&Path>,
    to: &str,
    options: CopyOptions,
    watch: &mut dyn CopyWatch,
) -> Result<CopyEnd> {
    let source = from.map(|from| local_source(from, options)).transpose()?;
    let far = Far::open(home, task, |note| watch.note(note))?;
    let shown = format!("{}:{to}", far.name());
    let (to, there) = place_inside(&far, to)?;
    let target = match &source {
        Some((given, kind)) => {
            let is_folder = *kind == FileKind::Folder;
            rules::target(given, is_folder, &to, there).map_err(|why| failed(&shown, why))?
        }
        None if there == There::Folder => {
            rules::Target { folder: to.path.clone(), name: String::new() }
        }
        None => return Err(failed(&shown, "an archive goes into a folder".to_owned())),
    };
    let missing = || Error::NoSuchFile { task: far.name().to_owned(), path: target.folder.clone() };
    far.stat(&target.folder, Link::Target)?.ok_or_else(missing)?;
    let signals = Signals::listen()?;
    let (read, write) = stream::pipe()?;
    let ask = Ask::Unpack { folder: target.folder.clone(), owners: options.owners() };
    let socket = far.ask(ask, Some(read))?;
    let mut moved = |bytes| watch.moved(bytes);
    let mut stream = Stream::new(write, &signals, &mut moved);
    let packed = match (&source, from) {
        (Some((given, _)), Some(path)) => {
            let (link, name) = (options.link(given), target.name.as_bytes());
            let out = io::BufWriter::with_capacity(64 << 10, &mut stream);
            shim::pack(Source::Host(&trimmed(path)), link, name, out)
        }
        _ => own(io::stdin().as_fd())
            .and_then(|stdin| pass(&mut Stream::new(stdin, &signals, &mut |_| {}), &mut stream))
            .map(|()| Copied::default()),
    };
    let bytes = stream.bytes_moved();
    // Its end: without the mark of one the other side keeps nothing that is new.
    drop(stream);
    let answer = far.answer_unless(&socket, &signals);
    if let Some(signal) = signals.ended_by() {
        return Ok(CopyEnd::Interrupted(signal));
    }
    let answer = answer.map_err(|error| explain(&far, &shown, error));
    let theirs = answer.and_then(|answer| copied(&far, answer));
    match packed {
        // It stopped reading, and has said why.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            theirs?;
            Err(failed(&shown, "the other end stopped reading".to_owned()))
        }
        Err(error) => Err(failed(&shown, error.to_string())),
        Ok(ours) => Ok(CopyEnd::Done { bytes, place: shown, copied: both(ours, theirs?) }),
    }
}

fn failed(place: &str, why: String) -> Error {
    Error::Copy { what: format!("copy `{place}`"), why, hint: None }
}

/// A refusal of the container's end, with what it means for this place.
fn explain(far: &Far, place: &str, error: Error) -> Error {
    let Error::Copy { why, hint, .. } = error else { return error };
    let hint = hint.or_else(|| {
        let is_memory = why.contains("read-only") && far.is_still_wasm();
        is_memory.then(|| {
            "what a Wasm program writes beside its volumes is gone when it ends: copy into a \
             volume, or start the task first"
                .to_owned()
        })
    });
    Error::Copy { what: format!("copy to `{place}`"), why, hint }
}

fn copied(far: &Far, answer: Answer) -> Result<Copied> {
    match answer {
        Answer::Copied(copied) => Ok(copied),
        other => Err(far.odd(&other)),
    }
}

fn is_cut(error: &io::Error) -> bool {
    error.to_string().contains("cut short")
}

/// A standard stream of this process, for a copy alone.
fn own(stream: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    stream.try_clone_to_owned()
}

/// Bytes as they are.
fn pass(from: &mut impl io::Read, to: &mut impl io::Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return to.flush(),
            Ok(n) => to.write_all(&buffer[..n])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::BadArgument {
        text: path.display().to_string(),
        what: "a name in UTF-8, which copies need",
    })
}

/// The path as the kernel should see it: `/.` asks for the content, and means the folder.
fn trimmed(path: &Path) -> PathBuf {
    path.components().collect()
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn local_source(path: &Path, options: CopyOptions) -> Result<(Given, FileKind)> {
    let given = Given::outside(text(path)?);
    let look = |source: io::Error| Error::File { verb: "find", path: path.to_owned(), source };
    let stat = Source::Host(&trimmed(path)).stat(options.link(&given)).map_err(look)?;
    let stat = stat.ok_or_else(|| look(rustix::io::Errno::NOENT.into()))?;
    must_be_copied(&given, stat.kind, &given.path)?;
    Ok((given, stat.kind))
}

/// Where a copy goes on this machine. Links of the user's own are followed.
fn place_outside(from: &Given, is_folder: bool, to: &Path) -> Result<rules::Target> {
    let there = match std::fs::metadata(to) {
        Ok(found) if found.is_dir() => There::Folder,
        Ok(found) if found.is_file() => There::File,
        Ok(_) => {
            let why = "it is neither a folder nor a file".to_owned();
            return Err(failed(&to.display().to_string(), why));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => There::Nothing,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => There::File,
        Err(source) => return Err(Error::File { verb: "find", path: to.to_owned(), source }),
    };
    // A file is replaced where it is, not the link to it.
    let real = match there {
        There::File => to.canonicalize().unwrap_or_else(|_| to.to_owned()),
        There::Nothing | There::Folder => to.to_owned(),
    };
    let given = Given { folder: Given::outside(text(to)?).folder, ..Given::outside(text(&real)?) };
    rules::target(from, is_folder, &given, there).map_err(|why| failed(&from.path, why))
}

fn open_folder(path: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|error| Error::File {
        verb: "open the folder",
        path: path.into(),
        source: error.into(),
    })
}

/// What is at the destination in a container; a link there stands for what it leads to, also when
/// that is not there yet.
fn place_inside(far: &Far, to: &str) -> Result<(Given, There)> {
    let mut given = Given::inside(to);
    for _ in 0..LINKS_MAX {
        let Some(stat) = far.stat(&given.path, Link::Itself)? else {
            return Ok((given, There::Nothing));
        };
        match (stat.kind, stat.target) {
            (FileKind::Folder, _) => return Ok((given, There::Folder)),
            (FileKind::File, _) => return Ok((given, There::File)),
            (FileKind::Link, Some(target)) => given = rules::follow(&given, &target),
            (FileKind::Link | FileKind::Other, _) => {
                let why = "it is neither a folder nor a file".to_owned();
                return Err(failed(&format!("{}:{to}", far.name()), why));
            }
        }
    }
    Err(failed(&format!("{}:{to}", far.name()), "its links lead in a circle".to_owned()))
}
