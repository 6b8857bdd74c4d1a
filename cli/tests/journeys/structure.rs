//! The structure of the workspace: crates, modules, sizes, words, and versions of dependencies.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::modules::{Modules, between_siblings, circles};

/// The left column of the picture in `docs/architecture.md`.
const PICTURE: [&str; 9] = [
    "cli -> every crate",
    "node -> runtime, shim, engine, registry(client), blobs, net, disk, image, sandbox",
    "orchestrator -> net, audit, disk, store",
    "registry -> net, audit, blobs, disk, store, image",
    "packager -> blobs, disk, image",
    "runtime, shim -> engine, net, disk, image, sandbox",
    "blobs -> disk, image",
    "net, engine, audit -> disk",
    "disk, image, store -> spec",
];

/// Crates, each with the root of its modules.
const CRATES: [(&str, &str); 16] = [
    ("audit", "lib.rs"),
    ("spec", "lib.rs"),
    ("disk", "lib.rs"),
    ("sandbox", "lib.rs"),
    ("image", "lib.rs"),
    ("store", "lib.rs"),
    ("blobs", "lib.rs"),
    ("net", "lib.rs"),
    ("engine", "lib.rs"),
    ("packager", "lib.rs"),
    ("registry", "lib.rs"),
    ("runtime", "lib.rs"),
    ("shim", "lib.rs"),
    ("orchestrator", "lib.rs"),
    ("node", "lib.rs"),
    ("cli", "main.rs"),
];

/// The layers of a crate, the uppermost first: a module uses its own layer and lower ones.
const LAYERS: [(&str, &[&str]); 1] = [("orchestrator", &["api", "plan", "state"])];

/// Circles of modules that stay, each with the reason.
const CIRCLES: [(&str, &[&str]); 0] = [];

/// A file with more lines holds more than one noun.
const FILE_LINES_MAX: usize = 600;
/// rustfmt breaks code there, and leaves comments as they are.
const LINE_COLUMNS_MAX: usize = 100;

/// Words that name no part of the system. The subject of a sentence is a noun of the field: client,
/// node, operator, guest, task.
const WORDS: [&str; 12] = [
    "nobody",
    "whoever",
    "somebody",
    "anybody",
    "everybody",
    "who",
    "whom",
    "people",
    "person",
    "stranger",
    "strangers",
    "household",
];

/// Never in the tree: archive readers with a record of writing outside their folder.
const BANNED: [&str; 3] = ["tokio-tar", "async-tar", "astral-tokio-tar"];

/// Lower versions have known vulnerabilities that margay would be exposed to.
const LOWEST: [(&str, [u64; 3]); 4] = [
    ("wasmtime", [48, 0, 8]),
    ("wasmtime-wasi", [48, 0, 8]),
    ("wasmtime-wasi-http", [48, 0, 8]),
    ("tar", [0, 4, 46]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The crates that each crate may depend on. Every crate may use `spec`; an arrow that skips a
/// level stands in the picture.
fn allowed() -> BTreeMap<String, Vec<String>> {
    let mut allowed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in PICTURE {
        let (from, to) = line.split_once(" -> ").expect("an arrow");
        for name in from.split(", ") {
            let targets =
                to.split(", ").map(|target| target.trim_end_matches("(client)").to_owned());
            allowed.entry(name.to_owned()).or_default().extend(targets.chain(["spec".to_owned()]));
        }
    }
    allowed
}

#[test]
fn no_crate_depends_on_another_that_the_picture_does_not_allow() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let short = |name: &str| name.strip_prefix("margay-").map(str::to_owned);
    let allowed = allowed();
    for package in packages {
        let Some(from) = package["name"].as_str().and_then(short) else { continue };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            // A dependency of tests alone is no arrow.
            if dependency["kind"] == "dev" {
                continue;
            }
            let Some(to) = dependency["name"].as_str().and_then(short) else { continue };
            let fine = from == "cli"
                || from == "benches"
                || allowed.get(&from).is_some_and(|list| list.contains(&to));
            assert!(
                fine,
                "`{from}` uses `{to}`, and the picture in docs/architecture.md has no such arrow"
            );
        }
    }
}

#[test]
fn the_architecture_page_shows_the_picture_that_is_tested() {
    let page = read("docs/architecture.md");
    for line in PICTURE {
        assert!(page.contains(line), "docs/architecture.md does not show `{line}`");
    }
}

#[test]
fn the_places_that_the_architecture_page_names_are_there() {
    let page = read("docs/architecture.md");
    let named = page.split('`').skip(1).step_by(2);
    let places: Vec<&str> = named.filter(|word| word.contains("/src/")).collect();
    assert!(places.len() > 30, "the page names {} places: did its form change?", places.len());
    for place in places {
        assert!(root().join(place).exists(), "docs/architecture.md names `{place}`: there is none");
    }
}

