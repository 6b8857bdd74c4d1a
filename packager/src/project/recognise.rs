use std::path::{Path, PathBuf};

use super::{
    entry::{self, Entry, files_with, mentions, text_of},
    language::{Language, ProgramKind},
};
use crate::{error::InitProblem, path::as_name};

/// The sources of an app in a folder, with what their files say about them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    pub folder: PathBuf,
    pub language: Language,
    pub kind: ProgramKind,
    /// The file that told the language, relative to the folder.
    pub marker: String,
    /// The name of its image.
    pub name: String,
    /// The file of the program in JavaScript and Python, the name of the binary in Rust, the
    /// package in Go, all sources in C.
    pub entry: String,
    /// Whether there are sources, and not the manifest of some alone.
    pub(super) is_begun: bool,
    /// Why it is not known which of the sources the program is.
    pub(super) unclear: Option<InitProblem>,
    /// Whether the crate is one of a workspace around the folder.
    pub(super) is_member: bool,
}

impl Project {
    /// What the sources in `folder` are, `None` where no file tells.
    pub fn recognise(folder: &Path) -> Option<Self> {
        let name = folder_name(folder);
        let (language, marker) = marker(folder)?;
        let text = text_of(&folder.join(&marker));
        let manifest: toml::Table = match language {
            Language::Rust => text.parse().unwrap_or_default(),
            Language::Go | Language::C | Language::JavaScript | Language::Python => {
                toml::Table::new()
            }
        };
        let found = match language {
            Language::Rust => rust(folder, &manifest, &name),
            Language::Go => go(folder),
            Language::C => c(folder),
            Language::JavaScript => javascript(folder, &text),
            Language::Python => python(folder, &text),
        };
        let (kind, own_name, entry) = found;
        let name = own_name.map_or(name, |own| image_name(&own));
        let is_begun = entry != Entry::Absent;
        let (entry, unclear) = match entry {
            Entry::Program(entry) => (entry, None),
            Entry::Absent => (usual_entry(language, &name).to_owned(), None),
            Entry::Unclear(problem) => (usual_entry(language, &name).to_owned(), Some(problem)),
        };
        let is_member = language == Language::Rust && entry::is_member(folder, &manifest);
        let folder = folder.to_owned();
        Some(Self { folder, language, kind, marker, name, entry, is_begun, unclear, is_member })
    }

    /// The command that makes the program, for `sh` in the folder.
    pub fn build_command(&self) -> String {
        use {Language as L, ProgramKind as K};
        match (self.language, self.kind) {
            (L::Rust, _) => {
                // A workspace has a folder of its own for what cargo builds.
                let place = if self.is_member { " --target-dir target" } else { "" };
                format!("cargo build --release --target wasm32-wasip2{place}")
            }
            (L::Go, kind) => {
                let mode = match kind {
                    K::Http => "-buildmode=c-shared ",
                    K::Command => "",
                };
                let package = &self.entry;
                format!("GOOS=wasip1 GOARCH=wasm go build {mode}-ldflags=-s -o app.wasm {package}")
            }
            (L::C, K::Command) => {
                format!("clang --target=wasm32-wasi -Os -o app.wasm {}", self.entry)
            }
            (L::C, K::Http) => format!(
                "clang --target=wasm32-wasi -mexec-model=reactor -Os -o app.wasm {}",
                self.entry
            ),
            (L::JavaScript, _) => "node build.mjs".to_owned(),
            (L::Python, kind) => {
                let world = match kind {
                    K::Http => "http",
                    K::Command => "command",
                };
                let module = self.entry.trim_end_matches(".py");
                format!(
                    ".venv/bin/componentize-py -q -d wit -w {world} componentize {module} \
                     -o app.wasm"
                )
            }
        }
    }

    /// Where the command puts the program.
    pub fn wasm(&self) -> String {
        match self.language {
            Language::Rust => format!("target/wasm32-wasip2/release/{}.wasm", self.entry),
            Language::Go | Language::C | Language::JavaScript | Language::Python => {
                "app.wasm".to_owned()
            }
        }
    }
}

/// The program of a new app.
pub(super) fn usual_entry(language: Language, name: &str) -> &str {
    match language {
        Language::Rust => name,
        Language::Go => ".",
        Language::C => "app.c",
        Language::JavaScript => "app.js",
        Language::Python => "app.py",
    }
}

