use crate::{error::Error, path::shown};

/// Everything in a tar comes in blocks of this size.
pub(crate) const BLOCK_BYTES: usize = 512;

/// One header as it stands there, before the extended records in front of it have their say.
///
/// # Spec
/// POSIX.1-2017 `pax`, "ustar Interchange Format"; GNU tar's base-256 numbers.
pub(crate) struct Header {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) uid: i64,
    pub(crate) gid: i64,
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    /// What GNU's old form of a sparse file has in its header.
    pub(crate) sparse: Option<OldSparse>,
}

/// The part of a map that stands in the header of a sparse file.
pub(crate) struct OldSparse {
    /// Where data is, and how much.
    pub(crate) parts: Vec<(u64, u64)>,
    /// How long the file is with its holes.
    pub(crate) size: u64,
    /// More of the map is in the next block.
    pub(crate) extended: bool,
}

/// The largest size that 11 octal digits hold: only above it may an extended record give another
/// one.
pub(crate) const OCTAL_SIZE_MAX: u64 = 0o777_7777_7777;

impl Header {
    /// Reads a block that is not all zeros.
    pub(crate) fn parse(block: &[u8; BLOCK_BYTES]) -> Result<Self, Error> {
        let wrong = |why: &str| {
            Error::media(
                "the layer",
                format!("the tar header of `{}` has {why}", shown(until_nul(&block[..100]))),
            )
        };
        let number = |range: std::ops::Range<usize>, what: &str| {
            parse_number(&block[range]).ok_or_else(|| wrong(&format!("no number as its {what}")))
        };
        let unsigned = |range: std::ops::Range<usize>, what: &str| {
            number(range, what).and_then(|n| {
                u64::try_from(n).map_err(|_| wrong(&format!("a negative number as its {what}")))
            })
        };
        // Old writers took bytes for signed numbers.
        let found = number(148..156, "checksum")?;
        if found != checksum(block, i64::from)
            && found != checksum(block, |byte| i64::from(byte.cast_signed()))
        {
            return Err(wrong("a wrong checksum"));
        }
        let mut name = until_nul(&block[..100]).to_vec();
        // Only POSIX has the prefix there: GNU's magic is `ustar  \0`, and it keeps other things in
        // that place.
        let prefix = match (&block[257..263] == b"ustar\0", &block[508..] == b"tar\0") {
            (true, false) => until_nul(&block[345..500]),
            // star keeps times behind a shorter prefix.
            (true, true) => until_nul(&block[345..476]),
            (false, _) => b"",
        };
        if !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
        Ok(Self {
            name,
            link: until_nul(&block[157..257]).to_vec(),
            kind: block[156],
            mode: u32::try_from(unsigned(100..108, "mode")? & 0o7777).expect("twelve bits fit"),
            uid: number(108..116, "uid")?,
            gid: number(116..124, "gid")?,
            size: unsigned(124..136, "size")?,
            mtime: number(136..148, "mtime")?,
            sparse: match block[156] {
                b'S' => {
                    Some(old_sparse(block).ok_or_else(|| wrong("a map of holes that is none"))?)
                }
                _ => None,
            },
        })
    }
}

fn old_sparse(block: &[u8; BLOCK_BYTES]) -> Option<OldSparse> {
    Some(OldSparse {
        parts: sparse_parts(&block[386..482])?,
        size: u64::try_from(parse_number(&block[483..495])?).ok()?,
        extended: block[482] != 0,
    })
}

/// The map in a block that continues the one in front of it, and whether yet another follows.
pub(crate) fn more_sparse_parts(block: &[u8; BLOCK_BYTES]) -> Option<(Vec<(u64, u64)>, bool)> {
    Some((sparse_parts(&block[..504])?, block[504] != 0))
}

/// Pairs of numbers, up to the first that is empty.
fn sparse_parts(bytes: &[u8]) -> Option<Vec<(u64, u64)>> {
    let pairs = bytes.chunks_exact(24).take_while(|pair| pair[0] != 0);
    let number = |field: &[u8]| u64::try_from(parse_number(field)?).ok();
    pairs.map(|pair| Some((number(&pair[..12])?, number(&pair[12..])?))).collect()
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// The sum of all bytes, with the checksum's own field as spaces.
fn checksum(block: &[u8; BLOCK_BYTES], value: impl Fn(u8) -> i64) -> i64 {
    let sum = |bytes: &[u8]| bytes.iter().map(|b| value(*b)).sum::<i64>();
    sum(&block[..148]) + 8 * i64::from(b' ') + sum(&block[156..])
}

/// Octal digits between spaces and NULs, or GNU's base 256 when the first bit is set. An empty
/// field is 0.
fn parse_number(field: &[u8]) -> Option<i64> {
    match field.first()? {
        first if first & 0x80 != 0 => base_256(field),
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Option<i64> {
    let text = field.trim_ascii_start();
    let digits = text.iter().take_while(|b| matches!(b, b'0'..=b'7')).count();
    if !text[digits..].iter().all(|b| matches!(b, 0 | b' ')) {
        return None;
    }
    text[..digits].iter().try_fold(0i64, |n, b| n.checked_mul(8)?.checked_add(i64::from(b - b'0')))
}

fn base_256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let first = if negative { i64::from(field[0]) - 256 } else { i64::from(field[0] & 0x3f) };
    field[1..].iter().try_fold(first, |n, b| n.checked_mul(256)?.checked_add(i64::from(*b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_in_octal_and_base_256() {
        for (field, want) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"00006448", None),
            (b"-0000001", None),
            (b"77777777777\0", Some(0o777_7777_7777)),
            (b"\x80\0\0\0\0\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(parse_number(field), want, "{field:?}");
        }
    }
}
