//! WASI 0.1 modules as components, so that they too see the union filesystem and nothing else.
//!
//! The adapter that wasmtime publishes knows success and failure only, because `wasi:cli/exit` of
//! WASI 0.2 does. To keep a program's exit code, its import of `proc_exit` is renamed to an
//! interface of margay's with the same signature before the adapter is linked in. The same is done
//! with its socket calls, so that a program that makes one gets an error and its log says why.

use wasmparser::{Encoding, Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::go_memory;
use crate::engine::{EXIT_FUNCTION, EXIT_INTERFACE, SOCKET_FUNCTIONS, SOCKETS_INTERFACE};

const PREVIEW1: &str = "wasi_snapshot_preview1";

const WIT: &str = "
    package margay:process;
    interface exit { exit-with-code: func(code: u32); }
    interface sockets {
        accept: func(fd: u32, bits: u32, out: u32) -> u32;
        receive: func(
            fd: u32, data: u32, len: u32, bits: u32, out-len: u32, out-flags: u32,
        ) -> u32;
        send: func(fd: u32, data: u32, len: u32, bits: u32, out-len: u32) -> u32;
        shutdown: func(fd: u32, how: u32) -> u32;
    }
    world adapted { import exit; import sockets; }
";

/// A component that does what `module` does.
///
/// # Errors
/// A sentence on what the module imports that does not exist, or what else is wrong with it.
pub(super) fn componentize(module: &[u8]) -> Result<Vec<u8>, String> {
    let mut module = with_own_interfaces(module)?;
    if let Some(apart) = go_memory::apart(&module).map_err(|e| e.to_string())? {
        module = apart;
    }
    let mut resolve = Resolve::default();
    let package = resolve.push_str("margay.wit", WIT).map_err(|e| format!("{e:#}"))?;
    let world = resolve.select_world(&[package], None).map_err(|e| format!("{e:#}"))?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .map_err(|e| format!("{e:#}"))?;
    ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|encoder| {
            let adapter =
                wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER;
            encoder.adapter(PREVIEW1, adapter)
        })
        .and_then(|mut encoder| encoder.encode())
        .map_err(|e| format!("{e:#}"))
}

/// `module` with the imports that margay answers itself under their new names. Everything else
/// stays byte for byte.
fn with_own_interfaces(module: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(module.len() + 64);
    let mut copied = 0;
    for payload in Parser::new(0).parse_all(module) {
        match payload.map_err(|e| e.to_string())? {
            Payload::Version { encoding: Encoding::Component, .. } => {
                return Err("it is a component".to_owned());
            }
            Payload::ImportSection(section) => {
                let range = section.range();
                // Back over the section's head: its id, one byte, and its length as it was written.
                let head = 1 + leb_len_before(module, range.start, range.len())?;
                out.extend(&module[copied..range.start - head]);
                let body = renamed_imports(module, &section)?;
                out.push(2);
                leb(&mut out, body.len());
                out.extend(body);
                copied = range.end;
            }
            _ => {}
        }
    }
    out.extend(&module[copied..]);
    Ok(out)
}

/// How many bytes before `at` hold `value` as LEB128: writers may pad.
fn leb_len_before(module: &[u8], at: usize, value: usize) -> Result<usize, String> {
    (1..=5)
        .find(|len| {
            let bytes = at.checked_sub(*len).map(|from| &module[from..at]);
            bytes.is_some_and(|bytes| {
                let (last, more) = bytes.split_last().expect("one byte or more");
                let continues = more.iter().all(|b| b & 0x80 != 0) && last & 0x80 == 0;
                let number = bytes.iter().rev().fold(0u64, |n, b| n << 7 | u64::from(b & 0x7f));
                continues && number == value as u64
            })
        })
        .ok_or_else(|| "its import section has no length".to_owned())
}

fn renamed_imports(
    module: &[u8],
    section: &wasmparser::ImportSectionReader<'_>,
) -> Result<Vec<u8>, String> {
    let range = section.range();
    let mut reader = wasmparser::BinaryReader::new(&module[range.clone()], range.start);
    let wrong = |e: wasmparser::BinaryReaderError| e.to_string();
    let count = reader.read_var_u32().map_err(wrong)?;
    let mut out = Vec::with_capacity(range.len() + 64);
    leb(&mut out, count as usize);
    for _ in 0..count {
        let (from, name) =
            (reader.read_string().map_err(wrong)?, reader.read_string().map_err(wrong)?);
        let kind_at = reader.original_position();
        let _: wasmparser::TypeRef = reader.read().map_err(wrong)?;
        let kind = &module[kind_at..reader.original_position()];
        let (from, name) = match (from, name) {
            (PREVIEW1, "proc_exit") => (EXIT_INTERFACE, EXIT_FUNCTION),
            (PREVIEW1, name) => match SOCKET_FUNCTIONS.iter().find(|(theirs, _)| *theirs == name) {
                Some((_, function)) => (SOCKETS_INTERFACE, *function),
                None => (PREVIEW1, name),
            },
            other => other,
        };
        for text in [from, name] {
            leb(&mut out, text.len());
            out.extend(text.as_bytes());
        }
        out.extend(kind);
    }
    Ok(out)
}

fn leb(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            return out.push(byte);
        }
        out.push(byte | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXITS: &str = r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
        (memory (export "memory") 1)
        (func (export "_start") (call $exit (i32.const 3))))"#;

    #[test]
    fn a_module_becomes_a_component_that_exits_through_us() {
        let component = componentize(&wat::parse_str(EXITS).unwrap()).unwrap();
        assert_eq!(&component[..8], b"\0asm\x0d\0\x01\0");
        let text = String::from_utf8_lossy(&component);
        assert!(text.contains(EXIT_INTERFACE) && text.contains("wasi:cli/run@"));
    }

    #[test]
    fn an_import_that_does_not_exist_is_named() {
        for (import, name) in [
            (r#"(import "env" "launch_missiles" (func))"#, "launch_missiles"),
            (r#"(import "wasi_snapshot_preview1" "sock_teleport" (func))"#, "sock_teleport"),
        ] {
            let module = format!(
                r#"(module {import} (memory (export "memory") 1) (func (export "_start")))"#
            );
            let error = componentize(&wat::parse_str(module).unwrap()).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn broken_bytes_never_panic() {
        let whole = wat::parse_str(EXITS).unwrap();
        for len in 0..whole.len() {
            let _ = componentize(&whole[..len]);
        }
        for at in 8..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            let _ = componentize(&changed);
        }
    }
}
