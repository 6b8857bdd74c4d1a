use std::{
    fs, io,
    os::{fd::AsRawFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use disk::{Lock, Survives};
use engine::Stop;

use super::{
    boot::{is_over, this_boot},
    health::Health,
    names,
    process::ProcessId,
    record::{Phase, State, Status, TaskRecord, VERSION},
    told::{STOP, Told, tell},
};
use crate::{
    error::{Error, Result},
    files,
    home::{Home, make_private},
};

/// A task's folder, for reading.
#[derive(Debug, Clone)]
pub struct TaskFolder {
    path: PathBuf,
    record: TaskRecord,
}

/// A task's folder, held by its supervisor, which alone may write there.
#[derive(Debug)]
pub struct Owned {
    folder: TaskFolder,
    /// Held for as long as this lives; the kernel lets go of it however the process ends.
    lock: Lock,
    told: Told,
}

/// A task's folder that stays readable for a moment when it is removed.
#[derive(Debug)]
pub struct PinnedTask {
    task: TaskFolder,
    _folder: fs::File,
    _readers: Lock,
}

impl std::ops::Deref for PinnedTask {
    type Target = TaskFolder;

    fn deref(&self) -> &TaskFolder {
        &self.task
    }
}

/// Every task that has a folder, oldest first. One that is half made, half removed or damaged is
/// left out.
///
/// # Errors
/// When the folder of folders cannot be read, or a task was written by a newer margay.
pub fn list(home: &Home) -> Result<Vec<TaskFolder>> {
    let mut tasks = Vec::new();
    for path in files::list(&home.tasks())? {
        match TaskFolder::read(&path) {
            Ok(Some(folder)) => tasks.push(folder),
            Ok(None) => {}
            // One file that a power cut has emptied must not hide all others.
            Err(error @ Error::Damaged { .. }) => {
                tracing::warn!(%error, "a task is left out: margay prune --tasks")
            }
            Err(error) => return Err(error),
        }
    }
    tasks.sort_by(|a, b| (a.record.created, &a.record.id).cmp(&(b.record.created, &b.record.id)));
    Ok(tasks)
}

/// Removes the folders of damaged tasks that no process holds, and returns their names.
///
/// # Errors
/// When the folder of folders cannot be read, or one cannot be removed.
pub fn clear_damaged(home: &Home) -> Result<Vec<String>> {
    let mut cleared = Vec::new();
    for path in files::list(&home.tasks())? {
        if clear_remains(&path)? {
            cleared.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    Ok(cleared)
}

/// Removes the folder at `path` when its task is damaged and no process holds it. Records are
/// written whole or not at all, so a damaged one never becomes a good one.
fn clear_remains(path: &Path) -> Result<bool> {
    if !matches!(TaskFolder::read(path), Err(Error::Damaged { .. })) {
        return Ok(false);
    }
    let Some(_lock) = try_lock(path)? else { return Ok(false) };
    shim::remove_tree(path).map_err(Error::file("remove", path))?;
    Ok(true)
}

/// The task that `text` means: its name, its id, or the beginning of its id.
///
/// # Errors
/// [`Error::NoSuchTask`], [`Error::Ambiguous`].
pub fn find(home: &Home, text: &str) -> Result<TaskFolder> {
    let tasks = home.tasks();
    let missing = || Error::NoSuchTask(text.chars().take(100).collect());
    names::check(text).map_err(|_| missing())?;
    if let Some(id) = names::owner(&tasks, text)
        && let Some(folder) = TaskFolder::read(&tasks.join(id))?
    {
        return Ok(folder);
    }
    if let Some(folder) = TaskFolder::read(&tasks.join(text))? {
        return Ok(folder);
    }
    let starts =
        |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(text));
    let paths: Vec<_> = files::list(&tasks)?.into_iter().filter(starts).collect();
    match paths.as_slice() {
        [] => Err(missing()),
        [path] => TaskFolder::read(path)?.ok_or_else(missing),
        _ => Err(Error::Ambiguous {
            text: text.to_owned(),
            candidates: paths
                .iter()
                .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
                .collect(),
        }),
    }
}

/// Makes and locks the folder of a new task. `record.name` is the name it should have, or empty for
/// one of our choice.
pub(crate) fn create(home: &Home, record: TaskRecord) -> Result<Owned> {
    create_with(home, record, &Status::starting(ProcessId::this()))
}

/// The same with its first status.
pub(crate) fn create_with(home: &Home, mut record: TaskRecord, status: &Status) -> Result<Owned> {
    let tasks = home.tasks();
    make_private(&tasks)?;
    let path = tasks.join(&record.id);
    let wish = Some(std::mem::take(&mut record.name)).filter(|name| !name.is_empty());
    let wish = wish.as_deref();
    if let Some(name) = wish {
        names::check(name)?;
    }
    let make_folder = || {
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => Error::Held(record.id.clone()),
            _ => Error::File { verb: "make folder", path: path.clone(), source },
        })
    };
    match make_folder() {
        // What a power cut has left of it: a task of a cluster comes back under its own id.
        Err(Error::Held(_)) if clear_remains(&path)? => make_folder()?,
        made => made?,
    }
    let make = || {
        let lock = try_lock(&path)?.ok_or_else(|| Error::Held(record.id.clone()))?;
        record.name = names::take(&tasks, wish, &record.id)?;
        record.version = VERSION;
        let folder = TaskFolder { path: path.clone(), record };
        let owned = Owned { folder, lock, told: Told::default() };
        owned.write_status(status)?;
        files::write_json(
            &path.join(RECORD),
            &owned.folder.record,
            owned.folder.record.survives(),
        )?;
        Ok(owned)
    };
    let made = make();
    match &made {
        Ok(owned) => tell(&path, owned.record(), "create", |event| event),
        Err(_) => drop(fs::remove_dir_all(&path)),
    }
    made
}

impl TaskFolder {
    fn read(path: &Path) -> Result<Option<Self>> {
        let file = path.join(RECORD);
        let Some(record) = files::read_json::<TaskRecord>(&file)? else { return Ok(None) };
        spec::wire::check_version("the task", record.version)
            .map_err(|source| Error::Newer { path: file.clone(), source })?;
        Ok(Some(Self { path: path.to_owned(), record }))
    }

    pub fn record(&self) -> &TaskRecord {
        &self.record
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its log is.
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Where the counters of its usage are.
    pub fn usage_page(&self) -> PathBuf {
        self.path.join("usage")
    }

    /// Where an agent that comes later reaches its worker.
    pub fn worker_socket(&self) -> PathBuf {
        self.path.join("worker.sock")
    }

    /// What its supervisor last wrote; nothing when that is damaged, for what state it is in shows
    /// without it.
    ///
    /// # Errors
    /// When it cannot be read, or was written by a newer margay.
    pub fn status(&self) -> Result<Option<Status>> {
        let file = self.path.join("status.json");
        let status = match files::read_json::<Status>(&file) {
            Err(error @ Error::Damaged { .. }) => {
                tracing::warn!(%error, "taken for none");
                None
            }
            read => read?,
        };
        if let Some(status) = &status {
            spec::wire::check_version("the status", status.version)
                .map_err(|source| Error::Newer { path: file, source })?;
        }
        Ok(status)
    }

    /// What state it is in, from what can be seen now.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn state(&self) -> Result<State> {
        let supervised = self.is_supervised();
        // Read after the lock: a supervisor writes the end before it lets go.
        let status = self.status()?;
        // A number and a time of another boot may be those of another process now.
        let of_this_boot = |status: &&Status| !is_over(status.boot.as_deref());
        let process = status.as_ref().filter(of_this_boot).and_then(|status| status.process);
        let lives = process.is_some_and(ProcessId::is_alive);
        Ok(State::of(status.as_ref(), supervised, lives))
    }

    pub fn is_supervised(&self) -> bool {
        disk::is_locked(&self.path.join(LOCK))
    }

    /// What is meant by its folder, also while it is removed: a reader that holds it for a moment
    /// sees the end of a task that leaves nothing behind.
    ///
    /// # Errors
    /// [`Error::NoSuchTask`] when it is gone already.
    pub fn pin(&self) -> Result<PinnedTask> {
        let gone = || Error::NoSuchTask(self.record.name.clone());
        let folder = fs::File::open(&self.path).map_err(|_| gone())?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        let readers = Lock::shared(&path.join(READERS)).map_err(|_| gone())?;
        let task = Self { path, record: self.record.clone() };
        Ok(PinnedTask { task, _folder: folder, _readers: readers })
    }

    /// Keeps its container from being started, or a copy from looking at its files, unless one of
    /// them is at work.
    pub(crate) fn try_hold_files(&self) -> Result<Option<Lock>> {
        let path = self.path.join(FILES);
        Lock::try_exclusive(&path).map_err(Error::file("lock", &path))
    }

    /// How it is to be stopped, for the supervisor to read. Written before that is asked.
    ///
    /// # Errors
    /// [`Error::NoSuchTask`] when it was removed meanwhile.
    pub(crate) fn ask_stop(&self, stop: Stop) -> Result<()> {
        let asked = files::write_json(&self.path.join(STOP), &stop, Survives::Crash);
        asked.map_err(|error| match self.path.exists() {
            true => error,
            false => Error::NoSuchTask(self.record.name.clone()),
        })
    }

    /// What was written last.
    pub(crate) fn asked_stop(&self) -> Option<Stop> {
        files::read_json(&self.path.join(STOP)).ok().flatten()
    }

    /// A new start was not asked for anything yet.
    pub(crate) fn forget_asked_stop(&self) {
        let _ = fs::remove_file(self.path.join(STOP));
    }

    /// Takes the folder over when no process holds it.
    ///
    /// # Errors
    /// [`Error::Held`] when another process does, [`Error::NoSuchTask`] when it was removed
    /// meanwhile.
    pub(crate) fn own(self) -> Result<Owned> {
        let lock = match try_lock(&self.path) {
            Ok(Some(lock)) => lock,
            Ok(None) => return Err(Error::Held(self.record.name)),
            Err(_) if !self.path.exists() => return Err(Error::NoSuchTask(self.record.name)),
            Err(error) => return Err(error),
        };
        // A remover renames the folder before it lets go of the lock.
        match Self::read(&self.path)? {
            Some(folder) if disk::is_at(&self.path.join(LOCK), lock.file()) => {
                Ok(Owned { folder, lock, told: Told::default() })
            }
            _ => Err(Error::NoSuchTask(self.record.name)),
        }
    }

    /// Gives it another name, also while it runs.
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::NameTaken`].
    pub fn rename(&self, name: &str) -> Result<()> {
        let tasks = self.path.parent().ok_or_else(|| Error::NoSuchTask(name.to_owned()))?;
        // One at a time: the name in the record and the one that is taken must be the same.
        let lock = tasks.join(RENAMING);
        let _lock = Lock::exclusive(&lock).map_err(Error::file("lock", &lock))?;
        let missing = || Error::NoSuchTask(self.record.name.clone());
        let now = Self::read(&self.path)?.ok_or_else(missing)?;
        if now.record.name == name {
            return Err(Error::SameName(name.to_owned()));
        }
        let taken = names::take(tasks, Some(name), &self.record.id)?;
        let record = TaskRecord { name: taken, ..now.record.clone() };
        let written = files::write_json(&self.path.join(RECORD), &record, Survives::PowerLoss);
        let old = if written.is_ok() { &now.record.name } else { &record.name };
        names::release(tasks, old, &self.record.id);
        written?;
        tell(&self.path, &record, "rename", |event| event.with("oldName", &now.record.name));
        Ok(())
    }
}

impl Owned {
    pub fn folder(&self) -> &TaskFolder {
        &self.folder
    }

    pub fn record(&self) -> &TaskRecord {
        &self.folder.record
    }

    /// Replaces the status.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_status(&self, status: &Status) -> Result<()> {
        let survives = match status.phase {
            Phase::Exited => self.folder.record.survives(),
            // It describes processes, which a power cut ends anyway.
            Phase::Created | Phase::Starting | Phase::Running | Phase::Idle | Phase::BackOff => {
                Survives::Crash
            }
        };
        let status = &Status { boot: Some(this_boot().to_owned()), ..status.clone() };
        let tell = || self.told.status(&self.folder.path, &self.folder.record, status);
        // An end is told before it can be seen, and a start when it can be relied on.
        let is_start = matches!(status.phase, Phase::Created | Phase::Running);
        if !is_start {
            tell();
        }
        files::write_json(&self.folder.path.join("status.json"), status, survives)?;
        if is_start {
            tell();
        }
        Ok(())
    }

    /// Writes down what a probe has shown, and tells when that makes a difference.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write_health(&self, status: &mut Status, health: Health) -> Result<()> {
        let now = health.status;
        let before = status.health.replace(health);
        self.write_status(status)?;
        if before.is_some_and(|before| before.status != now) {
            let action = format!("health_status: {}", now.word());
            tell(&self.folder.path, &self.folder.record, &action, |event| event);
        }
        Ok(())
    }

    /// Removes the folder and gives its name back.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub fn remove(self) -> Result<()> {
        let Self { folder, lock, .. } = self;
        let (path, id) = (&folder.path, &folder.record.id);
        // It may have another name by now.
        let current = TaskFolder::read(path).ok().flatten();
        let name = &current.as_ref().unwrap_or(&folder).record.name;
        // Under a hidden name first: a crash in the middle leaves nothing that looks like a task.
        let hidden = path.with_file_name(format!(".removed-{id}"));
        let _ = shim::remove_tree(&hidden);
        fs::rename(path, &hidden).map_err(Error::file("remove", path))?;
        if let Some(tasks) = path.parent() {
            names::release(tasks, name, id);
        }
        tell(path, &folder.record, "destroy", |event| event);
        drop(lock);
        wait_for_readers(&hidden);
        files::remove_all(&hidden).map_err(Error::file("remove", &hidden))
    }
}

/// The file in a task's folder that its supervisor locks.
const LOCK: &str = "lock";
/// What was asked for, in a task's folder.
const RECORD: &str = "task.json";
/// The lock under which its files are looked at, or its container started.
const FILES: &str = "files.lock";
/// The file that readers lock whose folder may be removed meanwhile.
const READERS: &str = "readers";
/// The lock of all renames, beside the folders.
const RENAMING: &str = ".renaming";
/// Readers of a task that is removed look every few hundredths of a second; one that takes longer
/// has stopped reading.
const READERS_TIME_MAX: Duration = Duration::from_secs(1);

/// Lets them see the last status and the end of the log.
fn wait_for_readers(folder: &Path) {
    let readers = folder.join(READERS);
    let deadline = Instant::now() + READERS_TIME_MAX;
    let is_read = || readers.exists() && matches!(Lock::try_exclusive(&readers), Ok(None));
    while is_read() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The lock of the folder at `path`, unless a supervisor has it. Readers take it shared for a
/// moment to see whether it is held, so one failure does not mean much.
fn try_lock(path: &Path) -> Result<Option<Lock>> {
    for _ in 0..20 {
        match Lock::try_exclusive(&path.join(LOCK)).map_err(Error::file("lock", path))? {
            None => std::thread::sleep(Duration::from_millis(2)),
            lock => return Ok(lock),
        }
    }
    Ok(None)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::tasks::record::{Kind, Origin, Phase};
    use spec::{Digest, Limits, Timestamp};
    use std::collections::{BTreeMap, BTreeSet};

    pub(crate) fn record(id: &str, name: &str) -> TaskRecord {
        TaskRecord {
            version: VERSION,
            id: id.to_owned(),
            name: name.to_owned(),
            image: "cats".to_owned(),
            digest: Digest::of(b"cats"),
            kind: Kind::Wasm,
            origin: Origin::Local,
            created: Timestamp::from_millis(1),
            command: Vec::new(),
            ports: Vec::new(),
            mounts: Vec::new(),
            env: Vec::new(),
            limits: Limits::for_requests(),
            grants: spec::Capabilities::default(),
            remove_at_end: false,
            labels: BTreeMap::new(),
            exposed: BTreeSet::new(),
            restart: crate::tasks::RestartPolicy::No,
            no_log: false,
            health_check: None,
        }
    }

    #[test]
    fn a_folder_is_found_by_name_id_and_beginning_of_the_id() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("home")).unwrap();
        let _a = create(&home, record("aa11", "tom")).unwrap();
        let _b = create(&home, record("aa22", "")).unwrap();
        for (text, want) in [("tom", "aa11"), ("aa11", "aa11"), ("aa1", "aa11"), ("aa22", "aa22")] {
            assert_eq!(find(&home, text).unwrap().record().id, want, "{text}");
        }
        for (text, want) in [
            ("aa", "`aa` could be any of [\"aa11\", \"aa22\"]"),
            ("x", "no task is called `x`"),
            ("../aa11", "no task is called `../aa11`"),
            ("", "no task is called ``"),
        ] {
            assert_eq!(find(&home, text).unwrap_err().to_string(), want);
        }
        assert!(matches!(create(&home, record("cc", "tom")), Err(Error::NameTaken { .. })));
        assert!(!home.tasks().join("cc").exists(), "nothing of the refused task is left");
        assert_eq!(list(&home).unwrap().len(), 2);
    }

    #[test]
    fn a_state_is_what_lock_process_and_status_add_up_to() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("home")).unwrap();
        let owned = create(&home, record("t", "t")).unwrap();
        let task = owned.folder().clone();
        assert_eq!(task.state().unwrap(), State::Starting);
        let me = ProcessId::this();
        let gone = ProcessId { started: 1, ..me };
        let status =
            |phase, process| Status { phase, process, exit_code: Some(3), ..Status::starting(me) };
        let table = [
            (Phase::Running, Some(me), State::Running, State::Unsupervised),
            (Phase::Running, Some(gone), State::Starting, State::Lost),
            (Phase::Starting, None, State::Starting, State::Lost),
            (Phase::Idle, None, State::Idle, State::Lost),
            (Phase::BackOff, None, State::BackOff, State::Lost),
            (Phase::Exited, None, State::Exited(3), State::Exited(3)),
        ];
        for (phase, process, held, _) in table {
            owned.write_status(&status(phase, process)).unwrap();
            assert_eq!(task.state().unwrap(), held, "{phase:?} and held");
        }
        drop(owned);
        for (phase, process, _, free) in table {
            let owned = task.clone().own().unwrap();
            owned.write_status(&status(phase, process)).unwrap();
            drop(owned);
            assert_eq!(task.state().unwrap(), free, "{phase:?} and free");
        }
    }

    #[test]
    fn a_held_folder_has_one_owner_and_a_removed_one_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("home")).unwrap();
        let owned = create(&home, record("t", "t")).unwrap();
        assert!(matches!(owned.folder().clone().own(), Err(Error::Held(_))));
        owned.remove().unwrap();
        assert_eq!(fs::read_dir(home.tasks()).unwrap().count(), 1, "the folder of names");
        assert_eq!(fs::read_dir(home.tasks().join(".names")).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_a_power_cut_has_emptied_hides_no_other_task() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("home")).unwrap();
        for id in ["whole", "no-status", "no-record"] {
            create(&home, record(id, id)).unwrap();
        }
        fs::write(home.tasks().join("no-status/status.json"), "").unwrap();
        fs::write(home.tasks().join("no-record/task.json"), "").unwrap();
        let states: Vec<_> = list(&home)
            .unwrap()
            .into_iter()
            .map(|task| (task.record().id.clone(), task.state().unwrap().word()))
            .collect();
        assert_eq!(states, [("no-status".to_owned(), "lost"), ("whole".to_owned(), "lost")]);

        // Its id can be used again, and what is not used again can be cleared away.
        drop(create(&home, record("no-record", "again")).unwrap());
        assert_eq!(list(&home).unwrap().len(), 3);
        fs::write(home.tasks().join("no-record/task.json"), "{").unwrap();
        assert_eq!(clear_damaged(&home).unwrap(), ["no-record"]);
        assert_eq!(list(&home).unwrap().len(), 2);
    }

    #[test]
    fn a_task_of_a_newer_margay_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("home")).unwrap();
        let owned = create(&home, record("t", "t")).unwrap();
        let newer = TaskRecord { version: 2, ..owned.record().clone() };
        files::write_json(&owned.folder().path().join("task.json"), &newer, Survives::Crash)
            .unwrap();
        let error = list(&home).unwrap_err();
        assert!(
            crate::error::chain(&error).contains("has version 2, and this margay knows 1"),
            "{error}"
        );
    }
}
