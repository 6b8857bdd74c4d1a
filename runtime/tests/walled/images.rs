use std::time::Duration;

use runtime::{Error, Program};
use spec::Digest;

use crate::{
    Test,
    bench::{Bench, file_of, sample},
    layer::{Item, tar},
};

pub const TESTS: &[Test] = &[
    ("what_is_not_fit_to_run_is_refused_with_its_reason", refused),
    ("a_program_is_found_in_its_layers", in_layers),
    ("a_second_preparation_costs_nothing", cached),
    ("what_was_tampered_with_is_made_anew", tampered),
    ("a_bad_layer_is_refused_and_leaves_nothing", bad_layers),
    ("compiling_is_limited", compile_limit),
];

fn code(result: Result<runtime::Prepared, Error>) -> (String, String) {
    match result {
        Err(Error::Refused { code, message, .. }) => (code, message),
        Err(other) => (format!("{other:?}"), String::new()),
        Ok(_) => ("ok".to_owned(), String::new()),
    }
}

fn refused() {
    let bench = Bench::new();
    let hello = sample("hello/hello.wasm");
    for (what, wasm, want, says) in [
        ("text", b"<html>".to_vec(), "E_NOT_WASM", "not a Wasm program"),
        ("nothing", Vec::new(), "E_NOT_WASM", "not a Wasm program"),
        ("a truncated program", hello[..hello.len() / 2].to_vec(), "E_NOT_WASM", "cut short"),
        ("an unknown import", sample("hostile/unknown-import.wat"), "E_IMPORT", "`nope:nope/nope`"),
        ("machine code", b"\x7fELF\x02\x01\x01\xc8".to_vec(), "E_AOT_UNTRUSTED", "never accepted"),
        ("a native program", b"\x7fELF\x02\x01\x01\0".to_vec(), "E_NOT_WASM", "native program"),
        ("a library", wat::parse_str("(module)").unwrap(), "E_PROGRAM", "library"),
        (
            "a wrong signature",
            wat::parse_str(r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i64))) (memory (export "memory") 1) (func (export "_start")))"#).unwrap(),
            "E_COMPILE",
            "proc_exit",
        ),
        (
            "a feature that is off",
            wat::parse_str(r#"(module (memory (export "memory") i64 1) (func (export "_start")))"#).unwrap(),
            "E_COMPILE",
            "memory64",
        ),
    ] {
        for round in ["first", "again"] {
            let (code, message) = code(bench.prepare(&wasm, &[]));
            assert!(code == want || (want == "E_COMPILE" && code == "E_IMPORT"), "{what}, {round}: {code}: {message}");
            assert!(message.contains(says) || want == "E_COMPILE", "{what}, {round}: {message}");
        }
    }
}

fn in_layers() {
    let bench = Bench::new();
    let hello = sample("hello/hello-p1.wasm");
    let layer = tar(&[Item::Folder("app"), Item::File("app/hello.wasm", &hello)]);
    let prepared = bench
        .prepare_into(
            "image",
            Program::InLayers("app/hello.wasm".to_owned()),
            std::slice::from_ref(&layer),
            |_| {},
        )
        .unwrap();
    assert!(prepared.facts.adapted && !prepared.cached);
    assert_eq!(prepared.facts.layers, [Digest::of(&layer)]);
    assert_eq!(prepared.facts.wasm, Digest::of(&hello));
    let none =
        bench.prepare_into("other", Program::InLayers("app/none".to_owned()), &[layer], |_| {});
    assert_eq!(code(none).0, "E_PROGRAM");
}

fn cached() {
    let bench = Bench::new();
    let hello = sample("hello/hello.wasm");
    assert!(!bench.prepare(&hello, &[]).unwrap().cached);
    let began = std::time::Instant::now();
    assert!(bench.prepare(&hello, &[]).unwrap().cached);
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
}

