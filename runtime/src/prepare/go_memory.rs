//! Memory for the adapter of WASI 0.1 in a program that Go made.
//!
//! The adapter takes a page for its stack and one for its state behind the memory that the module
//! begins with. Go allocates from the end of its data, `runtime.firstmoduledata.end`, and supposes
//! that all memory behind it is its own, so that its heap would lie over both pages. So that end is
//! moved by two pages, which are the adapter's from then on.

use image::{
    CODE, DATA, EXPORTS, FUNCTIONS, GLOBALS, IMPORTS, MEMORIES, Sections, TYPES, leb, signed_leb,
};
use wasmparser::{
    BinaryReader, BinaryReaderError, DataKind, DataSectionReader, ImportSectionReader,
    MemorySectionReader, Operator, TypeRef,
};

/// The head of Go's table of functions since 1.20: a number, then the least size of an instruction
/// and the size of a pointer.
const MARK: &[u8] = b"\xf1\xff\xff\xff\0\0\x01\x08";
const PAGE: u64 = 64 << 10;
/// What the adapter takes: a page for its stack, and one for its state.
const PAGES: u64 = 2;
/// Go's linker leaves so much behind the data, and cuts off what fills no page: 1 MiB, and 16 MiB
/// in older versions.
const SLACK: [u64; 2] = [1 << 20, 16 << 20];
const REALLOC: &[u8] = b"cabi_realloc_adapter";

/// A part of `firstmoduledata`: the addresses where noptrdata, data, bss, noptrbss and covctrs
/// begin and end, in this order since Go 1.20, and then the end of all data.
const BOUNDS: usize = 11;

/// `module` with two pages of its memory apart from the heap of Go; `None` when Go did not make it.
///
/// # Errors
/// Where the bytes break off.
pub(super) fn apart(module: &[u8]) -> Result<Option<Vec<u8>>, BinaryReaderError> {
    let mut sections = Sections::of(module)?;
    let (Some(memory), Some(data)) = (sections.get(MEMORIES), sections.get(DATA)) else {
        return Ok(None);
    };
    if !data.windows(MARK.len()).any(|window| window == MARK) {
        return Ok(None);
    }
    let Some(pages) = only_memory(memory)? else { return Ok(None) };
    let Some((at, end)) = end_of_data(data, pages * PAGE)? else { return Ok(None) };
    let first = end.next_multiple_of(PAGE);
    let mut data = data.to_vec();
    data[at..at + 8].copy_from_slice(&(first + PAGES * PAGE).to_le_bytes());
    sections.replace(DATA, data);
    // As much is behind the data as before.
    sections.replace(MEMORIES, [&[1, 0][..], &leb((pages + PAGES) as u32)].concat());

    let imported = sections.get(IMPORTS).map_or(Ok((0, 0)), imported)?;
    let (functions, globals) = imported;
    let Some(counter) = sections.push(GLOBALS, &[0x7f, 1, 0x41, 0, 0x0b])? else { return Ok(None) };
    let one_for_four = [0x60, 4, 0x7f, 0x7f, 0x7f, 0x7f, 1, 0x7f];
    let Some(realloc_type) = sections.push(TYPES, &one_for_four)? else { return Ok(None) };
    let Some(index) = sections.push(FUNCTIONS, &leb(realloc_type))? else { return Ok(None) };
    let index = leb(functions.wrapping_add(index));
    sections.push(EXPORTS, &[&leb(REALLOC.len() as u32), REALLOC, &[0], &index].concat())?;
    sections.push(CODE, &allocate(first as u32, globals.wrapping_add(counter)))?;
    Ok(Some(sections.to_bytes()))
}

/// The pages that the only memory begins with. Go makes one that has no maximum.
fn only_memory(body: &[u8]) -> Result<Option<u64>, BinaryReaderError> {
    let mut pages = None;
    for memory in MemorySectionReader::new(BinaryReader::new(body, 0))? {
        let memory = memory?;
        let odd = memory.memory64 || memory.shared || memory.maximum.is_some();
        if odd || pages.replace(memory.initial).is_some() {
            return Ok(None);
        }
    }
    Ok(pages.filter(|pages| *pages < u64::from(u16::MAX)))
}

