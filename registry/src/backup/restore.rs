use std::{
    collections::HashSet,
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use blobs::{BlobStore, FileBlobStore, is_intact};
use disk::Survives;
use futures_util::{StreamExt, stream::FuturesUnordered};
use serde::Serialize;
use spec::Digest;
use store::{SqliteStore, Store, Txn};

use super::{copy, described};
use crate::{
    Error, blocking,
    key_file::SECRET_KEY,
    limits::{
        HANDED_OVER_BYTES_MAX, RECORD_LINE_BYTES_MAX, RESTORED_AT_ONCE, RESTORED_PER_TRANSACTION,
    },
    protocol::{RecordLine, is_sealed, named_by},
};

/// What was restored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Restored {
    pub records: u64,
    /// Blobs and manifests, and their bytes.
    pub blobs: u64,
    pub bytes: u64,
    /// Records with passwords that only the key of the registry that was backed up opens:
    /// `secret.key` of its data folder.
    pub sealed: u64,
    /// Whether there is a key in the new data folder.
    pub has_key: bool,
    /// Those that the backup lacks, or whose bytes have changed there: the registry does not vouch
    /// for them until they are pushed again.
    pub damaged: Vec<Digest>,
}

/// Makes `data_dir` the data folder of a registry with everything that the backup in `folder` has.
/// Interrupted, it leaves no registry, and goes on when it is called again.
///
/// # Errors
/// [`Error::NoBackup`], [`Error::RegistryThere`], [`Error::File`], [`Error::Metadata`].
pub async fn restore(folder: &Path, data_dir: &Path) -> Result<Restored, Error> {
    let (from, to) = (folder.to_owned(), data_dir.to_owned());
    let database = data_dir.join("registry.db");
    if database.exists() {
        return Err(Error::RegistryThere { path: data_dir.to_owned() });
    }
    let begun = blocking(move || begin(&from, &to)).await?;
    let Begun { records, path, store, lines } = begun;
    let Written { named, sealed } = write_records(&store, lines, records, folder).await?;
    let (from, to) = (folder.to_owned(), data_dir.to_owned());
    let has_key = data_dir.join(SECRET_KEY).exists();
    blocking(move || {
        let mut restored = copy_blobs(&from, &to, &named)?;
        (restored.records, restored.sealed, restored.has_key) = (records, sealed, has_key);
        drop(store); // it is whole on disk then
        let failed = |source| Error::File { action: "rename", path: path.clone(), source };
        let file = File::open(&path).map_err(failed)?;
        disk::rename(&file, &path, &database, Survives::PowerLoss).map_err(failed)?;
        Ok(restored)
    })
    .await
}

/// A database that is being written, and what it is written from.
struct Begun {
    records: u64,
    path: PathBuf,
    store: Arc<SqliteStore>,
    lines: BufReader<Box<dyn Read + Send>>,
}

fn begin(folder: &Path, data_dir: &Path) -> Result<Begun, Error> {
    let none = |why| Error::NoBackup { path: folder.to_owned(), why };
    let description = described(folder)?.ok_or_else(|| none("it has no `backup.json`"))?;
    let source = FileBlobStore::sharded(folder)?;
    if !is_intact(&source, &description.records) {
        return Err(none("its records are damaged"));
    }
    let lines: Box<dyn Read + Send> = Box::new(source.open(&description.records, 0)?);
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { action, path, source }
    };
    disk::private_folder(data_dir).map_err(failed("make the folder", data_dir))?;
    let path = data_dir.join("registry.db.restoring");
    for end in ["", "-wal", "-shm"] {
        let left = data_dir.join(format!("registry.db.restoring{end}"));
        disk::remove(&left).map_err(failed("remove", &left))?;
    }
    let store = SqliteStore::open(&path)
        .map_err(|source| Error::Metadata { action: "open a database", source })?;
    let lines = BufReader::new(lines);
    Ok(Begun { records: description.records_count, path, store: Arc::new(store), lines })
}

/// What the records name that were written, and how many have something sealed.
#[derive(Default)]
struct Written {
    named: HashSet<Digest>,
    sealed: u64,
}

/// Writes every record.
async fn write_records(
    store: &Arc<SqliteStore>,
    mut lines: BufReader<Box<dyn Read + Send>>,
    expected: u64,
    folder: &Path,
) -> Result<Written, Error> {
    let none = |why| Error::NoBackup { path: folder.to_owned(), why };
    let (mut written, mut count) = (Written::default(), 0);
    let (mut txn, mut bytes) = (Txn::new(), 0);
    let mut commits = FuturesUnordered::new();
    let failed = |source| Error::Metadata { action: "restore records", source };
    loop {
        let (rest, line) = blocking(move || {
            let line = read_line(&mut lines);
            (lines, line)
        })
        .await;
        lines = rest;
        let line = line.map_err(|_| none("its records cannot be read"))?;
        if let Some(line) = &line {
            let RecordLine { key, version, value } = serde_json::from_slice(line)
                .map_err(|_| none("one of its records is not valid"))?;
            written.named.extend(named_by(&key));
            written.sealed += u64::from(is_sealed(&key, value.get().as_bytes()));
            let value: Arc<[u8]> = std::iter::once(version).chain(value.get().bytes()).collect();
            bytes += value.len();
            count += 1;
            txn = txn.put(key, value);
        }
        let is_full = txn.then.len() == RESTORED_PER_TRANSACTION || bytes >= HANDED_OVER_BYTES_MAX;
        if is_full || line.is_none() {
            let (store, txn) = (Arc::clone(store), std::mem::take(&mut txn));
            bytes = 0;
            commits.push(async move { store.txn(txn).await });
        }
        while commits.len() >= RESTORED_AT_ONCE || (line.is_none() && !commits.is_empty()) {
            commits.next().await.transpose().map_err(failed)?;
        }
        if line.is_none() {
            break;
        }
    }
    match count == expected {
        true => Ok(written),
        false => Err(none("records of it are missing")),
    }
}

fn read_line(lines: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = lines.take(RECORD_LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    Ok((read > 0).then_some(line))
}

fn copy_blobs(folder: &Path, data_dir: &Path, named: &HashSet<Digest>) -> Result<Restored, Error> {
    let (source, target) = (FileBlobStore::sharded(folder)?, FileBlobStore::sharded(data_dir)?);
    let mut restored = Restored::default();
    for digest in named {
        // One that an interrupted restore has brought.
        let there = target.size(digest)?.filter(|_| is_intact(&target, digest));
        match there.map_or_else(|| copy(digest, &source, &target), |bytes| Ok(Some(bytes)))? {
            Some(bytes) => {
                restored.blobs += 1;
                restored.bytes += bytes;
            }
            None => restored.damaged.push(*digest),
        }
    }
    restored.damaged.sort();
    Ok(restored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_where_they_end_or_at_the_limit() {
        let text = "a\nbc\n".to_owned() + &"x".repeat(RECORD_LINE_BYTES_MAX as usize + 1);
        let mut lines = BufReader::new(text.as_bytes());
        let mut lengths = Vec::new();
        while let Some(line) = read_line(&mut lines).unwrap() {
            lengths.push(line.len() as u64);
        }
        assert_eq!(lengths, [2, 3, RECORD_LINE_BYTES_MAX, 1]);
    }
}
