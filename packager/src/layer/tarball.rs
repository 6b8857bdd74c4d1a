use std::io::{self, BufWriter, Read as _, Write};

use blobs::{BlobStore as _, FileBlobStore};
use image::Attributes;
use serde::{Deserialize, Serialize};
use spec::{Algorithm, Digest, Hasher};

use crate::{
    diagnostic::ContextProblem,
    error::{Error, io_error},
    items::{Item, Items, Meta},
    layer::gzip::Gzip,
    layer::spool::Spool,
};

/// A layer that has its bytes; stored in the build cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Written {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) diff_id: Digest,
}

/// Writes `items` as a layer. Sorted by path; owners by number; every time is `mtime`;
/// ustar, and a PAX record where a name or a size does not fit. The same items give the same bytes.
pub(crate) fn write_layer(
    store: &FileBlobStore,
    items: &Items,
    mtime: u64,
    spool: &mut Spool<'_>,
) -> Result<Written, Error> {
    let mtime = mtime.min(OCTAL_MAX); // the year 2242
    let failed = || io_error("write", store.unfinished());
    let blob = BufWriter::with_capacity(256 << 10, store.writer(Algorithm::Sha256)?);
    let mut tar = Hashed {
        inner: Gzip::new(blob).map_err(failed())?,
        hasher: Hasher::new(Algorithm::Sha256),
    };
    for (path, item) in &items.0 {
        append(&mut tar, path, item, mtime, spool)?;
    }
    tar.write_all(&[0; 1024]).map_err(failed())?;
    let diff_id = tar.hasher.finish();
    let blob = tar.inner.finish().map_err(failed())?;
    let blob = blob.into_inner().map_err(|error| failed()(error.into_error()))?;
    let (digest, size) = blob.commit()?;
    Ok(Written { digest, size, diff_id })
}

