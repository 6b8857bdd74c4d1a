use super::{
    language::{Language, ProgramKind},
    recognise::{Project, go_module},
};
use crate::component::HTTP_WIT;

/// A file of an app: its path and its text.
pub(super) type NewFile = (String, String);

/// The sources that a new app begins with.
pub(super) fn sources(project: &Project) -> Vec<NewFile> {
    use {Language as L, ProgramKind as K};
    let (language, kind) = (project.language, project.kind);
    let name = match language {
        L::Go => import_path(project),
        L::Rust | L::C | L::JavaScript | L::Python => project.name.clone(),
    };
    let named = |text: &str| text.replace("NAME", &name);
    let files: &[(&str, &str)] = match (language, kind) {
        (L::Rust, K::Http) => &[
            ("Cargo.toml", include_str!("templates/rust/Cargo.http.toml")),
            ("src/main.rs", include_str!("templates/rust/http.rs")),
        ],
        (L::Rust, K::Command) => &[
            ("Cargo.toml", include_str!("templates/rust/Cargo.command.toml")),
            ("src/main.rs", include_str!("templates/rust/command.rs")),
        ],
        (L::Go, K::Http) => &[
            ("go.mod", include_str!("templates/go/go.mod.txt")),
            ("main.go", include_str!("templates/go/http.go")),
        ],
        (L::Go, K::Command) => &[
            ("go.mod", include_str!("templates/go/go.mod.txt")),
            ("main.go", include_str!("templates/go/command.go")),
        ],
        (L::C, K::Http) => &[("app.c", include_str!("templates/c/http.c"))],
        (L::C, K::Command) => &[("app.c", include_str!("templates/c/command.c"))],
        (L::JavaScript, K::Http) => &[
            ("package.json", include_str!("templates/javascript/package.json")),
            ("app.js", include_str!("templates/javascript/http.js")),
        ],
        (L::JavaScript, K::Command) => &[
            ("package.json", include_str!("templates/javascript/package.json")),
            ("app.js", include_str!("templates/javascript/command.js")),
        ],
        (L::Python, K::Http) => &[("app.py", include_str!("templates/python/http.py"))],
        (L::Python, K::Command) => &[("app.py", include_str!("templates/python/command.py"))],
    };
    let files = files.iter().map(|(path, text)| ((*path).to_owned(), named(text)));
    files.chain([(".gitignore".to_owned(), products(language).to_owned())]).collect()
}

/// What the imports of a Go program begin with.
fn import_path(project: &Project) -> String {
    match (go_module(&project.folder), project.name.as_str()) {
        (Some(path), _) => path,
        // For `go` these are sets of packages.
        (None, name @ ("all" | "cmd" | "std" | "tool")) => format!("{name}-app"),
        (None, name) => name.to_owned(),
    }
}

/// What its build makes, for `.gitignore`.
fn products(language: Language) -> &'static str {
    match language {
        Language::Rust => "target/\n",
        Language::Go | Language::C => "app.wasm\n",
        Language::JavaScript => "app.wasm\nnode_modules/\n",
        Language::Python => "app.wasm\n.venv/\n__pycache__/\n",
    }
}

/// What the build of `project` needs beside its sources.
pub(super) fn support(project: &Project) -> Vec<NewFile> {
    use {Language as L, ProgramKind as K};
    let wit = |kind| match kind {
        K::Http => ("wit/http.wit".to_owned(), HTTP_WIT.to_owned()),
        K::Command => {
            ("wit/command.wit".to_owned(), include_str!("templates/command.wit").to_owned())
        }
    };
    match (project.language, project.kind) {
        (L::Rust, _) | (L::Go | L::C, K::Command) => vec![],
        (L::Go, K::Http) => {
            let text =
                include_str!("templates/go/wasihttp.go").replace("NAME", &import_path(project));
            vec![("wasihttp/wasihttp.go".to_owned(), text)]
        }
        (L::C, K::Http) => {
            vec![("http.h".to_owned(), include_str!("templates/c/http.h").to_owned())]
        }
        (L::JavaScript, kind) => {
            let script = match kind {
                K::Http => include_str!("templates/javascript/build.http.mjs"),
                K::Command => include_str!("templates/javascript/build.command.mjs"),
            };
            vec![("build.mjs".to_owned(), script.replace("ENTRY", &project.entry)), wit(kind)]
        }
        (L::Python, kind) => vec![wit(kind)],
    }
}

/// The build file of `project`.
pub(super) fn build_file(project: &Project) -> String {
    let key = |value: &str| toml::Value::String(value.to_owned()).to_string();
    let name = key(&project.name);
    let build = key(&project.build_line());
    let wasm = key(&project.wasm());
    let ports = match project.kind {
        ProgramKind::Http => {
            "\
# The port on which it answers HTTP: margay run -p 8080:80 publishes it.
ports = [80]

"
        }
        ProgramKind::Command => {
            "\
# Arguments in front of those of `margay run`.
# args = [\"Freya\"]

"
        }
    };
    format!(
        "\
# What `margay build` makes of this folder. Every line is optional.

# The name of the image.
name = {name}
# A second tag beside `latest`.
# version = \"0.1.0\"

# Run by sh in this folder before anything is read.
build = {build}
# The program, which the build command makes.
wasm = {wasm}

{ports}\
# Files of the image, and what they are made from.
# files = {{ \"/assets\" = \"assets\" }}
# Variables.
# env = {{ LOG = \"info\" }}
# What the program may ask for; `margay run --allow` grants it.
# wants = [\"net.out:https://api.example.com\"]
# How many requests one instance may answer, one after another; each gets a fresh one without it.
# reuse = 64
"
    )
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    #[test]
    fn samples_have_the_files_that_a_new_app_has() {
        let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples");
        for (path, text) in [
            ("csv/wasihttp/wasihttp.go", include_str!("templates/go/wasihttp.go")),
            ("identicon/http.h", include_str!("templates/c/http.h")),
        ] {
            let found = fs::read_to_string(samples.join(path)).expect("a sample");
            assert!(
                found == text.replace("NAME", "csv"),
                "{path} is not as `margay init` writes it"
            );
        }
    }
}
