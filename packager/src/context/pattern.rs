/// Patterns of paths: those of sources in COPY, and those of `.dockerignore`, `--exclude` and
/// `--parents`. `?` and `*` stay within one part of a path, `[a-z]` and `[^a-z]` are sets, `\`
/// takes the next character as it is.
///
/// # Spec
/// Dockerfile reference, "COPY", "Pattern matching", which is Go's `filepath.Match`; Docker,
/// ".dockerignore files", which has `**` besides.
#[derive(Debug)]
pub(crate) struct Pattern(Shape);

#[derive(Debug)]
enum Shape {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Tokens(Vec<Token>),
}

#[derive(Debug)]
enum Token {
    Exactly(char),
    /// `?`
    One,
    Set(Set),
    /// `*`
    Star,
    /// `**/`, and `**` before anything else.
    Parts,
    /// `**` at the end
    Rest,
}

/// Characters, or all others.
#[derive(Debug)]
struct Set {
    ranges: Vec<(char, char)>,
    inverted: bool,
}

impl Set {
    fn has(&self, c: char) -> bool {
        self.ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != self.inverted
    }
}

impl Pattern {
    /// That of a source: `**` is the same as `*`. `None` when it is malformed, and matches nothing.
    pub(crate) fn of_source(text: &str) -> Option<Self> {
        Some(Self(Shape::Tokens(tokens(text, false)?)))
    }

    /// That of `.dockerignore`; `None` when it is malformed.
    pub(crate) fn of_ignore(text: &str) -> Option<Self> {
        let tokens = tokens(text, true)?;
        let is_plain = |tokens: &[Token]| tokens.iter().all(|t| matches!(t, Token::Exactly(_)));
        let escaped = text.contains('\\');
        Some(Self(match tokens.as_slice() {
            [first, rest @ ..]
                if matches!(first, Token::Parts | Token::Rest) && is_plain(rest) && !escaped =>
            {
                Shape::Suffix(text[2..].to_owned())
            }
            [rest @ .., Token::Rest] if is_plain(rest) && !escaped => {
                Shape::Prefix(text[..text.len() - 2].to_owned())
            }
            all if is_plain(all) && !escaped => Shape::Exact(text.to_owned()),
            _ => Shape::Tokens(tokens),
        }))
    }

    /// Takes time in the order of both lengths multiplied, whatever the pattern.
    pub(crate) fn matches(&self, path: &str) -> bool {
        match &self.0 {
            Shape::Exact(text) => path == text,
            Shape::Prefix(text) => path.starts_with(text.as_str()),
            Shape::Suffix(text) => {
                path.ends_with(text.as_str()) || text.strip_prefix('/') == Some(path)
            }
            Shape::Tokens(tokens) => tokens_match(tokens, path),
        }
    }
}

/// Whether `text` describes more than the one path that it spells.
pub(crate) fn is_pattern(text: &str) -> bool {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

fn tokens_match(tokens: &[Token], path: &str) -> bool {
    let text: Vec<char> = path.chars().collect();
    // `reach[i]`: the tokens so far can match exactly the first `i` characters.
    let mut reach = vec![false; text.len() + 1];
    reach[0] = true;
    for token in tokens {
        let mut next = vec![false; text.len() + 1];
        for from in (0..=text.len()).filter(|from| reach[*from]) {
            let c = text.get(from);
            match token {
                Token::Exactly(wanted) if c == Some(wanted) => next[from + 1] = true,
                Token::One if c.is_some_and(|c| *c != '/') => next[from + 1] = true,
                Token::Set(set) if c.is_some_and(|c| set.has(*c)) => next[from + 1] = true,
                Token::Exactly(_) | Token::One | Token::Set(_) => {}
                Token::Star => {
                    let end = text[from..].iter().position(|c| *c == '/');
                    next[from..=end.map_or(text.len(), |at| from + at)].fill(true);
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

fn tokens(pattern: &str, deep: bool) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        tokens.push(match c {
            '*' if deep && rest.starts_with('*') => {
                rest = rest[1..].strip_prefix('/').unwrap_or(&rest[1..]);
                if rest.is_empty() { Token::Rest } else { Token::Parts }
            }
            '*' => Token::Star,
            '?' => Token::One,
            '[' => Token::Set(set(&mut rest)?),
            '\\' => Token::Exactly(taken(&mut rest)?),
            c => Token::Exactly(c),
        });
    }
    Some(tokens)
}

fn taken(rest: &mut &str) -> Option<char> {
    let c = rest.chars().next()?;
    *rest = &rest[c.len_utf8()..];
    Some(c)
}

/// What follows a `[`, up to its `]`.
fn set(rest: &mut &str) -> Option<Set> {
    let inverted = rest.starts_with('^');
    *rest = &rest[usize::from(inverted)..];
    let mut ranges = Vec::new();
    let bound = |rest: &mut &str| match taken(rest)? {
        '-' | ']' => None,
        '\\' => taken(rest),
        c => Some(c),
    };
    while ranges.is_empty() || !rest.starts_with(']') {
        let from = bound(rest)?;
        let to = match rest.strip_prefix('-') {
            Some(behind) => {
                *rest = behind;
                bound(rest)?
            }
            None => from,
        };
        ranges.push((from, to));
    }
    *rest = &rest[1..];
    Some(Set { ranges, inverted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_as_in_a_dockerfile() {
        for (pattern, path, source, ignore) in [
            ("a", "a", true, true),
            ("a", "ab", false, false),
            ("*.html", "index.html", true, true),
            ("*.html", "d/index.html", false, false),
            ("d/*", "d/x", true, true),
            ("d/*", "d/x/y", false, false),
            ("**/*.rs", "a.rs", false, true),
            ("**/*.rs", "x/a.rs", true, true),
            ("**/*.rs", "x/y/a.rs", false, true),
            ("**/*.rs", "x/y/a.rss", false, false),
            ("**/a", "xa", false, false),
            ("**a", "xa", true, true),
            ("**a?", "xab", true, false),
            ("x**b", "xab", true, false),
            ("d/**", "d/x/y", false, true),
            ("d**", "dx/y", false, true),
            ("d/**/z", "d/z", false, true),
            ("d/**/z", "d/x/y/z", false, true),
            ("?at", "cat", true, true),
            ("?at", "/at", false, false),
            ("[a-c]at", "cat", true, true),
            ("[^a-c]at", "cat", false, false),
            ("[!c]at", "cat", true, true),
            (r"\*", "*", true, true),
            (r"\*", "x", false, false),
            ("ä?", "äö", true, true),
        ] {
            let got = |pattern: Option<Pattern>| pattern.is_some_and(|p| p.matches(path));
            assert_eq!(got(Pattern::of_source(pattern)), source, "source {pattern} on {path}");
            assert_eq!(got(Pattern::of_ignore(pattern)), ignore, "ignore {pattern} on {path}");
        }
        for pattern in ["[", "[]", "[a", "[]a]", "a\\", "[-a]"] {
            assert!(Pattern::of_ignore(pattern).is_none(), "{pattern}");
        }
        let long = Pattern::of_source(&"*a".repeat(200)).unwrap();
        assert!(!long.matches(&"a".repeat(199)));
    }
}
