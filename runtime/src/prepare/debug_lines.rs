//! The lines of a program's source, from its debugging information.
//!
//! DWARF says where in the program's code a line begins, and machine code knows where in the
//! component that was compiled it came from. Between the two, modules were put into a component and
//! rewritten, so each function is walked in both forms, instruction by instruction.
//!
//! Only tables of lines are read (`.debug_line`), one after the other and never through what
//! refers to them, so the time is in proportion to their length.
//!
//! Absent on purpose: functions that were put into others, whose frames no longer exist.

use std::{
    collections::HashMap,
    mem::{Discriminant, discriminant},
};

use gimli::{AttributeValue, DebugLine, DebugLineOffset, EndianSlice, LineRow, LittleEndian};
use wasmparser::{BinaryReaderError, Encoding, FunctionBody, Operator, Parser, Payload, TypeRef};

use crate::{
    limits::DEBUG_ROWS_MAX,
    source_lines::{Line, SourceLinesBuilder},
};

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// What a path in debugging information has at most, as on Linux.
const PATH_BYTES_MAX: usize = 4096;
/// Addresses are those of code, which never has more than 4 GiB.
const ADDRESS_BYTES: u8 = 4;

/// The table for `component`, which was made from `program`; `None` when that has no lines.
pub(super) fn table(program: &[u8], component: &[u8]) -> Option<Vec<u8>> {
    // What cannot be read here was refused before, or has no lines.
    let modules = modules(program).ok()?;
    if modules.iter().all(|module| module.lines.is_empty()) {
        return None;
    }
    let mut builder = SourceLinesBuilder::default();
    for (module, compiled) in modules.iter().zip(self::modules(component).ok()?) {
        let rows = module.rows(&mut builder);
        if rows.is_empty() {
            continue;
        }
        for (body, number) in module.bodies.iter().zip(module.imported..) {
            let twin = number.checked_sub(compiled.imported);
            if let Some(twin) = twin.and_then(|at| compiled.bodies.get(at as usize)) {
                // A function that is not the same any more has no lines.
                let _ = walk(&mut builder, &rows, (module.code, body), twin);
            }
        }
    }
    builder.finish()
}

/// A core module of a component, or one that is a program.
#[derive(Default)]
struct Module<'a> {
    /// How many functions it imports: its own are numbered behind them.
    imported: u32,
    /// Where its code begins, which is where its debugging information counts from.
    code: usize,
    bodies: Vec<FunctionBody<'a>>,
    /// `.debug_line`, and where that has its texts.
    lines: &'a [u8],
    line_texts: &'a [u8],
    texts: &'a [u8],
}

/// The modules of a component, or the one that `bytes` are, in order.
fn modules(bytes: &[u8]) -> Result<Vec<Module<'_>>, BinaryReaderError> {
    let mut modules: Vec<Module<'_>> = Vec::new();
    // A component may hold components; `None` for each of those that are open.
    let mut open = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        match &payload {
            Payload::Version { encoding: Encoding::Module, .. } => {
                open.push(Some(modules.len()));
                modules.push(Module::default());
            }
            Payload::Version { encoding: Encoding::Component, .. } => open.push(None),
            Payload::End(_) => {
                open.pop();
            }
            _ => {}
        }
        if let Some(Some(at)) = open.last() {
            modules[*at].take(payload)?;
        }
    }
    Ok(modules)
}

impl<'a> Module<'a> {
    fn take(&mut self, payload: Payload<'a>) -> Result<(), BinaryReaderError> {
        match payload {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    if let TypeRef::Func(_) | TypeRef::FuncExact(_) = import?.ty {
                        self.imported += 1;
                    }
                }
            }
            Payload::CodeSectionStart { range, .. } => self.code = range.start,
            Payload::CodeSectionEntry(body) => self.bodies.push(body),
            Payload::CustomSection(section) => match section.name() {
                ".debug_line" => self.lines = section.data(),
                ".debug_line_str" => self.line_texts = section.data(),
                ".debug_str" => self.texts = section.data(),
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }

    /// Where lines begin, by place in the code. Up to what cannot be read.
    fn rows(&self, builder: &mut SourceLinesBuilder) -> Vec<Row> {
        let mut rows = Vec::new();
        let (mut at, mut left) = (0, self.lines);
        while let Some(bytes) = program_bytes(left) {
            let _ = self.read_program(at, builder, &mut rows);
            (at, left) = (at + bytes, &left[bytes..]);
        }
        // Where one sequence ends another may begin.
        rows.sort_by_key(|row| (row.at, !row.ends));
        rows
    }

