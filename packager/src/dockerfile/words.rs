//! How a line is taken apart before any variable is put in. Each piece keeps its offset.

use serde_json::Value;

/// A piece of a line, and the offset of its first byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) at: usize,
    pub(super) text: String,
}

/// An instruction's keyword, its flags, and the rest.
pub(super) struct Split<'l> {
    pub(super) keyword: &'l str,
    pub(super) keyword_at: usize,
    pub(super) flags: Vec<Piece>,
    pub(super) rest: &'l str,
    pub(super) rest_at: usize,
}

/// What separates words, apart from the places where any white space does.
const BLANKS: [char; 5] = ['\t', '\u{b}', '\u{c}', '\r', ' '];

pub(super) fn split(line: &str, escape: char) -> Split<'_> {
    let keyword_at = line.len() - line.trim_start().len();
    let text = line.trim();
    let end = text.find(BLANKS).unwrap_or(text.len());
    let behind = text[end..].trim_start_matches(BLANKS);
    let behind_at = keyword_at + text.len() - behind.len();
    let (flags, used) = flags(behind, escape);
    let rest = behind[used..].trim_start();
    let rest_at = behind_at + behind.len() - rest.len();
    let flags = flags.into_iter().map(|flag| Piece { at: behind_at + flag.at, ..flag }).collect();
    Split { keyword: &text[..end], keyword_at, flags, rest: rest.trim_end(), rest_at }
}

/// The words with `--` in front at the beginning, without their quotes, and how many bytes they
/// take. Byte by byte: what is not ASCII is not read as text here, as in BuildKit.
fn flags(text: &str, escape: char) -> (Vec<Piece>, usize) {
    let bytes = text.as_bytes();
    let is_space = |byte: u8| char::from(byte).is_whitespace();
    let (mut flags, mut at) = (Vec::new(), 0);
    loop {
        while at < bytes.len() && is_space(bytes[at]) {
            at += 1;
        }
        if !bytes[at.min(bytes.len())..].starts_with(b"--") {
            return (flags, boundary(text, at));
        }
        let (start, mut word, mut quote) = (at, String::new(), None);
        while at < bytes.len() {
            let c = char::from(bytes[at]);
            match quote {
                None if is_space(bytes[at]) => break,
                None if matches!(c, '\'' | '"') => quote = Some(c),
                Some(open) if c == open => quote = None,
                _ if c == escape => {
                    at += 1;
                    word.extend(bytes.get(at).map(|byte| char::from(*byte)));
                }
                _ => word.push(c),
            }
            at += 1;
        }
        if word == "--" {
            return (flags, boundary(text, at.min(text.len())));
        }
        flags.push(Piece { at: start, text: word });
    }
}

fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// The words between blanks; quotes mean nothing.
pub(super) fn blank_separated(text: &str, at: usize) -> Vec<Piece> {
    let (mut words, mut start) = (Vec::new(), None);
    for (offset, c) in text.char_indices() {
        match (BLANKS.contains(&c), start) {
            (true, Some(from)) => {
                words.push(Piece { at: at + from, text: text[from..offset].to_owned() });
                start = None;
            }
            (false, None) => start = Some(offset),
            _ => {}
        }
    }
    words.extend(start.map(|from| Piece { at: at + from, text: text[from..].to_owned() }));
    words
}

/// The words between white space that stands in no quotes; the quotes stay.
pub(super) fn quoted(text: &str, at: usize, escape: char) -> Vec<Piece> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<Piece>, None);
    let mut chars = text.char_indices();
    while let Some((offset, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            words.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_with(|| Piece { at: at + offset, text: String::new() });
        match quote {
            None if matches!(c, '\'' | '"') => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        if c == escape && quote != Some('\'') {
            // One at the very end is dropped.
            if let Some((_, next)) = chars.next() {
                word.text.extend([c, next]);
            }
            continue;
        }
        word.text.push(c);
    }
    words.extend(word);
    words.retain(|word| !word.text.is_empty());
    words
}

/// The strings of a JSON array: `None` when it is none, an error when it holds anything else.
pub(super) fn json(text: &str) -> Result<Option<Vec<String>>, NotStrings> {
    if !text.trim_start().starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<Value>>(text) else { return Ok(None) };
    let strings = values.into_iter().map(|value| match value {
        Value::String(text) => Ok(text),
        _ => Err(NotStrings),
    });
    strings.collect::<Result<_, _>>().map(Some)
}

/// An array of something else than strings.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotStrings;
