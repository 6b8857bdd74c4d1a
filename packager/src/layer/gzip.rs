use std::io::{self, Write};

use flate2::Crc;
use miniz_oxide::{
    MZError, MZFlush, MZStatus,
    deflate::{
        core::{CompressorOxide, create_comp_flags_from_zip_params},
        stream::deflate,
    },
};

/// Compresses to gzip, the same bytes for the same input everywhere: no name, no time, one level,
/// and one compressor whose version is pinned. (flate2 takes the fastest backend that any crate of
/// a build asks for.)
pub(crate) struct Gzip<W> {
    inner: W,
    compressor: Box<CompressorOxide>,
    crc: Crc,
    buffer: Vec<u8>,
}

/// Level 6 is the default of every tool: 9 is 3 times slower for 1 % on pages and Wasm.
const LEVEL: i32 = 6;
/// Negative: raw deflate, without zlib's frame.
const RAW_WINDOW_BITS: i32 = -15;
/// Magic, deflate, no flags, no time, no hints, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

impl<W: Write> Gzip<W> {
    pub(crate) fn new(mut inner: W) -> io::Result<Self> {
        inner.write_all(&HEADER)?;
        let flags = create_comp_flags_from_zip_params(LEVEL, RAW_WINDOW_BITS, 0);
        let compressor = Box::new(CompressorOxide::new(flags));
        Ok(Self { inner, compressor, crc: Crc::new(), buffer: vec![0; 64 << 10] })
    }

    pub(crate) fn finish(mut self) -> io::Result<W> {
        while self.step(&[], MZFlush::Finish)?.1 != MZStatus::StreamEnd {}
        self.inner.write_all(&self.crc.sum().to_le_bytes())?;
        self.inner.write_all(&self.crc.amount().to_le_bytes())?;
        Ok(self.inner)
    }

    fn step(&mut self, input: &[u8], flush: MZFlush) -> io::Result<(usize, MZStatus)> {
        let result = deflate(&mut self.compressor, input, &mut self.buffer, flush);
        self.inner.write_all(&self.buffer[..result.bytes_written])?;
        match result.status {
            Ok(status) => Ok((result.bytes_consumed, status)),
            Err(MZError::Buf) => Ok((result.bytes_consumed, MZStatus::Ok)),
            Err(error) => Err(io::Error::other(format!("deflate failed: {error:?}"))),
        }
    }
}

impl<W: Write> Write for Gzip<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut rest = buf;
        while !rest.is_empty() {
            let (used, _) = self.step(rest, MZFlush::None)?;
            rest = &rest[used..];
        }
        self.crc.update(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn another_decoder_reads_the_gzip_output() {
        let mut state = 1u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8 & 0x3f
        });
        let noise: Vec<u8> = noise.take(300_000).collect();
        for bytes in [&b""[..], b"cats", &vec![0; 200_000], &noise] {
            let mut gzip = Gzip::new(Vec::new()).unwrap();
            gzip.write_all(bytes).unwrap();
            let mut back = Vec::new();
            flate2::read::GzDecoder::new(gzip.finish().unwrap().as_slice())
                .read_to_end(&mut back)
                .unwrap();
            assert!(back == bytes, "{} bytes", bytes.len());
        }
    }
}
