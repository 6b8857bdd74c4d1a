//! Which file of a folder is its program: the usual one, the one that its manifest names, or the
//! only one that could be.

use std::{collections::BTreeSet, fs, path::Path};

use super::language::Language;
use crate::{error::InitProblem, limits::SOURCE_BYTES_MAX};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// In JavaScript and Python its file, in Rust the name of the binary, in Go its package, in C
    /// all sources as words of a shell.
    Program(String),
    /// There are no sources yet: an app is begun.
    Absent,
    Unclear(InitProblem),
}

/// The files `BELOW*ENDING` of `folder`, sorted.
pub(super) fn files_with(folder: &Path, below: &str, ending: &str) -> Vec<String> {
    let names = fs::read_dir(folder.join(below)).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let mut files: Vec<_> =
        names.filter(|name| name.ends_with(ending)).map(|name| format!("{below}{name}")).collect();
    files.sort_unstable();
    files
}

/// The text of a file, empty where it cannot be read: it only refines a guess.
pub(super) fn text_of(path: &Path) -> String {
    disk::read(path, SOURCE_BYTES_MAX)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .unwrap_or_default()
}

/// Whether one of the files has `word` in it.
pub(super) fn mentions(folder: &Path, files: &[String], word: &str) -> bool {
    files.iter().any(|file| text_of(&folder.join(file)).contains(word))
}

pub(super) fn rust(folder: &Path, manifest: &toml::Table, package: &str) -> Entry {
    let at = |table: &str, key: &str| Some(manifest.get(table)?.get(key)?.as_str()?.to_owned());
    if manifest.contains_key("workspace") && !manifest.contains_key("package") {
        return Entry::Unclear(InitProblem::Workspace);
    }
    let is_cdylib = manifest.get("lib").is_some_and(|lib| lib.get("crate-type").is_some());
    if is_cdylib {
        // cargo writes the name of a library with underscores.
        let name = at("lib", "name").unwrap_or_else(|| package.to_owned());
        return Entry::Program(name.replace('-', "_"));
    }
    if let Some(name) = at("package", "default-run") {
        return Entry::Program(name);
    }
    let named = manifest.get("bin").and_then(toml::Value::as_array).into_iter().flatten();
    let main = "src/main.rs";
    let has_main = folder.join(main).is_file();
    let is_named =
        named.clone().any(|bin| bin.get("path").and_then(toml::Value::as_str) == Some(main));
    let named = named.filter_map(|bin| Some(bin.get("name")?.as_str()?.to_owned()));
    let found = files_with(folder, "src/bin/", ".rs");
    let found = found.iter().filter_map(|file| Path::new(file).file_stem()?.to_str());
    let mut binaries: BTreeSet<String> = named.chain(found.map(str::to_owned)).collect();
    if has_main && !is_named {
        binaries.insert(package.to_owned());
    }
    match (binaries.contains(package), binaries.len()) {
        (true, _) => Entry::Program(package.to_owned()),
        (false, 1) => Entry::Program(binaries.into_iter().collect()),
        (false, 0) if folder.join("src/lib.rs").is_file() => {
            none(Language::Rust, "no `src/main.rs`, and the library is no `cdylib`")
        }
        (false, 0) => Entry::Absent,
        (false, _) => several(Language::Rust, binaries.into_iter().collect()),
    }
}

/// Whether cargo builds the crate in `folder` into the folder of a workspace around it.
pub(super) fn is_member(folder: &Path, manifest: &toml::Table) -> bool {
    let Ok(folder) = folder.canonicalize() else { return false };
    let is_workspace = |above: &Path| {
        let manifest = text_of(&above.join("Cargo.toml")).parse::<toml::Table>();
        manifest.is_ok_and(|manifest| manifest.contains_key("workspace"))
    };
    !manifest.contains_key("workspace") && folder.ancestors().skip(1).any(is_workspace)
}

pub(super) fn go(folder: &Path) -> Entry {
    let sources = |below: &str| {
        let mut files = files_with(folder, below, ".go");
        files.retain(|file| !file.ends_with("_test.go"));
        files
    };
    let is_main = |below: &str| mentions(folder, &sources(below), "package main");
    if is_main("") {
        return Entry::Program(".".to_owned());
    }
    let commands = folders_in(folder, "cmd/").into_iter().filter(|below| is_main(below));
    let mut commands: Vec<_> =
        commands.map(|below| format!("./{}", below.trim_end_matches('/'))).collect();
    let is_empty = sources("").is_empty()
        && folders_in(folder, "").iter().all(|below| sources(below).is_empty());
    match commands.len() {
        1 => Entry::Program(commands.remove(0)),
        0 if is_empty => Entry::Absent,
        0 => none(Language::Go, "no `package main` in the folder or right below `cmd`"),
        _ => several(Language::Go, commands),
    }
}

