use std::{
    collections::BTreeMap,
    io::{self, Cursor, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use spec::{Algorithm, Digest};

use crate::{
    error::{Error, Result},
    store::{BlobStore, OpenBlob, StoredBlob},
    writer::{BlobWriter, Staged},
};

/// Blobs in memory: for tests, and for a few small ones on their way through. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct MemoryBlobStore(Arc<Mutex<Blobs>>);

type Blobs = BTreeMap<Digest, (Arc<[u8]>, SystemTime)>;

impl MemoryBlobStore {
    /// The bytes of a blob.
    pub fn get(&self, digest: &Digest) -> Option<Arc<[u8]>> {
        self.lock().get(digest).map(|(bytes, _)| Arc::clone(bytes))
    }

    fn lock(&self) -> MutexGuard<'_, Blobs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlobStore for MemoryBlobStore {
    fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        Ok(self.get(digest).map(|bytes| bytes.len() as u64))
    }

    fn open(&self, digest: &Digest, offset: u64) -> Result<OpenBlob> {
        let bytes = self.get(digest).ok_or(Error::Missing(*digest))?;
        let size = bytes.len() as u64;
        let mut reader = Cursor::new(bytes);
        reader.set_position(offset);
        Ok(OpenBlob::new(size, reader))
    }

    fn writer(&self, algorithm: Algorithm) -> Result<BlobWriter> {
        let staged = StagedBytes { store: self.clone(), bytes: Vec::new() };
        Ok(BlobWriter::new(staged, algorithm))
    }

    fn remove(&self, digest: &Digest) -> Result<bool> {
        Ok(self.lock().remove(digest).is_some())
    }

    fn list(&self) -> Result<Vec<StoredBlob>> {
        let blobs = self.lock();
        let listed = blobs.iter().map(|(digest, (bytes, used))| StoredBlob {
            digest: *digest,
            bytes: bytes.len() as u64,
            used: *used,
        });
        Ok(listed.collect())
    }
}

struct StagedBytes {
    store: MemoryBlobStore,
    bytes: Vec<u8>,
}

impl Write for StagedBytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Staged for StagedBytes {
    fn publish(self: Box<Self>, digest: &Digest) -> Result<()> {
        self.store.lock().insert(*digest, (self.bytes.into(), SystemTime::now()));
        Ok(())
    }
}
