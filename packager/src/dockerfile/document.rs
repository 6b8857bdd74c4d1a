use std::cell::Cell;

use super::expansion::{Expander, Mode};

/// What `<<EOF` opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opening {
    /// The line that ends it, which is also its name.
    pub(super) name: String,
    /// Not with a quoted delimiter.
    pub(super) expand: bool,
    /// `<<-`: tabs at the beginning of lines are dropped.
    pub(super) tabs: bool,
}

/// Every here-document that `line` opens, in order.
pub(super) fn openings(line: &str) -> Vec<Opening> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let mode = Mode { raw_quotes: true, raw_escapes: true, keep_unset: true, plain_quotes: false };
    let words = unset(mode, |expander| expander.words(line));
    words.unwrap_or_default().iter().filter_map(|word| opening(word)).collect()
}

/// `<<EOF`, `<<-EOF`, `<<"EOF"` and so on, also with a number in front.
pub(super) fn opening(word: &str) -> Option<Opening> {
    let word = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (tabs, word) = match word.strip_prefix('-') {
        Some(word) => (true, word),
        None => (false, word),
    };
    let word = word.trim_start_matches(['\t', '\n', '\u{c}', '\r', ' ']);
    if word.is_empty() || word.contains('<') {
        return None;
    }
    let read = |raw_quotes| {
        let mode = Mode { raw_quotes, keep_unset: true, ..Mode::default() };
        unset(mode, |expander| expander.words(word)).ok().filter(|words| words.len() == 1)
    };
    let name = read(false)?.remove(0);
    let raw = read(true)?.remove(0);
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Some(Opening { expand: quotes(&name) == quotes(&raw), name, tabs })
}

/// Calls `read` where no variable is set. The escape is a backslash, whatever `# escape` says.
fn unset<T>(mode: Mode, read: impl FnOnce(&Expander<'_>) -> T) -> T {
    let left = Cell::new(crate::limits::EXPANDED_BYTES_MAX);
    read(&Expander { value: &|_| None, escape: '\\', left: &left, mode })
}

/// Without the tabs at the beginning of its lines.
pub(super) fn without_tabs(text: &str) -> String {
    text.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}
