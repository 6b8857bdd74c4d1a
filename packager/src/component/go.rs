//! Memory that does not come from Go, in a module that Go made.
//!
//! The adapter of WASI 0.1 needs a page for its stack and one for its state before Go can allocate,
//! and may not grow the memory either: Go supposes that all memory behind its data is its own. And
//! where the host writes a list it calls `cabi_realloc`, which may call nothing of the host, while
//! Go calls its clock when it collects garbage. So the package `wasihttp` reserves an array, which
//! begins with [`MARK`], and both get functions that hand it out.

use image::{CODE, DATA, EXPORTS, FUNCTIONS, IMPORTS, Sections, leb, signed_leb};
use wasmparser::{BinaryReader, BinaryReaderError, DataKind, DataSectionReader, Operator};

/// The first bytes of the array.
const MARK: &[u8] = b"margay:adapter:1";

/// A part of the array, and where in the array the count of its used bytes stands.
struct Part {
    counter: u32,
    first: u32,
    len: u32,
}

/// Two pages: the adapter's.
const ADAPTER: Part = Part { counter: 16, first: 32, len: 2 << 16 };
/// What the host writes. `wasihttp` reads it at once, and sets the counter back.
const LISTS: Part = Part { counter: 20, first: 32 + (2 << 16), len: 4 << 16 };

const TYPE_OF_IMPORTED_FUNCTION: u8 = 0;
const REALLOC: &str = "cabi_realloc";
const REALLOC_FOR_ADAPTER: &str = "cabi_realloc_adapter";

/// `module` with memory for the adapter, as it is when it has no such array.
///
/// # Errors
/// A sentence on what is broken.
pub(super) fn with_memory_for_adapter(module: Vec<u8>) -> Result<Vec<u8>, String> {
    let rewritten = rewritten(&module).map_err(|error| error.to_string())?;
    Ok(rewritten.unwrap_or(module))
}

fn rewritten(module: &[u8]) -> Result<Option<Vec<u8>>, BinaryReaderError> {
    let mut sections = Sections::of(module)?;
    let Some(address) = sections.get(DATA).map(address_of_mark).transpose()?.flatten() else {
        return Ok(None);
    };
    let (Some(functions), Some(exports)) = (sections.get(FUNCTIONS), sections.get(EXPORTS)) else {
        return Ok(None);
    };
    let imported = sections.get(IMPORTS).map_or(Ok(0), imported_functions)?;
    let types = function_types(functions)?;
    let realloc = exported_function(exports)?;
    let local = realloc.and_then(|index| index.checked_sub(imported));
    let Some(realloc_type) = local.and_then(|local| types.get(local as usize)) else {
        return Ok(None);
    };
    let new = imported + types.len() as u32;
    let exports = exports_with(exports, new + 1)?;
    sections.replace(EXPORTS, exports);
    for part in [&ADAPTER, &LISTS] {
        sections.push(FUNCTIONS, &leb(*realloc_type))?;
        sections.push(CODE, &allocate(address, part))?;
    }
    let name = REALLOC_FOR_ADAPTER.as_bytes();
    sections.push(EXPORTS, &[&leb(name.len() as u32), name, &[0], &leb(new)].concat())?;
    Ok(Some(sections.to_bytes()))
}

/// Where the array lies.
fn address_of_mark(body: &[u8]) -> Result<Option<u32>, BinaryReaderError> {
    for data in DataSectionReader::new(BinaryReader::new(body, 0))? {
        let data = data?;
        let DataKind::Active { offset_expr, .. } = data.kind else { continue };
        let at = data.data.windows(MARK.len()).position(|window| window == MARK);
        if let (Some(at), Operator::I32Const { value }) =
            (at, offset_expr.get_operators_reader().read()?)
        {
            return Ok(Some((value as u32).wrapping_add(at as u32)));
        }
    }
    Ok(None)
}

fn imported_functions(body: &[u8]) -> Result<u32, BinaryReaderError> {
    let mut reader = BinaryReader::new(body, 0);
    let mut functions = 0;
    for _ in 0..reader.read_var_u32()? {
        let _names = (reader.read_string()?, reader.read_string()?);
        let is_function = body.get(reader.original_position()) == Some(&TYPE_OF_IMPORTED_FUNCTION);
        let _: wasmparser::TypeRef = reader.read()?;
        functions += u32::from(is_function);
    }
    Ok(functions)
}

fn function_types(body: &[u8]) -> Result<Vec<u32>, BinaryReaderError> {
    let mut reader = BinaryReader::new(body, 0);
    (0..reader.read_var_u32()?).map(|_| reader.read_var_u32()).collect()
}