/// The folders `BELOW*/` of `folder`, sorted; hidden ones are no sources.
fn folders_in(folder: &Path, below: &str) -> Vec<String> {
    let entries = fs::read_dir(folder.join(below)).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.path().is_dir());
    let names = folders.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<_> = names
        .filter(|name| !name.starts_with('.') && name != "node_modules")
        .map(|name| format!("{below}{name}/"))
        .collect();
    names.sort_unstable();
    names
}

pub(super) fn c(folder: &Path, sources: &[String]) -> Entry {
    let has_main = |source: &&String| text_of(&folder.join(source)).contains("int main");
    let programs: Vec<_> = sources.iter().filter(has_main).cloned().collect();
    match programs.len() {
        0 | 1 => {
            let words: Vec<_> = sources.iter().map(|source| quoted(source)).collect();
            Entry::Program(words.join(" "))
        }
        _ => several(Language::C, programs),
    }
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

pub(super) fn javascript(folder: &Path, main: Option<&str>) -> Entry {
    let main = main.map(|main| main.trim_start_matches("./"));
    if let Some(main) = main.filter(|main| folder.join(main).is_file()) {
        return Entry::Program(main.to_owned());
    }
    let usual = ["app.js", "index.js", "main.js", "src/index.js", "src/app.js", "src/main.js"];
    if let Some(file) = usual.into_iter().find(|file| folder.join(file).is_file()) {
        return Entry::Program(file.to_owned());
    }
    let mut files: Vec<_> =
        [".js", ".mjs"].iter().flat_map(|ending| files_with(folder, "", ending)).collect();
    // Of the build and of tools, which name their files so.
    let is_tool =
        |file: &str| file == "build.mjs" || file.contains(".config.") || file.contains(".test.");
    files.retain(|file| !is_tool(file));
    let typed = ["", "src/"].iter().any(|below| !files_with(folder, below, ".ts").is_empty());
    match (files.len(), main) {
        (1, _) => Entry::Program(files.remove(0)),
        (0, Some(_)) if typed => {
            none(Language::JavaScript, "the file that `main` of `package.json` names is not there")
        }
        (0, _) if typed => {
            none(Language::JavaScript, "it is in TypeScript, and `package.json` has no `main`")
        }
        (0, _) => Entry::Absent,
        _ => several(Language::JavaScript, files),
    }
}

pub(super) fn python(folder: &Path) -> Entry {
    if let Some(file) = ["app.py", "main.py"].into_iter().find(|file| folder.join(file).is_file()) {
        return Entry::Program(file.to_owned());
    }
    let mut files = files_with(folder, "", ".py");
    let is_tool = |file: &str| {
        ["setup.py", "conftest.py", "__init__.py"].contains(&file) || file.starts_with("test_")
    };
    // A program is loaded by the name of its module.
    let is_module = |file: &str| !file.trim_end_matches(".py").contains(['-', '.', ' ']);
    files.retain(|file| !is_tool(file) && is_module(file));
    let mut programs = files.clone();
    programs.retain(|file| text_of(&folder.join(file)).contains("wit_world"));
    let packages = folders_in(folder, "").into_iter().chain(folders_in(folder, "src/"));
    let has_packages = packages
        .chain(["src/".to_owned()])
        .any(|below| !files_with(folder, &below, ".py").is_empty());
    match (programs.len(), files.len()) {
        (1, _) => Entry::Program(programs.remove(0)),
        (0, 1) => Entry::Program(files.remove(0)),
        (0, 0) if !has_packages => Entry::Absent,
        (0, 0) => {
            none(Language::Python, "no `app.py` or `main.py` that imports the packages in it")
        }
        (0, _) => several(Language::Python, files),
        _ => several(Language::Python, programs),
    }
}

fn none(language: Language, missing: &'static str) -> Entry {
    let (language, hint) = (language.name(), how_to_tell(language));
    Entry::Unclear(InitProblem::NoProgram { language, missing, hint })
}

fn several(language: Language, files: Vec<String>) -> Entry {
    let (language, hint) = (language.name(), how_to_tell(language));
    Entry::Unclear(InitProblem::SeveralPrograms { language, files, hint })
}

/// How each language says which of its files the program is.
fn how_to_tell(language: Language) -> &'static str {
    match language {
        Language::Rust => {
            "say which in `Cargo.toml`, as in `default-run = \"NAME\"` of `[package]`"
        }
        Language::Go => "keep one `package main` in the folder, or one right below `cmd`",
        Language::C => "keep the sources of one program in the folder and its `src`",
        Language::JavaScript => "say which in `package.json`, as in `\"main\": \"app.js\"`",
        Language::Python => "call the file of the program `app.py`",
    }
}
