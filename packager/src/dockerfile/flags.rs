use super::{
    instruction::{Flag, Word},
    words::Piece,
};
use crate::{
    diagnostic::{DiagnosticKind, Place},
    fault::Fault,
};

/// What a flag takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Bool,
    Value,
    /// A value, and it may stand more than once.
    Values,
}

/// The flags of an instruction, by name.
pub(super) type Known = &'static [(&'static str, Takes)];

pub(super) const NONE: Known = &[];
pub(super) const FROM: Known = &[("platform", Takes::Value)];
pub(super) const COPY: Known = &[
    ("chown", Takes::Value),
    ("from", Takes::Value),
    ("chmod", Takes::Value),
    ("link", Takes::Bool),
    ("exclude", Takes::Values),
    ("parents", Takes::Bool),
];
pub(super) const ADD: Known = &[
    ("chown", Takes::Value),
    ("chmod", Takes::Value),
    ("link", Takes::Bool),
    ("keep-git-dir", Takes::Bool),
    ("checksum", Takes::Value),
    ("unpack", Takes::Bool),
    ("exclude", Takes::Values),
];
pub(super) const HEALTHCHECK: Known = &[
    ("interval", Takes::Value),
    ("timeout", Takes::Value),
    ("start-period", Takes::Value),
    ("start-interval", Takes::Value),
    ("retries", Takes::Value),
];

/// The flags that `instruction` was given, each one that it knows.
pub(super) fn read(
    instruction: &'static str,
    known: Known,
    pieces: &[Piece],
    place: impl Fn(usize) -> Place,
) -> Result<Vec<Flag>, Fault> {
    let mut flags: Vec<Flag> = Vec::new();
    for piece in pieces {
        let place = place(piece.at);
        let written = piece.text.trim_start_matches("--");
        let (name, value) = match written.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (written, None),
        };
        let fault = |kind: fn(&'static str, String) -> DiagnosticKind| {
            Err(kind(instruction, name.to_owned()).at(place))
        };
        let Some((_, takes)) = known.iter().find(|(known, _)| *known == name) else {
            return fault(|instruction, flag| DiagnosticKind::Flag { instruction, flag });
        };
        if *takes != Takes::Values && flags.iter().any(|flag| flag.name == name) {
            return fault(|instruction, flag| DiagnosticKind::SecondFlag { instruction, flag });
        }
        let text = match (takes, value) {
            (Takes::Bool, None) => "true".to_owned(),
            (Takes::Bool, Some(value)) => match value.to_ascii_lowercase() {
                value if matches!(value.as_str(), "true" | "false") => value,
                _ => return fault(|_, flag| DiagnosticKind::FlagBool(flag)),
            },
            (Takes::Value | Takes::Values, Some(value)) => value.to_owned(),
            (Takes::Value | Takes::Values, None) => {
                return fault(|_, flag| DiagnosticKind::FlagWithoutValue(flag));
            }
        };
        flags.push(Flag { name: name.to_owned(), value: Word { place, text } });
    }
    Ok(flags)
}
