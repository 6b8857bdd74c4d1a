use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::SystemTime,
};

use blobs::{BlobStore, FileBlobStore};
use disk::{Lock, Survives};
use serde::Serialize;
use spec::{Digest, Timestamp};

use super::{BACKUP, Description, FORMAT, copy, described};
use crate::{
    Admin, Error, blocking,
    protocol::{SNAPSHOTS, SnapshotInfo},
};

/// What a backup may be in a folder of: a first one that was interrupted.
const OWN: [&str; 5] = [BACKUP, "blobs", "uploads", "quarantine", "lock"];

/// What a backup has copied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BackedUp {
    pub records: u64,
    /// Blobs and manifests that were copied, and their bytes.
    pub blobs: u64,
    pub bytes: u64,
    /// Those that an earlier backup had copied.
    pub kept: u64,
    /// Those of an earlier backup that are gone from the registry.
    pub removed: u64,
    /// Records with passwords that only `secret.key` of the registry's data folder opens. The
    /// backup has not got it.
    pub sealed: u64,
    /// Blobs and manifests that the registry has lost, or whose bytes have changed.
    pub damaged: Vec<Digest>,
}

/// Makes `folder` a backup of a registry that runs, as it is at this moment: only blobs travel that
/// an earlier backup in the same folder has not copied. Interrupted, it leaves that one as it was.
///
/// # Errors
/// [`Error::Unreachable`] when no registry runs there; [`Error::NoBackup`] when the folder has
/// other files; [`Error::BackupUnderWay`]; [`Error::File`].
pub async fn back_up(admin: &Admin, folder: &Path) -> Result<BackedUp, Error> {
    let data_dir = admin.data_dir().ok_or_else(|| Error::NoBackup {
        path: folder.to_owned(),
        why: "it is made on the machine of the registry",
    })?;
    let target = folder.to_owned();
    let lock = blocking(move || prepare(&target)).await?;
    let snapshot = admin.take_snapshot().await?;
    let (id, target) = (snapshot.id.clone(), folder.to_owned());
    let source = data_dir.join(SNAPSHOTS).join(&id);
    let copied = blocking(move || copy_all(&source, &snapshot, &target)).await;
    let removed = admin.remove_snapshot(&id).await;
    drop(lock);
    let copied = copied?;
    removed.map(|()| copied)
}

fn prepare(folder: &Path) -> Result<Lock, Error> {
    let failed = |action, path: PathBuf| move |source| Error::File { action, path, source };
    disk::private_folder(folder).map_err(failed("make the folder", folder.to_owned()))?;
    // What a backup that was killed has not given its name.
    disk::remove_unfinished(folder);
    let listed = folder.read_dir().map_err(failed("list", folder.to_owned()))?;
    let is_foreign = |name: &std::ffi::OsStr| !OWN.iter().any(|own| name == *own);
    if listed.flatten().any(|entry| is_foreign(&entry.file_name())) {
        let why = "it has other files";
        return Err(Error::NoBackup { path: folder.to_owned(), why });
    }
    described(folder)?;
    let path = folder.join("lock");
    let lock = Lock::try_exclusive(&path).map_err(failed("lock", path))?;
    lock.ok_or_else(|| Error::BackupUnderWay { path: folder.to_owned() })
}

fn copy_all(source: &Path, snapshot: &SnapshotInfo, folder: &Path) -> Result<BackedUp, Error> {
    let source = FileBlobStore::of_oci_layout(source, "unfinished");
    let target = FileBlobStore::sharded(folder)?;
    target.remove_unfinished()?;
    let mut there: HashMap<_, _> =
        target.list()?.into_iter().map(|blob| (blob.digest, blob.bytes)).collect();
    let records_before = described(folder)?.map(|description| description.records);
    let SnapshotInfo { records_count: records, sealed, .. } = *snapshot;
    let mut done = BackedUp { records, sealed, ..BackedUp::default() };
    for digest in &snapshot.missing {
        match there.remove(digest) {
            Some(_) => done.kept += 1,
            None => done.damaged.push(*digest),
        }
    }
    for blob in source.list()? {
        let is_record = blob.digest == snapshot.records;
        if there.remove(&blob.digest) == Some(blob.bytes) {
            done.kept += u64::from(!is_record);
            continue;
        }
        match copy(&blob.digest, &source, &target)? {
            Some(_) if is_record => {}
            Some(bytes) => {
                done.blobs += 1;
                done.bytes += bytes;
            }
            None if is_record => {
                let why = "its snapshot is gone: another backup has begun";
                return Err(Error::NoBackup { path: folder.to_owned(), why });
            }
            None => done.damaged.push(blob.digest),
        }
    }
    describe(snapshot, folder)?;
    // What only the backup before had: it is not needed from here on.
    for digest in there.into_keys() {
        target.remove(&digest)?;
        done.removed += u64::from(Some(digest) != records_before);
    }
    done.damaged.sort();
    Ok(done)
}

fn describe(snapshot: &SnapshotInfo, folder: &Path) -> Result<(), Error> {
    let description = Description {
        format: FORMAT,
        created: Timestamp::of(SystemTime::now()),
        records: snapshot.records,
        records_count: snapshot.records_count,
    };
    let bytes = serde_json::to_vec_pretty(&description).expect("its fields are text and numbers");
    let path = folder.join(BACKUP);
    disk::write(&path, &bytes, Survives::PowerLoss).map_err(|source| Error::File {
        action: "write",
        path,
        source,
    })
}
