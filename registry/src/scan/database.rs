//! What was found in images, in a file of its own. All of it can be read again from the blobs, so
//! a file that is damaged is replaced.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};
use spec::{Digest, Timestamp};

use super::{
    advisory_base::{Advisories, advisories_of},
    comparison::compare,
    package::{Inventory, Kind, Package},
    rows::{at, failed, text},
};
use crate::{Error, Repository};

/// The version of the schema. Another one is replaced like a damaged file.
const SCHEMA_VERSION: i64 = 1;
const SCHEMA: &str = include_str!("database.sql");
/// How long a statement waits for another process: none has the file open.
const BUSY_TIME_MAX: Duration = Duration::from_secs(5);

/// The packages of every image that was scanned.
pub(crate) struct Database {
    db: Mutex<Connection>,
    /// For what must not wait for an import.
    reader: Mutex<Connection>,
    /// Counts up after each change of what reports say.
    pub(super) changes: AtomicU64,
}

/// An image as it was scanned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScannedImage {
    pub platform: String,
    pub read: Timestamp,
    pub inventory: Inventory,
}

impl Database {
    /// Opens the file at `path`, or makes it. Blocks, as everything here.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let opened = match open(path) {
            Err(error) if is_damaged(&error) => {
                tracing::error!(
                    path = %path.display(),
                    %error,
                    "the database of scans is damaged: images are scanned again, and vulnerability \
                     data has to be imported again"
                );
                remove(path)?;
                open(path)
            }
            opened => opened,
        };
        let unopened = |error: rusqlite::Error| Error::File {
            action: "open",
            path: path.to_owned(),
            source: io::Error::other(error),
        };
        let db = Mutex::new(opened.map_err(unopened)?);
        let reader = Mutex::new(open(path).map_err(unopened)?);
        Ok(Self { db, reader, changes: AtomicU64::new(0) })
    }

    /// How often what reports say has changed since the file was opened. A report that is made
    /// after this was asked for is of this state, or of a later one.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Connection> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reader(&self) -> MutexGuard<'_, Connection> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what an image has. What was noted of it before is replaced.
    pub fn put_image(&self, digest: &Digest, image: &ScannedImage) -> Result<(), Error> {
        let mut db = self.lock();
        let write = |db: &mut Connection| -> rusqlite::Result<()> {
            let txn = db.transaction()?;
            let ScannedImage { platform, read, inventory } = image;
            let id: i64 = txn.query_row(
                "INSERT INTO image (digest, platform, read, distribution, unread)
                 VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (digest) DO UPDATE SET platform = excluded.platform,
                     read = excluded.read, distribution = excluded.distribution,
                     unread = excluded.unread
                 RETURNING id",
                params![
                    digest.to_string(),
                    platform,
                    read.millis() as i64,
                    text(&inventory.distribution),
                    text(&inventory.unread),
                ],
                |row| row.get(0),
            )?;
            txn.execute("DELETE FROM contained WHERE image = ?1", [id])?;
            let mut contains = txn.prepare_cached(
                "INSERT OR IGNORE INTO contained (image, package, path) VALUES (?1, ?2, ?3)",
            )?;
            for package in &inventory.packages {
                let place = advisories_of(package.kind, inventory.distribution.as_ref());
                let package_id = put_package(&txn, package, &place)?;
                contains.execute(params![id, package_id, package.path])?;
            }
            drop(contains);
            compare(&txn, id)?;
            txn.commit()
        };
        let written = write(&mut db).map_err(failed("note an image"));
        self.changes.fetch_add(1, Ordering::SeqCst);
        written
    }

    /// What an image has, if it was scanned.
    pub fn image(&self, digest: &Digest) -> Result<Option<ScannedImage>, Error> {
        let db = self.reader();
        let read = || -> rusqlite::Result<Option<ScannedImage>> {
            let found = db
                .prepare_cached(
                    "SELECT id, platform, read, distribution, unread FROM image WHERE digest = ?1",
                )?
                .query_row([digest.to_string()], |row| {
                    let (distribution, unread): (String, String) = (row.get(3)?, row.get(4)?);
                    let inventory = Inventory {
                        distribution: serde_json::from_str(&distribution).unwrap_or_default(),
                        packages: Vec::new(),
                        unread: serde_json::from_str(&unread).unwrap_or_default(),
                    };
                    let (platform, read) = (row.get(1)?, at(row.get(2)?));
                    Ok((row.get::<_, i64>(0)?, ScannedImage { platform, read, inventory }))
                })
                .optional()?;
            let Some((id, mut image)) = found else { return Ok(None) };
            let mut statement = db.prepare_cached(
                "SELECT kind, name, version, source, source_version, architecture, license, path
                 FROM contained JOIN package ON package.id = contained.package
                 WHERE image = ?1",
            )?;
            let packages = statement.query_map([id], |row| {
                let source: String = row.get(3)?;
                let source_version = row.get(4)?;
                Ok(Package {
                    kind: Kind::of_name(&row.get::<_, String>(0)?).unwrap_or(Kind::Generic),
                    name: row.get(1)?,
                    version: row.get(2)?,
                    source: (!source.is_empty()).then_some((source, source_version)),
                    architecture: row.get(5)?,
                    license: row.get(6)?,
                    path: row.get(7)?,
                })
            })?;
            image.inventory.packages = packages.collect::<Result<_, _>>()?;
            image.inventory.settle();
            Ok(Some(image))
        };
        read().map_err(failed("look up an image"))
    }

    /// Notes that a repository has an image that was scanned. Whether it was new.
    pub fn locate(&self, digest: &Digest, repository: &Repository) -> Result<bool, Error> {
        let added = self.lock().execute(
            "INSERT OR IGNORE INTO located (image, repository)
             SELECT id, ?2 FROM image WHERE digest = ?1",
            params![digest.to_string(), repository.as_str()],
        );
        Ok(added.map_err(failed("note where an image is"))? > 0)
    }

    /// Forgets the images that are in no repository: all but `left`.
    pub fn prune(&self, left: &HashSet<(Digest, Repository)>) -> Result<(), Error> {
        let mut db = self.lock();
        let mut write = || -> rusqlite::Result<()> {
            let txn = db.transaction()?;
            let mut gone: Vec<(i64, String)> = Vec::new();
            {
                let mut all = txn.prepare(
                    "SELECT located.image, digest, repository FROM located
                     JOIN image ON image.id = located.image",
                )?;
                let mut rows = all.query([])?;
                while let Some(row) = rows.next()? {
                    let (digest, repository): (String, String) = (row.get(1)?, row.get(2)?);
                    let key = digest.parse().ok().zip(repository.parse().ok());
                    if !key.is_some_and(|key| left.contains(&key)) {
                        gone.push((row.get(0)?, repository));
                    }
                }
            }
            for (image, repository) in gone {
                txn.execute(
                    "DELETE FROM located WHERE image = ?1 AND repository = ?2",
                    params![image, repository],
                )?;
            }
            txn.execute_batch(
                "DELETE FROM image WHERE id NOT IN (SELECT image FROM located);
                 DELETE FROM contained WHERE image NOT IN (SELECT id FROM image);
                 DELETE FROM package WHERE id NOT IN (SELECT package FROM contained);
                 DELETE FROM finding WHERE package NOT IN (SELECT id FROM package);",
            )?;
            txn.commit()
        };
        let written = write().map_err(failed("remove images"));
        self.changes.fetch_add(1, Ordering::SeqCst);
        written
    }

    /// Until when pushed images have been scanned; `None` when none ever was.
    pub fn scanned_until(&self) -> Result<Option<Timestamp>, Error> {
        let read = self.lock().query_row("SELECT until FROM progress", [], |row| row.get(0));
        Ok(read.optional().map_err(failed("read the progress"))?.map(at))
    }

    pub fn note_scanned_until(&self, until: Timestamp) -> Result<(), Error> {
        let written = self.lock().execute(
            "INSERT INTO progress (id, until) VALUES (0, ?1)
             ON CONFLICT (id) DO UPDATE SET until = excluded.until",
            [until.millis() as i64],
        );
        written.map_err(failed("note the progress")).map(drop)
    }
}

