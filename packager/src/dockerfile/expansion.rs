use std::cell::Cell;

use super::shell_pattern::{Extent, Occurrences, ShellPattern, Side, Token};
use crate::{diagnostic::ExpansionError, limits::NESTING_MAX};

/// Puts variables into the words of a build file, and takes their quotes and backslashes off.
pub(crate) struct Expander<'a> {
    /// What a name stands for.
    pub(crate) value: &'a dyn Fn(&str) -> Option<String>,
    /// What takes the next character as it is: a backslash, or the backtick of `# escape`.
    pub(crate) escape: char,
    /// How many bytes variables may still bring into this build file.
    pub(crate) left: &'a Cell<usize>,
}

impl Expander<'_> {
    /// `word` with its variables put in, and its quotes and backslashes taken off.
    ///
    /// `$NAME`, `${NAME}`, `${NAME:-default}` (also without the colon: only when unset),
    /// `${NAME:+instead}`, `${NAME:?message}`, `${NAME#pattern}`, `##`, `%`, `%%`,
    /// `${NAME/pattern/replacement}` and `//`. A variable that is not set is empty. Inside of
    /// single quotes nothing is special.
    pub(crate) fn expand(&self, word: &str) -> Result<String, ExpansionError> {
        self.expand_nested(word, 0)
    }

    /// The same for a here-document: quotes are only letters there, and the backslash escapes
    /// whatever `# escape` says.
    pub(crate) fn expand_document(&self, text: &str) -> Result<String, ExpansionError> {
        let words = Expander { escape: '\\', ..*self };
        let quoted = text.replace('\\', "\\\\").replace("\\\\$", "\\$").replace('"', "\\\"");
        words.expand(&format!("\"{quoted}\""))
    }

    fn expand_nested(&self, word: &str, depth: u32) -> Result<String, ExpansionError> {
        if depth > NESTING_MAX {
            return Err(ExpansionError::TooDeep);
        }
        let mut result = String::new();
        let mut rest = word;
        let mut in_double = false;
        while let Some(c) = rest.chars().next() {
            let after = &rest[c.len_utf8()..];
            rest = match c {
                '\'' if !in_double => {
                    let end = after.find('\'').ok_or_else(|| open_quote(word, '\''))?;
                    result.push_str(&after[..end]);
                    &after[end + 1..]
                }
                '"' => {
                    in_double = !in_double;
                    after
                }
                c if c == self.escape => match after.chars().next() {
                    Some(next)
                        if !in_double || matches!(next, '"' | '$') || next == self.escape =>
                    {
                        result.push(next);
                        &after[next.len_utf8()..]
                    }
                    _ => {
                        result.push(self.escape);
                        after
                    }
                },
                '$' => {
                    let (text, used) = self.variable(after, depth)?;
                    result.push_str(&text);
                    &after[used..]
                }
                _ => {
                    result.push(c);
                    after
                }
            };
        }
        match in_double {
            true => Err(open_quote(word, '"')),
            false => Ok(result),
        }
    }

    /// What stands behind a `$`, and how much of `text` that took.
    fn variable(&self, text: &str, depth: u32) -> Result<(String, usize), ExpansionError> {
        let Some(body) = text.strip_prefix('{') else {
            let name = &text[..name_length(text)];
            return match name {
                "" => Ok(("$".to_owned(), 0)),
                _ => Ok((self.value(name)?.unwrap_or_default(), name.len())),
            };
        };
        let end = closing(body).ok_or_else(|| ExpansionError::OpenBrace(text.to_owned()))?;
        let (name, modifier) = body[..end].split_at(name_length(body));
        if name.is_empty() {
            return Err(ExpansionError::NoVariable(body[..end].to_owned()));
        }
        let used = end + 2;
        let set = self.value(name)?;
        let filled = set.clone().filter(|text| !text.is_empty());
        let other = |text: &str| self.expand_nested(text, depth + 1);
        let is_required = |set: Option<String>, message: &str| {
            let required = |message| ExpansionError::Required { name: name.to_owned(), message };
            set.map_or_else(|| Err(required(other(message)?)), Ok)
        };
        let result = if modifier.is_empty() {
            set.unwrap_or_default()
        } else if let Some(message) = modifier.strip_prefix(":?") {
            is_required(filled, message)?
        } else if let Some(message) = modifier.strip_prefix('?') {
            is_required(set, message)?
        } else if modifier.starts_with(['#', '%', '/']) {
            self.matched(name, &set.unwrap_or_default(), modifier, depth)?
        } else if let Some(default) = modifier.strip_prefix(":-") {
            filled.map_or_else(|| other(default), Ok)?
        } else if let Some(default) = modifier.strip_prefix('-') {
            set.map_or_else(|| other(default), Ok)?
        } else if let Some(instead) = modifier.strip_prefix(":+") {
            if filled.is_some() { other(instead)? } else { String::new() }
        } else if let Some(instead) = modifier.strip_prefix('+') {
            if set.is_some() { other(instead)? } else { String::new() }
        } else {
            return Err(ExpansionError::UnknownForm(body[..end].to_owned()));
        };
        Ok((result, used))
    }

    /// `${name#pattern}`, `##`, `%`, `%%`, `/pattern/replacement` and `//`.
    fn matched(
        &self,
        name: &str,
        value: &str,
        modifier: &str,
        depth: u32,
    ) -> Result<String, ExpansionError> {
        let replaced = |text: &str, occurrences| {
            let end = self.slash(text).unwrap_or(text.len());
            let pattern = self.pattern(&text[..end], depth)?;
            let replacement = text.get(end + 1..).unwrap_or_default();
            let replacement = self.expand_nested(replacement, depth + 1)?;
            Ok(pattern.replaced(value, &replacement, occurrences, self.left))
        };
        let removed = |text: &str, side, extent| {
            Ok(self.pattern(text, depth)?.removed(value, side, extent, self.left))
        };
        let result = if let Some(text) = modifier.strip_prefix("##") {
            removed(text, Side::Front, Extent::Longest)?
        } else if let Some(text) = modifier.strip_prefix('#') {
            removed(text, Side::Front, Extent::Shortest)?
        } else if let Some(text) = modifier.strip_prefix("%%") {
            removed(text, Side::Back, Extent::Longest)?
        } else if let Some(text) = modifier.strip_prefix('%') {
            removed(text, Side::Back, Extent::Shortest)?
        } else if let Some(text) = modifier.strip_prefix("//") {
            replaced(text, Occurrences::All)?
        } else {
            replaced(&modifier[1..], Occurrences::First)?
        };
        result.ok_or_else(|| ExpansionError::TooMuchWork { name: name.to_owned() })
    }

    /// Where the first `/` is that no escape stands in front of.
    fn slash(&self, text: &str) -> Option<usize> {
        let mut escaped = false;
        let mut places = text.char_indices();
        let found = places.find(|(_, c)| {
            let is_slash = *c == '/' && !escaped;
            escaped = *c == self.escape && !escaped;
            is_slash
        });
        found.map(|(at, _)| at)
    }

    /// A pattern, its variables put in. Quoted and escaped characters stand for themselves.
    fn pattern(&self, text: &str, depth: u32) -> Result<ShellPattern, ExpansionError> {
        if depth > NESTING_MAX {
            return Err(ExpansionError::TooDeep);
        }
        let token = |c: char, quoted: bool| match c {
            '*' if !quoted => Token::Any,
            '?' if !quoted => Token::One,
            c => Token::Literal(c),
        };
        let (mut tokens, mut quote, mut rest) = (Vec::new(), None, text);
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            match (c, quote) {
                (c, Some(open)) if c == open => quote = None,
                ('\'' | '"', None) => quote = Some(c),
                (c, None | Some('"')) if c == self.escape => {
                    if let Some(next) = rest.chars().next() {
                        tokens.push(Token::Literal(next));
                        rest = &rest[next.len_utf8()..];
                    }
                }
                ('$', None | Some('"')) => {
                    let (value, used) = self.variable(rest, depth + 1)?;
                    tokens.extend(value.chars().map(|c| token(c, quote.is_some())));
                    rest = &rest[used..];
                }
                (c, _) => tokens.push(token(c, quote.is_some())),
            }
        }
        match quote {
            Some(quote) => Err(open_quote(text, quote)),
            None => Ok(ShellPattern(tokens)),
        }
    }

    /// What `name` stands for, counted: a variable made from itself twice, and again, would fill
    /// any memory.
    fn value(&self, name: &str) -> Result<Option<String>, ExpansionError> {
        let value = (self.value)(name);
        let left = self.left.get().checked_sub(value.as_ref().map_or(0, String::len));
        self.left.set(left.ok_or_else(|| ExpansionError::TooMuchText { name: name.to_owned() })?);
        Ok(value)
    }

    /// Splits at white space that is in no quotes; quotes stay for [`Expander::expand`].
    pub(crate) fn words<'t>(&self, line: &'t str) -> Vec<&'t str> {
        let mut words = Vec::new();
        let (mut start, mut quote, mut escaped) = (None, None, false);
        for (at, c) in line.char_indices() {
            if quote.is_none() && !escaped && c.is_whitespace() {
                if let Some(from) = start.take() {
                    words.push(&line[from..at]);
                }
                continue;
            }
            start.get_or_insert(at);
            match (quote, c) {
                _ if escaped => escaped = false,
                (None | Some('"'), c) if c == self.escape => escaped = true,
                (None, '"' | '\'') => quote = Some(c),
                (Some(open), _) if open == c => quote = None,
                _ => {}
            }
        }
        words.extend(start.map(|from| &line[from..]));
        words
    }

    /// The `NAME=value` words of ENV, LABEL and ARG, expanded. `ENV NAME the rest` is the old form,
    /// for one.
    pub(crate) fn pairs(&self, line: &str) -> Result<Vec<(String, String)>, ExpansionError> {
        let words = self.words(line);
        if let [name, _, ..] = words.as_slice()
            && !name.contains('=')
        {
            let rest = line.trim_start()[name.len()..].trim();
            return Ok(vec![(self.expand(name)?, self.expand(rest)?)]);
        }
        words.iter().map(|word| self.pair(word)).collect()
    }

    fn pair(&self, word: &str) -> Result<(String, String), ExpansionError> {
        let (name, text) =
            word.split_once('=').ok_or_else(|| ExpansionError::NotAPair(word.to_owned()))?;
        let name = self.expand(name)?;
        match name.is_empty() {
            true => Err(ExpansionError::NoName(word.to_owned())),
            false => Ok((name, self.expand(text)?)),
        }
    }
}

