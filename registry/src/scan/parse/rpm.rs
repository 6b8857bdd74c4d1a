//! The databases of rpm: packages as headers, in tables of SQLite or in files of slots. Both are
//! read here page by page, because a database engine trusts the files that it opens.

use std::collections::BTreeSet;

use crate::{
    limits::{PACKAGES_MAX, RPM_HEADER_BYTES_MAX, SQLITE_DEPTH_MAX},
    scan::package::{Kind, Package},
};

const TAG_NAME: u32 = 1000;
const TAG_VERSION: u32 = 1001;
const TAG_RELEASE: u32 = 1002;
const TAG_EPOCH: u32 = 1003;
const TAG_LICENSE: u32 = 1014;
const TAG_ARCH: u32 = 1022;
const TAG_SOURCE_RPM: u32 = 1044;

/// The packages of `rpmdb.sqlite`; `None` when this is no such file.
pub fn rpm_sqlite(bytes: &[u8]) -> Option<Vec<Package>> {
    let file = Sqlite::open(bytes)?;
    let mut schema = Vec::new();
    file.walk(1, &mut |record| schema.push(record))?;
    // type, name, tbl_name, rootpage, sql
    let root = schema.iter().find_map(|record| {
        let columns = columns(record)?;
        let is_table = columns.first()?.bytes == b"table" && columns.get(1)?.bytes == b"Packages";
        columns.get(3).filter(|_| is_table).and_then(Column::number)
    })?;
    let mut packages = Vec::new();
    file.walk(u32::try_from(root).ok()?, &mut |record| {
        // hnum, blob
        if let Some(columns) = columns(&record)
            && let Some(blob) = columns.get(1)
        {
            packages.extend(header(blob.bytes));
        }
    })?;
    Some(packages)
}

/// A file of SQLite: tables as trees of pages.
///
/// # Spec
/// SQLite, "Database File Format".
struct Sqlite<'a> {
    bytes: &'a [u8],
    page_bytes: usize,
    usable: usize,
}

impl<'a> Sqlite<'a> {
    fn open(bytes: &'a [u8]) -> Option<Self> {
        if !bytes.starts_with(b"SQLite format 3\0") || bytes.len() < 100 {
            return None;
        }
        let page_bytes = match be(bytes, 16, 2)? as usize {
            1 => 65_536,
            size if size.is_power_of_two() && size >= 512 => size,
            _ => return None,
        };
        let usable = page_bytes - usize::from(bytes[20]);
        (usable >= 480).then_some(Self { bytes, page_bytes, usable })
    }

    fn page(&self, number: u32) -> Option<&'a [u8]> {
        let start = (number as usize).checked_sub(1)?.checked_mul(self.page_bytes)?;
        self.bytes.get(start..start.checked_add(self.page_bytes)?)
    }

    /// Hands over each record of the table whose tree begins at page `root`; each page once.
    fn walk(&self, root: u32, found: &mut dyn FnMut(Vec<u8>)) -> Option<()> {
        let (mut pages, mut seen) = (vec![(root, 0)], BTreeSet::new());
        let mut left = PACKAGES_MAX;
        while let Some((number, depth)) = pages.pop() {
            if !seen.insert(number) || depth > SQLITE_DEPTH_MAX {
                return None;
            }
            let page = self.page(number)?;
            // The first page begins with the header of the file.
            let at = if number == 1 { 100 } else { 0 };
            let cells = be(page, at + 3, 2)? as usize;
            let (is_leaf, list) = match page.get(at)? {
                0x0d => (true, at + 8),
                0x05 => (false, at + 12),
                _ => return None,
            };
            if !is_leaf {
                pages.push((be(page, at + 8, 4)? as u32, depth + 1));
            }
            for cell in 0..cells {
                let place = be(page, list + 2 * cell, 2)? as usize;
                match is_leaf {
                    true if left == 0 => return Some(()),
                    true => {
                        left -= 1;
                        found(self.payload(page, place)?);
                    }
                    false => pages.push((be(page, place, 4)? as u32, depth + 1)),
                }
            }
        }
        Some(())
    }

    /// The record of a cell of a leaf, with its pages of overflow.
    fn payload(&self, page: &[u8], place: usize) -> Option<Vec<u8>> {
        let (length, after) = varint(page, place)?;
        let (_, at) = varint(page, after)?;
        let length = usize::try_from(length).ok().filter(|n| *n <= RPM_HEADER_BYTES_MAX)?;
        let local_max = self.usable - 35;
        if length <= local_max {
            return Some(page.get(at..at + length)?.to_vec());
        }
        let local_min = (self.usable - 12) * 32 / 255 - 23;
        let fits = local_min + (length - local_min) % (self.usable - 4);
        let local = if fits <= local_max { fits } else { local_min };
        let mut record = page.get(at..at + local)?.to_vec();
        let mut next = be(page, at + local, 4)? as u32;
        // Each page brings some bytes of the limited length, so a circle ends.
        while record.len() < length {
            let page = self.page(next)?;
            let more = (length - record.len()).min(self.usable - 4);
            record.extend(page.get(4..4 + more)?);
            next = be(page, 0, 4)? as u32;
        }
        Some(record)
    }
}

