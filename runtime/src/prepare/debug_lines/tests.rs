use std::collections::BTreeSet;

use super::{super::adapter, *};
use crate::{prepare::direct_imports, source_lines::SourceLines};

const DWARF_4: &[u8] = include_bytes!("../../../../samples/hostile/fault/fault-dwarf4.wasm");
const DWARF_5: &[u8] = include_bytes!("../../../../samples/hostile/fault/fault-dwarf5.wasm");

/// As it is compiled: with the adapter of WASI 0.1, and imports that are called directly.
fn component(program: &[u8]) -> Vec<u8> {
    let component = adapter::componentize(program).unwrap();
    direct_imports::direct(&component).unwrap().expect("its imports are called directly")
}

#[test]
fn lines_are_found_in_a_module_that_was_rewritten() {
    for (program, folder) in [(DWARF_4, ""), (DWARF_5, "/src/")] {
        let component = component(program);
        let lines = SourceLines::of(table(program, &component).expect("a table").into());
        let found: BTreeSet<_> = (0..component.len()).filter_map(|at| lines.at(at)).collect();
        // `_start` begins in line 27, and nothing is done there.
        let want = [15, 17, 18, 21, 22, 24, 25, 28, 29, 30];
        let want = want.iter().map(|line| format!("{folder}fault.c:{line}")).collect();
        assert_eq!(found, want);
    }
}

/// `divide` divides on line 17, whatever else moved.
#[test]
fn the_instruction_that_traps_has_its_line() {
    for program in [DWARF_4, DWARF_5] {
        let component = component(program);
        let lines = SourceLines::of(table(program, &component).unwrap().into());
        let trap = modules(&component).unwrap()[0]
            .bodies
            .iter()
            .flat_map(|body| body.get_operators_reader().unwrap().into_iter_with_offsets())
            .find_map(|item| match item.unwrap() {
                (Operator::I32DivS, at) => lines.at(at),
                _ => None,
            });
        assert!(trap.as_ref().is_some_and(|line| line.ends_with("fault.c:17")), "{trap:?}");
    }
}

#[test]
fn a_program_without_debugging_information_has_no_lines() {
    let program = include_bytes!("../../../../samples/hello/hello.wasm");
    assert_eq!(table(program, program), None);
}

#[test]
fn hostile_debugging_information_never_panics() {
    for program in [DWARF_4, DWARF_5] {
        let component = component(program);
        let debug = program.windows(11).position(|name| name == b".debug_line").unwrap();
        for at in debug..program.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let mut broken = program.to_vec();
                broken[at] = byte;
                let _ = table(&broken, &component);
            }
        }
    }
}

/// Ten thousand programs that name one long text, and a length that leads to none.
#[test]
fn long_texts_are_read_to_their_limit() {
    let texts = vec![b'a'; 8 << 20];
    let module = Module { line_texts: &texts, ..Module::default() };
    for _ in 0..10_000 {
        let at = AttributeValue::DebugLineStrRef(gimli::DebugLineStrOffset(0));
        assert_eq!(module.text(at).map(|text| text.len()), Some(PATH_BYTES_MAX));
    }
    for (bytes, want) in [
        (&[][..], None),
        (&[0; 4], Some(4)),
        (&[1, 0, 0, 0], None),
        (&[0xff; 12], None),
        (&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0], Some(12)),
    ] {
        assert_eq!(program_bytes(bytes), want, "{bytes:?}");
    }
}
