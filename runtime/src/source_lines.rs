//! From which line of which source file the code at a place in a component was made: a table that
//! the preparer makes of a program's debugging information, and that a worker looks into when its
//! guest breaks, and at no other time. Programs without such information have none.

use std::{collections::HashMap, iter::once};

use bytes::Bytes;

use crate::limits::{SOURCE_FILES_MAX, SOURCE_LINES_MAX, SOURCE_PATH_CHARS_MAX};

/// Numbers are little-endian and have 32 bits: how many rows and how many files there are, the
/// rows, and where in the text behind them each file's path ends.
const WORD: usize = 4;
const HEAD: usize = 2 * WORD;
/// Where in the component, the file's number, the line. It holds up to the next row.
const ROW: usize = 3 * WORD;

/// A line of a source file; 0 where the compiler made code of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line {
    pub file: u32,
    pub line: u32,
}

impl Line {
    pub const NONE: Self = Self { file: 0, line: 0 };
}

/// A table while it is made.
#[derive(Debug, Default)]
pub(crate) struct SourceLinesBuilder {
    rows: Vec<(u32, Line)>,
    files: HashMap<String, u32>,
}

impl SourceLinesBuilder {
    /// The number of a source file; `None` when there are too many.
    pub fn file(&mut self, path: &str) -> Option<u32> {
        let path = last_of(path);
        let next = self.files.len() as u32;
        match self.files.get(&path) {
            Some(number) => Some(*number),
            None if self.files.len() == SOURCE_FILES_MAX => None,
            None => Some(*self.files.entry(path).or_insert(next)),
        }
    }

    /// The code from `offset` is that of `line`. To be called with rising offsets. What does not
    /// fit any more has no line.
    pub fn add(&mut self, offset: usize, line: Line) {
        let Ok(offset) = u32::try_from(offset) else { return };
        match self.rows.len() {
            ..SOURCE_LINES_MAX => self.rows.push((offset, line)),
            SOURCE_LINES_MAX => self.rows.push((offset, Line::NONE)),
            _ => {}
        }
    }

    /// The table; `None` when nothing has a line.
    pub fn finish(self) -> Option<Vec<u8>> {
        if self.rows.iter().all(|(_, line)| line.line == 0) {
            return None;
        }
        let mut paths = self.files.into_iter().map(|(path, at)| (at, path)).collect::<Vec<_>>();
        paths.sort_unstable();
        let ends = paths.iter().scan(0, |end, (_, path)| {
            *end += path.len() as u32;
            Some(*end)
        });
        let rows = self.rows.iter().flat_map(|(offset, line)| [*offset, line.file, line.line]);
        let words = once(self.rows.len() as u32).chain(once(paths.len() as u32));
        let words = words.chain(rows).chain(ends);
        let text = paths.iter().flat_map(|(_, path)| path.bytes());
        Some(words.flat_map(u32::to_le_bytes).chain(text).collect())
    }
}

/// The end of a path says more than its start.
fn last_of(path: &str) -> String {
    match path.char_indices().rev().nth(SOURCE_PATH_CHARS_MAX - 1) {
        Some((cut, _)) if cut > 0 => format!("…{}", &path[cut..]),
        _ => path.to_owned(),
    }
}

/// A table that was made; the bytes may be anything.
#[derive(Debug, Default)]
pub(crate) struct SourceLines(Bytes);

impl SourceLines {
    pub fn of(table: Bytes) -> Self {
        Self(table)
    }

    /// `PATH:LINE` of the code at `offset` of the component.
    pub fn at(&self, offset: usize) -> Option<String> {
        let offset = u32::try_from(offset).ok()?;
        let (rows, files) = (self.word(0)? as usize, self.word(WORD)? as usize);
        let (mut low, mut high) = (0, rows);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.word(HEAD + middle * ROW)? <= offset {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        let row = HEAD + low.checked_sub(1)? * ROW;
        let (file, line) = (self.word(row + WORD)? as usize, self.word(row + 2 * WORD)?);
        if line == 0 || file >= files {
            return None;
        }
        let ends = HEAD + rows * ROW;
        let end = |file: usize| Some(self.word(ends + file * WORD)? as usize);
        let start = file.checked_sub(1).map_or(Some(0), end)?;
        let text = ends + files * WORD;
        let path = self.0.get(text + start..text + end(file)?)?;
        Some(format!("{}:{line}", last_of(&String::from_utf8_lossy(path))))
    }

    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.0.get(at..at.checked_add(WORD)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<u8> {
        let mut builder = SourceLinesBuilder::default();
        let main = builder.file("src/main.rs").unwrap();
        let other = builder.file("/home/a/src/other.rs").unwrap();
        assert_eq!(builder.file("src/main.rs"), Some(main));
        for (offset, file, line) in [(10, main, 3), (14, other, 70_000), (20, 0, 0), (30, main, 4)]
        {
            builder.add(offset, Line { file, line });
        }
        builder.finish().unwrap()
    }

    #[test]
    fn a_place_has_the_line_of_the_row_before_it() {
        let lines = SourceLines::of(table().into());
        for (offset, want) in [
            (0, None),
            (9, None),
            (10, Some("src/main.rs:3")),
            (13, Some("src/main.rs:3")),
            (14, Some("/home/a/src/other.rs:70000")),
            (20, None),
            (29, None),
            (30, Some("src/main.rs:4")),
            (usize::MAX, None),
        ] {
            assert_eq!(lines.at(offset).as_deref(), want, "{offset}");
        }
        assert_eq!(SourceLines::default().at(10), None);
    }

    #[test]
    fn a_table_without_a_line_is_none() {
        let mut builder = SourceLinesBuilder::default();
        builder.add(7, Line::NONE);
        assert_eq!(builder.finish(), None);
    }

    #[test]
    fn a_table_has_an_end() {
        let mut builder = SourceLinesBuilder::default();
        let file = builder.file(&"é".repeat(10_000)).unwrap();
        for offset in 1..SOURCE_LINES_MAX + 100 {
            builder.add(offset, Line { file, line: 1 });
        }
        for number in 1..SOURCE_FILES_MAX {
            assert!(builder.file(&number.to_string()).is_some());
        }
        assert_eq!(builder.file("one more"), None);
        let lines = SourceLines::of(builder.finish().unwrap().into());
        assert_eq!(lines.at(1).unwrap().chars().count(), SOURCE_PATH_CHARS_MAX + "…:1".len() - 2);
        assert!(lines.at(SOURCE_LINES_MAX).is_some());
        assert_eq!(lines.at(SOURCE_LINES_MAX + 1), None);
    }

    /// The preparer may have been taken over by the image.
    #[test]
    fn a_broken_table_never_panics() {
        let table = table();
        let ask = |bytes: Vec<u8>| {
            let lines = SourceLines::of(bytes.into());
            for offset in [0, 10, 14, 30, 1 << 31, u32::MAX as usize] {
                let _ = lines.at(offset);
            }
        };
        for len in 0..table.len() {
            ask(table[..len].to_vec());
        }
        for at in 0..table.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let mut broken = table.clone();
                broken[at] = byte;
                ask(broken);
            }
        }
    }
}