    /// One program of lines: usually a file that was compiled.
    fn read_program(
        &self,
        at: usize,
        builder: &mut SourceLinesBuilder,
        rows: &mut Vec<Row>,
    ) -> gimli::Result<()> {
        let section = DebugLine::new(self.lines, LittleEndian);
        let program = section.program(DebugLineOffset(at), ADDRESS_BYTES, None, None)?;
        let mut files = HashMap::new();
        let mut program = program.rows();
        let mut sequence = Vec::new();
        while let Some((header, row)) = program.next_row()? {
            if rows.len() + sequence.len() == DEBUG_ROWS_MAX {
                break;
            }
            let file = *files.entry(row.file_index()).or_insert_with(|| {
                let path = self.path(header, row);
                path.and_then(|path| builder.file(&path))
            });
            sequence.extend(Row::of(row, file));
            if row.end_sequence() {
                // Functions that the linker has left out are at 0, where no code can be.
                let lives = sequence.first().is_some_and(|row| row.at > 0);
                rows.extend(sequence.drain(..).filter(|_| lives));
            }
        }
        Ok(())
    }

    fn path(&self, header: &gimli::LineProgramHeader<Slice<'_>>, row: &LineRow) -> Option<String> {
        let file = row.file(header)?;
        let name = self.text(file.path_name())?;
        let folder = file.directory(header).and_then(|folder| self.text(folder));
        Some(match folder.filter(|folder| !folder.is_empty() && !name.starts_with('/')) {
            Some(folder) => format!("{folder}/{name}"),
            None => name,
        })
    }

    fn text(&self, value: AttributeValue<Slice<'_>>) -> Option<String> {
        let bytes = match &value {
            AttributeValue::String(text) => text.slice(),
            AttributeValue::DebugLineStrRef(at) => self.line_texts.get(at.0..)?,
            AttributeValue::DebugStrRef(at) => self.texts.get(at.0..)?,
            _ => return None,
        };
        let bytes = &bytes[..bytes.len().min(PATH_BYTES_MAX)];
        let end = memchr::memchr(0, bytes).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}

/// How long the program at the start of `section` is, with its length.
fn program_bytes(section: &[u8]) -> Option<usize> {
    let short = u32::from_le_bytes(*section.first_chunk()?);
    let bytes = match short {
        u32::MAX => {
            let long = u64::from_le_bytes(*section.get(4..)?.first_chunk()?);
            usize::try_from(long).ok()?.checked_add(12)?
        }
        _ => short as usize + 4,
    };
    (bytes <= section.len()).then_some(bytes)
}

/// From a place in the code up to the next row.
#[derive(Clone, Copy)]
struct Row {
    at: u32,
    line: Line,
    ends: bool,
}

impl Row {
    fn of(row: &LineRow, file: Option<u32>) -> Option<Self> {
        let line = row.line().and_then(|line| u32::try_from(line.get()).ok());
        let line = match (file, line) {
            (Some(file), Some(line)) if !row.end_sequence() => Line { file, line },
            _ => Line::NONE,
        };
        Some(Self { at: u32::try_from(row.address()).ok()?, line, ends: row.end_sequence() })
    }
}

/// Adds the lines of a function, which begins its module's code at `code`, at the places of its
/// instructions in `twin`.
fn walk<'a>(
    builder: &mut SourceLinesBuilder,
    rows: &[Row],
    (code, body): (usize, &FunctionBody<'a>),
    twin: &FunctionBody<'a>,
) -> Result<(), BinaryReaderError> {
    let (from, to) = (instructions(body)?, instructions(twin)?);
    if !from.iter().map(|(operator, _)| operator).eq(to.iter().map(|(operator, _)| operator)) {
        return Ok(());
    }
    let mut next = rows.partition_point(|row| row.at as usize <= body.range().start - code);
    let mut last = None;
    for ((_, from), (_, to)) in from.iter().zip(&to) {
        let place = from - code;
        next += rows[next..].iter().take_while(|row| row.at as usize <= place).count();
        let line = next.checked_sub(1).map_or(Line::NONE, |at| rows[at].line);
        if last != Some(line) {
            builder.add(*to, line);
            last = Some(line);
        }
    }
    if last != Some(Line::NONE) {
        builder.add(twin.range().end, Line::NONE);
    }
    Ok(())
}

/// Which instructions a function has, and where each is.
fn instructions<'a>(
    body: &FunctionBody<'a>,
) -> Result<Vec<(Discriminant<Operator<'a>>, usize)>, BinaryReaderError> {
    let all = body.get_operators_reader()?.into_iter_with_offsets();
    all.map(|item| item.map(|(operator, at)| (discriminant(&operator), at))).collect()
}

#[cfg(test)]
mod tests;
