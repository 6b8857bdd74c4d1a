//! Where a guest was when it broke, in the names of its functions and the lines of its source.

use rustc_demangle::demangle;
use wasmtime::{FrameInfo, WasmBacktrace};

use crate::{limits::FUNCTION_NAME_CHARS_MAX, source_lines::SourceLines};

/// One line for each function that was running, the innermost first; nothing for an error that was
/// not raised within a guest.
pub(super) fn backtrace(error: &wasmtime::Error, lines: &SourceLines) -> Vec<String> {
    let frames = error.downcast_ref::<WasmBacktrace>().map_or(&[][..], WasmBacktrace::frames);
    told(frames.iter().map(|frame| place(frame, lines)))
}

/// The lines of `places`. What a recursion repeats is told once, and how often.
fn told(places: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut places = places.enumerate().peekable();
    while let Some((at, place)) = places.next() {
        let mut more = 0;
        while places.next_if(|(_, next)| *next == place).is_some() {
            more += 1;
        }
        lines.push(match more {
            0 => format!("margay: {at:4}: {place}"),
            _ => format!("margay: {at:4}: {place}, and {more} times more"),
        });
    }
    lines
}

/// A function, how far into it, and the line of the source, where that is known.
fn place(frame: &FrameInfo, lines: &SourceLines) -> String {
    let name = match frame.func_name() {
        Some(name) => name_of(name),
        None => format!("function {}", frame.func_index()),
    };
    let place = match frame.func_offset() {
        Some(offset) => format!("{name} + {offset:#x}"),
        None => name,
    };
    match frame.module_offset().and_then(|offset| lines.at(offset)) {
        Some(line) => format!("{place} at {line}"),
        None => place,
    }
}

/// A name as its source has it, where Rust made it. A module may give its functions any names.
fn name_of(name: &str) -> String {
    let plain = format!("{:#}", demangle(name));
    match plain.char_indices().nth(FUNCTION_NAME_CHARS_MAX) {
        Some((cut, _)) => format!("{}…", &plain[..cut]),
        None => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recursion_is_told_once() {
        let places =
            ["panic", "deeper + 0x3", "deeper + 0x3", "deeper + 0x3", "deeper + 0x9", "main"];
        let want = [
            "margay:    0: panic",
            "margay:    1: deeper + 0x3, and 2 times more",
            "margay:    4: deeper + 0x9",
            "margay:    5: main",
        ];
        assert_eq!(told(places.into_iter().map(str::to_owned)), want);
        assert!(told(std::iter::empty()).is_empty());
    }

    #[test]
    fn names_are_those_of_the_source_and_have_an_end() {
        for (name, want) in [
            ("_ZN4core9panicking5panic17h0123456789abcdefE", "core::panicking::panic"),
            ("_RNvCskwGfYPst2Cb_3foo16example_function", "foo::example_function"),
            ("main.(*Server).handle", "main.(*Server).handle"),
            ("", ""),
        ] {
            assert_eq!(name_of(name), want, "{name}");
        }
        let long = name_of(&"é".repeat(10_000));
        assert_eq!(long.chars().count(), FUNCTION_NAME_CHARS_MAX + 1);
    }
}
