//! What the installed binary is made of.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{machine, measure, platform::Margay};

/// Parts of the product, and the crates that are there for each alone. A crate that is in no list
/// stands for itself.
const PARTS: [(&str, &[&str]); 11] = [
    (
        "compiling WebAssembly",
        &[
            "cranelift_assembler_x64",
            "cranelift_bforest",
            "cranelift_codegen",
            "cranelift_control",
            "cranelift_entity",
            "cranelift_frontend",
            "gimli",
            "object",
            "pulley_interpreter",
            "rayon_core",
            "regalloc2",
            "wasmtime_environ",
            "wasmtime_internal_cranelift",
        ],
    ),
    (
        "reading and building components",
        &[
            "wasm_encoder",
            "wasm_metadata",
            "wasmparser",
            "wasmprinter",
            "wit_component",
            "wit_parser",
        ],
    ),
    (
        "running WebAssembly",
        &[
            "runtime",
            "wasmtime",
            "wasmtime_internal_core",
            "wasmtime_internal_fiber",
            "wasmtime_internal_unwinder",
            "wasmtime_wasi",
            "wasmtime_wasi_http",
            "wasmtime_wasi_io",
        ],
    ),
    (
        "command line",
        &[
            "clap_builder",
            "clap_complete",
            "console",
            "gotmpl",
            "indicatif",
            "margay",
            "toml",
            "toml_parser",
        ],
    ),
    ("orchestrator and store", &["argon2", "orchestrator", "rusqlite", "store", "utoipa"]),
    ("SQLite, zstd and other C", &["C"]),
    (
        "registry, images and builds",
        &[
            "blobs",
            "bzip2",
            "flate2",
            "image",
            "libbz2_rs_sys",
            "lzma_rust2",
            "miniz_oxide",
            "packager",
            "registry",
            "zstd",
        ],
    ),
    ("node and native images", &["engine", "node", "seccompiler", "shim"]),
    (
        "TLS",
        &[
            "asn1_rs",
            "net",
            "rcgen",
            "ring",
            "rustls",
            "tokio_rustls",
            "webpki",
            "x509_parser",
            "yasna",
        ],
    ),
    ("HTTP and tasks", &["http", "http_body_util", "hyper", "hyper_util", "tokio", "tokio_util"]),
    ("logs", &["tracing", "tracing_subscriber"]),
];

/// Crates whose code is made for the types of others, which it counts for.
const GENERIC: [&str; 12] = [
    "alloc",
    "anyhow",
    "core",
    "futures_core",
    "futures_util",
    "hashbrown",
    "indexmap",
    "serde",
    "serde_core",
    "serde_json",
    "smallvec",
    "std",
];

/// What tells nothing about the types that it was made for.
const GENERIC_CODE: &str = "generic code of the standard library and serde";

/// The sections of the binary, and its code by part. `margay` has to have its symbols.
pub fn run(margay: &Margay) -> Result<()> {
    let Some(nm) = machine::peer("nm", "apt-get install binutils") else { return Ok(()) };
    let sections = output(Command::new("size").args(["-A", "-d"]).arg(margay.program()))?;
    let rows: Vec<_> = sections.lines().filter_map(section).collect();
    measure::table(["section", "MB"], &rows);
    println!();
    let code = code(&nm, margay.program())?;
    if code.is_empty() {
        println!(
            "The code by part needs symbols: cargo build --release --bins --config \
             'profile.release.package.margay-cli.strip=\"none\"'"
        );
        return Ok(());
    }
    let rows: Vec<_> = parts(&code).into_iter().map(|(part, bytes)| [part, show(bytes)]).collect();
    measure::table(["code", "MB"], &rows);
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// One of at least a tenth of a megabyte that is loaded.
fn section(line: &str) -> Option<[String; 2]> {
    let mut words = line.split_whitespace();
    let (name, bytes, address) = (words.next()?, words.next()?, words.next()?);
    let (bytes, address): (u64, u64) = (bytes.parse().ok()?, address.parse().ok()?);
    (address > 0 && bytes >= 100_000).then(|| [format!("`{name}`"), show(bytes)])
}

/// The bytes of code of each crate.
fn code(nm: &Path, program: &Path) -> Result<BTreeMap<String, u64>> {
    let symbols =
        output(Command::new(nm).args(["--print-size", "--size-sort", "--demangle"]).arg(program))?;
    let mut code = BTreeMap::new();
    let mut last = None;
    for line in symbols.lines() {
        let mut words = line.splitn(4, ' ');
        let (Some(address), Some(size), Some(kind), Some(name)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        // Functions that were folded into one have several names.
        let is_new = last.replace(address) != Some(address);
        if matches!(kind, "t" | "T" | "w" | "W") && is_new {
            let size = u64::from_str_radix(size, 16).unwrap_or_default();
            *code.entry(crate_of(name).to_owned()).or_default() += size;
        }
    }
    Ok(code)
}

/// The crate that a function was made for.
fn crate_of(name: &str) -> &str {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut generic = "C";
    for (at, _) in name.match_indices("::") {
        let head = &name[..at];
        let start = head.rfind(|c| !is_part(c)).map_or(0, |before| before + 1);
        // Not a module or a type of what stands before it.
        if head[..start].ends_with(':')
            || start == at
            || head.as_bytes()[start].is_ascii_uppercase()
        {
            continue;
        }
        if !GENERIC.contains(&&head[start..]) {
            return &head[start..];
        }
        generic = GENERIC_CODE;
    }
    generic
}

/// The largest first; what is below a tenth of a megabyte is one part.
fn parts(code: &BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let mut parts: BTreeMap<String, u64> = BTreeMap::new();
    for (name, bytes) in code {
        let part = PARTS.iter().find(|(_, crates)| crates.contains(&name.as_str()));
        let own = || match name == GENERIC_CODE {
            true => name.clone(),
            false => format!("`{name}`"),
        };
        let part = part.map_or_else(own, |(part, _)| (*part).to_owned());
        *parts.entry(part).or_default() += bytes;
    }
    let (large, small): (Vec<_>, Vec<_>) =
        parts.into_iter().partition(|(_, bytes)| *bytes >= 100_000);
    let mut parts = large;
    parts.push(("other crates".to_owned(), small.iter().map(|(_, bytes)| bytes).sum()));
    parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    parts
}

fn show(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}
