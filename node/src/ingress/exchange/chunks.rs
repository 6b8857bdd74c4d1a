use std::io;

use bytes::{Buf, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::piece::{Piece, malformed};
use crate::ingress::limits::{
    RESPONSE_CHUNK_EXTENSIONS_BYTES_MAX, RESPONSE_CHUNK_LINE_BYTES_MAX, RESPONSE_HEADERS_MAX,
    RESPONSE_TRAILERS_BYTES_MAX,
};

/// A chunked response as far as it was taken.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    part: Part,
    /// Bytes of the extensions of all chunks, which are not passed on.
    extensions: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Part {
    #[default]
    Size,
    /// So many bytes of a chunk are to come.
    Data(u64),
    EndOfData,
    Trailers,
    End,
}

impl Chunks {
    pub fn is_end(&self) -> bool {
        self.part == Part::End
    }

    /// The next piece of what `came`; `None` when more must come first.
    pub fn take(&mut self, came: &mut BytesMut) -> io::Result<Option<Piece>> {
        loop {
            match self.part {
                Part::Size => match self.size(came)? {
                    None => return Ok(None),
                    Some(0) => self.part = Part::Trailers,
                    Some(size) => self.part = Part::Data(size),
                },
                Part::Data(_) if came.is_empty() => return Ok(None),
                Part::Data(left) => {
                    let length = came.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.part = match left - length as u64 {
                        0 => Part::EndOfData,
                        left => Part::Data(left),
                    };
                    return Ok(Some(Piece::Data(came.split_to(length).freeze())));
                }
                Part::EndOfData => match came.as_ref() {
                    [b'\r', b'\n', ..] => {
                        came.advance(2);
                        self.part = Part::Size;
                    }
                    [] | [b'\r'] => return Ok(None),
                    _ => return Err(malformed("a chunk of the response is longer than it says")),
                },
                Part::Trailers => return self.trailers(came),
                Part::End => return Ok(Some(Piece::End)),
            }
        }
    }

    /// The size of the next chunk.
    fn size(&mut self, came: &mut BytesMut) -> io::Result<Option<u64>> {
        let Some(end) = memchr::memchr(b'\n', came) else {
            return match came.len() < RESPONSE_CHUNK_LINE_BYTES_MAX {
                true => Ok(None),
                false => Err(malformed("the line of a chunk's size is too long")),
            };
        };
        let line = came[..end].strip_suffix(b"\r");
        let line = line.ok_or_else(|| malformed("the line of a chunk's size is malformed"))?;
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
        self.extensions += line.len() - digits.len();
        if self.extensions > RESPONSE_CHUNK_EXTENSIONS_BYTES_MAX {
            return Err(malformed("the extensions of the chunks are too long"));
        }
        let size = hexadecimal(digits.trim_ascii_end());
        let size = size.ok_or_else(|| malformed("the size of a chunk is no number"))?;
        came.advance(end + 1);
        Ok(Some(size))
    }

    /// Lines as in a head, to an empty one.
    fn trailers(&mut self, came: &mut BytesMut) -> io::Result<Option<Piece>> {
        if came.starts_with(b"\r\n") {
            came.advance(2);
            self.part = Part::End;
            return Ok(Some(Piece::End));
        }
        let mut fields = [httparse::EMPTY_HEADER; RESPONSE_HEADERS_MAX];
        let (length, fields) = match httparse::parse_headers(came, &mut fields) {
            Ok(httparse::Status::Complete(read)) => read,
            Ok(httparse::Status::Partial) if came.len() < RESPONSE_TRAILERS_BYTES_MAX => {
                return Ok(None);
            }
            _ => return Err(malformed("the trailers of the response are malformed or too large")),
        };
        let mut trailers = HeaderMap::with_capacity(fields.len());
        for field in fields {
            let name = HeaderName::from_bytes(field.name.as_bytes());
            match (name, HeaderValue::from_bytes(field.value)) {
                (Ok(name), Ok(value)) => trailers.append(name, value),
                _ => return Err(malformed("a trailer of the response is malformed")),
            };
        }
        came.advance(length);
        self.part = Part::End;
        Ok(Some(Piece::Trailers(trailers)))
    }
}

/// A number of at most fifteen digits, which no body comes near.
fn hexadecimal(digits: &[u8]) -> Option<u64> {
    let is_number = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
    u64::from_str_radix(text, 16).ok()
}
