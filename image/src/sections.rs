use std::borrow::Cow;

use wasmparser::{BinaryReader, BinaryReaderError};

/// The types of functions.
pub const TYPES: u8 = 1;
/// What the module imports.
pub const IMPORTS: u8 = 2;
/// The type of each function.
pub const FUNCTIONS: u8 = 3;
/// The linear memories.
pub const MEMORIES: u8 = 5;
/// The global variables.
pub const GLOBALS: u8 = 6;
/// What the module exports.
pub const EXPORTS: u8 = 7;
/// The body of each function.
pub const CODE: u8 = 10;
/// What is in memory at the start.
pub const DATA: u8 = 11;

/// A core module, or a component, as its sections, to change some of them and leave the others byte
/// for byte.
#[derive(Debug)]
pub struct Sections<'a> {
    head: &'a [u8],
    list: Vec<(u8, Cow<'a, [u8]>)>,
}

impl<'a> Sections<'a> {
    /// The sections of `module`, whose content is not looked at.
    ///
    /// # Errors
    /// Where the bytes break off.
    pub fn of(module: &'a [u8]) -> Result<Self, BinaryReaderError> {
        let mut reader = BinaryReader::new(module, 0);
        let head = reader.read_bytes(8)?;
        let mut list = vec![];
        while !reader.eof() {
            let id = reader.read_u8()?;
            let len = reader.read_var_u32()?;
            list.push((id, Cow::Borrowed(reader.read_bytes(len as usize)?)));
        }
        Ok(Self { head, list })
    }

    /// The content of the first section with that number.
    pub fn get(&self, id: u8) -> Option<&[u8]> {
        self.list.iter().find(|section| section.0 == id).map(|section| &*section.1)
    }

    /// Puts `content` in the place of the first section with that number, where there is one.
    pub fn replace(&mut self, id: u8, content: Vec<u8>) {
        if let Some(section) = self.list.iter_mut().find(|section| section.0 == id) {
            section.1 = Cow::Owned(content);
        }
    }

    /// All sections in order, each with its place, its number and its content.
    pub fn iter(&self) -> impl Iterator<Item = (usize, u8, &[u8])> {
        self.list.iter().enumerate().map(|(place, (id, content))| (place, *id, &**content))
    }

    /// Puts `content` in the section at this place.
    ///
    /// # Panics
    /// When there is no such place.
    pub fn set(&mut self, place: usize, content: Vec<u8>) {
        self.list[place].1 = Cow::Owned(content);
    }

    /// Adds `entry` to the list that is the section with that number, and says how many entries
    /// there were; `None` where there is no such section.
    ///
    /// # Errors
    /// Where the section does not begin with a count.
    pub fn push(&mut self, id: u8, entry: &[u8]) -> Result<Option<u32>, BinaryReaderError> {
        let Some(content) = self.get(id) else { return Ok(None) };
        let mut reader = BinaryReader::new(content, 0);
        let count = reader.read_var_u32()?;
        let rest = &content[reader.original_position()..];
        let content = [leb(count.wrapping_add(1)).as_slice(), rest, entry].concat();
        self.replace(id, content);
        Ok(Some(count))
    }

    /// The module again.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.head.to_vec();
        for (id, content) in &self.list {
            out.push(*id);
            out.extend(leb(content.len() as u32));
            out.extend(&**content);
        }
        out
    }
}

/// A number as a module has it.
pub fn leb(mut value: u32) -> Vec<u8> {
    let mut out = vec![];
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(byte);
            return out;
        }
        out.push(byte | 0x80);
    }
}

/// A number as the operand of `i32.const`.
pub fn signed_leb(value: u32) -> Vec<u8> {
    let (mut value, mut out) = (value as i32, vec![]);
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if (value == 0 && byte & 0x40 == 0) || (value == -1 && byte & 0x40 != 0) {
            out.push(byte);
            return out;
        }
        out.push(byte | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_changed_stays() {
        let module = wat::parse_str(r#"(module (type (func)) (memory 1) (func) (data "cats"))"#);
        let module = module.expect("a module");
        let mut sections = Sections::of(&module).expect("sections");
        assert_eq!(sections.to_bytes(), module);
        assert_eq!(sections.push(TYPES, &[0x60, 0, 0]).expect("a list"), Some(1));
        assert_eq!(sections.get(TYPES), Some(&[2, 0x60, 0, 0, 0x60, 0, 0][..]));
        assert_eq!(sections.push(GLOBALS, &[]).expect("no list"), None);
        wasmparser::validate(&sections.to_bytes()).expect("a module");
    }

    #[test]
    fn broken_bytes_are_an_error() {
        for bytes in [&b""[..], b"\0asm\x01\0\0", b"\0asm\x01\0\0\0\x01\x09\x01"] {
            assert!(Sections::of(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn operands_are_signed() {
        for (value, want) in
            [(0, &[0][..]), (63, &[63]), (64, &[0xc0, 0]), (1 << 20, &[0x80, 0x80, 0xc0, 0])]
        {
            assert_eq!(signed_leb(value), want, "{value}");
        }
    }
}