#[test]
fn no_modules_of_a_crate_use_each_other_in_a_circle() {
    let mut wrong = Vec::new();
    for (name, file) in CRATES {
        let modules = Modules::read(&root().join(name).join("src").join(file));
        for circle in circles(&between_siblings(&modules.edges())) {
            let allowed = CIRCLES.iter().any(|(of, modules)| {
                *of == name && circle.iter().all(|module| modules.contains(&module.as_str()))
            });
            if !allowed {
                wrong.push(format!("{name}: {}", Vec::from_iter(circle).join(", ")));
            }
        }
    }
    assert!(wrong.is_empty(), "modules that use each other:\n{}", wrong.join("\n"));
}

#[test]
fn no_layer_of_a_crate_uses_a_higher_one() {
    for (name, layers) in LAYERS {
        let edges = Modules::read(&root().join(name).join("src/lib.rs")).edges();
        let layer = |module: &str| {
            let first = module.split("::").next().expect("a module has a name");
            layers.iter().position(|layer| *layer == first)
        };
        assert!(edges.keys().any(|module| layer(module) == Some(0)), "`{name}` has no layers");
        for (from, targets) in &edges {
            for to in targets {
                let (Some(lower), Some(upper)) = (layer(from), layer(to)) else { continue };
                assert!(
                    lower <= upper,
                    "in `{name}` the module `{from}` uses `{to}`, which is above"
                );
            }
        }
    }
}

#[test]
fn sources_are_short_narrow_and_in_the_fields_words() {
    let mut wrong = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).expect("a source file");
        let shown = path.strip_prefix(root()).expect("below the root").display().to_string();
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            wrong.push(format!("{shown} has {lines} lines"));
        }
        for (line, number) in text.lines().zip(1..) {
            let is_comment = line.trim_start().starts_with("//");
            if is_comment && line.chars().count() > LINE_COLUMNS_MAX {
                wrong.push(format!("{shown}:{number} is wider than {LINE_COLUMNS_MAX} columns"));
            }
        }
        if shown.ends_with("structure.rs") {
            continue;
        }
        for (line, number) in text.lines().zip(1..) {
            let words = line.split(|c: char| !c.is_alphabetic()).map(str::to_lowercase);
            let found = words.filter(|word| WORDS.contains(&word.as_str()));
            wrong.extend(found.map(|word| format!("{shown}:{number} says `{word}`")));
        }
    }
    assert!(wrong.is_empty(), "{} places:\n{}", wrong.len(), wrong.join("\n"));
}

/// Every source file of the crates, tests included.
fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let folders = CRATES.iter().map(|(name, _)| *name).chain(["benches"]);
    let mut next: Vec<PathBuf> = folders.map(|name| root().join(name)).collect();
    while let Some(folder) = next.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                next.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn the_lock_file_has_no_banned_crate_and_none_that_is_too_old() {
    let lock: toml::Table = read("Cargo.lock").parse().expect("TOML");
    let packages = lock["package"].as_array().expect("packages");
    for package in packages {
        let (name, version) = (
            package["name"].as_str().expect("name"),
            package["version"].as_str().expect("version"),
        );
        assert!(!BANNED.contains(&name), "`{name}` is in Cargo.lock");
        let lowest = LOWEST.iter().find(|(wanted, _)| *wanted == name);
        if let Some((_, lowest)) = lowest {
            let numbers: Vec<u64> = version
                .split(['.', '-', '+'])
                .take(3)
                .map(|part| part.parse().expect("a number"))
                .collect();
            assert!(
                numbers.as_slice() >= lowest.as_slice(),
                "`{name}` {version} is older than {lowest:?}"
            );
        }
    }
}

#[test]
fn every_test_that_the_specification_names_is_there() {
    let page = read("docs/specification.md");
    let sources: String =
        sources().iter().map(|path| fs::read_to_string(path).expect("a source file")).collect();
    let words: BTreeSet<&str> = page.split('`').skip(1).step_by(2).collect();
    let is_name = |word: &&str| {
        word.matches('_').count() >= 3
            && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
    };
    let names: Vec<&str> = words.into_iter().filter(is_name).collect();
    assert!(names.len() > 50, "the page names {} tests: did its form change?", names.len());
    for name in names {
        let there =
            sources.contains(&format!("fn {name}(")) || sources.contains(&format!("\"{name}\""));
        assert!(there, "docs/specification.md names the test `{name}`, and there is none");
    }
}
