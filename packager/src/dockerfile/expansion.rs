use std::cell::Cell;

use super::shell_pattern::{Extent, Occurrences, ShellPattern, Side};
use crate::{diagnostic::ExpansionError, limits::NESTING_MAX};

/// Puts variables into the words of a build file, and takes their quotes and escapes off.
pub(crate) struct Expander<'a> {
    /// What a name stands for.
    pub(crate) value: &'a dyn Fn(&str) -> Option<String>,
    /// What takes the next character as it is: a backslash, or the backtick of `# escape`.
    pub(crate) escape: char,
    /// How many bytes variables may still bring into this build file.
    pub(crate) left: &'a Cell<usize>,
    pub(crate) mode: Mode,
}

/// What stays as it is written.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mode {
    /// Quotes do their work and stay.
    pub(crate) raw_quotes: bool,
    pub(crate) raw_escapes: bool,
    /// A variable that is not set stays, instead of being empty.
    pub(crate) keep_unset: bool,
    /// Quotes are letters like any other, as in here-documents.
    pub(crate) plain_quotes: bool,
}

impl Expander<'_> {
    /// `word` with its variables put in, and its quotes and escapes taken off.
    ///
    /// `$NAME`, `${NAME}`, `${NAME:-default}` (also without the colon: only when unset),
    /// `${NAME:+instead}`, `${NAME:?message}`, `${NAME#pattern}`, `##`, `%`, `%%`,
    /// `${NAME/pattern/replacement}` and `//`. A variable that is not set is empty. Inside of
    /// single quotes nothing is special.
    pub(crate) fn expand(&self, word: &str) -> Result<String, ExpansionError> {
        Ok(Lexer::of(self, word).until(None, self.mode.raw_escapes, false)?.0)
    }

    /// The same, split at white space that stands in no quotes, also where variables bring it in.
    pub(crate) fn words(&self, text: &str) -> Result<Vec<String>, ExpansionError> {
        Ok(Lexer::of(self, text).until(None, self.mode.raw_escapes, false)?.1)
    }
}

/// The text that is left to read.
struct Lexer<'e, 'a> {
    expander: &'e Expander<'a>,
    text: Vec<char>,
    at: usize,
    raw_escapes: bool,
    /// The word so far. A `${…}` with a word in it begins it anew, as in BuildKit.
    word: String,
    depth: u32,
}

/// Words, the one in the making aside.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    in_word: bool,
}

impl<'e, 'a> Lexer<'e, 'a> {
    fn of(expander: &'e Expander<'a>, text: &str) -> Self {
        let text = text.chars().collect();
        Self { expander, text, at: 0, raw_escapes: false, word: String::new(), depth: 0 }
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += 1;
        Some(next)
    }

    fn is_escape(&self, c: char) -> bool {
        c == self.expander.escape
    }

    /// What was read since `start`, for messages.
    fn since(&self, start: usize) -> String {
        self.text[start.min(self.at)..self.at].iter().collect()
    }

    /// Everything up to `stop`, as one text and as words. With `for_pattern`, escapes that quotes
    /// made ordinary stay so when a pattern is read from it.
    fn until(
        &mut self,
        stop: Option<char>,
        raw_escapes: bool,
        for_pattern: bool,
    ) -> Result<(String, Vec<String>), ExpansionError> {
        if self.depth > NESTING_MAX {
            return Err(ExpansionError::TooDeep);
        }
        let before = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        self.depth += 1;
        let read = self.until_inner(stop, for_pattern);
        self.depth -= 1;
        self.raw_escapes = before;
        read
    }

    fn until_inner(
        &mut self,
        stop: Option<char>,
        for_pattern: bool,
    ) -> Result<(String, Vec<String>), ExpansionError> {
        let (start, mut result, mut words) = (self.at, String::new(), Words::default());
        self.word.clear();
        while let Some(c) = self.peek() {
            match c {
                c if Some(c) == stop => {
                    self.at += 1;
                    return Ok((result, self.finished(words)));
                }
                '\'' | '"' if !self.expander.mode.plain_quotes => {
                    let text = match c {
                        '\'' => self.single_quoted(for_pattern)?,
                        _ => self.double_quoted(for_pattern)?,
                    };
                    result.push_str(&text);
                    self.push_raw(&mut words, &text);
                }
                '$' => {
                    let text = self.dollar()?;
                    result.push_str(&text);
                    text.chars().for_each(|c| self.push(&mut words, c));
                }
                '<' => {
                    let text = self.angle();
                    result.push_str(&text);
                    self.push_raw(&mut words, &text);
                }
                c if self.is_escape(c) => {
                    self.at += 1;
                    let next = self.next();
                    let escape = Some(c).filter(|_| self.raw_escapes);
                    let text: String = escape.into_iter().chain(next).collect();
                    result.push_str(&text);
                    self.push_raw(&mut words, &text);
                }
                c => {
                    self.at += 1;
                    result.push(c);
                    self.push(&mut words, c);
                }
            }
        }
        match stop {
            None => Ok((result, self.finished(words))),
            Some('/') => Err(ExpansionError::NoReplacement(self.since(start))),
            Some(_) => Err(ExpansionError::OpenBrace(self.since(start))),
        }
    }

