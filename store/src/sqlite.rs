use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, FutureExt, ready};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, params};
use tokio::sync::{mpsc, oneshot};

use crate::{
    Committed, Error, Query, Range, Ranged, Rev, Status, Store, Txn, Watch,
    limits::{GROUP_OPS_MAX, GROUP_TIME_MAX, WAITING_MAX},
    packed::{Packed, Revs},
    shared::Shared,
    state::{Change, Effect, State, View},
};

/// The format of the file. A newer one is refused by name.
const FORMAT: i64 = 1;

/// The rules in one SQLite file that one process has open.
///
/// One thread writes: what comes while it waits for the disk is committed together. Reads never
/// touch the file. A transaction is answered after `COMMIT` in WAL mode with `synchronous=FULL`,
/// and is visible to no reader before.
#[derive(Debug)]
pub struct SqliteStore {
    shared: Arc<Shared>,
    waiting: Option<mpsc::Sender<QueuedTxn>>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct QueuedTxn {
    txn: Txn,
    reply: oneshot::Sender<Result<Committed, Error>>,
}

impl SqliteStore {
    /// Opens the store at `path`, or makes it, readable for its owner alone. Blocks while it reads
    /// the whole file.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::NewerFile`], [`Error::Open`], [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, "")
    }

    /// With further `pragmas`, for tests.
    pub(crate) fn open_with(path: &Path, pragmas: &str) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        // Read as well: a pipe there is refused by SQLite, and not waited for.
        OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        let (connection, cluster_id, state) = load(path, pragmas)?;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
        }
        let shared = Arc::new(Shared::new("sqlite", cluster_id, state));
        let (waiting, queue) = mpsc::channel(WAITING_MAX);
        let writer = Writer { connection, shared: shared.clone(), broken: false };
        let writer =
            Builder::new().name("store".to_owned()).spawn(move || writer.run(queue)).map_err(io)?;
        Ok(Self { shared, waiting: Some(waiting), writer: Some(writer) })
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, Error> {
        txn.check()?;
        let waiting = self.waiting.as_ref().expect("it is there until drop");
        let (reply, answer) = oneshot::channel();
        // Not sent is not done; sent and not answered has an unknown outcome (R15).
        waiting.send(QueuedTxn { txn, reply }).await.map_err(|_| Error::Broken)?;
        answer.await.unwrap_or(Err(Error::Unknown))
    }
}

impl Drop for SqliteStore {
    /// Waits until everything that was handed over is on disk and the file is closed.
    fn drop(&mut self) {
        self.waiting = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl Store for SqliteStore {
    fn range(&self, query: Query) -> BoxFuture<'_, Result<Ranged, Error>> {
        ready(self.shared.range(&query)).boxed()
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Committed, Error>> {
        self.commit(txn).boxed()
    }

    fn watch(&self, range: Range, after: Rev) -> BoxFuture<'_, Result<Watch, Error>> {
        ready(self.shared.watch(range, after)).boxed()
    }

    fn compact(&self, rev: Rev) -> BoxFuture<'_, Result<(), Error>> {
        ready(self.shared.compact(rev)).boxed()
    }

    fn status(&self) -> BoxFuture<'_, Result<Status, Error>> {
        ready(Ok(self.shared.status())).boxed()
    }
}

fn load(path: &Path, pragmas: &str) -> Result<(Connection, String, State), Error> {
    let failed = |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            Error::InUse { path: path.to_owned() }
        }
        _ => Error::Open { path: path.to_owned(), source },
    };
    let connection = Connection::open(path).map_err(failed)?;
    prepare(&connection).and_then(|()| connection.execute_batch(pragmas)).map_err(failed)?;
    let found = number(&connection, "format").map_err(failed)?.unwrap_or(FORMAT);
    if found > FORMAT {
        return Err(Error::NewerFile { path: path.to_owned(), found, known: FORMAT });
    }
    let cluster_id = connection
        .query_row("SELECT value FROM meta WHERE name = 'cluster_id'", [], |row| row.get(0))
        .map_err(failed)?;
    let state = read_state(&connection).map_err(failed)?;
    Ok((connection, cluster_id, state))
}

/// Exclusive: reads come from memory, so a second process would see nothing of what the first one
/// writes.
fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_millis(200))?;
    connection.execute_batch(
        "PRAGMA locking_mode = EXCLUSIVE;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA journal_size_limit = 67108864;
         BEGIN IMMEDIATE;
         CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS kv (
             key TEXT PRIMARY KEY,
             create_rev INTEGER NOT NULL, mod_rev INTEGER NOT NULL, version INTEGER NOT NULL,
             value BLOB NOT NULL
         ) WITHOUT ROWID;
         INSERT OR IGNORE INTO meta VALUES
             ('format', 1), ('rev', 1), ('cluster_id', lower(hex(randomblob(16))));
         COMMIT;",
    )
}

fn number(connection: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    connection
        .query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0))
        .optional()
}

