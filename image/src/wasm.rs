use serde::{Deserialize, Serialize};
use wasmparser::{Encoding, Parser, Payload, ValidPayload, Validator, WasmFeatures};

use crate::{
    error::Error,
    limits::NAMES_MAX,
    sniff::{Sniffed, sniff},
};

/// What a program imports and exports, derived from its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WasmFacts {
    /// Whether it is a component (and not a core module).
    pub component: bool,
    /// Whether it answers requests or runs to its end.
    pub world: World,
    /// The generation of WASI that it imports.
    pub wasi: Wasi,
    /// Interfaces (`wasi:cli/environment@0.2.3`), or for a core module `MODULE.NAME`; sorted, each
    /// once.
    pub imports: Vec<String>,
    /// The names of what it exports; sorted.
    pub exports: Vec<String>,
}

/// What a program can be run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum World {
    /// It answers HTTP requests.
    Http,
    /// It runs from its start to its end.
    Command,
    /// Neither.
    Library,
}

/// A generation of WASI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Wasi {
    /// 0.1, `wasi_snapshot_preview1`: core modules.
    #[serde(rename = "0.1")]
    P1,
    /// 0.2: components.
    #[serde(rename = "0.2")]
    P2,
    /// 0.3: components with async.
    #[serde(rename = "0.3")]
    P3,
}

/// The interfaces of WASI 0.2 that a guest may import: `PACKAGE/INTERFACE`, without `wasi:`.
const INTERFACES: &[&str] = &[
    "cli/environment",
    "cli/exit",
    "cli/stderr",
    "cli/stdin",
    "cli/stdout",
    "cli/terminal-input",
    "cli/terminal-output",
    "cli/terminal-stderr",
    "cli/terminal-stdin",
    "cli/terminal-stdout",
    "clocks/monotonic-clock",
    "clocks/wall-clock",
    "filesystem/preopens",
    "filesystem/types",
    "http/outgoing-handler",
    "http/types",
    "io/error",
    "io/poll",
    "io/streams",
    "random/insecure",
    "random/insecure-seed",
    "random/random",
    "sockets/instance-network",
    "sockets/ip-name-lookup",
    "sockets/network",
    "sockets/tcp",
    "sockets/tcp-create-socket",
    "sockets/udp",
    "sockets/udp-create-socket",
];

/// Interfaces whose versions are drafts still, each with the one that is provided.
const DRAFTS: &[&str] = &["wasi:config/store@0.2.0-rc.1", "wasi:logging/logging@0.1.0-draft"];

/// The functions of WASI 0.1.
const PREVIEW1: &[&str] = &[
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_advise",
    "fd_allocate",
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_pwrite",
    "fd_read",
    "fd_readdir",
    "fd_renumber",
    "fd_seek",
    "fd_sync",
    "fd_tell",
    "fd_write",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "poll_oneoff",
    "proc_exit",
    "proc_raise",
    "random_get",
    "sched_yield",
    "sock_accept",
    "sock_recv",
    "sock_send",
    "sock_shutdown",
];

/// Reads the structure of a program: whether it is complete and well-formed, what it imports and
/// exports. `what` is how errors call it. Function bodies are left to the compiler.
///
/// # Errors
/// [`Error::NotWasm`] says what is wrong and where; [`Error::Precompiled`] for machine code.
pub fn inspect_wasm(what: &str, bytes: &[u8]) -> Result<WasmFacts, Error> {
    let not_wasm = |why: String| Error::NotWasm { what: what.to_owned(), why };
    match sniff(bytes) {
        Sniffed::Module | Sniffed::Component => {}
        Sniffed::Cwasm => return Err(Error::Precompiled { what: what.to_owned() }),
        Sniffed::UnknownWasm if bytes.len() < 8 => {
            return Err(not_wasm("it ends after its first bytes".to_owned()));
        }
        other => return Err(not_wasm(format!("its first bytes are those of {}", other.name()))),
    }
    let (component, mut imports, mut exports) = names(bytes).map_err(|error| {
        let at = error.offset();
        match error.message() {
            text if text.contains("unexpected end") || at >= bytes.len() => not_wasm(format!(
                "it was cut short: it has {} bytes and should have more",
                bytes.len()
            )),
            text => not_wasm(format!("{text} (at byte {at})")),
        }
    })?;
    for list in [&mut imports, &mut exports] {
        if list.len() > NAMES_MAX {
            return Err(not_wasm(format!("it has more than {NAMES_MAX} imports or exports")));
        }
        list.sort_unstable();
        list.dedup();
    }
    let (world, wasi) =
        if component { component_world(&imports, &exports) } else { module_world(&exports) };
    Ok(WasmFacts { component, world, wasi, imports, exports })
}

type Names = (bool, Vec<String>, Vec<String>);