fn tampered() {
    let bench = Bench::new();
    let hello = sample("hello/hello.wasm");
    bench.prepare(&hello, &[]).unwrap();
    let out = bench.path("prepared").join(Digest::of(&hello).to_string().replace(':', "-"));
    for name in ["code", "index", "prepared.json"] {
        let path = out.join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(!bench.prepare(&hello, &[]).unwrap().cached, "{name}");
        assert!(bench.prepare(&hello, &[]).unwrap().cached, "{name}");
    }
    std::fs::write(bench.path("other"), [7; 32]).unwrap();
    let other = runtime::Key::open(&bench.path("other")).unwrap();
    assert!(runtime::prepare::open(&out, &bench.path("layers"), &other).unwrap().is_none());
}

fn bad_layers() {
    let bench = Bench::new();
    let hello = sample("hello/hello.wasm");
    for (what, layer, want) in [
        ("a way up", tar(&[Item::File("../x", b"1")]), "E_LAYER_PATH"),
        ("no tar", b"meow".to_vec(), "E_MEDIA"),
    ] {
        let program = Program::Blob { blob: file_of(&hello), digest: Digest::of(&hello) };
        assert_eq!(code(bench.prepare_into(what, program, &[layer], |_| {})).0, want, "{what}");
        let left = std::fs::read_dir(bench.path("layers")).unwrap().count();
        assert_eq!(left, 0, "{what}");
    }
    let program = Program::Blob { blob: file_of(&hello), digest: Digest::of(b"other") };
    assert_eq!(code(bench.prepare_into("digest", program, &[], |_| {})).0, "E_DIGEST");
    let program = Program::Blob { blob: file_of(&hello), digest: Digest::of(&hello) };
    let claimed = bench.prepare_into("diff", program, &[tar(&[])], |p| {
        p.layers[0].diff_id = Some(Digest::of(b"x"))
    });
    assert_eq!(code(claimed).0, "E_DIGEST");
}

fn compile_limit() {
    let bench = Bench::new();
    let bomb = bomb();
    let cases: [(&str, Change); 3] = [
        ("cpu", |p| p.limits.cpu_time_max = Duration::from_secs(1)),
        ("memory", |p| p.limits.memory_bytes_max = 400 << 20),
        ("time", |p| p.limits.wall_time_max = Duration::from_millis(300)),
    ];
    for (name, change) in cases {
        let program = Program::Blob { blob: file_of(&bomb), digest: Digest::of(&bomb) };
        let began = std::time::Instant::now();
        let (code, message) = code(bench.prepare_into(name, program, &[], change));
        assert_eq!(code, "E_COMPILE_LIMIT", "{name}: {message}");
        assert!(began.elapsed() < Duration::from_secs(20), "{name}: {:?}", began.elapsed());
    }
}

type Change = fn(&mut runtime::Preparation<'_>);

const FUNCTIONS: u8 = 8;

/// Functions that are long and do nothing.
fn bomb() -> Vec<u8> {
    let mut body = vec![0];
    for _ in 0..300_000 {
        body.extend([0x20, 0, 0x41, 3, 0x6c, 0x21, 0]); // local.get 0, i32.const 3, i32.mul, local.set 0
    }
    body.push(0x0b);
    let mut code = vec![FUNCTIONS + 1];
    for _ in 0..FUNCTIONS {
        leb(&mut code, body.len());
        code.extend(&body);
    }
    code.extend([2, 0, 0x0b]);
    let types = [2, 0x60, 1, 0x7f, 0, 0x60, 0, 0];
    let mut functions = vec![FUNCTIONS + 1];
    functions.extend([0; FUNCTIONS as usize]);
    functions.push(1);
    let mut exports = vec![2];
    for (name, kind, index) in [("memory", 2, 0), ("_start", 0, FUNCTIONS)] {
        exports.push(name.len() as u8);
        exports.extend(name.as_bytes());
        exports.extend([kind, index]);
    }
    let mut wasm = b"\0asm\x01\0\0\0".to_vec();
    for (id, content) in
        [(1, &types[..]), (3, &functions), (5, &[1, 0, 1]), (7, &exports), (10, &code)]
    {
        wasm.push(id);
        leb(&mut wasm, content.len());
        wasm.extend(content);
    }
    wasm
}

fn leb(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