/// The language of a folder, and the file that tells.
fn marker(folder: &Path) -> Option<(Language, String)> {
    const MARKERS: [(&str, Language); 6] = [
        ("Cargo.toml", Language::Rust),
        ("go.mod", Language::Go),
        ("package.json", Language::JavaScript),
        ("pyproject.toml", Language::Python),
        ("app.py", Language::Python),
        ("main.py", Language::Python),
    ];
    let told = MARKERS.iter().find(|(file, _)| folder.join(file).is_file());
    match told {
        Some((file, language)) => Some((*language, (*file).to_owned())),
        None => Some((Language::C, c_sources(folder).into_iter().next()?)),
    }
}

/// The C files of a folder and of its `src`, sorted.
fn c_sources(folder: &Path) -> Vec<String> {
    ["", "src/"].into_iter().flat_map(|below| files_with(folder, below, ".c")).collect()
}

type Found = (ProgramKind, Option<String>, Entry);

fn kind(is_http: bool) -> ProgramKind {
    if is_http { ProgramKind::Http } else { ProgramKind::Command }
}

fn rust(folder: &Path, manifest: &toml::Table, name: &str) -> Found {
    let package = manifest.get("package").and_then(|package| package.get("name")?.as_str());
    let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table);
    let uses = |name: &str| dependencies.is_some_and(|table| table.contains_key(name));
    let is_library = manifest.get("lib").is_some_and(|lib| lib.get("crate-type").is_some());
    let is_http = is_library || ["wstd", "wasip2", "wasi"].into_iter().any(uses);
    let entry = entry::rust(folder, manifest, package.unwrap_or(name));
    (kind(is_http), package.map(str::to_owned), entry)
}

fn go(folder: &Path) -> Found {
    let path = go_module(folder);
    let name = path.as_deref().and_then(|path| path.rsplit('/').next());
    let entry = entry::go(folder);
    let below = match &entry {
        Entry::Program(package) => format!("{}/", package.trim_start_matches(['.', '/'])),
        Entry::Absent | Entry::Unclear(_) => String::new(),
    };
    let sources = files_with(folder, below.trim_start_matches('/'), ".go");
    let is_http = ["wasihttp", "wasi:http"].iter().any(|word| mentions(folder, &sources, word));
    (kind(is_http || entry == Entry::Absent), name.map(str::to_owned), entry)
}

/// The path that imports of the module in `folder` begin with.
pub(super) fn go_module(folder: &Path) -> Option<String> {
    let text = text_of(&folder.join("go.mod"));
    let path = text.lines().find_map(|line| line.trim().strip_prefix("module "))?;
    Some(path.trim().trim_matches('"').to_owned())
}

fn c(folder: &Path) -> Found {
    let sources = c_sources(folder);
    let is_http = ["\"http.h\"", "wasi:http"].iter().any(|word| mentions(folder, &sources, word));
    (kind(is_http), None, entry::c(folder, &sources))
}

fn javascript(folder: &Path, package: &str) -> Found {
    let package: serde_json::Value = serde_json::from_str(package).unwrap_or_default();
    let text = |key: &str| package.get(key).and_then(|value| value.as_str());
    let entry = entry::javascript(folder, text("main"));
    let is_command = is_program_with(folder, &entry, "export const run");
    (kind(!is_command), text("name").map(str::to_owned), entry)
}

fn python(folder: &Path, manifest: &str) -> Found {
    let manifest: toml::Table = manifest.parse().unwrap_or_default();
    let name = manifest.get("project").and_then(|project| project.get("name")?.as_str());
    let entry = entry::python(folder);
    let is_command = is_program_with(folder, &entry, "exports.Run");
    (kind(!is_command), name.map(str::to_owned), entry)
}

fn is_program_with(folder: &Path, entry: &Entry, word: &str) -> bool {
    match entry {
        Entry::Program(file) => mentions(folder, std::slice::from_ref(file), word),
        Entry::Absent | Entry::Unclear(_) => false,
    }
}

pub(super) fn folder_name(folder: &Path) -> String {
    let full = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let name = full.file_name().map(|name| name.to_string_lossy().into_owned());
    image_name(&name.unwrap_or_default())
}

/// `name` as the name of an image, of a crate and of a module: without a scope, `app` where
/// nothing is left.
fn image_name(name: &str) -> String {
    let own = name.rsplit('/').next().unwrap_or(name);
    let name = as_name(&own.to_lowercase());
    match name.parse::<spec::Reference>() {
        Ok(_) => name,
        Err(_) => "app".to_owned(),
    }
}
