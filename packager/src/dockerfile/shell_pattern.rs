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
    /// `None` when a backslash stands before anything but `*`, `?`, `\\`, `}` and `/`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (mut tokens, mut chars) = (Vec::new(), text.chars().peekable());
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Any,
                '?' => Token::One,
                '\\' => match chars.peek() {
                    Some('}' | '/') => continue,
                    _ => Token::Literal(chars.next().filter(|c| matches!(c, '*' | '?' | '\\'))?),
                },
                c => Token::Literal(c),
            });
        }
        Some(Self(tokens))
    }

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
        let (mut result, mut at, mut behind) = (String::new(), 0, None);
        while at <= text.len() {
            let window = &text[at..text.len().min(at.saturating_add(reach))];
            let length = self.ends(window, steps_left)?.iter().rposition(|matched| *matched);
            // Nothing is found where the match before it ended.
            if let Some(length) = length.filter(|length| *length > 0 || behind != Some(at)) {
                let matched = text[at..at + length].iter().collect::<String>();
                let put = match occurrences {
                    Occurrences::First => replacement.to_owned(),
                    Occurrences::All => with_matched(replacement, &matched),
                };
                spend(steps_left, put.len())?;
                result.push_str(&put);
                at += length;
                behind = Some(at);
                if occurrences == Occurrences::First {
                    break;
                }
                if length > 0 {
                    continue;
                }
            }
            result.extend(text.get(at));
            at += 1;
        }
        result.extend(text.get(at..).unwrap_or_default());
        Some(result)
    }

    /// For each length, whether the pattern matches so much of the beginning of `text`.
    fn ends(&self, text: &[char], steps_left: &Cell<usize>) -> Option<Vec<bool>> {
        spend(steps_left, (self.0.len() + 1) * (text.len() + 1))?;
        let mut reach = vec![false; text.len() + 1];
        reach[0] = true;
        for token in &self.0 {
            match token {
                // Neither of them goes beyond the end of a line.
                Token::Any => {
                    for end in 1..reach.len() {
                        reach[end] |= reach[end - 1] && text[end - 1] != '\n';
                    }
                }
                Token::One | Token::Literal(_) => {
                    for end in (1..reach.len()).rev() {
                        let c = text[end - 1];
                        let fits = *token == Token::One && c != '\n' || *token == Token::Literal(c);
                        reach[end] = reach[end - 1] && fits;
                    }
                    reach[0] = false;
                }
            }
        }
        Some(reach)
    }
}

/// `replacement` with `$0` as what was found: `//` takes other numbers and names as groups, of
/// which patterns have none.
fn with_matched(replacement: &str, matched: &str) -> String {
    let (mut result, mut rest) = (String::new(), replacement);
    while let Some((before, behind)) = rest.split_once('$') {
        result.push_str(before);
        if let Some(behind) = behind.strip_prefix('$') {
            result.push('$');
            rest = behind;
            continue;
        }
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let braced = behind.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let (name, after) = match braced {
            Some((name, after)) if !name.is_empty() && name.chars().all(is_name) => (name, after),
            _ => behind.split_at(behind.find(|c| !is_name(c)).unwrap_or(behind.len())),
        };
        result.push_str(match name {
            "" => "$",
            "0" => matched,
            _ => "",
        });
        rest = after;
    }
    result + rest
}

fn spend(steps_left: &Cell<usize>, steps: usize) -> Option<()> {
    steps_left.set(steps_left.get().checked_sub(steps)?);
    Some(())
}
