use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use spec::Digest;

use crate::Error;

/// Blobs as files: `blobs/sha256/ab/<hex>`. A file with that name is whole and durable; there are
/// no others below.
///
/// Every method blocks. Absent on purpose: who may read a blob (that is a question of
/// repositories), and what is in it.
#[derive(Debug)]
pub(crate) struct FileBlobs {
    root: PathBuf,
}

impl FileBlobs {
    /// Blobs below `data_dir`.
    pub fn open(data_dir: &Path) -> Result<Self, Error> {
        let root = data_dir.join("blobs");
        make_folder(&root)?;
        Ok(Self { root })
    }

    fn shard(&self, digest: &Digest) -> PathBuf {
        self.root.join(digest.algorithm().name()).join(&digest.hex()[..2])
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.shard(digest).join(digest.hex())
    }

    /// The blob's file, from its start, and its size.
    pub fn read(&self, digest: &Digest) -> Result<(File, u64), Error> {
        let path = self.path(digest);
        let open = || {
            let file = File::open(&path)?;
            let size = file.metadata()?.len();
            Ok((file, size))
        };
        open().map_err(|source| Error::File { action: "read", path: path.clone(), source })
    }

    /// Gives the file at `complete`, whose bytes have been checked, its place. Durable when this
    /// returns: the file, then its name. It replaces a file that is there already, whose bytes
    /// nobody has looked at since they came: so a blob that rotted is mended by pushing it again.
    /// Whoever reads the old file goes on reading it.
    pub fn adopt(&self, complete: &Path, digest: &Digest) -> Result<(), Error> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { action, path, source }
        };
        let (shard, path) = (self.shard(digest), self.path(digest));
        File::open(complete).and_then(|file| file.sync_all()).map_err(failed("flush", complete))?;
        make_folder(&shard)?;
        fs::rename(complete, &path).map_err(failed("move a blob to", &path))?;
        disk::sync_folder(&shard).map_err(failed("flush the folder", &shard))
    }
}

/// Makes `path` and what is above it, private, and each new name durable.
pub(crate) fn make_folder(path: &Path) -> Result<(), Error> {
    disk::private_folder(path).map_err(|source| Error::File {
        action: "make the folder",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_blob_is_where_its_digest_says_and_bringing_it_again_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = FileBlobs::open(dir.path()).unwrap();
        let digest = Digest::of(b"cat");
        assert!(matches!(blobs.read(&digest), Err(Error::File { .. })));
        for _ in 0..3 {
            let complete = dir.path().join("upload");
            fs::write(&complete, b"cat").unwrap();
            blobs.adopt(&complete, &digest).unwrap();
            assert!(!complete.exists());
            let (mut file, size) = blobs.read(&digest).unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            assert_eq!((text.as_str(), size), ("cat", 3));
            fs::write(blobs.path(&digest), b"dog").unwrap();
        }
        let hex = digest.hex();
        assert!(dir.path().join(format!("blobs/sha256/{}/{hex}", &hex[..2])).is_file());
    }
}
