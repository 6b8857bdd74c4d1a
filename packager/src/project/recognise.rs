use std::{
    fs,
    path::{Path, PathBuf},
};

use super::language::{Language, ProgramKind};
use crate::{limits::SOURCE_BYTES_MAX, path::as_name};

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
    /// The file of the program in JavaScript and Python, the name of the binary in Rust.
    pub entry: String,
}

impl Project {
    /// What the sources in `folder` are, `None` where no file tells.
    pub fn recognise(folder: &Path) -> Option<Self> {
        let name = folder_name(folder);
        let (language, marker) = marker(folder)?;
        let text = text_of(&folder.join(&marker));
        let found = match language {
            Language::Rust => rust(&text, &name),
            Language::Go => go(folder, &text),
            Language::C => c(folder),
            Language::JavaScript => javascript(folder, &text),
            Language::Python => python(folder, &text),
        };
        let (kind, own_name, entry) = found;
        let name = own_name.map_or(name, |own| image_name(&own));
        Some(Self { folder: folder.to_owned(), language, kind, marker, name, entry })
    }

    /// The command that makes the program, for `sh` in the folder.
    pub fn build_command(&self) -> String {
        use {Language as L, ProgramKind as K};
        match (self.language, self.kind) {
            (L::Rust, _) => "cargo build --release --target wasm32-wasip2".to_owned(),
            (L::Go, K::Command) => {
                "GOOS=wasip1 GOARCH=wasm go build -ldflags=-s -o app.wasm .".to_owned()
            }
            (L::Go, K::Http) => {
                "GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -ldflags=-s -o app.wasm ."
                    .to_owned()
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

/// The files `BELOW*ENDING` of `folder`, sorted.
fn files_with(folder: &Path, below: &str, ending: &str) -> Vec<String> {
    let names = fs::read_dir(folder.join(below)).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let mut files: Vec<_> =
        names.filter(|name| name.ends_with(ending)).map(|name| format!("{below}{name}")).collect();
    files.sort_unstable();
    files
}

/// The text of a file, empty where it cannot be read: it only refines a guess.
fn text_of(path: &Path) -> String {
    disk::read(path, SOURCE_BYTES_MAX)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .unwrap_or_default()
}

/// Whether one of the files has `word` in it.
fn mentions(folder: &Path, files: &[String], word: &str) -> bool {
    files.iter().any(|file| text_of(&folder.join(file)).contains(word))
}

type Found = (ProgramKind, Option<String>, String);

fn kind(is_http: bool) -> ProgramKind {
    if is_http { ProgramKind::Http } else { ProgramKind::Command }
}

fn rust(manifest: &str, folder: &str) -> Found {
    let manifest: toml::Table = manifest.parse().unwrap_or_default();
    let at = |table: &str, key: &str| Some(manifest.get(table)?.get(key)?.as_str()?.to_owned());
    let package = at("package", "name");
    let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table);
    let uses = |name: &str| dependencies.is_some_and(|table| table.contains_key(name));
    let is_library = manifest.get("lib").is_some_and(|lib| lib.get("crate-type").is_some());
    let binary = manifest.get("bin").and_then(|bins| bins.get(0)?.get("name")?.as_str());
    let own = package.clone().unwrap_or_else(|| folder.to_owned());
    let entry = match (is_library, binary) {
        // cargo writes the name of a library with underscores.
        (true, _) => at("lib", "name").unwrap_or(own).replace('-', "_"),
        (false, Some(binary)) => binary.to_owned(),
        (false, None) => own,
    };
    let is_http = is_library || ["wstd", "wasip2", "wasi"].into_iter().any(uses);
    (kind(is_http), package, entry)
}

fn go(folder: &Path, module: &str) -> Found {
    let path = module.lines().find_map(|line| line.trim().strip_prefix("module "));
    let name = path.and_then(|path| path.trim().trim_matches('"').rsplit('/').next());
    let sources = files_with(folder, "", ".go");
    let is_http = ["wasihttp", "wasi:http"].iter().any(|word| mentions(folder, &sources, word));
    (kind(is_http), name.map(str::to_owned), ".".to_owned())
}

fn c(folder: &Path) -> Found {
    let sources = c_sources(folder);
    let is_http = ["\"http.h\"", "wasi:http"].iter().any(|word| mentions(folder, &sources, word));
    let words: Vec<_> = sources.iter().map(|source| quoted(source)).collect();
    (kind(is_http), None, words.join(" "))
}

fn javascript(folder: &Path, package: &str) -> Found {
    let package: serde_json::Value = serde_json::from_str(package).unwrap_or_default();
    let text = |key: &str| package.get(key).and_then(|value| value.as_str()).map(str::to_owned);
    let usual = ["app.js", "index.js", "main.js", "src/index.js", "src/app.js", "src/main.js"];
    let existing = usual.into_iter().find(|file| folder.join(file).is_file());
    let entry = match existing {
        Some(file) => file.to_owned(),
        None => text("main").unwrap_or_else(|| "app.js".to_owned()),
    };
    let is_command = mentions(folder, std::slice::from_ref(&entry), "export const run");
    (kind(!is_command), text("name"), entry)
}

fn python(folder: &Path, manifest: &str) -> Found {
    let manifest: toml::Table = manifest.parse().unwrap_or_default();
    let name = manifest.get("project").and_then(|project| project.get("name")?.as_str());
    let existing = ["app.py", "main.py"].into_iter().find(|file| folder.join(file).is_file());
    let entry = existing.unwrap_or("app.py").to_owned();
    let is_command = mentions(folder, std::slice::from_ref(&entry), "exports.Run");
    (kind(!is_command), name.map(str::to_owned), entry)
}

/// `word` as one word of a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
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