    fn push(&mut self, words: &mut Words, c: char) {
        if !c.is_whitespace() {
            self.word.push(c);
            words.in_word = true;
        } else if words.in_word && !self.word.is_empty() {
            words.done.push(std::mem::take(&mut self.word));
            words.in_word = false;
        }
    }

    fn push_raw(&mut self, words: &mut Words, text: &str) {
        self.word.push_str(text);
        words.in_word = true;
    }

    fn finished(&mut self, mut words: Words) -> Vec<String> {
        if !self.word.is_empty() {
            words.done.push(std::mem::take(&mut self.word));
        }
        words.done
    }

    fn single_quoted(&mut self, for_pattern: bool) -> Result<String, ExpansionError> {
        let (start, mut result) = (self.at, String::new());
        let quote = self.next().filter(|_| self.expander.mode.raw_quotes);
        result.extend(quote);
        while let Some(c) = self.next() {
            if c == '\'' {
                result.extend(quote);
                return Ok(result);
            }
            if for_pattern && self.is_escape(c) {
                result.push(c);
            }
            result.push(c);
        }
        Err(ExpansionError::OpenQuote { word: self.since(start), quote: '\'' })
    }

    fn double_quoted(&mut self, for_pattern: bool) -> Result<String, ExpansionError> {
        let (start, mut result) = (self.at, String::new());
        let raw_quotes = self.expander.mode.raw_quotes;
        let quote = self.next().filter(|_| raw_quotes);
        result.extend(quote);
        while let Some(c) = self.peek() {
            if c == '$' {
                result.push_str(&self.dollar()?);
                continue;
            }
            self.at += 1;
            if c == '"' {
                result.extend(quote);
                return Ok(result);
            }
            if !self.is_escape(c) {
                result.push(c);
                continue;
            }
            match self.peek() {
                None => {}
                Some(next) if matches!(next, '"' | '$') || self.is_escape(next) => {
                    self.at += 1;
                    result.extend(Some(c).filter(|_| self.raw_escapes));
                    result.push(next);
                }
                Some(_) => {
                    let twice = self.raw_escapes && (!raw_quotes || for_pattern);
                    result.extend(Some(c).filter(|_| twice));
                    result.push(c);
                }
            }
        }
        Err(ExpansionError::OpenQuote { word: self.since(start), quote: '"' })
    }

    /// `<`, or `<<` with the blanks behind it: the delimiter of a here-document may stand apart.
    fn angle(&mut self) -> String {
        self.at += 1;
        if self.peek() != Some('<') {
            return "<".to_owned();
        }
        self.at += 1;
        let mut text = "<<".to_owned();
        while let Some(blank) = self.peek().filter(|c| matches!(c, '\t' | '\r' | ' ')) {
            text.push(blank);
            self.at += 1;
        }
        text
    }