/// The number of a package, which is noted once for all images that have it.
fn put_package(
    db: &Connection,
    package: &Package,
    place: &Option<Advisories>,
) -> rusqlite::Result<i64> {
    let (source, source_version) = package.source.clone().unwrap_or_default();
    let (base, release) = match place {
        Some(Advisories { base, release }) => (*base, release.as_str()),
        None => ("", ""),
    };
    let values = params![
        package.kind.name(),
        base,
        release,
        package.name,
        package.version,
        source,
        source_version,
        package.architecture,
        package.license,
    ];
    db.prepare_cached(
        "INSERT OR IGNORE INTO package (kind, base, release, name, version, source, source_version,
             architecture, license)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(values)?;
    db.prepare_cached(
        "SELECT id FROM package WHERE kind = ?1 AND base = ?2 AND release = ?3 AND name = ?4
             AND version = ?5 AND source = ?6 AND source_version = ?7 AND architecture = ?8
             AND license = ?9",
    )?
    .query_row(values, |row| row.get(0))
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(BUSY_TIME_MAX)?;
    db.pragma_update(None, "journal_mode", "wal")?;
    db.pragma_update(None, "synchronous", "normal")?;
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version != 0 && version != SCHEMA_VERSION {
        let text = format!("its schema has version {version}");
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error { code: ErrorCode::NotADatabase, extended_code: 26 },
            Some(text),
        ));
    }
    db.execute_batch(SCHEMA)?;
    db.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    Ok(db)
}

fn is_damaged(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn remove(path: &Path) -> Result<(), Error> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match fs::remove_file(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let (action, path) = ("remove the damaged file", PathBuf::from(name));
                return Err(Error::File { action, path, source: error });
            }
            _ => {}
        }
    }
    Ok(())
}