/// Where in `body` the end of the data stands, and what it is; `None` unless exactly one place
/// looks like `firstmoduledata`.
fn end_of_data(body: &[u8], memory: u64) -> Result<Option<(usize, u64)>, BinaryReaderError> {
    let segments = segments(body)?;
    let initialized = segments.iter().map(|(at, _, data)| at + data.len() as u64).max();
    let Some(initialized) = initialized else { return Ok(None) };
    let mut found = None;
    for (address, offset, data) in segments {
        let first = (address.next_multiple_of(8) - address) as usize;
        for start in (first..(data.len() + 1).saturating_sub(8 * BOUNDS)).step_by(8) {
            let words = data[start..start + 8 * BOUNDS].chunks_exact(8);
            let mut bounds = [0; BOUNDS];
            for (bound, word) in bounds.iter_mut().zip(words) {
                *bound = u64::from_le_bytes(word.try_into().expect("a chunk of eight"));
            }
            if are_bounds(&bounds, initialized, memory) {
                let at = offset + start + 8 * (BOUNDS - 1);
                if found.replace((at, bounds[BOUNDS - 1])).is_some() {
                    return Ok(None);
                }
            }
        }
    }
    Ok(found)
}

/// An address, where in the section its bytes are, and the bytes.
type Segment<'a> = (u64, usize, &'a [u8]);

/// What the memory begins with.
fn segments(body: &[u8]) -> Result<Vec<Segment<'_>>, BinaryReaderError> {
    let mut segments = vec![];
    for data in DataSectionReader::new(BinaryReader::new(body, 0))? {
        let data = data?;
        let DataKind::Active { offset_expr, .. } = data.kind else { continue };
        if let Operator::I32Const { value } = offset_expr.get_operators_reader().read()? {
            let offset = data.range.end - data.data.len();
            segments.push((u64::from(value as u32), offset, data.data));
        }
    }
    Ok(segments)
}

/// Sections of a program in order, each with something in it but the counters of coverage: the
/// second is the last that is `initialized`, and the end is as far from that of the memory as the
/// linker puts it.
fn are_bounds(bounds: &[u64; BOUNDS], initialized: u64, memory: u64) -> bool {
    let behind = memory.saturating_sub(bounds[BOUNDS - 1]);
    SLACK.iter().any(|slack| (slack - PAGE + 1..=*slack).contains(&behind))
        && (bounds[2] + 1..=bounds[3]).contains(&initialized)
        && bounds.is_sorted()
        && bounds[..8].chunks_exact(2).all(|pair| pair[0] < pair[1])
}

/// How many functions and how many globals are imported.
fn imported(body: &[u8]) -> Result<(u32, u32), BinaryReaderError> {
    let (mut functions, mut globals) = (0, 0);
    for import in ImportSectionReader::new(BinaryReader::new(body, 0))?.into_imports() {
        match import?.ty {
            TypeRef::Func(_) | TypeRef::FuncExact(_) => functions += 1,
            TypeRef::Global(_) => globals += 1,
            TypeRef::Table(_) | TypeRef::Memory(_) | TypeRef::Tag(_) => {}
        }
    }
    Ok((functions, globals))
}

