use std::io::{self, BufReader, Chain, Cursor, Read, Write};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use spec::{Algorithm, Digest, Hasher};

use crate::{
    budget::Budget,
    error::Error,
    limits::{BUFFER_BYTES, MAGIC_BYTES, XZ_MEMORY_KIB_MAX},
    sniff::{Sniffed, sniff},
    verify::unwrapped,
};

/// The uncompressed bytes of a layer, whatever it is compressed with. Counts both sides, hashes
/// what comes out, copies it, and stops at the budget.
pub(crate) struct Stream<R: Read, W> {
    decoder: Decoder<Raw<R>>,
    budget: Budget,
    hasher: Hasher,
    copy: W,
    position: u64,
}

type Raw<R> = Counted<Chain<Cursor<Vec<u8>>, R>>;

enum Decoder<R: Read> {
    Plain(R),
    Gzip(MultiGzDecoder<BufReader<R>>),
    Zstd(zstd::Decoder<'static, BufReader<R>>),
    Xz(Box<XzReader<BufReader<R>>>),
    Bzip2(MultiBzDecoder<BufReader<R>>),
}

impl<R: Read, W: Write> Stream<R, W> {
    /// Looks at the first bytes of `blob` to see how it is compressed.
    pub(crate) fn new(mut blob: R, copy: W, budget: Budget) -> Result<Self, Error> {
        let mut magic = Vec::new();
        blob.by_ref()
            .take(MAGIC_BYTES)
            .read_to_end(&mut magic)
            .map_err(|source| unwrapped(source, || "the layer".to_owned()))?;
        let kind = sniff(&magic);
        let raw = Counted { inner: Cursor::new(magic).chain(blob), seen: 0 };
        let decoder = match kind {
            Sniffed::Gzip => Decoder::Gzip(MultiGzDecoder::new(buffered(raw))),
            Sniffed::Zstd => Decoder::Zstd(zstd_decoder(raw, budget)?),
            Sniffed::Xz => {
                let reader = XzReader::new_mem_limit(buffered(raw), true, XZ_MEMORY_KIB_MAX);
                Decoder::Xz(Box::new(reader))
            }
            Sniffed::Bzip2 => Decoder::Bzip2(MultiBzDecoder::new(buffered(raw))),
            _ => Decoder::Plain(raw),
        };
        Ok(Self { decoder, budget, hasher: Hasher::new(Algorithm::Sha256), copy, position: 0 })
    }

    /// How many uncompressed bytes came out so far.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// How many more may come out.
    pub(crate) fn left(&self) -> u64 {
        self.budget.bytes_max.saturating_sub(self.position)
    }

    /// Some bytes, or 0 at the end.
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        let n = self.decoder.read(buf).map_err(|source| self.classify(source))?;
        self.position += n as u64;
        self.check_budget()?;
        self.hasher.update(&buf[..n]);
        self.copy
            .write_all(&buf[..n])
            .map_err(|source| Error::Read { what: "the layer into its copy".to_owned(), source })?;
        Ok(n)
    }

    /// As many bytes as fit into `buf`, fewer only at the end.
    pub(crate) fn read_full(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.read(&mut buf[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        Ok(filled)
    }

    /// The digest of everything that came out, and the copy of it.
    pub(crate) fn finish(self) -> (Digest, W) {
        (self.hasher.finish(), self.copy)
    }

    fn check_budget(&self) -> Result<(), Error> {
        let Budget { bytes_max, ratio_max, ratio_free_bytes, .. } = self.budget;
        if self.position > bytes_max {
            return Err(Error::Budget {
                why: format!("it unpacks to more than {bytes_max} bytes"),
            });
        }
        let compressed = self.decoder.raw().seen;
        if self.position > ratio_free_bytes && self.position > compressed.saturating_mul(ratio_max)
        {
            return Err(Error::Budget {
                why: format!("it unpacks to more than {ratio_max} times its size, as a bomb does"),
            });
        }
        Ok(())
    }

    /// Broken compression is the layer's fault, a failing disk is not.
    fn classify(&self, source: io::Error) -> Error {
        use io::ErrorKind::{
            InvalidData, InvalidInput, Other, OutOfMemory, UnexpectedEof, Unsupported,
        };
        let compressed = !matches!(self.decoder, Decoder::Plain(_));
        match unwrapped(source, || "the layer".to_owned()) {
            Error::Read { source, .. } if compressed && source.kind() == OutOfMemory => {
                let why = format!("unpacking it takes more than {XZ_MEMORY_KIB_MAX} KiB of memory");
                Error::Budget { why }
            }
            Error::Read { source, .. }
                if compressed
                    && matches!(
                        source.kind(),
                        InvalidData | InvalidInput | Other | UnexpectedEof | Unsupported
                    ) =>
            {
                Error::media("the layer", format!("its compression is broken ({source})"))
            }
            other => other,
        }
    }
}

fn buffered<R: Read>(raw: R) -> BufReader<R> {
    BufReader::with_capacity(BUFFER_BYTES, raw)
}

fn zstd_decoder<R: Read>(
    raw: R,
    budget: Budget,
) -> Result<zstd::Decoder<'static, BufReader<R>>, Error> {
    let failed = |source| Error::Read { what: "the layer as zstd".to_owned(), source };
    let mut decoder = zstd::Decoder::with_buffer(buffered(raw)).map_err(failed)?;
    decoder.window_log_max(budget.zstd_window_log_max).map_err(failed)?;
    Ok(decoder)
}

impl<R: Read> Decoder<R> {
    fn raw(&self) -> &R {
        match self {
            Self::Plain(raw) => raw,
            Self::Gzip(gzip) => gzip.get_ref().get_ref(),
            Self::Zstd(zstd) => zstd.get_ref().get_ref(),
            Self::Xz(xz) => xz.inner().get_ref(),
            Self::Bzip2(bzip2) => bzip2.get_ref().get_ref(),
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = match self {
                Self::Plain(raw) => raw.read(buf),
                Self::Gzip(gzip) => gzip.read(buf),
                Self::Zstd(zstd) => zstd.read(buf),
                Self::Xz(xz) => xz.read(buf),
                Self::Bzip2(bzip2) => bzip2.read(buf),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

struct Counted<R> {
    inner: R,
    seen: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.seen += n as u64;
        Ok(n)
    }
}
