//! What is refused, and in which words. The words are a golden file, so that a reviewer reads them
//! all in one place; `UPDATE_GOLDEN=1` writes it anew.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    layout,
    stage::{Said, Stage, samples},
};

/// Compares `text` with `golden/NAME`.
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/journeys/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, text).expect("a golden file");
    }
    let want = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, want, "`{}` says otherwise; UPDATE_GOLDEN=1 accepts this", path.display());
}

/// One command, its code and its words, with what differs between machines left out.
struct Book<'a> {
    stage: &'a Stage,
    text: String,
}

impl Book<'_> {
    fn run(&mut self, title: &str, arguments: &[&str]) {
        let said = self.stage.margay(arguments);
        self.write(title, arguments, &said);
    }

    fn write(&mut self, title: &str, arguments: &[&str], said: &Said) {
        let clean = |text: &str| {
            let folder = self.stage.path("").display().to_string();
            let samples = samples().display().to_string();
            text.replace(folder.trim_end_matches('/'), "FOLDER").replace(&samples, "SAMPLES")
        };
        let command = clean(&arguments.join(" "));
        self.text += &format!(
            "# {title}\n$ margay {command}\n{}exit code {}\n\n",
            clean(&said.err),
            said.code
        );
        assert_ne!(said.code, 0, "{title}: {said:?}");
        assert!(!said.err.contains("panicked"), "{title}: {}", said.err);
    }
}

#[test]
fn a_build_file_that_cannot_be_followed_is_refused_in_words() {
    let stage = Stage::new();
    let mut book = Book { stage: &stage, text: String::new() };
    for (title, name, content) in [
        ("a file that is not there", "missing", "FROM scratch\nCOPY nothing.wasm /app.wasm\n"),
        ("a file outside the context", "outside", "FROM scratch\nCOPY ../secret /secret\n"),
        ("a command at build time", "runs", "FROM scratch\nRUN apt-get install cats\n"),
        ("a base that is not there", "base", "FROM no-such-image\n"),
        ("an instruction that is none", "typo", "FORM scratch\n"),
        ("nothing at all", "empty", ""),
    ] {
        stage.write(&format!("{name}/Dockerfile"), content);
        book.run(title, &["build", "--pull=never", "-t", name, name]);
    }
    book.run("a context that is not there", &["build", "-t", "x", "no-such-folder"]);
    fs::create_dir(stage.path("bare")).expect("a folder");
    book.run("a context without anything to build", &["build", "-t", "x", "bare"]);
    golden("build.txt", &book.text);
}

#[test]
fn a_program_that_is_none_is_refused_in_words() {
    let stage = Stage::new();
    let mut book = Book { stage: &stage, text: String::new() };
    let hello = fs::read(samples().join("hello/hello.wasm")).expect("hello.wasm");
    stage.write("text.wasm", "this is no program");
    stage.write("empty.wasm", "");
    stage.write("truncated.wasm", &hello[..hello.len() / 2]);
    stage.write("header.wasm", &hello[..8]);
    let unknown =
        wat::parse_file(samples().join("hostile/unknown-import.wat")).expect("a component");
    stage.write("unknown.wasm", unknown);
    book.run("a file that is not there", &["run", "./nothing.wasm"]);
    book.run("an image that is not there", &["run", "--pull", "never", "nothing"]);
    book.run("no Wasm", &["run", "./text.wasm"]);
    book.run("an empty file", &["run", "./empty.wasm"]);
    book.run("half a component", &["run", "./truncated.wasm"]);
    book.run("a header only", &["run", "./header.wasm"]);
    book.run("an import that no host offers", &["run", "./unknown.wasm"]);
    golden("program.txt", &book.text);
    stage.is_empty();
}

