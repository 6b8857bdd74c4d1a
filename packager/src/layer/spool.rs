use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek as _, SeekFrom},
    os::unix::fs::FileExt as _,
};

use blobs::FileBlobStore;
use image::{Budget, Entry, LayerReader, Verified};

use crate::{
    context::Context,
    error::{Error, io_error},
    items::{ContextFile, Origin, Source},
};

/// Gives the bytes of sources. What is compressed is uncompressed once, into a file without a name.
pub(crate) struct Spool<'a> {
    store: &'a FileBlobStore,
    context: Option<&'a Context>,
    unpacked: HashMap<String, File>,
}

impl<'a> Spool<'a> {
    pub(crate) fn new(store: &'a FileBlobStore, context: Option<&'a Context>) -> Self {
        Self { store, context, unpacked: HashMap::new() }
    }

    /// All bytes of `source`, from the first.
    pub(crate) fn open(&mut self, source: &Source) -> Result<Box<dyn Read>, Error> {
        match source {
            Source::Bytes(bytes) => Ok(Box::new(io::Cursor::new(bytes.clone()))),
            Source::Context(file) => Ok(Box::new(self.context_file(file)?)),
            Source::Part { origin: Origin::Raw(blob), .. } => {
                Ok(Box::new(Verified::new(self.store.open_file(&blob.digest)?, blob)))
            }
            Source::Part { origin, offset, len } => {
                let file = self
                    .uncompressed(origin)?
                    .try_clone()
                    .map_err(io_error("open", "an unpacked layer"))?;
                Ok(Box::new(FileRange { file, at: *offset, end: offset + len }))
            }
        }
    }

    /// At most `bytes_max` from the beginning of `source`.
    pub(crate) fn head(&mut self, source: &Source, bytes_max: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let read = self.open(source)?.take(bytes_max).read_to_end(&mut bytes);
        read.map_err(io_error("read", "a file of the image"))?;
        Ok(bytes)
    }

    /// Every entry of a tar in the build context.
    pub(crate) fn entries(&mut self, archive: &ContextFile) -> Result<Vec<Entry>, Error> {
        let wrong = |source| Error::Image {
            whose: format!("the archive `{}` cannot be added", archive.path),
            source,
        };
        let mut reader =
            LayerReader::new(self.context_file(archive)?, Budget::default()).map_err(wrong)?;
        let mut all = Vec::new();
        while let Some(entry) = reader.next_entry().map_err(wrong)? {
            all.push(entry);
        }
        reader.finish().map_err(wrong)?;
        Ok(all)
    }

    /// Whether a compressed file of the build context begins as a tar does.
    pub(crate) fn starts_as_tar(&mut self, archive: &ContextFile) -> Result<bool, Error> {
        let reader = LayerReader::new(self.context_file(archive)?, Budget::default());
        match reader.and_then(|mut reader| reader.next_entry()) {
            Ok(entry) => Ok(entry.is_some()),
            // A tar with a bad name in it is a tar, and is refused as one.
            Err(error) => Ok(!matches!(error, image::Error::Media { .. })),
        }
    }

    fn context_file(&self, file: &ContextFile) -> Result<File, Error> {
        self.context.expect("a source in the context is only made by one").open_file(file)
    }

    fn uncompressed(&mut self, origin: &Origin) -> Result<&File, Error> {
        let key = match origin {
            Origin::Layer(blob) | Origin::Raw(blob) => blob.digest.to_string(),
            Origin::Archive(file) => format!("/{}", file.path),
        };
        if self.unpacked.contains_key(&key) {
            return Ok(&self.unpacked[&key]);
        }
        let blob: Box<dyn Read> = match origin {
            Origin::Layer(blob) | Origin::Raw(blob) => {
                Box::new(Verified::new(self.store.open_file(&blob.digest)?, blob))
            }
            Origin::Archive(file) => Box::new(self.context_file(file)?),
        };
        // Removed at once: the file lives on through its descriptor, and ends with the process.
        let copy = self.store.new_file()?.file().try_clone();
        let copy = copy.map_err(io_error("open a file in", self.store.unfinished()))?;
        let wrong =
            |source| Error::Image { whose: "a layer cannot be copied from".to_owned(), source };
        let reader = LayerReader::copying_to(blob, copy, Budget::default()).map_err(wrong)?;
        let (_, mut copy) = reader.finish_with_copy().map_err(wrong)?;
        copy.seek(SeekFrom::Start(0)).map_err(io_error("read", "an unpacked layer"))?;
        Ok(self.unpacked.entry(key).or_insert(copy))
    }
}

/// A range of a file, read without moving the position that its descriptors share.
struct FileRange {
    file: File,
    at: u64,
    end: u64,
}

impl Read for FileRange {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buf.len());
        let n = self.file.read_at(&mut buf[..want], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}
