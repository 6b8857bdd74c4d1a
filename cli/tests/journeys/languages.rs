//! First apps: what `init` writes, what `build` says where a folder is not built yet, and what
//! `dev` does when a file changes.

use std::fs;

use crate::stage::{Running, Stage, eventually, get};

#[test]
fn init_writes_for_the_sources_that_are_there_and_changes_no_file() {
    let stage = Stage::new();
    for (files, want) in [
        (
            &[("Cargo.toml", "[package]\nname = \"cats-api\"\n"), ("src/main.rs", "fn main() {}")]
                [..],
            "cargo build --release",
        ),
        (&[("go.mod", "module example.com/cats-api\n")], "GOOS=wasip1 GOARCH=wasm go build"),
        (&[("package.json", "{\"name\": \"@acme/cats-api\"}")], "npm install && node build.mjs"),
        (&[("pyproject.toml", "[project]\nname = \"cats-api\"\n")], "componentize-py"),
        (&[("main.py", "print('meow')\n")], "componentize app"),
        (&[("a.c", "int main() {}"), ("b b.c", "")], "app.wasm a.c 'b b.c'"),
    ] {
        let (marker, _) = files[0];
        let folder = format!("of-{marker}");
        for (file, text) in files {
            stage.write(&format!("{folder}/{file}"), text);
        }
        let said = stage.margay(["init", &folder]);
        assert_eq!(said.code, 0, "{marker}: {}", said.err);
        assert!(said.out.ends_with("margay.toml\n"), "{marker}: {}", said.out);
        assert!(said.err.contains("margay build && margay run"), "{marker}: {}", said.err);
        let text = fs::read_to_string(stage.path(&format!("{folder}/margay.toml"))).unwrap();
        let want = if marker == "main.py" { "componentize main" } else { want };
        assert!(text.contains(want), "{marker}: {text}");
        if text.contains("name = \"cats-api\"") {
            assert!(!["main.py", "a.c"].contains(&marker));
        }
        for (file, text) in files {
            assert_eq!(fs::read_to_string(stage.path(&format!("{folder}/{file}"))).unwrap(), *text);
        }
        let again = stage.margay(["init", &folder]).fails(1);
        assert!(again.contains("has a `margay.toml` already"), "{again}");
        stage.margay(["init", "--force", &folder]).ok();
    }
}

#[test]
fn init_says_what_it_needs() {
    let stage = Stage::new();
    stage.write("docker/Dockerfile", "FROM scratch\n");
    stage.write("go/go.mod", "module cats\n");
    fs::create_dir(stage.path("empty")).unwrap();
    for (arguments, code, want) in [
        (&["init", "empty"][..], 1, "hint: begin an app: margay init --language rust"),
        (&["init", "docker"], 1, "has a `Dockerfile`, which is a build file already"),
        (&["init", "go", "-l", "rust"], 1, "has sources in Go (`go.mod`), and not in Rust"),
        (&["init", "empty", "-l", "cobol"], 2, "there is a page for rust, go, c, javascript"),
        (&["init", "empty", "-l", "c", "--name", "a/b"], 2, "use letters, digits and `-`"),
    ] {
        let err = stage.margay(arguments).fails(code);
        assert!(err.contains(want), "margay {arguments:?}: {err}");
    }
    assert_eq!(fs::read_dir(stage.path("empty")).unwrap().count(), 0);
    assert!(!stage.home().exists());
}

#[test]
fn a_folder_that_is_not_built_gets_the_commands_that_build_it() {
    let stage = Stage::new();
    for (file, text, want) in [
        ("Cargo.toml", "[package]\nname = \"x\"\n", "cargo build --release --target wasm32-wasip2"),
        ("go.mod", "module x\n", "GOOS=wasip1 GOARCH=wasm go build"),
        ("x.c", "int main() {}\n", "clang --target=wasm32-wasi -Os -o app.wasm x.c"),
        ("package.json", "{}", "npm install --save-dev @bytecodealliance/componentize-js@"),
        ("app.py", "", "python3 -m venv .venv && .venv/bin/pip install -q componentize-py=="),
    ] {
        let folder = format!("of-{file}");
        stage.write(&format!("{folder}/{file}"), text);
        let err = stage.margay(["build", &folder]).fails(1);
        assert!(err.contains(&format!("it has a `{file}` and no `.wasm`")), "{err}");
        assert!(err.contains("hint: build it: ") && err.contains(want), "{file}: {err}");
    }
}

