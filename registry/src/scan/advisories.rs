//! Published vulnerabilities beside the packages that have them. A package is compared once,
//! however many images have it: after an import all of them are compared again.

use std::{
    collections::{BTreeSet, HashSet},
    sync::atomic::Ordering,
};

use rusqlite::{Connection, Transaction, params};
use spec::{Digest, Timestamp};

use super::{
    comparison::compare_all,
    database::Database,
    rows::{at, failed, text},
};
use crate::{
    Error, Repository,
    protocol::{Advisory, Affected, EcosystemData, VulnerabilityData},
};

impl Database {
    /// Forgets what an import that did not end has left.
    pub fn begin_import(&self) -> Result<(), Error> {
        let cleared = self.lock().execute_batch(
            "DELETE FROM affected WHERE staged = 1; DELETE FROM advisory WHERE staged = 1;",
        );
        cleared.map_err(failed("begin an import"))
    }

    /// Adds to the import that was begun.
    pub fn stage(&self, advisories: &[Advisory]) -> Result<(), Error> {
        let mut db = self.lock();
        let mut write = || -> rusqlite::Result<()> {
            let txn = db.transaction()?;
            for advisory in advisories {
                stage(&txn, advisory)?;
            }
            txn.commit()
        };
        write().map_err(failed("store vulnerabilities"))
    }

    /// Puts the import in the place of what there was of its ecosystems, and compares all packages
    /// again. Returns the images that have a finding more, with their repositories.
    pub fn commit_import(
        &self,
        urls: &[String],
        now: Timestamp,
    ) -> Result<Vec<(Digest, Repository)>, Error> {
        let mut db = self.lock();
        let mut write = || -> rusqlite::Result<Vec<(Digest, Repository)>> {
            let txn = db.transaction()?;
            let before = findings(&txn)?;
            replace(&txn, now)?;
            for url in urls {
                txn.execute("INSERT OR IGNORE INTO url (url) VALUES (?1)", [url])?;
            }
            txn.execute_batch("DELETE FROM finding")?;
            compare_all(&txn)?;
            let after = findings(&txn)?;
            let more = after.difference(&before).map(|(package, _)| *package);
            let changed = images_with(&txn, &more.collect())?;
            txn.commit()?;
            Ok(changed)
        };
        let written = write().map_err(failed("import vulnerabilities"));
        self.changes.fetch_add(1, Ordering::SeqCst);
        written
    }

    /// The data that there is.
    pub fn data(&self) -> Result<VulnerabilityData, Error> {
        let db = self.reader();
        let read = || -> rusqlite::Result<VulnerabilityData> {
            let mut statement = db.prepare_cached(
                "SELECT base, advisories, imported, modified FROM ecosystem ORDER BY base",
            )?;
            let ecosystems = statement.query_map([], |row| {
                Ok(EcosystemData {
                    ecosystem: row.get(0)?,
                    advisories: row.get::<_, i64>(1)? as u64,
                    imported: at(row.get(2)?),
                    modified: at(row.get(3)?),
                    stale: None,
                })
            })?;
            let ecosystems = ecosystems.collect::<Result<_, _>>()?;
            let mut statement = db.prepare_cached("SELECT url FROM url ORDER BY url")?;
            let urls = statement.query_map([], |row| row.get(0))?;
            Ok(VulnerabilityData { ecosystems, urls: urls.collect::<Result<_, _>>()? })
        };
        read().map_err(failed("read which data there is"))
    }
}

fn stage(txn: &Transaction<'_>, advisory: &Advisory) -> rusqlite::Result<()> {
    let bases: BTreeSet<_> = advisory.affected.iter().map(|affected| &affected.base).collect();
    let mut add = txn.prepare_cached(
        "INSERT INTO affected (base, release, package, advisory, ranges, versions, staged)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1)",
    )?;
    for base in bases {
        let id: i64 = txn
            .prepare_cached(
                "INSERT INTO advisory (base, name, aliases, summary, severity, score, modified, staged)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1) RETURNING id",
            )?
            .query_row(
                params![
                    base,
                    advisory.id,
                    text(&advisory.aliases),
                    advisory.summary,
                    advisory.severity as u8,
                    advisory.score,
                    advisory.modified.millis() as i64,
                ],
                |row| row.get(0),
            )?;
        for affected in advisory.affected.iter().filter(|affected| affected.base == *base) {
            let Affected { release, name, ranges, versions, .. } = affected;
            add.execute(params![base, release, name, id, text(ranges), text(versions)])?;
        }
    }
    Ok(())
}

/// What was staged is what there is of its ecosystems.
fn replace(txn: &Transaction<'_>, now: Timestamp) -> rusqlite::Result<()> {
    txn.execute_batch(
        "DELETE FROM affected WHERE staged = 0
             AND base IN (SELECT base FROM advisory WHERE staged = 1);
         DELETE FROM advisory WHERE staged = 0
             AND base IN (SELECT base FROM advisory WHERE staged = 1);",
    )?;
    txn.execute(
        "INSERT OR REPLACE INTO ecosystem (base, advisories, imported, modified)
         SELECT base, count(*), ?1, max(modified) FROM advisory WHERE staged = 1 GROUP BY base",
        [now.millis() as i64],
    )?;
    txn.execute_batch(
        "UPDATE affected SET staged = 0 WHERE staged = 1;
         UPDATE advisory SET staged = 0 WHERE staged = 1;",
    )
}

/// Packages and the names of what they have.
fn findings(db: &Connection) -> rusqlite::Result<HashSet<(i64, String)>> {
    let mut statement = db.prepare(
        "SELECT finding.package, advisory.name FROM finding
         JOIN advisory ON advisory.id = finding.advisory",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

fn images_with(
    db: &Connection,
    packages: &BTreeSet<i64>,
) -> rusqlite::Result<Vec<(Digest, Repository)>> {
    let mut images: BTreeSet<i64> = BTreeSet::new();
    let mut statement = db.prepare("SELECT image FROM contained WHERE package = ?1")?;
    for package in packages {
        let rows = statement.query_map([package], |row| row.get::<_, i64>(0))?;
        for image in rows {
            images.insert(image?);
        }
    }
    let mut found = Vec::new();
    let mut statement = db.prepare(
        "SELECT digest, repository FROM located JOIN image ON image.id = located.image
         WHERE located.image = ?1",
    )?;
    for image in images {
        let mut rows = statement.query([image])?;
        while let Some(row) = rows.next()? {
            let (digest, repository): (String, String) = (row.get(0)?, row.get(1)?);
            found.extend(digest.parse().ok().zip(repository.parse().ok()));
        }
    }
    Ok(found)
}
