//! `wasi:config` and `wasi:logging`: neither gives a guest anything that its variables and its
//! error stream do not, so neither needs a grant of its own.

use std::sync::Arc;

use wasmtime::component::{HasData, Linker};

use super::{environment::Environment, output::Output};
use crate::limits::{LOG_CONTEXT_BYTES_MAX, LOG_MESSAGE_BYTES_MAX};

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "services",
        imports: { default: trappable },
    });
}

use bindings::wasi::{
    config::store,
    logging::logging::{self, Level},
};

/// What an instance has of both, for the time of one call.
pub(crate) struct View<'a> {
    pub environment: &'a Arc<Environment>,
    pub stderr: &'a Output,
}

struct HasServices;

impl HasData for HasServices {
    type Data<'a> = View<'a>;
}

pub(crate) fn add_to_linker<T: 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> View<'_>,
) -> wasmtime::Result<()> {
    store::add_to_linker::<T, HasServices>(linker, view)?;
    logging::add_to_linker::<T, HasServices>(linker, view)
}

impl store::Host for View<'_> {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, store::Error>> {
        let mut variables = self.environment.variables();
        Ok(Ok(variables.find(|(name, _)| *name == key).map(|(_, value)| value.clone())))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, store::Error>> {
        Ok(Ok(self.environment.variables().cloned().collect()))
    }
}

impl logging::Host for View<'_> {
    fn log(&mut self, level: Level, context: String, message: String) -> wasmtime::Result<()> {
        self.stderr.say_all(&entry(level, &context, &message));
        Ok(())
    }
}

/// The lines of one entry: level and context before the first, and the others indented, so that no
/// message can look like an entry of another level.
fn entry(level: Level, context: &str, message: &str) -> Vec<String> {
    let level = match level {
        Level::Trace => "TRACE",
        Level::Debug => "DEBUG",
        Level::Info => "INFO",
        Level::Warn => "WARN",
        Level::Error => "ERROR",
        Level::Critical => "CRITICAL",
    };
    let head = match cut(context, LOG_CONTEXT_BYTES_MAX) {
        context if context.is_empty() => format!("{level} "),
        context => format!("{level} {context}: "),
    };
    let message = cut(message, LOG_MESSAGE_BYTES_MAX);
    let mut lines = message.lines();
    let first = head + lines.next().unwrap_or_default();
    let others = lines.map(|line| format!("  {line}"));
    std::iter::once(first).chain(others).collect()
}

/// At most `bytes_max` bytes of `text`, and a sign where there were more.
fn cut(text: &str, bytes_max: usize) -> String {
    match text.floor_char_boundary(bytes_max) {
        end if end < text.len() => format!("{}…", &text[..end]),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LOG_LINE_BYTES_MAX;

    #[test]
    fn an_entry_has_its_level_and_context_once() {
        for (level, context, message, want) in [
            (Level::Info, "http", "meow", &["INFO http: meow"][..]),
            (Level::Trace, "", "", &["TRACE "]),
            (Level::Warn, "", "one\r\ntwo\n", &["WARN one", "  two"]),
            (Level::Critical, "a", "ok\nERROR a: no", &["CRITICAL a: ok", "  ERROR a: no"]),
        ] {
            assert_eq!(entry(level, context, message), want);
        }
    }

    #[test]
    fn a_hostile_entry_stays_within_a_line_of_the_log() {
        for text in ["é".repeat(1 << 20), "\n".repeat(1 << 20), "x\u{1F408}".repeat(1 << 18)] {
            let lines = entry(Level::Error, &text, &text);
            assert!(lines.iter().all(|line| line.len() <= LOG_LINE_BYTES_MAX));
            let bytes: usize = lines.iter().map(String::len).sum();
            assert!(bytes <= 3 * LOG_LINE_BYTES_MAX, "{bytes} bytes");
        }
    }
}