fn read_state(connection: &Connection) -> rusqlite::Result<State> {
    let rev = number(connection, "rev")?.unwrap_or(1);
    let mut statement =
        connection.prepare("SELECT key, create_rev, mod_rev, version, value FROM kv")?;
    let mut rows = statement.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let (key, value) = (row.get_ref(0)?.as_str()?, row.get_ref(4)?.as_blob()?);
        let revs = Revs { create_rev: row.get(1)?, mod_rev: row.get(2)?, version: row.get(3)? };
        all.push(Packed::new(key, value, revs));
    }
    // They come in order, and so the set is built in one go, without half-empty nodes.
    Ok(State { rev, keys: all.into_iter().collect() })
}

struct Writer {
    connection: Connection,
    shared: Arc<Shared>,
    broken: bool,
}

/// A transaction whose effect is known, and which waits for the commit of its group.
struct PendingCommit {
    reply: oneshot::Sender<Result<Committed, Error>>,
    committed: Committed,
    changes: Vec<Change>,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<QueuedTxn>) {
        while let Some(first) = queue.blocking_recv() {
            let group = gather(first, &mut queue);
            match self.broken {
                true => group
                    .into_iter()
                    .for_each(|waiting| drop(waiting.reply.send(Err(Error::Broken)))),
                false => self.write(group),
            }
        }
    }

    fn write(&mut self, group: Vec<QueuedTxn>) {
        let before = self.shared.read().state.rev;
        let done = self.effects(group);
        let rev = done.last().map_or(before, |last| last.committed.rev);
        let result = match rev == before {
            true => Ok(()), // compares that failed, and reads
            false => self.save(rev, &done),
        };
        match result {
            Ok(()) => self.publish(done),
            Err(source) => self.refuse(before, done, source),
        }
    }

    /// Each transaction sees the ones before it in the group.
    fn effects(&self, group: Vec<QueuedTxn>) -> Vec<PendingCommit> {
        let shared = self.shared.read();
        let (mut pending, mut rev) = (BTreeMap::new(), shared.state.rev);
        let each = group.into_iter().map(|QueuedTxn { txn, reply }| {
            let view = View { base: &shared.state, pending: &pending, rev };
            let Effect { succeeded, outcomes, changes } = view.effect(&txn);
            rev += i64::from(!changes.is_empty());
            pending.extend(changes.iter().map(|change| (change.key.clone(), change.after.clone())));
            PendingCommit { reply, committed: Committed { rev, succeeded, outcomes }, changes }
        });
        each.collect()
    }

    fn save(&mut self, rev: Rev, done: &[PendingCommit]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        for change in done.iter().flat_map(|done| &done.changes) {
            save_change(&transaction, change)?;
        }
        transaction
            .prepare_cached("UPDATE meta SET value = ?1 WHERE name = 'rev'")?
            .execute([rev])?;
        transaction.commit()
    }

    fn publish(&self, done: Vec<PendingCommit>) {
        let mut replies = Vec::with_capacity(done.len());
        let mut shared = self.shared.write();
        for PendingCommit { reply, committed, changes } in done {
            if !changes.is_empty() {
                shared.publish(committed.rev, changes);
            }
            replies.push((reply, committed));
        }
        drop(shared);
        for (reply, committed) in replies {
            let _ = reply.send(Ok(committed)); // the caller may have stopped waiting
        }
    }

    /// A full disk before the commit leaves everything as it was, and space may come back. Any
    /// other failure may have written the commit or not (an fsync that failed once can lie when
    /// repeated), so from then on nothing is written.
    fn refuse(&mut self, before: Rev, done: Vec<PendingCommit>, source: rusqlite::Error) {
        let full = source.sqlite_error_code() == Some(ErrorCode::DiskFull);
        let unchanged =
            full && matches!(number(&self.connection, "rev"), Ok(Some(rev)) if rev == before);
        tracing::error!(error = %source, unchanged, "the store cannot write");
        self.broken = !unchanged;
        let mut source = Some(source);
        for PendingCommit { reply, .. } in done {
            let error = match unchanged {
                true => Error::Unavailable { source: source.take().unwrap_or_else(disk_full) },
                false => Error::Unknown,
            };
            let _ = reply.send(Err(error));
        }
    }
}

fn disk_full() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None)
}

fn save_change(transaction: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    match &change.after {
        Some(kv) => transaction
            .prepare_cached("INSERT OR REPLACE INTO kv VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![&*kv.key, kv.create_rev, kv.mod_rev, kv.version, &*kv.value]),
        None => {
            transaction.prepare_cached("DELETE FROM kv WHERE key = ?1")?.execute([&*change.key])
        }
    }
    .map(drop)
}

/// The transactions that wait already, up to the limits of a group.
fn gather(first: QueuedTxn, queue: &mut mpsc::Receiver<QueuedTxn>) -> Vec<QueuedTxn> {
    let start = Instant::now();
    let (mut ops, mut group) = (first.txn.weight(), vec![first]);
    while ops < GROUP_OPS_MAX
        && start.elapsed() < GROUP_TIME_MAX
        && let Ok(next) = queue.try_recv()
    {
        ops += next.txn.weight();
        group.push(next);
    }
    group
}