fn exported_function(body: &[u8]) -> Result<Option<u32>, BinaryReaderError> {
    let mut reader = BinaryReader::new(body, 0);
    for _ in 0..reader.read_var_u32()? {
        let export: wasmparser::Export<'_> = reader.read()?;
        if export.name == REALLOC {
            return Ok(Some(export.index));
        }
    }
    Ok(None)
}

/// The exports in `body`, with the function `realloc` as [`REALLOC`].
fn exports_with(body: &[u8], realloc: u32) -> Result<Vec<u8>, BinaryReaderError> {
    let mut reader = BinaryReader::new(body, 0);
    let count = reader.read_var_u32()?;
    let mut out = leb(count);
    for _ in 0..count {
        let start = reader.original_position();
        let export: wasmparser::Export<'_> = reader.read()?;
        if export.name == REALLOC {
            out.extend(leb(REALLOC.len() as u32));
            out.extend(REALLOC.as_bytes());
            out.push(0); // a function
            out.extend(leb(realloc));
        } else {
            out.extend(&body[start..reader.original_position()]);
        }
    }
    Ok(out)
}

/// A function that takes what `cabi_realloc` takes and hands out a part of the array at `address`
/// from its beginning, in steps of 8 bytes, which is the largest alignment. It traps at the end.
/// `old` and `old_size` are not looked at: neither the adapter nor a host makes a list longer.
fn allocate(address: u32, part: &Part) -> Vec<u8> {
    let (local_get, local_set, i32_const, i32_add) = (0x20, 0x21, 0x41, 0x6a);
    let (load, store, greater, then, unreachable, end) =
        ([0x28, 2, 0], [0x36, 2, 0], 0x4b, [0x04, 0x40], 0x00, 0x0b);
    let (new_size, used) = (3, 4);
    let i32_and = 0x71;
    let counter = signed_leb(address.wrapping_add(part.counter));
    let first = signed_leb(address.wrapping_add(part.first));
    let code: Vec<u8> = [
        &[1, 1, 0x7f][..], // one local, an i32
        // used = *counter
        &[i32_const],
        &counter,
        &load,
        &[local_set, used],
        // new_size = (new_size + 7) & -8
        &[local_get, new_size, i32_const, 7, i32_add, i32_const, 0x78, i32_and],
        &[local_set, new_size],
        // *counter = used + new_size
        &[i32_const],
        &counter,
        &[local_get, used, local_get, new_size, i32_add],
        &store,
        // if used + new_size > part.len { unreachable }
        &[local_get, used, local_get, new_size, i32_add, i32_const],
        &signed_leb(part.len),
        &[greater],
        &then,
        &[unreachable, end],
        // first + used
        &[i32_const],
        &first,
        &[local_get, used, i32_add, end],
    ]
    .concat();
    [leb(code.len() as u32), code].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &str = r#"(module
        (import "env" "table" (table 1 funcref))
        (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
        (memory (export "memory") 4)
        (func (export "other"))
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
        (data (i32.const 16) "before")
        (data (i32.const 1021) "...margay:adapter:1"))"#;

    #[test]
    fn the_adapter_gets_the_array() {
        let module = wat::parse_str(MODULE).unwrap();
        let rewritten = with_memory_for_adapter(module).unwrap();
        wasmparser::validate(&rewritten).unwrap();
        let facts = image::inspect_wasm("it", &rewritten).unwrap();
        assert!(facts.exports.contains(&REALLOC_FOR_ADAPTER.to_owned()), "{facts:?}");
        let sections = Sections::of(&rewritten).unwrap();
        assert_eq!(address_of_mark(sections.get(DATA).unwrap()).unwrap(), Some(1024));
        let code = sections.get(CODE).unwrap();
        let both = [allocate(1024, &ADAPTER), allocate(1024, &LISTS)].concat();
        assert!(code.ends_with(&both));
    }

    #[test]
    fn a_module_without_the_array_or_an_allocator_stays_as_it_is() {
        for missing in ["margay:adapter:1", "cabi_realloc"] {
            let module = wat::parse_str(MODULE.replace(missing, "nothing")).unwrap();
            let same = with_memory_for_adapter(module.clone()).unwrap();
            assert_eq!(same, module, "without {missing}");
        }
    }

    #[test]
    fn broken_bytes_never_panic() {
        let whole = wat::parse_str(MODULE).unwrap();
        for at in 0..whole.len() {
            let _ = with_memory_for_adapter(whole[..at].to_vec());
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            let _ = with_memory_for_adapter(changed);
        }
    }
}