#[test]
fn a_layer_that_does_not_stay_inside_is_refused_in_words() {
    let stage = Stage::new();
    let mut book = Book { stage: &stage, text: String::new() };
    for (title, name, layer) in layout::hostile_layers() {
        layout::write(&stage.path(name), &[layer]);
        book.run(title, &["run", &format!("./{name}")]);
    }
    golden("layer.txt", &book.text);
    assert!(!Path::new("/tmp/margay-was-here").exists());
    stage.is_empty();
}

#[test]
fn bytes_that_are_not_what_their_name_says_are_refused() {
    let stage = Stage::new();
    layout::write(&stage.path("image"), &[layout::tar_of(&[("app.wasm", b"\0asm")])]);
    let blobs = stage.path("image/blobs/sha256");
    let largest = fs::read_dir(blobs)
        .expect("blobs")
        .flatten()
        .max_by_key(|entry| entry.metadata().expect("size").len());
    let path = largest.expect("a blob").path();
    let mut bytes = fs::read(&path).expect("a blob");
    bytes[0] ^= 1;
    fs::write(&path, bytes).expect("a blob");
    let said = stage.margay(["run", "./image"]);
    assert_eq!(said.code, 125, "{said:?}");
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(said.err.contains(&name[..12]), "the digest is not named: {}", said.err);
}

#[test]
fn a_missing_grant_is_named_with_the_line_to_add() {
    let stage = Stage::new();
    fs::create_dir(stage.path("app")).expect("a folder");
    fs::copy(samples().join("hello/hello.wasm"), stage.path("app/hello.wasm")).expect("a copy");
    let file = "FROM scratch\nCOPY hello.wasm /hello.wasm\nENTRYPOINT [\"/hello.wasm\"]\n\
        LABEL margay.wants=\"net.out:https://api.example.com\"\n";
    stage.write("app/Dockerfile", file);
    stage.margay(["build", "-t", "app", "app"]).ok();
    let mut book = Book { stage: &stage, text: String::new() };
    book.run("a want that was not granted", &["run", "app"]);
    book.run("a grant that is none", &["run", "--allow", "net.out:ftp://x", "app"]);
    golden("grant.txt", &book.text);
    let granted =
        stage.margay(["run", "--allow", "net.out:https://api.example.com:443", "app"]).ok();
    assert_eq!(granted, "hello from margay\n");
}

#[test]
fn a_guest_that_takes_too_much_ends_at_its_limit() {
    let stage = Stage::new();
    for name in ["loop", "start-loop", "hog", "recurse", "table-hog", "loop-component"] {
        let bytes =
            wat::parse_file(samples().join(format!("hostile/{name}.wat"))).expect("a module");
        stage.write(&format!("{name}.wasm"), bytes);
    }
    for (name, flags, code, want) in [
        ("loop", ["--timeout", "300ms"], 137, "E_WALL"),
        ("start-loop", ["--timeout", "300ms"], 137, "E_WALL"),
        ("loop-component", ["--timeout", "300ms"], 137, "E_WALL"),
        ("loop", ["--cpu-time", "300ms"], 137, "E_CPU"),
        ("recurse", ["--timeout", "20s"], 134, "E_TRAP"),
    ] {
        let started = Instant::now();
        let err = stage.margay(["run", flags[0], flags[1], &format!("./{name}.wasm")]).fails(code);
        assert!(err.contains(want), "{name} {flags:?}: {err}");
        assert_eq!(err.contains(": deeper"), name == "recurse", "where it broke: {err}");
        assert!(started.elapsed() < Duration::from_secs(20), "{name} took {:?}", started.elapsed());
    }
    for name in ["hog", "table-hog"] {
        let said =
            stage.margay(["run", "-m", "32m", "--timeout", "20s", &format!("./{name}.wasm")]);
        assert!([134, 137].contains(&said.code), "{name}: {said:?}");
    }
    stage.is_empty();
}