/// A function that takes what `cabi_realloc` takes and hands out the two pages from `first` on, in
/// steps of 8 bytes, which is the largest alignment. `counter` is the global that counts the bytes.
/// It traps at the end. The adapter makes no allocation longer.
fn allocate(first: u32, counter: u32) -> Vec<u8> {
    let (local_get, local_set, i32_const, i32_add) = (0x20, 0x21, 0x41, 0x6a);
    let (global_get, global_set, i32_and, greater) = (0x23, 0x24, 0x71, 0x4b);
    let (then, unreachable, end) = ([0x04, 0x40], 0x00, 0x0b);
    let (new_size, used) = (3, 4);
    let counter = leb(counter);
    let code: Vec<u8> = [
        &[1, 1, 0x7f][..], // one local, an i32
        // used = counter
        &[global_get],
        &counter,
        &[local_set, used],
        // counter = used + ((new_size + 7) & -8)
        &[local_get, used, local_get, new_size, i32_const, 7, i32_add, i32_const, 0x78, i32_and],
        &[i32_add, global_set],
        &counter,
        // if counter > PAGES * PAGE { unreachable }
        &[global_get],
        &counter,
        &[i32_const],
        &signed_leb((PAGES * PAGE) as u32),
        &[greater],
        &then,
        &[unreachable, end],
        // first + used
        &[i32_const],
        &signed_leb(first),
        &[local_get, used, i32_add, end],
    ]
    .concat();
    [leb(code.len() as u32), code].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prepare::adapter::componentize;

    /// A module with data as Go's linker lays it out: 29 pages of memory, and 14 of data.
    fn module(mark: &str, bounds: &[u64], memory: &str) -> Vec<u8> {
        let words = bounds.iter().flat_map(|word| word.to_le_bytes());
        let words: String = words.map(|byte| format!("\\{byte:02x}")).collect();
        let text = format!(
            r#"(module
                (import "wasi_snapshot_preview1" "random_get" (func (param i32 i32) (result i32)))
                (memory (export "memory") {memory})
                (global (mut i32) (i32.const 0))
                (func (export "_start"))
                (data (i32.const 16) "before")
                (data (i32.const 4096) "{mark}{words}"))"#
        );
        wat::parse_str(text).expect("a module")
    }

    const GO: &str = r"\f1\ff\ff\ff\00\00\01\08........"; // 16 bytes
    const END: u64 = 14 * PAGE - 100;
    const BOUNDS_OF_GO: [u64; BOUNDS] =
        [0x800, 0x1000, 0x1000, 0x1100, 0x1100, 0x5000, 0x5000, 0x6000, 0x6000, 0x6000, END];

    #[test]
    fn the_end_of_gos_data_moves_behind_the_adapters_pages() {
        let given = module(GO, &BOUNDS_OF_GO, "29");
        let apart = apart(&given).expect("sections").expect("made by Go");
        wasmparser::validate(&apart).expect("a module");
        let sections = Sections::of(&apart).expect("sections");
        assert_eq!(only_memory(sections.get(MEMORIES).unwrap()).unwrap(), Some(31));
        // The end is at that of a page now, and nothing is cut off.
        let (_, end) = end_of_data(sections.get(DATA).unwrap(), 32 * PAGE).unwrap().unwrap();
        assert_eq!(end, 16 * PAGE);
        let facts = image::inspect_wasm("it", &apart).expect("a module");
        assert!(facts.exports.iter().any(|name| name.as_bytes() == REALLOC), "{facts:?}");
        componentize(&given).expect("a component");
    }

    #[test]
    fn other_modules_stay_as_they_are() {
        let mut late = BOUNDS_OF_GO;
        late[BOUNDS - 1] = 28 * PAGE;
        let mut empty = BOUNDS_OF_GO;
        empty[1] = empty[0];
        let mut before = BOUNDS_OF_GO;
        (before[2], before[3]) = (0x1000, 0x1004);
        let twice = [BOUNDS_OF_GO, BOUNDS_OF_GO].concat();
        for (what, mark, bounds, memory) in [
            ("no mark", "0123456789abcdef", &BOUNDS_OF_GO[..], "29"),
            ("no space behind the data", GO, &late[..], "29"),
            ("no data", GO, &empty[..], "29"),
            ("data behind what is said to be data", GO, &before[..], "29"),
            ("too short", GO, &BOUNDS_OF_GO[1..], "29"),
            ("two that look so", GO, &twice[..], "29"),
            ("a memory with a maximum", GO, &BOUNDS_OF_GO[..], "29 100"),
        ] {
            assert_eq!(apart(&module(mark, bounds, memory)).unwrap(), None, "{what}");
        }
    }

    #[test]
    fn broken_bytes_never_panic() {
        let whole = module(GO, &BOUNDS_OF_GO, "29");
        for at in 0..whole.len() {
            let _ = apart(&whole[..at]);
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            let _ = apart(&changed);
        }
    }
}
