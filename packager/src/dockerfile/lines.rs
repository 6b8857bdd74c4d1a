use crate::{
    diagnostic::{DiagnosticKind, Place},
    fault::Fault,
    limits::LINE_BYTES_MAX,
};

/// The lines of a Dockerfile, one after the other, as instructions and here-documents take them.
///
/// # Spec
/// Dockerfile reference, "Format" and "Parser directives"; where it is silent, what BuildKit reads.
pub(crate) struct Lines<'t> {
    rest: &'t str,
    /// How many lines were taken.
    taken: usize,
    /// What takes the next character as it is, and continues a line at its end.
    escape: char,
    /// The directives so far; `None` where no more may follow.
    directives: Option<Vec<String>>,
}

/// An instruction on one line: what continues it is put behind it, comments in between are left
/// out.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) text: String,
    /// Where pieces of the text begin, and where they stand in the file.
    pieces: Vec<(usize, Place)>,
}

impl Line {
    /// Where the byte `at` of the text stands in the file.
    pub(crate) fn place(&self, at: usize) -> Place {
        let piece = self.pieces.partition_point(|(start, _)| *start <= at).saturating_sub(1);
        let (start, place) = self.pieces[piece];
        let before = self.text.get(start..at).unwrap_or_default();
        Place { column: place.column.map(|column| column + before.chars().count()), ..place }
    }

    /// One line of text that stands nowhere but at `place`.
    pub(crate) fn at(text: &str, place: Place) -> Self {
        Self { text: text.to_owned(), pieces: vec![(0, Place { column: None, ..place })] }
    }

    fn push(&mut self, text: &str, place: Place) {
        self.pieces.push((self.text.len(), place));
        self.text.push_str(text);
    }
}

impl<'t> Lines<'t> {
    pub(crate) fn of(text: &'t str) -> Self {
        let rest = text.strip_prefix('\u{feff}').unwrap_or(text);
        Self { rest, taken: 0, escape: '\\', directives: Some(Vec::new()) }
    }

    pub(crate) fn escape(&self) -> char {
        self.escape
    }

    /// The next instruction, with the lines that continue it.
    pub(crate) fn instruction(&mut self) -> Result<Option<Line>, Fault> {
        while let Some(raw) = self.raw()? {
            let text = without_newline(raw);
            let indent = text.len() - text.trim_start().len();
            let text = &text[indent..];
            self.directive(text)?;
            if text.starts_with('#') {
                continue;
            }
            let column = Some(raw[..indent].chars().count() + 1);
            let (text, mut goes_on) = self.continued(text);
            if text.is_empty() && !goes_on {
                continue;
            }
            let mut line = Line { text: String::new(), pieces: Vec::new() };
            line.push(text, Place { line: self.taken, column });
            while goes_on {
                let Some(raw) = self.raw()? else { break };
                let text = without_newline(raw);
                self.directive(text)?;
                if text.trim_start().is_empty() || text.trim_start().starts_with('#') {
                    continue;
                }
                let (text, more) = self.continued(text);
                line.push(text, Place { line: self.taken, column: Some(1) });
                goes_on = more;
            }
            return Ok(Some(line));
        }
        Ok(None)
    }

    /// The here-document that ends with `delimiter`; with `tabs` in front of it, when it was
    /// opened with `<<-`.
    pub(crate) fn document(&mut self, delimiter: &str, tabs: bool) -> Result<String, Fault> {
        let (mut text, first) = (String::new(), self.taken);
        while let Some(raw) = self.raw()? {
            let line = without_newline(raw);
            let line = if tabs { line.trim_start_matches('\t') } else { line };
            if line == delimiter {
                return Ok(text);
            }
            text.push_str(raw);
        }
        Err(DiagnosticKind::OpenDocument(delimiter.to_owned()).at(Place::line(first)))
    }

    /// The next line with its end.
    fn raw(&mut self) -> Result<Option<&'t str>, Fault> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let end = self.rest.find('\n').map_or(self.rest.len(), |at| at + 1);
        let (raw, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.taken += 1;
        match raw.len() > LINE_BYTES_MAX {
            true => Err(DiagnosticKind::LineTooLong.at(Place::line(self.taken))),
            false => Ok(Some(raw)),
        }
    }

    /// Without the escape at its end, and whether there was one. Two of them are none.
    fn continued<'l>(&self, text: &'l str) -> (&'l str, bool) {
        let cut = text.trim_end_matches([' ', '\t']).strip_suffix(self.escape);
        match cut.filter(|cut| !cut.ends_with(self.escape)) {
            Some(cut) => (cut, true),
            None => (text, false),
        }
    }

    /// `# escape=`, `# syntax=` and `# check=` stand above everything else.
    fn directive(&mut self, text: &str) -> Result<(), Fault> {
        let Some(seen) = &mut self.directives else { return Ok(()) };
        let Some((name, value)) = directive(text) else {
            self.directives = None;
            return Ok(());
        };
        let place = Place::line(self.taken);
        if seen.contains(&name) {
            return Err(DiagnosticKind::SecondDirective(name).at(place));
        }
        if name == "escape" {
            self.escape = match value {
                "\\" => '\\',
                "`" => '`',
                other => return Err(DiagnosticKind::Escape(other.to_owned()).at(place)),
            };
        }
        seen.push(name);
        Ok(())
    }
}

/// `# name = value` with a name that is known.
fn directive(text: &str) -> Option<(String, &str)> {
    let (name, value) = text.strip_prefix('#')?.trim_start().split_once('=')?;
    let name = name.trim_end().to_ascii_lowercase();
    let value = value.trim();
    let known = matches!(name.as_str(), "escape" | "syntax" | "check");
    (known && !value.is_empty()).then_some((name, value))
}

fn without_newline(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}