/// Whether it is a component, and the names of the outermost imports and exports.
fn names(bytes: &[u8]) -> Result<Names, wasmparser::BinaryReaderError> {
    // All proposals: whether the engine supports them is decided when it compiles.
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    let (mut component, mut imports, mut exports) = (false, Vec::new(), Vec::new());
    let mut depth = 0u32;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        match &payload {
            Payload::Version { encoding, .. } if depth == 0 => {
                component = *encoding == Encoding::Component
            }
            Payload::ImportSection(section) if depth == 0 => {
                for import in section.clone().into_imports() {
                    let import = import?;
                    imports.push(format!("{}.{}", import.module, import.name));
                }
            }
            Payload::ExportSection(section) if depth == 0 => {
                for export in section.clone() {
                    exports.push(export?.name.to_owned());
                }
            }
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section.clone() {
                    imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section.clone() {
                    exports.push(export?.name.name.to_owned());
                }
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            _ => {}
        }
        // The result is only needed for function bodies, which the compiler checks again anyway.
        let _: ValidPayload<'_> = validator.payload(&payload)?;
    }
    Ok((component, imports, exports))
}

fn component_world(imports: &[String], exports: &[String]) -> (World, Wasi) {
    let exports_of = |interface: &str| {
        exports
            .iter()
            .find_map(|name| name.strip_prefix(interface)?.strip_prefix('@'))
            .map(|version| version.starts_with("0.2."))
    };
    let wasi = match imports.iter().any(|name| name.starts_with("wasi:") && name.contains("@0.3."))
    {
        true => Wasi::P3,
        false => Wasi::P2,
    };
    match (
        exports_of("wasi:http/incoming-handler"),
        exports_of("wasi:http/handler"),
        exports_of("wasi:cli/run"),
    ) {
        (Some(true), _, _) => (World::Http, wasi),
        (_, Some(_), _) => (World::Http, Wasi::P3),
        (_, _, Some(true)) => (World::Command, wasi),
        (_, _, Some(false)) => (World::Command, Wasi::P3),
        _ => (World::Library, wasi),
    }
}

fn module_world(exports: &[String]) -> (World, Wasi) {
    match exports.iter().any(|name| name == "_start") {
        true => (World::Command, Wasi::P1),
        false => (World::Library, Wasi::P1),
    }
}

impl WasmFacts {
    /// Whether this version can run it: it has something to start, and imports nothing that does
    /// not exist.
    ///
    /// # Errors
    /// [`Error::UnknownImport`] names the first import that nothing provides;
    /// [`Error::Unsupported`] for WASI 0.3; [`Error::NotWasm`] for a library.
    pub fn check_runnable(&self, what: &str) -> Result<(), Error> {
        if self.wasi == Wasi::P3 {
            let why = "it needs WASI 0.3, and this version runs 0.1 and 0.2".to_owned();
            return Err(Error::Unsupported { what: what.to_owned(), why });
        }
        let known = if self.component { is_provided } else { is_wasi_01 };
        if let Some(import) = self.imports.iter().find(|import| !known(import)) {
            return Err(Error::UnknownImport { what: what.to_owned(), import: import.clone() });
        }
        match self.world {
            World::Http | World::Command => Ok(()),
            World::Library => {
                let starts = match self.component {
                    true => "neither `wasi:http/incoming-handler@0.2` nor `wasi:cli/run@0.2`",
                    false => "no `_start`",
                };
                Err(Error::NoProgram { why: format!("{what} is a library: it exports {starts}") })
            }
        }
    }
}

fn is_provided(import: &str) -> bool {
    is_wasi_02(import) || DRAFTS.contains(&import)
}

fn is_wasi_02(import: &str) -> bool {
    let Some((interface, version)) =
        import.strip_prefix("wasi:").and_then(|rest| rest.split_once('@'))
    else {
        return false;
    };
    let patch = version.strip_prefix("0.2.").is_some_and(|patch| patch.parse::<u32>().is_ok());
    patch && INTERFACES.contains(&interface)
}

