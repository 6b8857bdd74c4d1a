use std::collections::BTreeMap;

use crate::{kind::Kind, limits::NOTE_NAMES_MAX, path::shown};

/// What was read otherwise than it is written, so that it is safe: counted by kind, with the first
/// names of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes(BTreeMap<Note, Tally>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Tally {
    count: u64,
    names: Vec<String>,
}

/// One kind of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Note {
    Absolute,
    Parent,
    ClimbingLink,
    ThroughLink,
    Device,
    Owner,
    Sparse,
    Pipe,
    NotUtf8,
}

impl Note {
    /// What is said of one such entry, and of several.
    fn text(self) -> (&'static str, &'static str) {
        match self {
            Self::Absolute => (
                "name is absolute: it begins at the root of the image",
                "names are absolute: they begin at the root of the image",
            ),
            Self::Parent => (
                "name has a `..` that stays inside: it is read without",
                "names have a `..` that stays inside: they are read without",
            ),
            Self::ClimbingLink => (
                "link climbs above the root of the image, where it stops",
                "links climb above the root of the image, where they stop",
            ),
            Self::ThroughLink => (
                "name leads through a link of its layer: it is where the link leads",
                "names lead through links of their layer: they are where the links lead",
            ),
            Self::Device => (
                "device node is left out: a container has its own `/dev`",
                "device nodes are left out: a container has its own `/dev`",
            ),
            Self::Owner => (
                "file belongs to an id that no container has: it belongs to 65534",
                "files belong to ids that no container has: they belong to 65534",
            ),
            Self::Sparse => (
                "sparse file is left out: a Wasm program does not see it",
                "sparse files are left out: a Wasm program does not see them",
            ),
            Self::Pipe => (
                "named pipe is left out: a Wasm program cannot use one",
                "named pipes are left out: a Wasm program cannot use them",
            ),
            Self::NotUtf8 => (
                "name is not UTF-8 and is left out: a Wasm program cannot say it",
                "names are not UTF-8 and are left out: a Wasm program cannot say them",
            ),
        }
    }

    /// Whether it is true for images that `kind` runs.
    fn concerns(self, kind: Kind) -> bool {
        match self {
            Self::Absolute
            | Self::Parent
            | Self::ClimbingLink
            | Self::ThroughLink
            | Self::Device => true,
            Self::Owner => kind == Kind::Native,
            Self::Sparse | Self::Pipe | Self::NotUtf8 => kind == Kind::Wasm,
        }
    }
}

impl Notes {
    pub(crate) fn add(&mut self, note: Note, name: &[u8]) {
        let tally = self.0.entry(note).or_default();
        tally.count += 1;
        if tally.names.len() < NOTE_NAMES_MAX {
            tally.names.push(shown(name));
        }
    }

    /// Takes in what another reader noted.
    pub fn extend(&mut self, other: &Self) {
        for (note, more) in &other.0 {
            let tally = self.0.entry(*note).or_default();
            tally.count += more.count;
            let left = NOTE_NAMES_MAX.saturating_sub(tally.names.len());
            tally.names.extend(more.names.iter().take(left).cloned());
        }
    }

    /// One line for each kind of note that concerns images that `kind` runs.
    pub fn lines(&self, kind: Kind) -> Vec<String> {
        let concerned = self.0.iter().filter(|(note, _)| note.concerns(kind));
        let line = |(note, tally): (&Note, &Tally)| {
            let (one, several) = note.text();
            let text = if tally.count == 1 { one } else { several };
            let names = tally.names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
            let more = if tally.count > names.len() as u64 { ", …" } else { "" };
            format!("{} {text} ({}{more})", tally.count, names.join(", "))
        };
        concerned.map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_counted_by_kind_and_name_the_first() {
        let mut notes = Notes::default();
        for name in ["a", "b", "c", "d"] {
            notes.add(Note::Absolute, name.as_bytes());
        }
        let mut more = Notes::default();
        more.add(Note::Pipe, b"p");
        more.add(Note::Owner, b"o");
        notes.extend(&more);
        let absolute =
            "4 names are absolute: they begin at the root of the image (`a`, `b`, `c`, …)";
        let pipe = "1 named pipe is left out: a Wasm program cannot use one (`p`)";
        assert_eq!(notes.lines(Kind::Wasm), [absolute, pipe]);
        let owner = "1 file belongs to an id that no container has: it belongs to 65534 (`o`)";
        assert_eq!(notes.lines(Kind::Native), [absolute, owner]);
    }
}
