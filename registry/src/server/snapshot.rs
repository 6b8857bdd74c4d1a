//! A copy of everything at one moment, for the owner of the data folder: blobs are linked, and so
//! stay when they are collected meanwhile.

use std::{collections::HashSet, fs, io::Write, path::Path, sync::Arc};

use blobs::{BlobStore, FileBlobStore};
use http::{Method, StatusCode};
use serde_json::value::RawValue;
use spec::Algorithm;
use store::Kv;

use super::{
    error::ApiError,
    response::{Response, empty, json},
};
use crate::{
    Error, blocking,
    protocol::{RecordLine, SNAPSHOTS, SnapshotInfo, is_sealed, named_by},
    storage::Storage,
};

/// `/admin/snapshots` and `/admin/snapshots/ID`. There is one at a time: another takes the place
/// of one that was left behind.
pub(super) async fn answer(
    storage: &Storage,
    data_dir: &Path,
    method: &Method,
    id: &str,
) -> Result<Response, ApiError> {
    let folder = data_dir.join(SNAPSHOTS);
    match (method, id) {
        (&Method::POST, "") => {
            storage.note_pulls().await?;
            // No file goes between the look at the records and the last link.
            let _alone = storage.unused.interrupt().await;
            let (records, blobs) = (storage.metadata.everything().await?, storage.blobs.clone());
            let snapshot = blocking(move || take(&folder, &records, &*blobs)).await?;
            Ok(json(StatusCode::OK, &snapshot))
        }
        (&Method::DELETE, id) if id.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            blocking(move || remove(&folder)).await?;
            Ok(empty(StatusCode::NO_CONTENT, []))
        }
        _ => Err(ApiError::no_such_endpoint()),
    }
}

/// Removes what a backup has left behind. Blocks.
pub(super) fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::File { action: "remove", path: folder.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn take(folder: &Path, records: &[Arc<Kv>], blobs: &dyn BlobStore) -> Result<SnapshotInfo, Error> {
    remove(folder)?;
    let id = disk::random_hex::<8>();
    let snapshot = FileBlobStore::of_oci_layout(&folder.join(&id), "unfinished");
    let mut lines = snapshot.writer(Algorithm::Sha256)?;
    let (mut named, mut missing, mut sealed) = (HashSet::new(), Vec::new(), 0);
    for kv in records {
        let line = line_of(kv)?;
        lines.write_all(&line).map_err(|source| Error::File {
            action: "write records in",
            path: folder.to_owned(),
            source,
        })?;
        sealed += u64::from(is_sealed(&kv.key, &kv.value));
        if let Some(digest) = named_by(&kv.key)
            && named.insert(digest)
        {
            match blobs.link(&digest, &snapshot.path_for_new(&digest)?) {
                Err(blobs::Error::Missing(_)) => missing.push(digest),
                linked => linked?,
            }
        }
    }
    let (digest, _) = lines.commit()?;
    let records_count = records.len() as u64;
    Ok(SnapshotInfo { id, records: digest, records_count, sealed, missing })
}

fn line_of(kv: &Kv) -> Result<Vec<u8>, Error> {
    let damaged = |source| Error::Metadata {
        action: "read a record",
        source: store::Error::Damaged { key: kv.key.to_string(), source },
    };
    let (version, json) = kv.value.split_first().unwrap_or((&0, b"null"));
    let value: Box<RawValue> = serde_json::from_slice(json).map_err(damaged)?;
    let line = RecordLine { key: kv.key.to_string(), version: *version, value };
    let mut bytes = serde_json::to_vec(&line).map_err(damaged)?;
    bytes.push(b'\n');
    Ok(bytes)
}
