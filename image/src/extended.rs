use crate::{
    error::Error,
    header::{Header, OCTAL_SIZE_MAX},
    limits::{LONG_NAME_BYTES_MAX, PAX_BYTES_MAX},
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
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<i64>,
    xattrs: Vec<(String, Vec<u8>)>,
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

    /// Changes `header` as the records say, and gives back its extended attributes.
    pub(crate) fn apply(self, header: &mut Header) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let pax = self.pax.unwrap_or_default();
        header.name = one_of(self.long_name, pax.path, "names")?
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
        Ok(pax.xattrs)
    }
}

fn set_once<T>(place: &mut Option<T>, value: T, what: &str) -> Result<(), Error> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(wrong(format!("two records give the same entry a {what}"))),
    }
}

fn one_of<T>(gnu: Option<T>, pax: Option<T>, what: &str) -> Result<Option<T>, Error> {
    match (gnu, pax) {
        (Some(_), Some(_)) => {
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
    let harmless =
        pax.path.is_none() && pax.link.is_none() && pax.size.is_none() && pax.xattrs.is_empty();
    if harmless {
        Ok(())
    } else {
        Err(wrong("a global extended header sets a name, a size or an attribute"))
    }
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
        let text = || {
            str::from_utf8(value)
                .map_err(|_| wrong(format!("the extended record `{}` is not a number", shown(key))))
        };
        let number = || {
            text()?
                .parse::<u64>()
                .map_err(|_| wrong(format!("the extended record `{}` is not a number", shown(key))))
        };
        match key {
            b"path" => set_once(&mut self.path, value.to_vec(), "name"),
            b"linkpath" => set_once(&mut self.link, value.to_vec(), "link name"),
            b"size" => set_once(&mut self.size, number()?, "size"),
            b"uid" => set_once(&mut self.uid, number()?, "uid"),
            b"gid" => set_once(&mut self.gid, number()?, "gid"),
            b"mtime" => {
                let seconds = text()?.split('.').next().unwrap_or_default();
                let seconds = seconds
                    .parse()
                    .map_err(|_| wrong("the extended record `mtime` is not a time"))?;
                set_once(&mut self.mtime, seconds, "mtime")
            }
            _ if key.starts_with(b"GNU.sparse.") => {
                Err(wrong("it has a sparse file, which is never unpacked"))
            }
            _ => self.set_attribute(key, value),
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
