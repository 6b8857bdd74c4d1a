use std::str::FromStr;

use crate::{
    error::Error,
    header::{Header, OCTAL_SIZE_MAX},
    limits::{LONG_NAME_BYTES_MAX, PAX_BYTES_MAX, SPARSE_PARTS_MAX},
    path::shown,
};

/// The records in front of a header.
///
/// Two readers that disagree about a size see two different archives, so anything that could be
/// read in two ways is refused: two records of the same kind, both dialects at once, a size that
/// contradicts the header's.
#[derive(Default)]
pub(crate) struct Extended {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<Pax>,
}

#[derive(Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<i64>,
    gid: Option<i64>,
    mtime: Option<i64>,
    xattrs: Vec<(String, Vec<u8>)>,
    sparse: SparseRecords,
}

/// The records of a sparse file, in the three forms that GNU tar gave them.
#[derive(Default)]
struct SparseRecords {
    major: Option<u64>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    /// Offsets and lengths, one behind the other.
    numbers: Vec<u64>,
}

/// What the records in front of an entry say beside its header.
pub(crate) struct Applied {
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
    pub(crate) sparse: Option<PaxSparse>,
}

/// A sparse file whose map is in extended records, or in front of its content.
pub(crate) struct PaxSparse {
    /// How long the file is with its holes.
    pub(crate) size: u64,
    /// `None` when the map is in front of the content.
    pub(crate) parts: Option<Vec<(u64, u64)>>,
}

/// A kind of record that changes the header behind it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    LongName,
    LongLink,
    Pax,
    Global,
}

impl RecordKind {
    pub(crate) fn of(header: &Header) -> Option<Self> {
        match header.kind {
            b'L' => Some(Self::LongName),
            b'K' => Some(Self::LongLink),
            b'x' => Some(Self::Pax),
            b'g' => Some(Self::Global),
            _ => None,
        }
    }

    pub(crate) fn bytes_max(self) -> u64 {
        match self {
            Self::LongName | Self::LongLink => LONG_NAME_BYTES_MAX,
            Self::Pax | Self::Global => PAX_BYTES_MAX,
        }
    }
}

fn wrong(why: impl Into<String>) -> Error {
    Error::media("the layer", why)
}

impl Extended {
    /// Takes in the content of one record.
    pub(crate) fn add(&mut self, kind: RecordKind, content: &[u8]) -> Result<(), Error> {
        match kind {
            RecordKind::LongName => set_once(&mut self.long_name, long_name(content)?, "long name"),
            RecordKind::LongLink => {
                set_once(&mut self.long_link, long_name(content)?, "long link name")
            }
            RecordKind::Pax => set_once(&mut self.pax, Pax::parse(content)?, "extended header"),
            RecordKind::Global => refuse_meaning(&Pax::parse(content)?),
        }
    }

    /// Whether there is a record whose header has not come yet.
    pub(crate) fn is_pending(&self) -> bool {
        self.long_name.is_some() || self.long_link.is_some() || self.pax.is_some()
    }

    /// Changes `header` as the records say, and gives back what has no place in it.
    pub(crate) fn apply(self, header: &mut Header) -> Result<Applied, Error> {
        let mut pax = self.pax.unwrap_or_default();
        let sparse_name = pax.sparse.name.take();
        let sparse = pax.sparse.into_map()?;
        // The name in front of a sparse file is made up, for readers that do not know of holes.
        let path = sparse_name.or(pax.path);
        header.name = one_of(self.long_name, path, "names")?
            .unwrap_or_else(|| std::mem::take(&mut header.name));
        header.link = one_of(self.long_link, pax.link, "link names")?
            .unwrap_or_else(|| std::mem::take(&mut header.link));
        if let Some(size) = pax.size {
            if size != header.size && size <= OCTAL_SIZE_MAX {
                let (name, there) = (shown(&header.name), header.size);
                return Err(wrong(format!(
                    "`{name}` has the size {there} in its header and {size} in front of it"
                )));
            }
            header.size = size;
        }
        header.uid = pax.uid.unwrap_or(header.uid);
        header.gid = pax.gid.unwrap_or(header.gid);
        header.mtime = pax.mtime.unwrap_or(header.mtime);
        Ok(Applied { xattrs: pax.xattrs, sparse })
    }
}

fn set_once<T>(place: &mut Option<T>, value: T, what: &str) -> Result<(), Error> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(wrong(format!("two records give the same entry a {what}"))),
    }
}

fn one_of<T: PartialEq>(gnu: Option<T>, pax: Option<T>, what: &str) -> Result<Option<T>, Error> {
    match (gnu, pax) {
        (Some(gnu), Some(pax)) if gnu != pax => {
            Err(wrong(format!("an entry has two {what}, in GNU's dialect and in POSIX's")))
        }
        (gnu, pax) => Ok(gnu.or(pax)),
    }
}