#[test]
fn init_finds_the_program_or_says_which_files_it_could_be() {
    let stage = Stage::new();
    let (package, bin) = ("[package]\nname = \"cats-api\"\n", "[[bin]]\nname = \"cats\"\n");
    let module = ("go.mod", "module example.com/cats\n");
    let main = "package main\nfunc main() {}\n";
    let wit = "from wit_world import exports\n";
    let with_bin = format!("{package}{bin}path = \"src/main.rs\"\n");
    let with_default = format!("{package}default-run = \"b\"\n");
    let project = ("pyproject.toml", "[project]\nname = \"cats\"\n");
    // What `margay.toml` has in the end, or what is said instead.
    for (at, (files, want)) in [
        // Another name than the usual one, and the only one.
        (&[project, ("server.py", wit)][..], "componentize server"),
        (&[project, ("server.py", wit), ("model.py", ""), ("setup.py", "")], "componentize server"),
        (&[project, ("server.py", "")], "componentize server"),
        (
            &[
                ("package.json", "{\"main\": \"lib/cats.js\"}"),
                ("index.js", ""),
                ("lib/cats.js", ""),
            ],
            "node build.mjs",
        ),
        (
            &[("package.json", "{}"), ("server.js", ""), ("build.mjs", ""), ("x.config.js", "")],
            "node build.mjs",
        ),
        (
            &[module, ("cmd/cats/main.go", main), ("cats.go", "package cats\n")],
            "app.wasm ./cmd/cats\"",
        ),
        (&[("Cargo.toml", &with_bin), ("src/main.rs", "fn main() {}")], "release/cats.wasm"),
        (&[("Cargo.toml", package), ("src/bin/cats.rs", "fn main() {}")], "release/cats.wasm"),
        (
            &[("Cargo.toml", &with_default), ("src/bin/a.rs", ""), ("src/bin/b.rs", "")],
            "release/b.wasm",
        ),
        (
            &[("a/Cargo.toml", package), ("a/src/main.rs", ""), ("Cargo.toml", "[workspace]\n")],
            "is a workspace of several crates",
        ),
        // None yet: the first one is written.
        (&[project], "componentize app"),
        (&[("package.json", "{}")], "node build.mjs"),
        (&[module], "-buildmode=c-shared"),
        (&[("Cargo.toml", package)], "release/cats-api.wasm"),
        // Which one it is, its author says.
        (&[project, ("a.py", wit), ("b.py", wit)], "the program: `a.py`, `b.py`"),
        (&[project, ("src/cats/core.py", "")], "no `app.py` or `main.py`"),
        (&[("package.json", "{}"), ("a.js", ""), ("b.mjs", "")], "the program: `a.js`, `b.mjs`"),
        (
            &[("package.json", "{\"main\": \"dist/a.js\"}"), ("src/a.ts", "")],
            "that `main` of `package.json`",
        ),
        (
            &[module, ("cmd/a/a.go", main), ("cmd/b/b.go", main)],
            "the program: `./cmd/a`, `./cmd/b`",
        ),
        (&[module, ("cats.go", "package cats\n")], "no `package main`"),
        (
            &[("Cargo.toml", package), ("src/bin/a.rs", ""), ("src/bin/b.rs", "")],
            "the program: `a`, `b`",
        ),
        (&[("Cargo.toml", package), ("src/lib.rs", "")], "the library is no `cdylib`"),
        (&[("a.c", "int main() {}"), ("b.c", "int main() {}")], "the program: `a.c`, `b.c`"),
    ]
    .into_iter()
    .enumerate()
    {
        let folder = format!("app-{at}");
        for (file, text) in files {
            stage.write(&format!("{folder}/{file}"), text);
        }
        let said = stage.margay(["init", &folder]);
        let written = fs::read_to_string(stage.path(&format!("{folder}/margay.toml")));
        match written {
            Ok(text) => assert!(text.contains(want), "{files:?}: {text}"),
            Err(_) => {
                assert!(said.code == 1 && said.err.contains(want), "{files:?}: {}", said.err);
                assert!(said.err.contains("\nhint: "), "{files:?}: {}", said.err);
                let built = stage.margay(["build", &folder]).fails(1);
                assert!(built.contains("hint: "), "{files:?}: {built}");
            }
        }
        for (file, text) in files {
            assert_eq!(fs::read_to_string(stage.path(&format!("{folder}/{file}"))).unwrap(), *text);
        }
    }
    // A module in a folder of its own is imported by its whole path.
    let begun = fs::read_to_string(stage.path("app-12/main.go")).unwrap();
    assert!(begun.contains("\"example.com/cats/wasihttp\""), "{begun}");
    let entry = fs::read_to_string(stage.path("app-3/build.mjs")).unwrap();
    assert!(entry.contains("sourcePath: 'lib/cats.js'"), "{entry}");
    // cargo builds a crate of a workspace elsewhere, unless it is told where.
    stage.margay(["init", "app-9/a"]).ok();
    let member = fs::read_to_string(stage.path("app-9/a/margay.toml")).unwrap();
    assert!(member.contains("--target-dir target"), "{member}");
}

