/// Whether these are the first bytes of a Linux program or library.
pub fn is_elf(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF")
}

/// The content of a section, of a little-endian file of 64 or 32 bits.
pub fn section<'a>(bytes: &'a [u8], wanted: &str) -> Option<&'a [u8]> {
    if !is_elf(bytes) || bytes.get(5) != Some(&1) {
        return None;
    }
    let wide = match bytes.get(4)? {
        1 => false,
        2 => true,
        _ => return None,
    };
    // The place of the table, the size of an entry, the number of entries, that of the names.
    let (table, rest) = match wide {
        true => (number(bytes, 0x28, 8)?, 0x3a),
        false => (number(bytes, 0x20, 4)?, 0x2e),
    };
    let [size, count, names] =
        [0, 2, 4].map(|offset| number(bytes, rest + offset, 2).unwrap_or_default());
    let header = |index: u64| -> Option<(u64, u64, u64)> {
        let at = table.checked_add(index.checked_mul(size)?)?;
        let (width, offset) = if wide { (8, 0x18) } else { (4, 0x10) };
        let name = number(bytes, at, 4)?;
        let place = number(bytes, at.checked_add(offset)?, width)?;
        let length = number(bytes, at.checked_add(offset + width)?, width)?;
        Some((name, place, length))
    };
    let content = |place: u64, length: u64| {
        let start = usize::try_from(place).ok()?;
        bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?)
    };
    let (_, place, length) = header(names)?;
    let names = content(place, length)?;
    (0..count).find_map(|index| {
        let (name, place, length) = header(index)?;
        let name = names.get(usize::try_from(name).ok()?..)?;
        let is_it =
            name.strip_prefix(wanted.as_bytes()).is_some_and(|rest| rest.first() == Some(&0));
        content(place, length).filter(|_| is_it)
    })
}

fn number(bytes: &[u8], at: u64, width: u64) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let part = bytes.get(at..at.checked_add(width as usize)?)?;
    Some(part.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
pub(in crate::scan) mod tests {
    use super::*;

    /// A file with one section of this name, and the one of names.
    pub fn with_section(name: &str, content: &[u8]) -> Vec<u8> {
        let names = [b"\0", name.as_bytes(), b"\0"].concat();
        let (content_at, names_at) = (64u64, 64 + content.len() as u64);
        let table = names_at + names.len() as u64;
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(0x28, 0);
        bytes.extend(table.to_le_bytes());
        bytes.resize(0x3a, 0);
        for half in [64u16, 2, 1] {
            bytes.extend(half.to_le_bytes());
        }
        bytes.extend(content);
        bytes.extend(&names);
        for (name, place, length) in
            [(1u32, content_at, content.len() as u64), (0, names_at, names.len() as u64)]
        {
            let mut header = name.to_le_bytes().to_vec();
            header.resize(0x18, 0);
            header.extend(place.to_le_bytes());
            header.extend(length.to_le_bytes());
            header.resize(64, 0);
            bytes.extend(header);
        }
        bytes
    }

    #[test]
    fn a_section_is_found_by_its_whole_name() {
        let bytes = with_section(".dep-v0", b"content");
        assert_eq!(section(&bytes, ".dep-v0"), Some(&b"content"[..]));
        assert_eq!(section(&bytes, ".dep"), None);
        assert_eq!(section(&bytes, ".text"), None);
        for length in 0..bytes.len() {
            section(&bytes[..length], ".dep-v0");
        }
        assert_eq!(section(b"#!/bin/sh", ".dep-v0"), None);
    }
}
