//! The samples in five languages: each is built and run as its README says, and the files that
//! `init` writes beside an app are in them as `init` writes them now.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    recipe::Recipe,
    stage::{Stage, samples},
};

/// Copies what is part of a sample, without what a build has left there.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a sample") {
        let entry = entry.expect("an entry");
        let name = entry.file_name();
        match entry.file_type().expect("a type").is_dir() {
            true if ["target", "node_modules", ".venv"].iter().any(|built| name == *built) => {}
            true => copy(&entry.path(), &to.join(&name)),
            false => drop(fs::copy(entry.path(), to.join(&name)).expect("a file")),
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        match entry.file_type().expect("a type").is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

fn build_and_run(language: &str, name: &str) {
    let stage = Stage::new();
    copy(&samples().join(name), &stage.path(name));
    stage.margay(["init", "--language", language, "--name", name, "new"]).ok();
    let new = stage.path("new");
    for written in files(&new) {
        let path = written.strip_prefix(&new).expect("below it");
        let is_support = path.starts_with("wit")
            || path.starts_with("wasihttp")
            || ["http.h", "build.mjs", "package.json"].iter().any(|file| path == Path::new(file));
        if is_support {
            let ours = fs::read_to_string(stage.path(name).join(path)).expect("the same file");
            let new = fs::read_to_string(&written).expect("text");
            assert_eq!(ours, new, "samples/{name}/{} is older than that of init", path.display());
        }
    }
    Recipe::of(&format!("samples/{name}/README.md")).follow(&stage, name, language);
    stage.is_empty();
}

#[test]
fn the_sample_in_rust_keeps_notes() {
    build_and_run("rust", "notes");
}

#[test]
fn the_sample_in_go_reads_tables_as_a_server_and_as_a_command() {
    build_and_run("go", "csv");
}

#[test]
fn the_sample_in_c_draws_pictures() {
    build_and_run("c", "identicon");
}

#[test]
fn the_sample_in_javascript_renders_markdown() {
    build_and_run("javascript", "markdown");
}

#[test]
fn the_sample_in_python_counts_numbers() {
    build_and_run("python", "numbers");
}

/// Allocates, and calls the host in between; then looks whether what it wrote is still there.
const HEAP: &str = r#"package main

import (
	"fmt"
	"os"
	"time"
)

func main() {
	var kept [][]byte
	for i := range 40 {
		part := make([]byte, 1<<20)
		for j := range part {
			part[j] = byte(i + j*7)
		}
		kept = append(kept, part)
		_, _ = os.Stat("/none")
		_ = time.Now()
		fmt.Print(".")
	}
	wrong := 0
	for i, part := range kept {
		for j := range part {
			if part[j] != byte(i+j*7) {
				wrong++
			}
		}
	}
	fmt.Println(" wrong:", wrong)
}
"#;

#[test]
fn a_command_in_go_has_its_heap_for_itself() {
    let stage = Stage::new();
    stage.write("go.mod", "module heap\n\ngo 1.22\n");
    stage.write("main.go", HEAP);
    let mut go = std::process::Command::new("go");
    let go = go.args(["build", "-o", "heap.wasm", "."]).current_dir(stage.path(""));
    match go.env("GOOS", "wasip1").env("GOARCH", "wasm").output() {
        Err(error) => println!("SKIPPED: nothing in Go was run: {error}"),
        Ok(built) => {
            assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
            let out = stage.margay(["run", "--rm", "-m", "256m", "heap.wasm"]).ok();
            assert!(out.ends_with(" wrong: 0\n"), "{out}");
        }
    }
    stage.is_empty();
}
