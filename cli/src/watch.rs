//! Changes of the files in a folder, from inotify.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fs, io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};
use tokio::{sync::mpsc, time::timeout};

use crate::failure::Advice;

/// Each is a watch of the kernel, of which a user has 8192 on small machines. A project with more
/// folders is one whose dependencies lie among its sources.
const FOLDERS_MAX: usize = 4096;
/// Names of changed files that one build is told of. More changes are one change of everything.
const CHANGES_MAX: usize = 10_000;
/// An editor writes a file in several steps, and a branch that is checked out comes file by file.
const QUIET: Duration = Duration::from_millis(150);
/// As long as a folder keeps changing: then a build begins anyway.
const BUSY_MAX: Duration = Duration::from_secs(5);

/// Events that wait for the builder. The kernel keeps those behind them, and says when it cannot.
const EVENTS_MAX: usize = 1024;

/// The folders below one, each watched.
pub struct Watch<I> {
    inotify: Arc<OwnedFd>,
    events: mpsc::Receiver<io::Result<Event>>,
    root: PathBuf,
    /// By the watch, relative to the root.
    folders: HashMap<i32, String>,
    ignores: I,
}

impl<I: Fn(&str) -> bool> Watch<I> {
    /// Watches `root` and every folder below it, without what `ignores` names by its path below
    /// the root.
    pub fn start(root: &Path, ignores: I) -> anyhow::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC).context("cannot watch files")?;
        let inotify = Arc::new(inotify);
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let source = inotify.clone();
        // It ends with the process, or at the first event after the watch.
        std::thread::spawn(move || read(&source, &sender));
        let mut watch =
            Self { inotify, events, root: root.to_owned(), folders: HashMap::new(), ignores };
        watch.add(String::new())?;
        Ok(watch)
    }

    /// Uses other rules from now on, after the build file changed.
    pub fn ignore(&mut self, ignores: I) -> anyhow::Result<()> {
        self.ignores = ignores;
        self.add(String::new())
    }

    /// Watches a folder and those below it. What is gone meanwhile is left out.
    fn add(&mut self, folder: String) -> anyhow::Result<()> {
        let mut left = vec![folder];
        while let Some(folder) = left.pop() {
            let path = self.root.join(&folder);
            let flags = WatchFlags::CLOSE_WRITE
                | WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::MOVED_FROM
                | WatchFlags::MOVED_TO
                | WatchFlags::ONLYDIR
                | WatchFlags::DONT_FOLLOW;
            // `ONLYDIR` and a link at the root do not go together.
            let path = if folder.is_empty() { path.canonicalize()? } else { path };
            match inotify::add_watch(&*self.inotify, &path, flags) {
                Ok(watch) => self.folders.insert(watch, folder.clone()),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) if !folder.is_empty() => continue,
                Err(Errno::NOSPC) => bail!(
                    Advice::new("the limit of watched folders of this user is reached")
                        .hint("raise it: sysctl fs.inotify.max_user_watches=65536")
                ),
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot watch `{}`", path.display()));
                }
            };
            if self.folders.len() > FOLDERS_MAX {
                bail!(
                    Advice::new(format!(
                        "`{}` has more than {FOLDERS_MAX} folders to watch",
                        self.root.display()
                    ))
                    .hint("name those that are no sources in `.dockerignore`")
                );
            }
            let entries = fs::read_dir(&path).into_iter().flatten().flatten();
            for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                let below = join(&folder, &entry.file_name());
                if !(self.ignores)(&below) {
                    left.push(below);
                }
            }
        }
        Ok(())
    }

    /// Waits until files changed and have been quiet for a moment, and names them, each once.
    pub async fn changes(&mut self) -> anyhow::Result<Vec<String>> {
        let mut changes = vec![];
        while changes.is_empty() {
            changes = self.next().await?;
        }
        let quiet = async {
            while let Ok(more) = timeout(QUIET, self.next()).await {
                changes.extend(more?);
                changes.truncate(CHANGES_MAX);
            }
            anyhow::Ok(())
        };
        timeout(BUSY_MAX, quiet).await.unwrap_or(Ok(()))?;
        changes.sort_unstable();
        changes.dedup();
        Ok(changes)
    }

    /// The changes that are there already, without waiting for any.
    pub async fn pending(&mut self) -> anyhow::Result<Vec<String>> {
        let mut changes = vec![];
        while let Ok(more) = timeout(QUIET, self.next()).await {
            changes.extend(more?);
            changes.truncate(CHANGES_MAX);
        }
        Ok(changes)
    }

    /// What the next event changes. Empty when it is ignored.
    async fn next(&mut self) -> anyhow::Result<Vec<String>> {
        let event = self.events.recv().await.context("the watch of files has ended")?;
        let Event { watch, flags, name } = event.context("cannot watch files")?;
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            return Ok(vec![".".to_owned()]);
        }
        if flags.contains(ReadFlags::IGNORED) {
            self.folders.remove(&watch);
            return Ok(vec![]);
        }
        let Some(folder) = self.folders.get(&watch) else { return Ok(vec![]) };
        let path = join(folder, &name);
        if (self.ignores)(&path) {
            return Ok(vec![]);
        }
        let is_folder = flags.contains(ReadFlags::ISDIR);
        if is_folder && flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            self.add(path.clone())?;
        }
        // A file is a change once it was written.
        Ok(if is_folder || flags != ReadFlags::CREATE { vec![path] } else { vec![] })
    }
}

/// What the kernel says about one name in a folder.
struct Event {
    watch: i32,
    flags: ReadFlags,
    name: OsString,
}

/// Hands on events until there is no receiver.
fn read(inotify: &OwnedFd, events: &mpsc::Sender<io::Result<Event>>) {
    let mut buffer = [MaybeUninit::uninit(); 16 << 10];
    let mut reader = inotify::Reader::new(inotify, &mut buffer);
    loop {
        let event = reader.next().map_err(io::Error::from).map(|event| Event {
            watch: event.wd(),
            flags: event.events(),
            name: event
                .file_name()
                .map_or_else(OsString::new, |name| OsStr::from_bytes(name.to_bytes()).to_owned()),
        });
        let failed = event.is_err();
        if events.blocking_send(event).is_err() || failed {
            return;
        }
    }
}

fn join(folder: &str, name: &OsStr) -> String {
    let name = name.to_string_lossy();
    if folder.is_empty() { name.into_owned() } else { format!("{folder}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_named_once_and_an_ignored_one_never() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        };
        write("src/main.c");
        write("target/app.wasm");
        let mut watch =
            Watch::start(folder.path(), |path: &str| path.starts_with("target")).unwrap();
        write("target/app.wasm");
        write("target/deep/app.wasm");
        write("src/main.c");
        write("src/main.c");
        assert_eq!(watch.changes().await.unwrap(), ["src/main.c"]);
        write("new/deep/one.c");
        assert!(watch.changes().await.unwrap().contains(&"new".to_owned()));
        write("new/deep/one.c");
        assert_eq!(watch.changes().await.unwrap(), ["new/deep/one.c"]);
        fs::remove_file(folder.path().join("src/main.c")).unwrap();
        assert_eq!(watch.changes().await.unwrap(), ["src/main.c"]);
        assert!(watch.pending().await.unwrap().is_empty());
    }
}