struct Hashed<W> {
    inner: W,
    hasher: Hasher,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hasher.update(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The largest number that 11 octal digits hold.
const OCTAL_MAX: u64 = 0o777_7777_7777;

fn append(
    tar: &mut impl Write,
    path: &str,
    item: &Item,
    mtime: u64,
    spool: &mut Spool<'_>,
) -> Result<(), Error> {
    let failed = io_error("write", path);
    let (kind, meta, size, target) = match item {
        Item::Folder { meta } => (b'5', *meta, 0, ""),
        Item::Symlink { target, owner } => {
            (b'2', Meta { mode: 0o777, owner: *owner }, 0, target.as_str())
        }
        Item::File { meta, source } => (b'0', *meta, source.size(), ""),
    };
    // Folders end with a `/`, as every writer has it.
    let name = if kind == b'5' { format!("{path}/") } else { path.to_owned() };
    headers(tar, &name, kind, meta, size, target, mtime).map_err(failed)?;
    let Item::File { source, .. } = item else { return Ok(()) };
    let mut content = spool.open(source)?;
    let copied = io::copy(&mut content.by_ref().take(size), tar).map_err(io_error("read", path))?;
    // One more byte asked for: the end is where a blob's digest is compared.
    if copied != size || content.read(&mut [0]).map_err(io_error("read", path))? != 0 {
        let problem = ContextProblem::SizeChanged;
        return Err(Error::Context { path: path.to_owned(), problem });
    }
    let padding = (size.next_multiple_of(512) - size) as usize;
    tar.write_all(&[0; 512][..padding]).map_err(io_error("write", path))
}

/// The header of one entry, with a PAX record in front of it where that is needed.
pub(crate) fn headers(
    tar: &mut impl Write,
    name: &str,
    kind: u8,
    Meta { mode, owner }: Meta,
    size: u64,
    target: &str,
    mtime: u64,
) -> io::Result<()> {
    let mtime = i64::try_from(mtime).unwrap_or(i64::MAX);
    let attributes = Attributes { mode, uid: owner.uid, gid: owner.gid, mtime };
    image::write_header(tar, name.as_bytes(), kind, size, target.as_bytes(), attributes)
}

/// A small file, whole.
pub(crate) fn write_entry(tar: &mut impl Write, path: &str, bytes: &[u8]) -> io::Result<()> {
    headers(tar, path, b'0', Meta::of(0o644), bytes.len() as u64, "", 0)?;
    tar.write_all(bytes)?;
    tar.write_all(&vec![0; bytes.len().next_multiple_of(512) - bytes.len()])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use image::{Budget, EntryKind, LayerReader};

    use super::*;
    use crate::{
        items::{Owner, Source},
        layout::Layout,
    };

    fn file(text: &str) -> Item {
        Item::File { meta: Meta::of(0o644), source: Source::Bytes(Arc::from(text.as_bytes())) }
    }

    fn written(items: &Items) -> (Written, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        let mut spool = Spool::new(layout.store(), None);
        let written = write_layer(layout.store(), items, 0, &mut spool).unwrap();
        let mut bytes = Vec::new();
        layout.open_blob(&written.digest).unwrap().read_to_end(&mut bytes).unwrap();
        (written, bytes)
    }

    /// Bytes that change change every image's digest, and with it what a registry already has. If
    /// this fails after an update of a compressor, pin the old one.
    #[test]
    fn layer_bytes_match_the_recorded_digest() {
        let mut items = Items::default();
        items.put("srv/www/index.html", file(&"<p>cats</p>\n".repeat(1000)), &|_| None);
        items.put("app.wasm", file("\0asm\x01\0\0\0"), &|_| None);
        items.put(
            "bin/link",
            Item::Symlink { target: "../app.wasm".into(), owner: Owner::default() },
            &|_| None,
        );
        items.put(&format!("long/{}", "ä".repeat(100)), file("x"), &|_| None);
        let (written, _) = written(&items);
        assert_eq!(
            (written.diff_id.to_string().as_str(), written.digest.to_string().as_str()),
            (
                "sha256:bfec4b5ee0eb510b5d634fa6cdb37cb22860699af22e9f55729d0ab63177e4e9",
                "sha256:396809754e2ce508ff476b59989576d6256324af5c04263ada81ae8649897c9c"
            )
        );
    }

    #[test]
    fn names_of_every_length_are_read_back() {
        let mut items = Items::default();
        let names: Vec<String> = [1, 99, 100, 101, 155, 156, 200, 255, 256, 257, 300, 1000, 4000]
            .iter()
            .flat_map(|length| ["a", "d/", "ö"].map(|part| part.repeat(*length)))
            .map(|name| name.trim_end_matches('/').to_owned())
            .filter(|name| name.len() <= 4000 && name.split('/').all(|part| part.len() <= 255))
            .filter(|name| name.matches('/').count() < 200)
            .collect();
        let names: Vec<String> = names
            .into_iter()
            .map(|name| format!("x{name}"))
            .filter(|n| n.split('/').all(|p| p.len() <= 255))
            .collect();
        for name in &names {
            items.put(name, file(name), &|_| None);
        }
        items.put(
            "link",
            Item::Symlink { target: "y".repeat(300), owner: Owner::default() },
            &|_| None,
        );
        let (written, bytes) = written(&items);
        let mut reader = LayerReader::new(bytes.as_slice(), Budget::default()).unwrap();
        let mut seen = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            match entry.kind {
                EntryKind::File => {
                    assert_eq!(reader.read_content(10_000).unwrap(), entry.path);
                    seen.push(String::from_utf8(entry.path).unwrap());
                }
                EntryKind::Symlink { target } => assert_eq!(target, "y".repeat(300).as_bytes()),
                _ => assert_eq!(entry.kind, EntryKind::Directory),
            }
        }
        assert_eq!(reader.finish().unwrap().diff_id, written.diff_id);
        let files: Vec<_> = items.files().map(|(path, _)| path.to_owned()).collect();
        assert_eq!(seen, files);
    }
}