#[test]
fn a_program_with_debugging_information_breaks_at_a_line() {
    let stage = Stage::new();
    for (name, folder) in [("fault-dwarf4", ""), ("fault-dwarf5", "/src/")] {
        let program = samples().join(format!("hostile/fault/{name}.wasm"));
        // What is prepared already has the lines too.
        for _ in 0..2 {
            let said = stage.margay(["run", "--rm", &program.display().to_string()]);
            assert_eq!((said.code, said.out.as_str()), (134, "before\n"), "{name}: {said:?}");
            let places = said.err.lines().filter_map(|line| line.split_once(" at "));
            let places: Vec<_> = places.map(|(_, place)| place.to_owned()).collect();
            let want = [17, 29].map(|line| format!("{folder}fault.c:{line}"));
            assert_eq!(places, want, "{name}: {}", said.err);
        }
    }
    stage.is_empty();
}

#[test]
fn a_log_flood_ends_at_the_log_limit() {
    let stage = Stage::new();
    let bytes = wat::parse_file(samples().join("hostile/flood.wat")).expect("a module");
    stage.write("flood.wasm", bytes);
    stage.margay(["run", "-d", "--name", "flood", "--timeout", "3s", "./flood.wasm"]).ok();
    crate::stage::eventually("the flood ends", || {
        stage.margay(["ps", "-q"]).ok().is_empty().then_some(())
    });
    let task = fs::read_dir(stage.home().join("tasks")).expect("tasks").flatten();
    for entry in task {
        if let Ok(log) = fs::metadata(entry.path().join("log")) {
            assert!(log.len() <= 40 << 20, "the log has {} bytes", log.len());
        }
    }
    stage.margay(["rm", "flood"]).ok();
    stage.is_empty();
}

#[test]
fn a_volume_that_is_full_tells_the_guest() {
    let stage = Stage::new();
    let probe = samples().join("hostile/probe-cli.wasm").display().to_string();
    let grant = ["--allow", "fs:/data#rwd;volume=small;max=64KiB"];
    let said = stage.margay(["run", grant[0], grant[1], &probe, "write", "/data/a", "1000"]);
    assert_eq!(said.ok(), "wrote 1000 bytes\n");
    let said = stage.margay(["run", grant[0], grant[1], &probe, "write", "/data/b", "1000000"]);
    assert_eq!(said.code, 1, "{said:?}");
    let text = said.out.to_lowercase();
    assert!(text.contains("no space") || text.contains("quota"), "{said:?}");
    let said = stage.margay(["run", &probe, "write", "/data/b", "10"]);
    assert_ne!(said.code, 0, "without a grant there is nothing to write to: {said:?}");
}

#[test]
fn a_registry_that_says_nothing_is_named_and_given_up() {
    let stage = Stage::new();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let err = stage
        .margay(["pull", "--registry-timeout", "300ms", &format!("localhost:{port}/me/cats:v1")])
        .fails(1);
    assert!(err.contains(&format!("the registry at `localhost:{port}` was too slow")), "{err}");
}

/// A registry with one image, whose layers break off in the middle, every time.
fn cutting_registry(folder: &Path) -> u16 {
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("index.json")).expect("an index"))
            .expect("JSON");
    let manifest = index["manifests"][0]["digest"].as_str().expect("a digest").to_owned();
    let blobs = folder.join("blobs/sha256");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut bytes = [0; 4096];
            let read = stream.read(&mut bytes).unwrap_or(0);
            let request = String::from_utf8_lossy(&bytes[..read]).into_owned();
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let whole = path.contains("/manifests/");
            let digest =
                if whole { manifest.as_str() } else { path.rsplit('/').next().unwrap_or_default() };
            let body =
                fs::read(blobs.join(digest.trim_start_matches("sha256:"))).unwrap_or_default();
            let kind = "application/vnd.oci.image.manifest.v1+json";
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let sent = if whole { body.len() } else { body.len() / 2 };
            let _ =
                stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..sent]));
        }
    });
    port
}