/// A module that answers HTTP as C and Go leave it, with `body` as its text.
fn module(body: &str) -> Vec<u8> {
    let len = body.len();
    let text = format!(
        r#"(module
        (import "wasi:http/types@0.2.10" "[constructor]fields" (func $fields (result i32)))
        (import "wasi:http/types@0.2.10" "[constructor]outgoing-response"
            (func $response (param i32) (result i32)))
        (import "wasi:http/types@0.2.10" "[method]outgoing-response.body"
            (func $body (param i32 i32)))
        (import "wasi:http/types@0.2.10" "[method]outgoing-body.write"
            (func $write (param i32 i32)))
        (import "wasi:http/types@0.2.10" "[static]outgoing-body.finish"
            (func $finish (param i32 i32 i32 i32)))
        (import "wasi:http/types@0.2.10" "[static]response-outparam.set"
            (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
        (import "wasi:io/streams@0.2.10" "[method]output-stream.blocking-write-and-flush"
            (func $flush (param i32 i32 i32 i32)))
        (import "wasi:io/streams@0.2.10" "[resource-drop]output-stream"
            (func $drop (param i32)))
        (memory (export "memory") 1)
        (data (i32.const 1024) "{body}")
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
        (func (export "wasi:http/incoming-handler@0.2.10#handle") (param i32 i32)
            (local $r i32) (local $b i32) (local $s i32)
            (local.set $r (call $response (call $fields)))
            (call $body (local.get $r) (i32.const 0))
            (local.set $b (i32.load (i32.const 4)))
            (call $set (local.get 1) (i32.const 0) (local.get $r) (i32.const 0) (i64.const 0)
                (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
            (call $write (local.get $b) (i32.const 0))
            (local.set $s (i32.load (i32.const 4)))
            (call $flush (local.get $s) (i32.const 1024) (i32.const {len}) (i32.const 0))
            (call $drop (local.get $s))
            (call $finish (local.get $b) (i32.const 0) (i32.const 0) (i32.const 0))))"#
    );
    wat::parse_str(text).expect("a module")
}

/// A free port, for a verb that keeps its port over several tasks.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

#[test]
fn dev_shows_each_change_and_keeps_what_ran_when_a_build_fails() {
    let stage = Stage::new();
    let port = free_port();
    stage.write("app/v", module("one"));
    // The build command writes beside the sources, as compilers do; it begins no build by that.
    let build = "name = \"app\"\nbuild = \"cp v app.wasm && date +%N > log && touch tmp$$ && rm tmp$$\"\nwasm = \"app.wasm\"\n";
    stage.write("app/margay.toml", build);
    let publish = format!("127.0.0.1:{port}:80");
    let dev = Running::of(stage.command(["dev", "app", "-p", &publish]));
    let answers = |want: &str| {
        eventually(&format!("the answer `{want}`"), || {
            let answer = get(&format!("127.0.0.1:{port}"), "x", "/")?;
            (answer.body == want.as_bytes()).then_some(())
        });
    };
    answers("one");
    stage.write("app/v", module("two"));
    answers("two");
    stage.write("app/v", "no program");
    let log = stage.path("app/log");
    let before = fs::read(&log).unwrap_or_default();
    eventually("a build that fails", || (fs::read(&log).ok()? != before).then_some(()));
    answers("two");
    stage.write("app/v", module("three"));
    answers("three");
    dev.signal("INT");
    let said = dev.end();
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.err.contains("The version before keeps running"), "{}", said.err);
    stage.is_empty();
}

#[test]
fn dev_says_what_it_cannot_do() {
    let stage = Stage::new();
    for index in 0..4200 {
        fs::create_dir_all(stage.path(&format!("many/{index}"))).unwrap();
    }
    let err = stage.margay(["dev", "many"]).fails(1);
    assert!(err.contains("has more than 4096 folders to watch"), "{err}");
    let err = stage.margay(["dev", "none"]).fails(1);
    assert!(err.contains("`none`"), "{err}");
    stage.is_empty();
}