/// The name in front of the NULs at the end; a NUL in between would be the end of it to some
/// readers.
fn long_name(content: &[u8]) -> Result<Vec<u8>, Error> {
    let end = content.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    match content[..end].contains(&0) || end == 0 {
        true => Err(wrong("a long name is empty or has a NUL byte inside")),
        false => Ok(content[..end].to_vec()),
    }
}

/// Global records may carry a comment (`git archive` does); meaning would spill over into entries
/// that do not show it.
fn refuse_meaning(pax: &Pax) -> Result<(), Error> {
    let harmless = pax.path.is_none()
        && pax.link.is_none()
        && pax.size.is_none()
        && pax.sparse.is_empty()
        && pax.xattrs.is_empty();
    if harmless {
        Ok(())
    } else {
        Err(wrong("a global extended header sets a name, a size or an attribute"))
    }
}

impl SparseRecords {
    fn is_empty(&self) -> bool {
        self.major.is_none()
            && self.name.is_none()
            && self.size.is_none()
            && self.numbers.is_empty()
    }

    fn into_map(self) -> Result<Option<PaxSparse>, Error> {
        if self.is_empty() {
            return Ok(None);
        }
        let size = self.size.ok_or_else(|| wrong("a sparse file has no size"))?;
        match self.major {
            Some(1) => Ok(Some(PaxSparse { size, parts: None })),
            None | Some(0) if self.numbers.len().is_multiple_of(2) => {
                let parts = self.numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
                Ok(Some(PaxSparse { size, parts: Some(parts) }))
            }
            None | Some(0) => Err(wrong("the map of a sparse file has half of a part")),
            Some(version) => Err(wrong(format!("a sparse file is of version {version}"))),
        }
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let number = |value: &[u8]| number(value, || shown(key));
        match key {
            b"major" => self.major = Some(number(value)?),
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => set_once(&mut self.size, number(value)?, "size")?,
            b"map" => {
                let numbers = value.split(|b| *b == b',').filter(|part| !part.is_empty());
                self.numbers = numbers.map(number).collect::<Result<_, _>>()?;
            }
            b"offset" | b"numbytes" => self.numbers.push(number(value)?),
            // The minor version and the number of parts say nothing that is not there.
            _ => {}
        }
        match self.numbers.len() > 2 * SPARSE_PARTS_MAX {
            true => Err(wrong(format!("a sparse file has more than {SPARSE_PARTS_MAX} parts"))),
            false => Ok(()),
        }
    }
}

fn number<T: FromStr>(value: &[u8], key: impl FnOnce() -> String) -> Result<T, Error> {
    let text = str::from_utf8(value).ok();
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(|| wrong(format!("the extended record `{}` is not a number", key())))
}

impl Pax {
    /// Records of the form `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record.
    fn parse(mut content: &[u8]) -> Result<Self, Error> {
        let mut pax = Self::default();
        while !content.is_empty() {
            let (record, rest) =
                split_record(content).ok_or_else(|| wrong("an extended header is malformed"))?;
            let equals = record
                .iter()
                .position(|b| *b == b'=')
                .ok_or_else(|| wrong("an extended record has no `=`"))?;
            pax.set(&record[..equals], &record[equals + 1..])?;
            content = rest;
        }
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        // An empty value takes a record back, and the header has its say again.
        if value.is_empty() && !key.starts_with(b"SCHILY.xattr.") {
            return Ok(());
        }
        let name = || shown(key);
        match key {
            b"path" => set_once(&mut self.path, value.to_vec(), "name"),
            b"linkpath" => set_once(&mut self.link, value.to_vec(), "link name"),
            b"size" => set_once(&mut self.size, number(value, name)?, "size"),
            b"uid" => set_once(&mut self.uid, number(value, name)?, "uid"),
            b"gid" => set_once(&mut self.gid, number(value, name)?, "gid"),
            b"mtime" => {
                let seconds = value.split(|b| *b == b'.').next().unwrap_or_default();
                set_once(&mut self.mtime, number(seconds, name)?, "mtime")
            }
            _ => match key.strip_prefix(b"GNU.sparse.") {
                Some(key) => self.sparse.set(key, value),
                None => self.set_attribute(key, value),
            },
        }
    }

    fn set_attribute(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            let name = str::from_utf8(name)
                .map_err(|_| wrong("an extended attribute's name is not UTF-8"))?;
            self.xattrs.push((name.to_owned(), value.to_vec()));
        }
        // Everything else (atime, comment, uname, …) changes neither a name nor a byte.
        Ok(())
    }
}

/// One record without its length and newline, and what is behind it.
fn split_record(content: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = content.iter().take(20).position(|b| *b == b' ')?;
    let digits = &content[..space];
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length: usize = str::from_utf8(digits).ok()?.parse().ok()?;
    let record = content.get(space + 1..length)?;
    Some((record.strip_suffix(b"\n")?, &content[length..]))
}