#[test]
fn a_registry_that_cuts_in_the_middle_of_a_blob_is_named_and_nothing_is_kept() {
    let stage = Stage::new();
    layout::write(&stage.path("image"), &[layout::tar_of(&[("app.wasm", &[7; 100_000])])]);
    let port = cutting_registry(&stage.path("image"));
    let image = format!("localhost:{port}/me/cats:v1");
    let started = Instant::now();
    let said = stage.margay(["pull", &image]);
    let err = said.fails(1);
    assert!(err.contains("trying again"), "{err}");
    assert!(
        err.contains(&format!("error: the registry at `localhost:{port}` cut the connection")),
        "{err}"
    );
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_eq!(stage.margay(["images", "-q"]).ok(), "");
    let left = |folder: &str| {
        fs::read_dir(stage.home().join("images").join(folder)).into_iter().flatten().count()
    };
    assert_eq!(
        (left("blobs/sha256"), left("tmp")),
        (0, 0),
        "blobs that are whole, and halves of blobs"
    );
}

/// Wrong names of files, and files of another kind, whichever verb they are given to.
#[test]
fn a_path_that_is_not_what_a_verb_wants_is_named_with_the_next_step() {
    let stage = Stage::new();
    stage.write("samples/hello/hello.wasm", [0; 8]);
    stage.write("samples/hello/Dockerfile", "FROM scratch\n");
    stage.write("samples/README.md", "# Read me\n");
    for (line, code, message, hint) in [
        (
            "run samples/hello/helo.wasm",
            125,
            "there is no file `samples/hello/helo.wasm`",
            "did you mean `samples/hello/hello.wasm`?",
        ),
        (
            "run samples/hello/hello.wasmx",
            125,
            "there is no file `samples/hello/hello.wasmx`",
            "did you mean `samples/hello/hello.wasm`?",
        ),
        ("create samples/hello/hello.was", 125, "there is no file", "`samples/hello/hello.wasm`?"),
        ("run ../nope:1", 125, "there is no file `../nope:1`", "ls .."),
        ("run image.tar.gz", 125, "there is no file `image.tar.gz`", "ls ."),
        ("run ./samples/nope", 125, "there is no file", "see what is there: ls ./samples"),
        ("run samples/hello", 125, "is a folder", "margay build -t NAME samples/hello"),
        ("run ./samples/hello", 125, "is a folder", "margay build -t NAME ./samples/hello"),
        (
            "run samples/hello/Dockerfile",
            125,
            "is a build file",
            "margay build -t NAME -f samples/hello/Dockerfile samples/hello",
        ),
        ("run samples/README.md", 125, "is a file", "write ./samples/README.md"),
        ("run --env-file nope app", 125, "`nope`", "see what is there: ls ."),
        ("run --pull never app.wasm", 125, "there is no file `app.wasm`", "ls ."),
        ("build samples/helo", 1, "cannot open `samples/helo`", "did you mean `samples/hello`?"),
        (
            "build samples/hello/Dockerfile",
            1,
            "a build starts from a folder",
            "margay build -t NAME -f samples/hello/Dockerfile samples/hello",
        ),
        (
            "build -f samples/hello/Dockerfil samples/hello",
            1,
            "cannot read `samples/hello/Dockerfil`",
            "did you mean `samples/hello/Dockerfile`?",
        ),
        ("load -i samples/image.tar", 1, "`samples/image.tar`", "ls samples"),
        ("task register task.toml", 1, "`task.toml`", "ls ."),
        ("task register samples/README.md", 1, "line 1", "a task definition is TOML"),
        ("secret create key samples/READNE.md", 1, "READNE.md`", "`samples/README.md`?"),
    ] {
        let err = stage.margay(line.split(' ')).fails(code);
        assert!(err.starts_with("error: ") && err.contains(message), "{line}: {err}");
        let has_hint = err.lines().any(|said| said.starts_with("hint: ") && said.contains(hint));
        assert!(has_hint, "{line}: {err}");
        assert!(!err.contains("docker.io"), "{line}: no registry was asked: {err}");
    }
}
