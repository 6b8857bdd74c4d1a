use crate::{
    error::Error,
    index::{FileIndex, Record, RecordKind},
    limits::DEPTH_MAX,
};

/// What a stored index starts with: four letters, and the version.
const MAGIC: &[u8; 4] = b"mgix";
/// A newer version is refused by name.
const VERSION: u8 = 1;
/// Magic, version, three zeros, layers, records, bytes of text.
const HEAD_BYTES: usize = 20;
const RECORD_BYTES: usize = 40;

impl FileIndex {
    /// The index as bytes: a head, fixed-size records, and the names.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes =
            Vec::with_capacity(HEAD_BYTES + self.records.len() * RECORD_BYTES + self.text.len());
        bytes.extend(MAGIC);
        bytes.extend([VERSION, 0, 0, 0]);
        bytes.extend(self.layers.to_le_bytes());
        bytes.extend((self.records.len() as u32).to_le_bytes());
        bytes.extend((self.text.len() as u32).to_le_bytes());
        for record in &self.records {
            bytes.extend(record.to_bytes());
        }
        bytes.extend(self.text.as_bytes());
        bytes
    }

    /// Reads what [`FileIndex::to_bytes`] wrote. Any bytes are safe to give: the result is a tree,
    /// or an error.
    ///
    /// # Errors
    /// [`Error::Index`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        parse(bytes).map_err(|why| Error::Index { why })
    }
}

fn parse(bytes: &[u8]) -> Result<FileIndex, String> {
    let (head, rest) = bytes.split_at_checked(HEAD_BYTES).ok_or("it is too short")?;
    if &head[..4] != MAGIC {
        return Err("it is something else".to_owned());
    }
    if head[4] != VERSION {
        return Err(format!("it has version {}, and this margay knows {VERSION}", head[4]));
    }
    let (layers, count, text_len) =
        (u32_at(head, 8), u32_at(head, 12) as usize, u32_at(head, 16) as usize);
    let records_len = count.checked_mul(RECORD_BYTES).ok_or("its length is wrong")?;
    if records_len.checked_add(text_len) != Some(rest.len()) || count == 0 {
        return Err("its length is wrong".to_owned());
    }
    let (records, text) = rest.split_at(records_len);
    let text = str::from_utf8(text).map_err(|_| "its names are not UTF-8")?;
    let records =
        records.chunks_exact(RECORD_BYTES).map(Record::from_bytes).collect::<Option<Vec<_>>>();
    let records = records.ok_or("it has a node of an unknown kind")?;
    check(&records, text, layers)?;
    Ok(FileIndex::from_parts(records, text.into(), layers))
}

/// Level by level and without gaps: that makes it a tree, and one in which every node is reached
/// once.
fn check(records: &[Record], text: &str, layers: u32) -> Result<(), String> {
    let slice = |at: u64, len: u64| {
        let range = usize::try_from(at).ok()?..usize::try_from(at.checked_add(len)?).ok()?;
        text.get(range)
    };
    let name = |record: &Record| slice(u64::from(record.name_at), u64::from(record.name_len));
    let root = records.first().filter(|root| root.kind == RecordKind::Folder && root.parent == 0);
    root.filter(|root| root.name_len == 0 && name(root).is_some()).ok_or("it has no root")?;
    let mut next = 1u64;
    let mut depths = vec![0u16; records.len()];
    for (at, record) in records.iter().enumerate() {
        match record.kind {
            RecordKind::File => {
                let within = record.layer < layers && record.at.checked_add(record.len).is_some();
                within.then_some(()).ok_or("a file is in no layer")?;
            }
            RecordKind::Symlink => {
                let target = slice(record.at, record.len).filter(|target| !target.is_empty());
                target.ok_or("a link has no target")?;
            }
            RecordKind::Folder => {
                let end = next.checked_add(record.len).filter(|end| *end <= records.len() as u64);
                let end = end
                    .filter(|_| record.at == next)
                    .ok_or("a folder's children are not behind it")?;
                check_children(&records[next as usize..end as usize], at, name)?;
                if usize::from(depths[at]) > DEPTH_MAX {
                    return Err("it is too deep".to_owned());
                }
                let below = depths[at] + 1;
                depths[next as usize..end as usize].fill(below);
                next = end;
            }
        }
    }
    match next == records.len() as u64 {
        true => Ok(()),
        false => Err("a node is in no folder".to_owned()),
    }
}

fn check_children<'a>(
    children: &[Record],
    parent: usize,
    name: impl Fn(&Record) -> Option<&'a str>,
) -> Result<(), String> {
    let mut last = "";
    for child in children {
        let name = name(child).ok_or("a name is not within the text")?;
        if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) || name <= last {
            return Err("names are malformed or not sorted".to_owned());
        }
        if child.parent as usize != parent {
            return Err("a node is in another folder than it says".to_owned());
        }
        last = name;
    }
    Ok(())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl Record {
    fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        let kind = match self.kind {
            RecordKind::Folder => 0,
            RecordKind::File => 1,
            RecordKind::Symlink => 2,
        };
        bytes[0..4].copy_from_slice(&self.name_at.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.name_len.to_le_bytes());
        // The mode needs twelve bits of its sixteen: the kind has the rest.
        bytes[6..8].copy_from_slice(&(self.mode | kind << 12).to_le_bytes());
        bytes[8..12].copy_from_slice(&self.parent.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.layer.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.at.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.len.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.mtime.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let packed = u16::from_le_bytes([bytes[6], bytes[7]]);
        Some(Self {
            name_at: u32_at(bytes, 0),
            name_len: u16::from_le_bytes([bytes[4], bytes[5]]),
            kind: match packed >> 12 {
                0 => RecordKind::Folder,
                1 => RecordKind::File,
                2 => RecordKind::Symlink,
                _ => return None,
            },
            mode: packed & 0o7777,
            parent: u32_at(bytes, 8),
            layer: u32_at(bytes, 12),
            at: u64_at(bytes, 16),
            len: u64_at(bytes, 24),
            mtime: u64_at(bytes, 32).cast_signed(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::tests::index;

    #[test]
    fn an_index_survives_being_stored() {
        for words in ["", "a", "d/a d/b->a e/f/g z->/d"] {
            let index = index(words);
            assert_eq!(FileIndex::from_bytes(&index.to_bytes()).unwrap(), index, "{words}");
        }
    }

    #[test]
    fn cut_or_newer_bytes_are_refused() {
        let bytes = index("d/a d/b->a e/f/g z->/d").to_bytes();
        for end in 0..bytes.len() {
            assert!(FileIndex::from_bytes(&bytes[..end]).is_err(), "{end} bytes");
        }
        let mut newer = bytes.clone();
        newer[4] = 2;
        let error = FileIndex::from_bytes(&newer).unwrap_err().to_string();
        assert_eq!(
            error,
            "the file index cannot be used: it has version 2, and this margay knows 1"
        );
    }

    /// Whatever is in the bytes, every use of the result ends without a panic.
    #[test]
    fn no_stored_index_makes_the_reader_panic() {
        let bytes = index("d/a d/b->a e/f/g z->/d y->../q").to_bytes();
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for round in 0..20_000 {
            let mut mutated = bytes.clone();
            for _ in 0..1 + round % 4 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let at = (state >> 33) as usize % mutated.len();
                mutated[at] = (state >> 24) as u8;
            }
            let Ok(index) = FileIndex::from_bytes(&mutated) else { continue };
            for (path, id) in index.iter() {
                let _ = (index.node(id), index.lookup(&path), index.children(id).count());
            }
            let _ = index.check_layers(&[1 << 20]);
        }
    }
}