    /// What a `$` and what stands behind it become.
    fn dollar(&mut self) -> Result<String, ExpansionError> {
        let start = self.at;
        self.at += 1;
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            let value = self.value(&name)?;
            return Ok(self.or_kept(value, || format!("${name}")));
        }
        self.at += 1;
        match self.peek() {
            None => return Err(ExpansionError::OpenBrace("{".to_owned())),
            Some('{' | '}' | ':') => {
                self.at += 1;
                return Err(ExpansionError::NoVariable(self.since(start)));
            }
            Some(_) => {}
        }
        let name = self.name();
        match self.next() {
            Some('}') => {
                let value = self.value(&name)?;
                Ok(self.or_kept(value, || format!("${{{name}}}")))
            }
            Some('/') => self.replaced(&name),
            Some(':') => {
                let operator = self.next();
                match operator.filter(|c| matches!(c, '-' | '+' | '?')) {
                    Some(operator) => self.operated(&name, operator, true),
                    None => Err(ExpansionError::UnknownForm(self.since(start))),
                }
            }
            Some(operator @ ('-' | '+' | '?' | '#' | '%')) => self.operated(&name, operator, false),
            _ => Err(ExpansionError::UnknownForm(self.since(start))),
        }
    }

    fn or_kept(&self, value: Option<String>, written: impl Fn() -> String) -> String {
        match value {
            None if self.expander.mode.keep_unset => written(),
            value => value.unwrap_or_default(),
        }
    }

    /// Letters, digits and `_`; only digits; or one of the special names of shells.
    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            if name.is_empty() && c.is_numeric() {
                while let Some(digit) = self.peek().filter(|c| c.is_numeric()) {
                    name.push(digit);
                    self.at += 1;
                }
                return name;
            }
            if name.is_empty() && matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!') {
                self.at += 1;
                return c.to_string();
            }
            if !c.is_alphanumeric() && c != '_' {
                break;
            }
            name.push(c);
            self.at += 1;
        }
        name
    }

    /// `${name-word}` and its kin; `empty_is_unset` with a colon.
    fn operated(
        &mut self,
        name: &str,
        operator: char,
        empty_is_unset: bool,
    ) -> Result<String, ExpansionError> {
        let is_pattern = matches!(operator, '#' | '%');
        let (word, _) = self.until(Some('}'), is_pattern, is_pattern)?;
        let value = self.value(name)?;
        if value.is_none() && self.expander.mode.keep_unset {
            let colon = if empty_is_unset { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{operator}{word}}}"));
        }
        let set = value.clone().filter(|value| !(empty_is_unset && value.is_empty()));
        match operator {
            '-' => Ok(set.unwrap_or(word)),
            '+' => Ok(set.map(|_| word).unwrap_or_default()),
            '?' => set.ok_or_else(|| ExpansionError::Required {
                name: name.to_owned(),
                message: match (word.is_empty(), value.is_some()) {
                    (false, _) => word,
                    (true, false) => "is not allowed to be unset".to_owned(),
                    (true, true) => "is not allowed to be empty".to_owned(),
                },
            }),
            _ => self.trimmed(name, operator, &word, &value.unwrap_or_default()),
        }
    }

    /// `${name#pattern}`, `##`, `%` and `%%`
    fn trimmed(
        &self,
        name: &str,
        operator: char,
        word: &str,
        value: &str,
    ) -> Result<String, ExpansionError> {
        let side = if operator == '#' { Side::Front } else { Side::Back };
        let (extent, text) = match word.strip_prefix(operator) {
            Some(text) => (Extent::Longest, text),
            None => (Extent::Shortest, word),
        };
        let result = pattern(text)?.removed(value, side, extent, self.expander.left);
        result.ok_or_else(|| ExpansionError::TooMuchWork { name: name.to_owned() })
    }

    /// `${name/pattern/replacement}` and `//`
    fn replaced(&mut self, name: &str) -> Result<String, ExpansionError> {
        let occurrences = match self.peek() {
            Some('/') => Occurrences::All,
            _ => Occurrences::First,
        };
        self.at += usize::from(occurrences == Occurrences::All);
        let (text, _) = self.until(Some('/'), true, true)?;
        let (replacement, _) = self.until(Some('}'), true, false)?;
        let value = self.value(name)?;
        if value.is_none() && self.expander.mode.keep_unset {
            return Ok(format!("${{{name}/{text}/{replacement}}}"));
        }
        let value = value.unwrap_or_default();
        let pattern = pattern(&text)?;
        let result = pattern.replaced(&value, &replacement, occurrences, self.expander.left);
        result.ok_or_else(|| ExpansionError::TooMuchWork { name: name.to_owned() })
    }

    /// What `name` stands for, counted: a variable made from itself twice, and again, would fill
    /// any memory.
    fn value(&self, name: &str) -> Result<Option<String>, ExpansionError> {
        let value = (self.expander.value)(name);
        let left = &self.expander.left;
        let rest = left.get().checked_sub(value.as_ref().map_or(0, String::len));
        left.set(rest.ok_or_else(|| ExpansionError::TooMuchText { name: name.to_owned() })?);
        Ok(value)
    }
}

fn pattern(text: &str) -> Result<ShellPattern, ExpansionError> {
    ShellPattern::parse(text).ok_or_else(|| ExpansionError::Pattern(text.to_owned()))
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

    fn expander(left: &Cell<usize>) -> Expander<'_> {
        Expander { value: &value, escape: '\\', left, mode: Mode::default() }
    }

    fn expand(word: &str) -> Result<String, ExpansionError> {
        expander(&Cell::new(400)).expand(word)
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
            ("${DIR//\\//:}", "a:*:c"),
            ("${DIR/\\*/b}", "a/b/c"),
            ("${NONE#x}", ""),
            ("${CAT:?message}", "tom"),
            ("${EMPTY?message}", ""),
            ("'$CAT'", "$CAT"),
            ("\"$CAT \\\"x\\\"\"", "tom \"x\""),
            (r"\$CAT", "$CAT"),
            ("$", "$"),
            ("$1", ""),
            ("$$", ""),
            ("a b", "a b"),
            ("a\\", "a"),
            (r#""a\nb""#, r"a\nb"),
        ] {
            assert_eq!(expand(word), Ok(want.to_owned()), "{word}");
        }
        for word in ["${CAT", "'x", "\"x", "${}", "${CAT!x}", "${CAT/x}", "${CAT#\\x}"] {
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
    fn words_are_split_outside_of_quotes() {
        let left = Cell::new(100);
        let words = expander(&left).words(r#"a  "b c" d\ e $CAT'x y'"#).unwrap();
        assert_eq!(words, ["a", "b c", "d e", "tomx y"]);
    }
}
