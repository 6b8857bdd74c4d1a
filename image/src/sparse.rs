use crate::{error::Error, header::BLOCK_BYTES, limits::SPARSE_PARTS_MAX};

/// Where a sparse file has data; everything else of it is zeros.
///
/// # Spec
/// GNU tar manual, "Storing Sparse Files": the old format, and PAX formats 0.0, 0.1 and 1.0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SparseMap {
    /// Offset and length of each part with data, in order.
    parts: Vec<(u64, u64)>,
    size: u64,
    /// The next part that was not read to its end.
    part: usize,
    at: u64,
}

/// What comes next in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    Hole(u64),
    Data(u64),
    End,
}

fn wrong(why: &str) -> Error {
    Error::media("the layer", format!("the map of a sparse file {why}"))
}

impl SparseMap {
    /// A file of `size` bytes, whose parts are `stored` bytes together.
    pub(crate) fn new(parts: Vec<(u64, u64)>, size: u64, stored: u64) -> Result<Self, Error> {
        if parts.len() > SPARSE_PARTS_MAX {
            return Err(wrong(&format!("has more than {SPARSE_PARTS_MAX} parts")));
        }
        let (mut end, mut sum) = (0u64, 0u64);
        for (offset, len) in &parts {
            let after = offset.checked_add(*len).ok_or_else(|| wrong("has a part without end"))?;
            if *offset < end || after > size {
                return Err(wrong("has parts that overlap or lie behind its end"));
            }
            (end, sum) = (after, sum + len);
        }
        match sum == stored {
            true => Ok(Self { parts, size, part: 0, at: 0 }),
            false => Err(wrong("does not fit its content")),
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The rest of the part or hole at the current position.
    pub(crate) fn next(&mut self) -> Piece {
        while let Some((offset, len)) = self.parts.get(self.part) {
            if self.at < *offset {
                return Piece::Hole(offset - self.at);
            }
            if self.at < offset + len {
                return Piece::Data(offset + len - self.at);
            }
            self.part += 1;
        }
        match self.size - self.at {
            0 => Piece::End,
            left => Piece::Hole(left),
        }
    }

    pub(crate) fn advance(&mut self, bytes: u64) {
        self.at += bytes;
    }
}

/// The map in front of a file's content, as PAX format 1.0 writes it: the number of parts, and
/// offset and length of each, one number a line, filled up to a whole block.
#[derive(Default)]
pub(crate) struct MapText {
    numbers: Vec<u64>,
    digits: String,
}

impl MapText {
    /// Takes in one block. `true` when the map is complete.
    pub(crate) fn add(&mut self, block: &[u8; BLOCK_BYTES]) -> Result<bool, Error> {
        for byte in block {
            match byte {
                b'0'..=b'9' if self.digits.len() < 20 => self.digits.push(char::from(*byte)),
                b'\n' => {
                    let number = self.digits.parse().map_err(|_| wrong("has no number"))?;
                    self.digits.clear();
                    self.numbers.push(number);
                    if self.is_complete()? {
                        return Ok(true);
                    }
                }
                _ => return Err(wrong("has something else than numbers")),
            }
        }
        Ok(false)
    }

    fn is_complete(&self) -> Result<bool, Error> {
        let count = usize::try_from(self.numbers[0]).unwrap_or(usize::MAX);
        match count > SPARSE_PARTS_MAX {
            true => Err(wrong(&format!("has more than {SPARSE_PARTS_MAX} parts"))),
            false => Ok(self.numbers.len() == 1 + 2 * count),
        }
    }

    pub(crate) fn into_parts(self) -> Vec<(u64, u64)> {
        self.numbers[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
    }
}
