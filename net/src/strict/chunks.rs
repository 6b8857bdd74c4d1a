use super::{
    Fault,
    head::{field, framing_name, is_text},
};
use crate::limits::{CHUNK_EXTENSIONS_BYTES_MAX, HEADERS_MAX, TRAILER_BYTES_MAX};

/// A chunked body as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    part: Part,
    /// The size of the chunk whose line is read.
    size: u64,
    digits: usize,
    /// Bytes of the extensions of all chunks.
    extensions: usize,
    trailer: Vec<u8>,
    trailers: usize,
    trailers_bytes: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Part {
    #[default]
    FirstDigit,
    Digits,
    Extension,
    SizeLineFeed,
    Data(u64),
    DataCarriageReturn,
    DataLineFeed,
    Trailer,
}

/// What has been judged of a piece of a body.
pub(super) enum Judged {
    /// All of it, and the body goes on.
    Whole,
    /// The body ends after so many bytes.
    End(usize),
    /// The body is broken after so many bytes.
    Broken(usize, Fault),
}

impl Chunks {
    pub fn read(&mut self, piece: &[u8]) -> Judged {
        let mut at = 0;
        while at < piece.len() {
            if let Part::Data(left) = self.part {
                let taken = left.min((piece.len() - at) as u64);
                at += taken as usize; // no more than the piece has
                self.part = match left - taken {
                    0 => Part::DataCarriageReturn,
                    left => Part::Data(left),
                };
                continue;
            }
            match self.byte(piece[at]) {
                Ok(false) => at += 1,
                Ok(true) => return Judged::End(at + 1),
                Err(fault) => return Judged::Broken(at, fault),
            }
        }
        Judged::Whole
    }

    /// Whether the body ends with `byte`.
    fn byte(&mut self, byte: u8) -> Result<bool, Fault> {
        self.part = match (self.part, byte) {
            (Part::FirstDigit | Part::Digits, _) if byte.is_ascii_hexdigit() => self.digit(byte)?,
            (Part::Digits, b'\r') | (Part::Extension, b'\r') => Part::SizeLineFeed,
            (Part::Digits, b';') => Part::Extension,
            (Part::FirstDigit | Part::Digits, _) => {
                return Err(Fault::bad("the size of a chunk is not a hexadecimal number"));
            }
            (Part::Extension, _) => self.extension(byte)?,
            (Part::SizeLineFeed, b'\n') => match self.size {
                0 => Part::Trailer,
                size => Part::Data(size),
            },
            (Part::DataCarriageReturn, b'\r') => Part::DataLineFeed,
            (Part::DataLineFeed, b'\n') => {
                (self.size, self.digits) = (0, 0);
                Part::FirstDigit
            }
            (Part::SizeLineFeed, _) => {
                return Err(Fault::bad("the line of a chunk's size does not end as lines do"));
            }
            (Part::DataCarriageReturn | Part::DataLineFeed, _) => {
                return Err(Fault::bad("a chunk has more bytes than its size"));
            }
            (Part::Trailer, _) => return self.trailer(byte),
            (Part::Data(_), _) => unreachable!("data is passed over in pieces"),
        };
        Ok(false)
    }

    fn digit(&mut self, byte: u8) -> Result<Part, Fault> {
        let digit = u64::from((byte as char).to_digit(16).expect("it is a hexadecimal digit"));
        self.digits += 1;
        // No body comes near 2^59 bytes, and a size never wraps around. Zeros in front count too.
        if self.size >= 1 << 59 || self.digits > 16 {
            return Err(Fault::bad("the size of a chunk is too large"));
        }
        self.size = self.size << 4 | digit;
        Ok(Part::Digits)
    }

    fn extension(&mut self, byte: u8) -> Result<Part, Fault> {
        self.extensions += 1;
        match is_text(byte) && self.extensions <= CHUNK_EXTENSIONS_BYTES_MAX {
            true => Ok(Part::Extension),
            false => Err(Fault::bad("the extensions of the chunks are too long, or not text")),
        }
    }

    /// Lines as in a head, to an empty one.
    fn trailer(&mut self, byte: u8) -> Result<bool, Fault> {
        self.trailers_bytes += 1;
        if self.trailers_bytes > TRAILER_BYTES_MAX || self.trailers > HEADERS_MAX {
            return Err(Fault::bad("the trailers of the body are too large"));
        }
        self.trailer.push(byte);
        if byte != b'\n' {
            return Ok(false);
        }
        let line = self.trailer.strip_suffix(b"\r\n");
        let line = line.ok_or(Fault::bad("a trailer ends without a carriage return"))?;
        if line.is_empty() {
            return Ok(true);
        }
        if framing_name(field(line)?.0)?.is_some() {
            return Err(Fault::bad("a trailer frames the request, which only its head does"));
        }
        self.trailer.clear();
        self.trailers += 1;
        Ok(false)
    }
}
