use std::io::{self, Read, Write};

use crate::{
    header::{BLOCK_BYTES, OCTAL_SIZE_MAX},
    limits::{BUFFER_BYTES, PATH_BYTES_MAX},
    path::shown,
};

/// What an entry of an archive has beside its name and its content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The lower twelve bits.
    pub mode: u32,
    /// The user id of its owner.
    pub uid: u32,
    /// Its group id.
    pub gid: u32,
    /// When it was changed, in seconds since 1970.
    pub mtime: i64,
}

/// Writes a tar that [`LayerReader`](crate::LayerReader) and every other reader takes: ustar, and a
/// PAX record in front of what does not fit into it.
pub struct ArchiveWriter<W> {
    out: W,
}

impl<W: Write> ArchiveWriter<W> {
    /// An archive without an entry.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// # Errors
    /// When it cannot be written.
    pub fn folder(&mut self, path: &[u8], attributes: Attributes) -> io::Result<()> {
        self.header(&[path, b"/"].concat(), b'5', 0, b"", attributes)
    }

    /// # Errors
    /// When it cannot be written.
    pub fn symlink(
        &mut self,
        path: &[u8],
        target: &[u8],
        attributes: Attributes,
    ) -> io::Result<()> {
        self.header(path, b'2', 0, target, attributes)
    }

    /// Another name for the file at `target` of this archive.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn hard_link(
        &mut self,
        path: &[u8],
        target: &[u8],
        attributes: Attributes,
    ) -> io::Result<()> {
        self.header(path, b'1', 0, target, attributes)
    }

    /// Exactly `size` bytes, whatever `content` has: of a file that grew meanwhile the rest is left
    /// out, and one that shrank is filled up with zeros.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn file(
        &mut self,
        path: &[u8],
        size: u64,
        content: &mut impl Read,
        attributes: Attributes,
    ) -> io::Result<()> {
        self.header(path, b'0', size, b"", attributes)?;
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            match content.read(&mut buffer[..most]) {
                Ok(0) => break,
                Ok(n) => {
                    self.out.write_all(&buffer[..n])?;
                    left -= n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.zeros(left + size.next_multiple_of(BLOCK_BYTES as u64) - size)
    }

    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.zeros(2 * BLOCK_BYTES as u64)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn zeros(&mut self, mut bytes: u64) -> io::Result<()> {
        while bytes > 0 {
            let n = bytes.min(BLOCK_BYTES as u64);
            self.out.write_all(&[0; BLOCK_BYTES][..n as usize])?;
            bytes -= n;
        }
        Ok(())
    }

    fn header(
        &mut self,
        path: &[u8],
        kind: u8,
        size: u64,
        target: &[u8],
        attributes: Attributes,
    ) -> io::Result<()> {
        if path.len() > PATH_BYTES_MAX || target.len() > PATH_BYTES_MAX {
            let why = format!("`{}` has a name of more than {PATH_BYTES_MAX} bytes", shown(path));
            return Err(io::Error::new(io::ErrorKind::InvalidFilename, why));
        }
        write_header(&mut self.out, path, kind, size, target, attributes)
    }
}

/// The largest number that 7 octal digits hold.
const ID_MAX: u32 = 0o777_7777;

/// Writes the header of one entry, with a PAX record in front of it where something does not fit.
/// `kind` is its type flag. The content, and zeros up to the next 512 bytes, are the caller's.
///
/// # Errors
/// When it cannot be written.
pub fn write_header(
    out: &mut impl Write,
    name: &[u8],
    kind: u8,
    size: u64,
    target: &[u8],
    attributes: Attributes,
) -> io::Result<()> {
    let (prefix, short) = split_name(name).unwrap_or((b"", shortened(name, 100)));
    let mut records = Vec::new();
    if split_name(name).is_none() {
        records.extend(record("path", name));
    }
    if target.len() > 100 {
        records.extend(record("linkpath", target));
    }
    if size > OCTAL_SIZE_MAX {
        records.extend(record("size", size.to_string().as_bytes()));
    }
    for (name, id) in [("uid", attributes.uid), ("gid", attributes.gid)] {
        if id > ID_MAX {
            records.extend(record(name, id.to_string().as_bytes()));
        }
    }
    if attributes.mtime < 0 || attributes.mtime.unsigned_abs() > OCTAL_SIZE_MAX {
        records.extend(record("mtime", attributes.mtime.to_string().as_bytes()));
    }
    if !records.is_empty() {
        let own = Attributes { mode: 0o644, ..Attributes::default() };
        let size = records.len();
        out.write_all(&block(b"", b"PaxHeaders/record", b'x', size as u64, b"", own))?;
        records.resize(size.next_multiple_of(BLOCK_BYTES), 0);
        out.write_all(&records)?;
    }
    let fitting = if size > OCTAL_SIZE_MAX { 0 } else { size };
    out.write_all(&block(prefix, short, kind, fitting, shortened(target, 100), attributes))
}

/// The name in the two fields of ustar, if it fits: at most 155 bytes, a `/` that is not written,
/// and at most 100.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if !name.is_ascii() {
        return None; // ustar is for ASCII; everything else goes into a PAX record
    }
    if name.len() <= 100 {
        return Some((b"", name));
    }
    let fits = |at: &usize| {
        let is_slash = name[*at] == b'/';
        is_slash && *at > 0 && *at <= 155 && (1..=100).contains(&(name.len() - at - 1))
    };
    (0..name.len()).rev().find(fits).map(|at| (&name[..at], &name[at + 1..]))
}