fn is_wasi_01(import: &str) -> bool {
    import.strip_prefix("wasi_snapshot_preview1.").is_some_and(|name| PREVIEW1.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(wat: &str) -> WasmFacts {
        inspect_wasm("`x.wasm`", &wat::parse_str(wat).unwrap()).unwrap()
    }

    const P1: &str = r#"(module
        (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
        (func (export "_start")))"#;

    #[test]
    fn exports_decide_the_world() {
        for (wat, world, wasi) in [
            (P1, World::Command, Wasi::P1),
            ("(module)", World::Library, Wasi::P1),
            ("(component)", World::Library, Wasi::P2),
            (
                r#"(component (instance $i)
                    (export "wasi:http/incoming-handler@0.2.3" (instance $i)))"#,
                World::Http,
                Wasi::P2,
            ),
            (
                r#"(component (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))"#,
                World::Command,
                Wasi::P2,
            ),
            (
                r#"(component (instance $i) (export "wasi:cli/run@0.3.0" (instance $i)))"#,
                World::Command,
                Wasi::P3,
            ),
            (
                r#"(component (instance $i) (export "wasi:http/handler@0.3.0" (instance $i)))"#,
                World::Http,
                Wasi::P3,
            ),
        ] {
            let facts = facts(wat);
            assert_eq!((facts.world, facts.wasi), (world, wasi), "{wat}");
        }
    }

    #[test]
    fn an_import_that_is_not_provided_is_named() {
        let run = r#"(instance $i) (export "wasi:cli/run@0.2.0" (instance $i))"#;
        for (wat, want) in [
            (P1.to_owned(), "ok".to_owned()),
            (
                format!(r#"(component (import "wasi:cli/environment@0.2.6" (instance)) {run})"#),
                "ok".to_owned(),
            ),
            (
                format!(
                    r#"(component (import "wasi:config/store@0.2.0-rc.1" (instance))
                        (import "wasi:logging/logging@0.1.0-draft" (instance)) {run})"#
                ),
                "ok".to_owned(),
            ),
            (
                format!(r#"(component (import "wasi:config/store@0.2.0" (instance)) {run})"#),
                "`x.wasm` imports `wasi:config/store@0.2.0`, which nothing here provides"
                    .to_owned(),
            ),
            (
                format!(r#"(component (import "acme:cats/feed@1.0.0" (instance)) {run})"#),
                "`x.wasm` imports `acme:cats/feed@1.0.0`, which nothing here provides".to_owned(),
            ),
            (
                format!(r#"(component (import "wasi:cli/none@0.2.0" (instance)) {run})"#),
                "`x.wasm` imports `wasi:cli/none@0.2.0`, which nothing here provides".to_owned(),
            ),
            (
                r#"(module (import "wasi_snapshot_preview1" "fd_nope" (func))
                    (func (export "_start")))"#
                    .to_owned(),
                "`x.wasm` imports `wasi_snapshot_preview1.fd_nope`, which nothing here \
                 provides"
                    .to_owned(),
            ),
            (
                r#"(module (import "env" "cats" (func)) (func (export "_start")))"#.to_owned(),
                "`x.wasm` imports `env.cats`, which nothing here provides".to_owned(),
            ),
            (
                format!(r#"(component (import "wasi:cli/environment@0.3.0" (instance)) {run})"#),
                "`x.wasm` cannot run here yet: it needs WASI 0.3, and this version runs 0.1 and \
                 0.2"
                .to_owned(),
            ),
            (
                "(module)".to_owned(),
                "the image has no program to run: `x.wasm` is a library: it exports no \
                 `_start`"
                    .to_owned(),
            ),
        ] {
            let got = facts(&wat).check_runnable("`x.wasm`");
            let got = got.map_or_else(|e| e.to_string(), |()| "ok".to_owned());
            assert_eq!(got, want, "{wat}");
        }
    }

    #[test]
    fn bytes_that_are_not_wasm_are_refused_with_a_reason() {
        for (bytes, want) in [
            (
                &b""[..],
                "`x.wasm` is not a Wasm program: its first bytes are those of an unknown kind of \
                 file",
            ),
            (
                b"<html>",
                "`x.wasm` is not a Wasm program: its first bytes are those of an unknown kind of \
                 file",
            ),
            (b"\0asm", "`x.wasm` is not a Wasm program: it ends after its first bytes"),
            (
                b"\0asm\x02\0\0\0",
                "`x.wasm` is not a Wasm program: its first bytes are those of Wasm of an unknown \
                 version",
            ),
            (
                b"\x7fELF\x02\x01\x01\0",
                "`x.wasm` is not a Wasm program: its first bytes are those of a native program",
            ),
            (
                b"\x7fELF\x02\x01\x01\xc8",
                "`x.wasm` is machine code for a Wasm engine, compiled elsewhere: it is never \
                 accepted",
            ),
        ] {
            assert_eq!(inspect_wasm("`x.wasm`", bytes).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn a_program_cut_anywhere_is_refused_or_smaller_and_never_panics() {
        let whole = wat::parse_str(P1).unwrap();
        for end in 9..whole.len() {
            match inspect_wasm("`x.wasm`", &whole[..end]) {
                // Cut between two sections it is a module still, only with less in it.
                Ok(facts) => assert!(facts.check_runnable("`x.wasm`").is_err(), "{end} bytes"),
                Err(error) => assert!(
                    error.to_string().contains("is not a Wasm program"),
                    "{end} bytes: {error}"
                ),
            }
        }
    }
}
