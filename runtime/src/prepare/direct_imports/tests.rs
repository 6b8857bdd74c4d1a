use wasmtime::{
    Store,
    component::{Component, Linker},
};

use super::*;

/// In the shape of wit-component. Of the first module's imports one comes from the shim.
const COMPONENT: &str = r#"(component
    (import "host" (instance $host
        (export "length" (func (param "text" string) (result u32)))))
    (core module $main
        (type $t (func (param i32 i32) (result i32)))
        (import "host" "length" (func $length (type $t)))
        (import "own" "table" (table $imported 1 funcref))
        (import "own" "twice" (func $twice (param i32) (result i32)))
        (table $own 2 funcref)
        (elem (table $own) (i32.const 0) func $twice_length $length)
        (memory (export "memory") 1)
        (global $added (mut i32) (i32.const 0))
        (data (i32.const 0) "four")
        (func $twice_length (type $t)
            (call $twice (call $length (local.get 0) (local.get 1))))
        (func $begin (global.set $added (i32.const 100)))
        (start $begin)
        (func (export "run") (result i32)
            (i32.add (global.get $added) (i32.add
                (call_indirect $own (type $t) (i32.const 0) (i32.const 4) (i32.const 0))
                (call_indirect $own (type $t) (i32.const 0) (i32.const 3) (i32.const 1))))))
    (core module $shim
        (type (func (param i32 i32) (result i32)))
        (func (export "0") (type 0)
            local.get 0 local.get 1 i32.const 0 call_indirect (type 0))
        (table (export "$imports") 1 1 funcref))
    (core module $fixups
        (type (func (param i32 i32) (result i32)))
        (import "" "0" (func $f (type 0)))
        (import "" "$imports" (table 1 1 funcref))
        (elem (i32.const 0) func $f))
    (core module $own
        (table (export "table") 1 funcref)
        (func (export "twice") (param i32) (result i32) (i32.mul (local.get 0) (i32.const 2))))
    (core instance $shim (instantiate $shim))
    (alias core export $shim "0" (core func $indirect))
    (core instance $imports (export "length" (func $indirect)))
    (core instance $own (instantiate $own))
    (core instance $main (instantiate $main
        (with "host" (instance $imports)) (with "own" (instance $own))))
    (alias core export $main "memory" (core memory $memory))
    (alias export $host "length" (func $length))
    (core func $lowered (canon lower (func $length) (memory $memory)))
    (alias core export $shim "$imports" (core table $table))
    (core instance $fixed (export "0" (func $lowered)) (export "$imports" (table $table)))
    (core instance (instantiate $fixups (with "" (instance $fixed))))
    (func (export "run") (result u32) (canon lift (core func $main "run"))))"#;

fn component(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("a component")
}

/// What its `run` returns.
fn run(component: &[u8]) -> u32 {
    let engine = crate::engine::compiler().unwrap();
    let component = Component::new(&engine, component).expect("a valid component");
    let mut linker = Linker::<()>::new(&engine);
    let length = |_: wasmtime::StoreContextMut<'_, ()>, (text,): (String,)| {
        assert!("four".starts_with(&text));
        Ok((text.len() as u32,))
    };
    linker.instance("host").unwrap().func_wrap("length", length).unwrap();
    let mut store = Store::new(&engine, ());
    store.set_epoch_deadline(1);
    let instance = linker.instantiate(&mut store, &component).unwrap();
    let run = instance.get_typed_func::<(), (u32,)>(&mut store, "run").unwrap();
    run.call(&mut store, ()).unwrap().0
}

/// The imports of its modules, in order.
fn imports(component: &[u8]) -> Vec<String> {
    let payloads = wasmparser::Parser::new(0).parse_all(component);
    let sections = payloads.filter_map(|payload| match payload.unwrap() {
        wasmparser::Payload::ImportSection(section) => Some(section),
        _ => None,
    });
    let imports = sections.flat_map(|section| section.into_imports());
    imports.map(Result::unwrap).map(|import| format!("{} {}", import.module, import.name)).collect()
}

#[test]
fn a_module_calls_its_imports_through_the_table_and_does_the_same() {
    let given = component(COMPONENT);
    let direct = direct(&given).unwrap().expect("it has a shim");
    assert_eq!(imports(&given)[..3], ["host length", "own table", "own twice"]);
    assert_eq!(imports(&direct)[..3], ["own table", "own twice", "margay:shim $imports"]);
    assert_eq!((run(&given), run(&direct)), (111, 111));
}

#[test]
fn programs_as_toolchains_make_them_import_less_and_stay_valid() {
    let samples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples");
    for name in ["adopt/adopt.wasm", "hello/hello.wasm", "httpd/httpd.wasm"] {
        let given = std::fs::read(samples.join(name)).unwrap();
        let direct = direct(&given).unwrap().unwrap_or_else(|| panic!("{name} has a shim"));
        wasmparser::Validator::new()
            .validate_all(&direct)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let (before, after) = (imports(&given).len(), imports(&direct).len());
        assert!(after + 15 < before, "{name}: {before} imports became {after}");
    }
}

#[test]
fn what_is_no_shim_or_is_shared_stays_as_it_is() {
    let instance = "(core instance $main (instantiate $main";
    let again = format!(
        "(core instance (instantiate $main (with \"host\" (instance $imports)) (with \"own\" \
         (instance $own)))) {instance}"
    );
    let taken = format!("{instance} (with \"margay:shim\" (instance $own))");
    let call = "local.get 0 local.get 1 i32.const 0 call_indirect (type 0))";
    let table = "(table (export \"$imports\") 1 1 funcref))\n    (core module $fixups";
    for (what, part, other) in [
        ("other parameters", call, "local.get 1 local.get 1 i32.const 0 call_indirect (type 0))"),
        ("something more", call, &format!("nop {call}")),
        ("a local variable", call, &format!("(local i32) {call}")),
        ("a memory", table, &format!("(memory 1) {table}")),
        ("an import that has the name", instance, &taken),
        ("two instances", instance, &again),
    ] {
        assert!(COMPONENT.contains(part), "{what}");
        let given = component(&COMPONENT.replacen(part, other, 1));
        assert_eq!(direct(&given).unwrap(), None, "{what}");
    }
}

#[test]
fn broken_bytes_never_panic() {
    let whole = component(COMPONENT);
    for at in 0..whole.len() {
        let _ = direct(&whole[..at]);
        for bits in [0xff, 0x01, 0x80] {
            let mut changed = whole.clone();
            changed[at] ^= bits;
            let _ = direct(&changed);
        }
    }
}