fn open_quote(word: &str, quote: char) -> ExpansionError {
    ExpansionError::OpenQuote { word: word.to_owned(), quote }
}

fn name_length(text: &str) -> usize {
    let first_digit = text.starts_with(|c: char| c.is_ascii_digit());
    match first_digit {
        true => 0,
        false => text.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count(),
    }
}

/// Where the `}` is that closes what is open.
fn closing(body: &str) -> Option<usize> {
    let mut open = 0u32;
    for (at, c) in body.char_indices() {
        match c {
            '{' => open += 1,
            '}' if open == 0 => return Some(at),
            '}' => open -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str) -> Option<String> {
        match name {
            "CAT" => Some("tom".to_owned()),
            "EMPTY" => Some(String::new()),
            "TAG" => Some("v1.2-rc-1".to_owned()),
            "V" => Some("v".to_owned()),
            "DIR" => Some("a/*/c".to_owned()),
            _ => None,
        }
    }

    fn expand(word: &str) -> Result<String, ExpansionError> {
        Expander { value: &value, escape: '\\', left: &Cell::new(400) }.expand(word)
    }

    fn pairs(line: &str) -> Result<Vec<(String, String)>, ExpansionError> {
        Expander { value: &value, escape: '\\', left: &Cell::new(100) }.pairs(line)
    }

    #[test]
    fn variables_expand_as_in_a_dockerfile() {
        for (word, want) in [
            ("plain", "plain"),
            ("$CAT", "tom"),
            ("/a/${CAT}s", "/a/toms"),
            ("$CAT-$NONE-", "tom--"),
            ("${NONE:-x}", "x"),
            ("${EMPTY:-x}", "x"),
            ("${EMPTY-x}", ""),
            ("${NONE-x}", "x"),
            ("${CAT:+y}", "y"),
            ("${NONE:+y}", ""),
            ("${NONE:-${CAT}}", "tom"),
            ("${CAT#t}", "om"),
            ("${CAT#x}", "tom"),
            ("${TAG#*-}", "rc-1"),
            ("${TAG##*-}", "1"),
            ("${TAG%-*}", "v1.2-rc"),
            ("${TAG%%-*}", "v1.2"),
            ("${TAG%.?-rc-1}", "v1"),
            ("${TAG#$V}", "1.2-rc-1"),
            ("${TAG/-/+}", "v1.2+rc-1"),
            ("${TAG//-/+}", "v1.2+rc+1"),
            ("${TAG//[12]/x}", "v1.2-rc-1"),
            ("${TAG/1*c/$CAT}", "vtom-1"),
            ("${TAG//-}", "v1.2rc1"),
            ("${DIR//\\//:}", "a:*:c"),
            ("${DIR/\\*/b}", "a/b/c"),
            ("${DIR/'*'/b}", "a/b/c"),
            ("${NONE#x}", ""),
            ("${CAT:?message}", "tom"),
            ("${EMPTY?message}", ""),
            ("'$CAT'", "$CAT"),
            ("\"$CAT \\\"x\\\"\"", "tom \"x\""),
            (r"\$CAT", "$CAT"),
            ("$", "$"),
            ("$1", "$1"),
            ("a b", "a b"),
            (r#""a\nb""#, r"a\nb"),
        ] {
            assert_eq!(expand(word), Ok(want.to_owned()), "{word}");
        }
        for word in ["${CAT", "'x", "\"x", "${}", "${CAT!x}"] {
            assert!(expand(word).is_err(), "{word}");
        }
        assert!(expand(&"$CAT".repeat(133)).is_ok());
        assert!(expand(&"$CAT".repeat(134)).is_err());
        for (word, want) in [
            ("${NONE:?set $CAT}", "`NONE` is required: set tom"),
            ("${EMPTY:?set it}", "`EMPTY` is required: set it"),
        ] {
            assert_eq!(expand(word).unwrap_err().to_string(), want, "{word}");
        }
        let costly = format!("${{TAG//{}x/y}}", "*".repeat(50));
        assert!(matches!(expand(&costly), Err(ExpansionError::TooMuchWork { .. })));
        let deep = format!("{}{}", "${A:-".repeat(50), "}".repeat(50));
        assert!(expand(&deep).is_err());
    }

    #[test]
    fn pairs_keep_what_is_quoted() {
        let got = pairs(r#"A=b "C D"='e f' G=h\ i J=$CAT"#).unwrap();
        let want = [("A", "b"), ("C D", "e f"), ("G", "h i"), ("J", "tom")];
        assert_eq!(got, want.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(pairs("OLD some value").unwrap(), [("OLD".to_owned(), "some value".to_owned())]);
        assert!(pairs("A=b c").is_err());
        assert!(pairs("=b").is_err());
    }
}
