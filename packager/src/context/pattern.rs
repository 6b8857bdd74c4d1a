/// Whether `text`, a path, is what `pattern` describes: `*` and `?` stay within one part, `**` is
/// any number of parts, `[a-z]` and `[^a-z]` are sets, `\` takes the next character as it is.
///
/// Takes time in the order of both lengths multiplied, whatever the pattern.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let tokens = tokens(pattern);
    let text: Vec<char> = text.chars().collect();
    // `reach[i]`: the tokens so far can match exactly the first `i` characters.
    let mut reach = vec![false; text.len() + 1];
    reach[0] = true;
    for token in &tokens {
        let mut next = vec![false; text.len() + 1];
        for from in (0..=text.len()).filter(|from| reach[*from]) {
            match token {
                Token::One(set) => {
                    if text.get(from).is_some_and(|c| *c != '/' && set.has(*c)) {
                        next[from + 1] = true;
                    }
                }
                Token::Exactly(wanted) => {
                    if text.get(from) == Some(wanted) {
                        next[from + 1] = true;
                    }
                }
                Token::Star => {
                    let end = text[from..]
                        .iter()
                        .position(|c| *c == '/')
                        .map_or(text.len(), |at| from + at);
                    next[from..=end].fill(true);
                }
                Token::Parts => {
                    next[from] = true;
                    (from + 1..=text.len())
                        .filter(|at| text[at - 1] == '/')
                        .for_each(|at| next[at] = true);
                }
                Token::Rest => next[from..].fill(true),
            }
        }
        reach = next;
    }
    reach[text.len()]
}

/// Whether it describes more than the one path that it spells.
pub(crate) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '\\'])
}

enum Token {
    Exactly(char),
    One(Set),
    /// `*`
    Star,
    /// `**/`
    Parts,
    /// `**` at the end
    Rest,
}

/// Characters, or all others.
struct Set {
    ranges: Vec<(char, char)>,
    inverted: bool,
}

impl Set {
    fn has(&self, c: char) -> bool {
        self.ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != self.inverted
    }
}

fn tokens(pattern: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let (token, used) = if rest.starts_with("**/") {
            (Token::Parts, 3)
        } else if rest.starts_with("**") {
            (Token::Rest, 2)
        } else {
            match c {
                '*' => (Token::Star, 1),
                '?' => (Token::One(Set { ranges: Vec::new(), inverted: true }), 1),
                '[' => match set(&rest[1..]) {
                    Some((set, used)) => (Token::One(set), 1 + used),
                    None => (Token::Exactly('['), 1),
                },
                '\\' => match rest[1..].chars().next() {
                    Some(next) => (Token::Exactly(next), 1 + next.len_utf8()),
                    None => (Token::Exactly('\\'), 1),
                },
                _ => (Token::Exactly(c), c.len_utf8()),
            }
        };
        tokens.push(token);
        rest = &rest[used..];
    }
    tokens
}

/// What follows a `[`, up to its `]`, and how long that is.
fn set(text: &str) -> Option<(Set, usize)> {
    let inverted = text.starts_with(['^', '!']);
    let body = &text[usize::from(inverted)..];
    let end = body.char_indices().skip(1).find(|(_, c)| *c == ']')?.0;
    let mut ranges = Vec::new();
    let mut chars = body[..end].chars();
    while let Some(from) = chars.next() {
        let mut to = from;
        let mut ahead = chars.clone();
        if let (Some('-'), Some(last)) = (ahead.next(), ahead.next()) {
            to = last;
            chars = ahead;
        }
        ranges.push((from, to));
    }
    Some((Set { ranges, inverted }, usize::from(inverted) + end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_as_in_a_dockerfile() {
        for (pattern, text, want) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*.html", "index.html", true),
            ("*.html", "d/index.html", false),
            ("*", "", true),
            ("d/*", "d/x", true),
            ("d/*", "d/x/y", false),
            ("**/*.rs", "a.rs", true),
            ("**/*.rs", "x/y/a.rs", true),
            ("**/*.rs", "x/y/a.rss", false),
            ("d/**", "d/x/y", true),
            ("d/**/z", "d/z", true),
            ("d/**/z", "d/x/y/z", true),
            ("?at", "cat", true),
            ("?at", "/at", false),
            ("[a-c]at", "cat", true),
            ("[^a-c]at", "cat", false),
            ("[]]", "]", true),
            ("[", "[", true),
            (r"\*", "*", true),
            (r"\*", "x", false),
            ("ä?", "äö", true),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} on {text}");
        }
        assert!(!matches(&"*a".repeat(200), &"a".repeat(199)));
    }
}