struct Column<'a> {
    kind: u64,
    bytes: &'a [u8],
}

impl Column<'_> {
    fn number(&self) -> Option<u64> {
        match self.kind {
            8 => Some(0),
            9 => Some(1),
            1..=6 => be(self.bytes, 0, self.bytes.len()),
            _ => None,
        }
    }
}

fn columns(record: &[u8]) -> Option<Vec<Column<'_>>> {
    let (header, mut at) = varint(record, 0)?;
    let mut body = usize::try_from(header).ok()?;
    let mut columns = Vec::new();
    while (at as u64) < header && columns.len() < 8 {
        let (kind, after) = varint(record, at)?;
        let length = match kind {
            0 | 8 | 9 => 0,
            1..=4 => kind as usize,
            5 => 6,
            6 | 7 => 8,
            _ => usize::try_from(kind.checked_sub(12)? / 2).ok()?,
        };
        let bytes = record.get(body..body.checked_add(length)?)?;
        columns.push(Column { kind, bytes });
        (at, body) = (after, body + length);
    }
    Some(columns)
}

/// A number of up to nine bytes, and where it ends.
fn varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for place in 0..9 {
        let byte = *bytes.get(at.checked_add(place)?)?;
        if place == 8 {
            return Some((value << 8 | u64::from(byte), at + 9));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, at + place + 1));
        }
    }
    None
}

