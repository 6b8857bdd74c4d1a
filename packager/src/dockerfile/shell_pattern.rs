use std::cell::Cell;

/// A shell pattern: `*` is any text, `?` one character. Unlike in a path, `/` is an ordinary
/// character.
pub(crate) struct ShellPattern(pub(crate) Vec<Token>);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    Literal(char),
    One,
    Any,
}

/// The end of a value that a pattern is taken off.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Front,
    Back,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    Shortest,
    Longest,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occurrences {
    First,
    All,
}

impl ShellPattern {
    /// `${value#pattern}` and its like. `None` when matching takes more than `steps_left` allows.
    pub(crate) fn removed(
        mut self,
        value: &str,
        side: Side,
        extent: Extent,
        steps_left: &Cell<usize>,
    ) -> Option<String> {
        let mut text: Vec<char> = value.chars().collect();
        if side == Side::Back {
            text.reverse();
            self.0.reverse();
        }
        let ends = self.ends(&text, steps_left)?;
        let mut matches = ends.iter();
        let cut = match extent {
            Extent::Shortest => matches.position(|matched| *matched),
            Extent::Longest => matches.rposition(|matched| *matched),
        };
        text.drain(..cut.unwrap_or(0));
        if side == Side::Back {
            text.reverse();
        }
        Some(text.into_iter().collect())
    }

    /// `${value/pattern/replacement}`: each match is as long as possible.
    pub(crate) fn replaced(
        &self,
        value: &str,
        replacement: &str,
        occurrences: Occurrences,
        steps_left: &Cell<usize>,
    ) -> Option<String> {
        let text: Vec<char> = value.chars().collect();
        let reach = if self.0.contains(&Token::Any) { usize::MAX } else { self.0.len() };
        let (mut result, mut at) = (String::new(), 0);
        while at < text.len() {
            let window = &text[at..text.len().min(at.saturating_add(reach))];
            let length = self.ends(window, steps_left)?.iter().rposition(|matched| *matched);
            match length.filter(|length| *length > 0) {
                Some(length) => {
                    spend(steps_left, replacement.len())?;
                    result.push_str(replacement);
                    at += length;
                    if occurrences == Occurrences::First {
                        break;
                    }
                }
                None => {
                    result.push(text[at]);
                    at += 1;
                }
            }
        }
        result.extend(&text[at..]);
        Some(result)
    }

    /// For each length, whether the pattern matches so much of the beginning of `text`.
    fn ends(&self, text: &[char], steps_left: &Cell<usize>) -> Option<Vec<bool>> {
        spend(steps_left, (self.0.len() + 1) * (text.len() + 1))?;
        let mut reach = vec![false; text.len() + 1];
        reach[0] = true;
        for token in &self.0 {
            match token {
                Token::Any => {
                    let first = reach.iter().position(|matched| *matched);
                    reach[first.unwrap_or(text.len() + 1)..].fill(true);
                }
                Token::One | Token::Literal(_) => {
                    for end in (1..reach.len()).rev() {
                        let fits = *token == Token::One || *token == Token::Literal(text[end - 1]);
                        reach[end] = reach[end - 1] && fits;
                    }
                    reach[0] = false;
                }
            }
        }
        Some(reach)
    }
}

fn spend(steps_left: &Cell<usize>, steps: usize) -> Option<()> {
    steps_left.set(steps_left.get().checked_sub(steps)?);
    Some(())
}
