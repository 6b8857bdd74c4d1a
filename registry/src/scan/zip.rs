//! The entries of a zip archive, one after another.

use std::io::{Read, Seek, SeekFrom};

use flate2::read::DeflateDecoder;

use crate::limits::{ZIP_ENTRIES_MAX, ZIP_ENTRY_BYTES_MAX};

const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";
const ENTRY: &[u8] = b"PK\x01\x02";
const END_BYTES: u64 = 22;
const LOCATOR_BYTES: u64 = 20;
const COMMENT_BYTES_MAX: u64 = 65_535;
const STORED: u64 = 0;
const DEFLATED: u64 = 8;

/// Hands over the name and the bytes of each file of an archive.
///
/// # Errors
/// In words, when it is no archive of zip, or damaged; and what `found` says.
///
/// # Spec
/// PKWARE APPNOTE 6.3.
pub(crate) fn entries(
    mut archive: impl Read + Seek,
    mut found: impl FnMut(&str, Vec<u8>) -> Result<(), String>,
) -> Result<(), String> {
    let (count, start) = directory(&mut archive).ok_or("it is no archive of zip")?;
    if count > ZIP_ENTRIES_MAX {
        return Err(format!("it has more than {ZIP_ENTRIES_MAX} files"));
    }
    let mut at = start;
    for _ in 0..count {
        let damaged = "the list of its files is damaged";
        let head = read(&mut archive, at, 46).ok_or(damaged)?;
        if !head.starts_with(ENTRY) {
            return Err(damaged.to_owned());
        }
        let [name, extra, comment] = [28, 30, 32].map(|place| le(&head, place, 2));
        let tail = read(&mut archive, at + 46, name + extra).ok_or(damaged)?;
        let (name_bytes, extra_bytes) = tail.split_at(name as usize);
        let text = String::from_utf8_lossy(name_bytes).into_owned();
        at += 46 + name + extra + comment;
        if text.ends_with('/') {
            continue;
        }
        let (size, packed, place) = numbers(&head, extra_bytes);
        let content = content(&mut archive, le(&head, 10, 2), (size, packed, place));
        found(&text, content.map_err(|why| format!("`{text}` {why}"))?)?;
    }
    Ok(())
}

/// The number of entries, and where their list begins.
fn directory(archive: &mut (impl Read + Seek)) -> Option<(u64, u64)> {
    let length = archive.seek(SeekFrom::End(0)).ok()?;
    let from = length.saturating_sub(END_BYTES + COMMENT_BYTES_MAX);
    let tail = read(archive, from, length - from)?;
    let end = memchr::memmem::rfind(&tail, END)?;
    let record = tail.get(end..end + END_BYTES as usize)?;
    let (count, start) = (le(record, 10, 2), le(record, 16, 4));
    if count != 0xffff && start != 0xffff_ffff {
        return Some((count, start));
    }
    let locator = read(archive, (from + end as u64).checked_sub(LOCATOR_BYTES)?, LOCATOR_BYTES)?;
    if !locator.starts_with(LOCATOR_64) {
        return Some((count, start));
    }
    let record = read(archive, le(&locator, 8, 8), 56)?;
    record.starts_with(END_64).then(|| (le(&record, 32, 8), le(&record, 48, 8)))
}

/// Size, size in the archive, and place of an entry; those that do not fit are in its extra field.
fn numbers(head: &[u8], extra: &[u8]) -> (u64, u64, u64) {
    let mut values = [le(head, 24, 4), le(head, 20, 4), le(head, 42, 4)];
    let mut rest = extra;
    while rest.len() >= 4 {
        let (kind, length) = (le(rest, 0, 2), le(rest, 2, 2) as usize);
        let Some(mut wide) = rest.get(4..4 + length) else { break };
        if kind == 1 {
            for value in values.iter_mut().filter(|value| **value == 0xffff_ffff) {
                if wide.len() >= 8 {
                    *value = le(wide, 0, 8);
                    wide = &wide[8..];
                }
            }
        }
        rest = &rest[4 + length..];
    }
    (values[0], values[1], values[2])
}