fn be(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let part = bytes.get(at..at.checked_add(width)?)?;
    Some(part.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn le(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The packages of `Packages.db`, the format of SUSE; `None` when this is no such file.
pub fn rpm_ndb(bytes: &[u8]) -> Option<Vec<Package>> {
    const PAGE_BYTES: usize = 4096;
    const SLOT_BYTES: usize = 16;
    const BLOCK_BYTES: usize = 16;
    if !bytes.starts_with(b"RpmP") {
        return None;
    }
    let slots = (le(bytes, 12)? as usize).checked_mul(PAGE_BYTES)?.min(bytes.len());
    let mut packages = Vec::new();
    // The first two slots are the header of the file.
    for at in (2 * SLOT_BYTES..slots).step_by(SLOT_BYTES) {
        if bytes.get(at..at + 4) != Some(b"Slot") || packages.len() >= PACKAGES_MAX {
            break;
        }
        let (index, block) = (le(bytes, at + 4)?, le(bytes, at + 8)? as usize);
        if index == 0 {
            continue; // free
        }
        let start = block.checked_mul(BLOCK_BYTES)?;
        if bytes.get(start..start.checked_add(4)?) != Some(b"BlbS") {
            return None;
        }
        let length = le(bytes, start + 12)? as usize;
        let content = bytes.get(start + 16..(start + 16).checked_add(length)?)?;
        packages.extend(header(content));
    }
    Some(packages)
}

/// The package of a header: a number of entries of sixteen bytes, and the store that they point to.
fn header(blob: &[u8]) -> Option<Package> {
    let (entries, length) = (be(blob, 0, 4)? as usize, be(blob, 4, 4)? as usize);
    let store = 8 + entries.checked_mul(16)?;
    let store = blob.get(store..store.checked_add(length)?)?;
    let text = |offset: usize| {
        let text = store.get(offset..)?;
        let end = text.iter().position(|byte| *byte == 0)?;
        str::from_utf8(&text[..end]).ok()
    };
    let (mut name, mut version, mut release, mut epoch) = ("", "", "", None);
    let (mut license, mut architecture, mut source) = ("", "", "");
    for entry in 0..entries {
        let at = 8 + 16 * entry;
        let (tag, offset) = (be(blob, at, 4)? as u32, be(blob, at + 8, 4)? as usize);
        let field = match tag {
            TAG_NAME => &mut name,
            TAG_VERSION => &mut version,
            TAG_RELEASE => &mut release,
            TAG_LICENSE => &mut license,
            TAG_ARCH => &mut architecture,
            TAG_SOURCE_RPM => &mut source,
            TAG_EPOCH => {
                epoch = be(store, offset, 4);
                continue;
            }
            _ => continue,
        };
        *field = text(offset)?;
    }
    // Keys of signatures are packages too.
    if name == "gpg-pubkey" {
        return None;
    }
    let version = match epoch {
        Some(epoch) if epoch > 0 => format!("{epoch}:{version}-{release}"),
        _ => format!("{version}-{release}"),
    };
    let package = Package::new(Kind::Rpm, name, &version)?.described(license, architecture);
    // `openssl-3.0.7-24.el9.src.rpm`
    let source = source.rsplitn(3, '-').last().unwrap_or_default();
    let source = if source.is_empty() { name } else { source };
    Some(package.built_of(source, &version))
}

#[cfg(test)]
pub(in crate::scan) mod tests {
    use rusqlite::Connection;

    use super::*;

    /// A header with these tags; the epoch as a number.
    pub fn header_of(tags: &[(u32, &str)], padding: usize) -> Vec<u8> {
        let (mut entries, mut store) = (Vec::new(), vec![0; padding]);
        for (tag, value) in tags {
            while store.len() % 4 != 0 {
                store.push(0);
            }
            let kind: u32 = if *tag == TAG_EPOCH { 4 } else { 6 };
            for number in [*tag, kind, store.len() as u32, 1] {
                entries.extend(number.to_be_bytes());
            }
            match kind {
                4 => store.extend(value.parse::<u32>().unwrap().to_be_bytes()),
                _ => store.extend([value.as_bytes(), b"\0"].concat()),
            }
        }
        let counts = [tags.len() as u32, store.len() as u32].map(u32::to_be_bytes).concat();
        [counts, entries, store].concat()
    }

    /// A database as rpm writes it, with `count` packages, some of them over several pages.
    pub fn sqlite_of(count: usize) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rpmdb.sqlite");
        let db = Connection::open(&path).unwrap();
        db.execute_batch(
            "CREATE TABLE 'Other' (x INTEGER);
             CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL);",
        )
        .unwrap();
        for n in 0..count {
            let (name, source) = (format!("lib{n}"), format!("src{n}-1.0-3.el9.src.rpm"));
            let mut tags = vec![
                (TAG_NAME, &*name),
                (TAG_VERSION, "1.0"),
                (TAG_RELEASE, "3.el9"),
                (TAG_ARCH, "x86_64"),
                (TAG_SOURCE_RPM, &*source),
            ];
            if n % 2 == 1 {
                tags.push((TAG_EPOCH, "2"));
            }
            let blob = header_of(&tags, 4 * 1500 * (n % 5));
            db.execute("INSERT INTO Packages (blob) VALUES (?1)", [blob]).unwrap();
        }
        drop(db);
        std::fs::read(path).unwrap()
    }

    #[test]
    fn tables_of_sqlite_are_read_with_pages_of_overflow() {
        for count in [0, 1, 300] {
            let found = rpm_sqlite(&sqlite_of(count)).unwrap();
            assert_eq!(found.len(), count);
            for n in 0..count {
                let package = found.iter().find(|one| one.name == format!("lib{n}")).unwrap();
                let version = if n % 2 == 1 { "2:1.0-3.el9" } else { "1.0-3.el9" };
                assert_eq!(package.version, version);
                assert_eq!(package.source, Some((format!("src{n}"), version.to_owned())));
            }
        }
        assert!(rpm_sqlite(b"no database").is_none());
    }

    #[test]
    fn a_database_whose_pages_are_a_circle_ends() {
        let mut bytes = sqlite_of(300);
        let page = be(&bytes, 16, 2).unwrap() as usize;
        let interior: Vec<_> = (1..bytes.len() / page).filter(|n| bytes[n * page] == 5).collect();
        for n in &interior {
            let own = (*n as u32 + 1).to_be_bytes();
            bytes[n * page + 8..n * page + 12].copy_from_slice(&own);
        }
        assert!(!interior.is_empty());
        assert!(rpm_sqlite(&bytes).is_none());
    }

    #[test]
    fn slots_of_suse_are_read() {
        let tags = [(TAG_NAME, "bash"), (TAG_VERSION, "5.2"), (TAG_RELEASE, "1.1")];
        let blob = header_of(&tags, 0);
        let mut bytes = b"RpmP".to_vec();
        bytes.extend([[0u8; 4], [1, 0, 0, 0], [1, 0, 0, 0]].concat());
        bytes.resize(32, 0);
        bytes.extend(b"Slot");
        bytes.extend([[1u8, 0, 0, 0], 256u32.to_le_bytes(), [9, 0, 0, 0]].concat());
        bytes.resize(4096, 0);
        bytes.extend(b"BlbS");
        bytes.extend([[1u8, 0, 0, 0], [7, 0, 0, 0], (blob.len() as u32).to_le_bytes()].concat());
        bytes.extend(&blob);
        let found = rpm_ndb(&bytes).unwrap();
        assert_eq!((&*found[0].name, &*found[0].version), ("bash", "5.2-1.1"));
        assert!(rpm_ndb(b"other").is_none());
        for length in 0..bytes.len() {
            rpm_ndb(&bytes[..length]);
        }
    }
}