/// At most `bytes_max` bytes of `text`, cut between the characters of UTF-8.
fn shortened(text: &[u8], bytes_max: usize) -> &[u8] {
    let is_boundary =
        |end: &usize| text.get(*end).is_none_or(|byte| byte & 0b1100_0000 != 0b1000_0000);
    let end = (0..=text.len().min(bytes_max)).rev().find(is_boundary).unwrap_or(0);
    &text[..end]
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts itself.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let mut length = rest.len() + 1;
    while length != length.to_string().len() + rest.len() {
        length = length.to_string().len() + rest.len();
    }
    [length.to_string().as_bytes(), &rest].concat()
}

fn block(
    prefix: &[u8],
    name: &[u8],
    kind: u8,
    size: u64,
    target: &[u8],
    attributes: Attributes,
) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name);
    let fitting = |id: u32| if id > ID_MAX { 0 } else { id };
    let mtime = u64::try_from(attributes.mtime).unwrap_or(0);
    let mtime = if mtime > OCTAL_SIZE_MAX { 0 } else { mtime };
    put(100, format!("{:07o}", attributes.mode & 0o7777).as_bytes());
    put(108, format!("{:07o}", fitting(attributes.uid)).as_bytes());
    put(116, format!("{:07o}", fitting(attributes.gid)).as_bytes());
    put(124, format!("{size:011o}").as_bytes());
    put(136, format!("{mtime:011o}").as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(157, target);
    put(257, b"ustar\x0000");
    put(329, b"0000000");
    put(337, b"0000000");
    put(345, prefix);
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Budget, EntryKind, LayerReader};

    #[test]
    fn what_is_written_is_read_as_it_was() {
        let mut archive = ArchiveWriter::new(Vec::new());
        let with = |mode, uid, mtime| Attributes { mode, uid, gid: 7, mtime };
        let long = format!("d/{}", "ü".repeat(100)).into_bytes();
        let target = "../".repeat(60).into_bytes();
        archive.folder(b"d", with(0o755, 0, -5)).unwrap();
        let id = 4_000_000_000;
        archive.file(&long, 5, &mut &b"12345678"[..], with(0o640, id, 1)).unwrap();
        archive.file(b"d/caf\xe9", 600, &mut &b"abc"[..], with(0o4755, 1, 1 << 40)).unwrap();
        archive.symlink(b"d/link", &target, with(0o777, 0, 0)).unwrap();
        archive.hard_link(b"d/hard", b"d/caf\xe9", with(0o777, 0, 0)).unwrap();
        let bytes = archive.finish().unwrap();
        let mut reader = LayerReader::new(&bytes[..], Budget::default()).unwrap();
        let mut seen = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            let mut content = Vec::new();
            reader.content().read_to_end(&mut content).unwrap();
            assert_eq!(entry.gid, 7, "{}", entry.shown_path());
            seen.push((entry.path, entry.kind, entry.mode, entry.uid, entry.mtime, content));
        }
        assert!(reader.has_end_mark());
        reader.finish().unwrap();
        let mut padded = b"abc".to_vec();
        padded.resize(600, 0);
        let (link, none) = (EntryKind::Symlink { target }, Vec::new());
        let hard = EntryKind::Hardlink { target: b"d/caf\xe9".to_vec() };
        assert_eq!(
            seen,
            [
                (b"d".to_vec(), EntryKind::Directory, 0o755, 0, -5, none.clone()),
                (long, EntryKind::File, 0o640, id, 1, b"12345".to_vec()),
                (b"d/caf\xe9".to_vec(), EntryKind::File, 0o4755, 1, 1 << 40, padded),
                (b"d/link".to_vec(), link, 0o777, 0, 0, none.clone()),
                (b"d/hard".to_vec(), hard, 0o777, 0, 0, none),
            ]
        );
    }

    #[test]
    fn an_archive_that_was_cut_between_two_entries_has_no_end_mark() {
        let mut archive = ArchiveWriter::new(Vec::new());
        archive.file(b"a", 0, &mut io::empty(), Attributes::default()).unwrap();
        let bytes = archive.finish().unwrap();
        let mut reader = LayerReader::new(&bytes[..512], Budget::default()).unwrap();
        while reader.next_entry().unwrap().is_some() {}
        assert!(!reader.has_end_mark());
    }

    #[test]
    fn a_name_that_no_file_system_has_is_refused() {
        let mut archive = ArchiveWriter::new(Vec::new());
        let name = vec![b'x'; PATH_BYTES_MAX + 1];
        let error = archive.folder(&name, Attributes::default()).unwrap_err();
        assert!(error.to_string().contains("4096"), "{error}");
    }
}