fn content(
    archive: &mut (impl Read + Seek),
    method: u64,
    (size, packed, place): (u64, u64, u64),
) -> Result<Vec<u8>, String> {
    if size > ZIP_ENTRY_BYTES_MAX {
        return Err(format!("has more than {ZIP_ENTRY_BYTES_MAX} bytes"));
    }
    let head = read(archive, place, 30).ok_or("is cut short")?;
    let start = place + 30 + le(&head, 26, 2) + le(&head, 28, 2);
    archive.seek(SeekFrom::Start(start)).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let limited = archive.by_ref().take(packed);
    let read = match method {
        STORED => { limited }.read_to_end(&mut bytes),
        DEFLATED => DeflateDecoder::new(limited).take(size + 1).read_to_end(&mut bytes),
        _ => return Err("is compressed in a way that is not known".to_owned()),
    };
    match read {
        Ok(n) if n as u64 == size => Ok(bytes),
        Ok(_) | Err(_) => Err("is damaged".to_owned()),
    }
}

fn read(archive: &mut (impl Read + Seek), at: u64, length: u64) -> Option<Vec<u8>> {
    archive.seek(SeekFrom::Start(at)).ok()?;
    let mut bytes = Vec::new();
    archive.by_ref().take(length).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 == length).then_some(bytes)
}

fn le(bytes: &[u8], at: usize, width: usize) -> u64 {
    bytes[at..at + width].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{Cursor, Write as _};

    use flate2::{Compression, write::DeflateEncoder};

    use super::*;

    /// An archive with these files, every other one compressed.
    pub fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
        let (mut out, mut list) = (Vec::new(), Vec::new());
        for (number, (name, content)) in files.iter().enumerate() {
            let method = if number % 2 == 0 { DEFLATED as u16 } else { 0 };
            let packed = match method {
                0 => content.clone(),
                _ => {
                    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
                    encoder.write_all(content).unwrap();
                    encoder.finish().unwrap()
                }
            };
            let place = out.len() as u32;
            let mut common = vec![20, 0, 0, 0];
            common.extend(method.to_le_bytes());
            common.extend([0; 8]);
            common.extend((packed.len() as u32).to_le_bytes());
            common.extend((content.len() as u32).to_le_bytes());
            common.extend((name.len() as u16).to_le_bytes());
            common.extend([0; 2]);
            out.extend(b"PK\x03\x04");
            out.extend(&common);
            out.extend(name.as_bytes());
            out.extend(packed);
            list.extend(ENTRY);
            list.extend([20, 0]);
            list.extend(common);
            list.extend([0; 10]);
            list.extend(place.to_le_bytes());
            list.extend(name.as_bytes());
        }
        let (start, count) = (out.len() as u32, (files.len() as u16).to_le_bytes());
        out.extend(&list);
        out.extend(END);
        out.extend([0; 4]);
        out.extend([count, count].concat());
        out.extend((list.len() as u32).to_le_bytes());
        out.extend(start.to_le_bytes());
        out.extend([0; 2]);
        out
    }

    fn read_all(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
        let mut all = Vec::new();
        entries(Cursor::new(bytes), |name, content| {
            all.push((name.to_owned(), content));
            Ok(())
        })?;
        Ok(all)
    }

    #[test]
    fn files_are_read_whether_they_are_compressed_or_not() {
        let files = [
            ("a.json".to_owned(), b"{}".to_vec()),
            ("folder/b.json".to_owned(), vec![b'x'; 100_000]),
            ("c.json".to_owned(), vec![b'y'; 100_000]),
        ];
        let bytes = archive(&files);
        assert_eq!(read_all(&bytes).unwrap(), files);
        for length in (0..bytes.len()).step_by(7) {
            read_all(&bytes[..length]).unwrap_err();
        }
        assert_eq!(read_all(b"no archive").unwrap_err(), "it is no archive of zip");
    }

    #[test]
    fn an_entry_that_is_longer_than_it_says_is_refused() {
        let mut bytes = archive(&[("a.json".to_owned(), vec![b'x'; 1000])]);
        let at = memchr::memmem::rfind(&bytes, ENTRY).unwrap();
        bytes[at + 24..at + 28].copy_from_slice(&10u32.to_le_bytes());
        assert_eq!(read_all(&bytes).unwrap_err(), "`a.json` is damaged");
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0xff;
            let _ = read_all(&changed);
        }
    }
}
