//! HTTP programs that a compiler left as core modules, encoded as components: what `wasm-tools
//! component embed` and `component new` do.
//!
//! Compilers for C and Go make WASI 0.1 modules. One that exports `wasi:http/incoming-handler` by
//! the names of the canonical ABI says with that all that an encoder has to know.

mod go; // memory for the adapter in a module that Go made

use std::sync::Arc;

use wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER;
use wasmparser::{Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::{
    error::Error,
    items::Source,
    layer::spool::Spool,
    limits::{HEAD_BYTES, WASM_BYTES_MAX},
};

/// The world of an app that answers HTTP.
pub(crate) const HTTP_WIT: &str = include_str!("http.wit");
/// The version of WASI in [`HTTP_WIT`]: the newest that the compilers for JavaScript and Python
/// take.
const WIT_VERSION: &str = "0.2.10";
const PREVIEW1: &str = "wasi_snapshot_preview1";
const HANDLER: &str = "wasi:http/incoming-handler@";

/// The program in `source`, as a component when it is a core module that answers HTTP.
///
/// # Errors
/// [`Error::Encode`] when such a module cannot be one.
pub(crate) fn program(what: &str, source: Source, spool: &mut Spool<'_>) -> Result<Source, Error> {
    let is_module = image::sniff(&spool.head(&source, HEAD_BYTES)?) == image::Sniffed::Module;
    if !is_module || source.size() > WASM_BYTES_MAX {
        return Ok(source);
    }
    let module = spool.head(&source, WASM_BYTES_MAX)?;
    let Some(version) = version_of_handler(&module) else { return Ok(source) };
    let encoded =
        encode(module, &version).map_err(|why| Error::Encode { what: what.to_owned(), why })?;
    Ok(Source::Bytes(Arc::from(encoded)))
}

/// The version of the handler that a core module exports. Broken modules are refused later, with a
/// reason.
fn version_of_handler(module: &[u8]) -> Option<String> {
    let sections = Parser::new(0).parse_all(module).map_while(Result::ok);
    let exports = sections.filter_map(|payload| match payload {
        Payload::ExportSection(exports) => Some(exports),
        _ => None,
    });
    exports.flatten().map_while(Result::ok).find_map(|export| {
        let version = export.name.strip_prefix(HANDLER)?.strip_suffix("#handle")?;
        let patch = version.strip_prefix("0.2.")?;
        patch.parse::<u16>().ok().map(|patch| format!("0.2.{patch}"))
    })
}

fn encode(module: Vec<u8>, version: &str) -> Result<Vec<u8>, String> {
    let mut module = go::with_memory_for_adapter(module)?;
    // A generator of bindings may have described the world already.
    if !describes_its_world(&module) {
        let mut resolve = Resolve::default();
        let wit = HTTP_WIT.replace(WIT_VERSION, version);
        let package = resolve.push_str("http.wit", &wit).map_err(|e| format!("{e:#}"))?;
        let world = resolve.select_world(&[package], Some("http")).map_err(|e| format!("{e:#}"))?;
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
            .map_err(|e| format!("{e:#}"))?;
    }
    ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|encoder| encoder.adapter(PREVIEW1, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER))
        .and_then(|mut encoder| encoder.encode())
        .map_err(|e| format!("{e:#}"))
}

fn describes_its_world(module: &[u8]) -> bool {
    has_section(module, |name| name.starts_with("component-type"))
}

fn has_section(module: &[u8], named: impl Fn(&str) -> bool) -> bool {
    Parser::new(0)
        .parse_all(module)
        .map_while(Result::ok)
        .any(|payload| matches!(payload, Payload::CustomSection(section) if named(section.name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(name: &str, more: &str) -> Vec<u8> {
        let text = format!(
            r#"(module {more}
                (memory (export "memory") 1)
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
                (func (export "{name}") (param i32 i32)))"#
        );
        wat::parse_str(text).unwrap()
    }

    #[test]
    fn a_module_that_exports_the_handler_becomes_a_component_that_does() {
        for version in ["0.2.0", "0.2.10", "0.2.12"] {
            let name = format!("{HANDLER}{version}#handle");
            let drop = format!(
                r#"(import "wasi:http/types@{version}" "[resource-drop]incoming-request"
                    (func (param i32)))"#
            );
            let module = module(&name, &drop);
            assert_eq!(version_of_handler(&module).as_deref(), Some(version));
            let component = encode(module, version).unwrap();
            let facts = image::inspect_wasm("it", &component).unwrap();
            assert!(facts.component, "{version}");
            assert_eq!(facts.world, image::World::Http, "{version}");
            facts.check_runnable("it").unwrap();
        }
    }

    #[test]
    fn other_modules_stay_as_they_are() {
        for name in [
            "_start",
            "handle",
            "wasi:http/incoming-handler@0.2.0",
            "wasi:http/incoming-handler@0.3.0#handle",
            "wasi:http/incoming-handler@0.2.x#handle",
        ] {
            assert_eq!(version_of_handler(&module(name, "")), None, "{name}");
        }
    }

    #[test]
    fn an_import_that_no_world_has_is_named() {
        let name = format!("{HANDLER}0.2.10#handle");
        let module = module(&name, r#"(import "env" "cats" (func))"#);
        let error = encode(module, "0.2.10").unwrap_err();
        assert!(error.contains("env"), "{error}");
    }

    #[test]
    fn broken_bytes_never_panic() {
        let whole = module(&format!("{HANDLER}0.2.10#handle"), "");
        for len in 0..whole.len() {
            if let Some(version) = version_of_handler(&whole[..len]) {
                let _ = encode(whole[..len].to_vec(), &version);
            }
        }
    }
}
