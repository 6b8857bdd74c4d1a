//! The house itself: who may use whom, and which versions of which crates may be in it.

use std::{collections::BTreeMap, path::Path, process::Command};

use serde_json::Value;

/// The left column of the picture in `docs/architecture.md`.
const PICTURE: [&str; 9] = [
    "cli -> every crate",
    "node -> runtime, shim, engine, registry(client), blobs, net, disk, image",
    "orchestrator -> net, disk, store",
    "registry -> net, blobs, disk, store, image",
    "packager -> blobs, disk, image",
    "runtime, shim -> engine, net, disk, image",
    "blobs -> disk, image",
    "net, engine -> disk",
    "disk, image, store -> spec",
];

/// Never in the tree: archive readers with a record of writing outside their folder.
const BANNED: [&str; 3] = ["tokio-tar", "async-tar", "astral-tokio-tar"];

/// Lower versions have known holes that we would stand in.
const LOWEST: [(&str, [u64; 3]); 4] = [
    ("wasmtime", [48, 0, 8]),
    ("wasmtime-wasi", [48, 0, 8]),
    ("wasmtime-wasi-http", [48, 0, 8]),
    ("tar", [0, 4, 46]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}

/// What each room may use. Everybody may use `spec`; whoever stands above another on the way down
/// may not skip a floor unless the picture says so.
fn allowed() -> BTreeMap<String, Vec<String>> {
    let mut allowed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in PICTURE {
        let (from, to) = line.split_once(" -> ").expect("an arrow");
        for room in from.split(", ") {
            let targets =
                to.split(", ").map(|target| target.trim_end_matches("(client)").to_owned());
            allowed.entry(room.to_owned()).or_default().extend(targets.chain(["spec".to_owned()]));
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
    let room = |name: &str| name.strip_prefix("margay-").map(str::to_owned);
    let allowed = allowed();
    for package in packages {
        let Some(from) = package["name"].as_str().and_then(room) else { continue };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            // What only tests use is no arrow of the house.
            if dependency["kind"] == "dev" {
                continue;
            }
            let Some(to) = dependency["name"].as_str().and_then(room) else { continue };
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
    let page =
        std::fs::read_to_string(root().join("docs/architecture.md")).expect("docs/architecture.md");
    for line in PICTURE {
        assert!(page.contains(line), "docs/architecture.md does not show `{line}`");
    }
}

#[test]
fn the_lock_file_has_no_banned_crate_and_none_that_is_too_old() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    let lock: toml::Table = lock.parse().expect("TOML");
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
    let page = std::fs::read_to_string(root().join("docs/specification.md"))
        .expect("docs/specification.md");
    let mut sources = String::new();
    for room in [
        "spec",
        "disk",
        "image",
        "blobs",
        "net",
        "engine",
        "store",
        "packager",
        "registry",
        "runtime",
        "shim",
        "orchestrator",
        "node",
        "cli",
    ] {
        read_sources(&root().join(room), &mut sources);
    }
    let words = page.split('`').skip(1).step_by(2);
    let names: Vec<&str> = words
        .filter(|word| {
            word.matches('_').count() >= 3
                && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
        })
        .collect();
    assert!(
        names.len() > 50,
        "the page names {} tests only: is it still written in this way?",
        names.len()
    );
    for name in names {
        let there =
            sources.contains(&format!("fn {name}(")) || sources.contains(&format!("\"{name}\""));
        assert!(there, "docs/specification.md names the test `{name}`, and there is none");
    }
}

fn read_sources(folder: &Path, into: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read_sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&std::fs::read_to_string(&path).expect("a source file"));
        }
    }
}
