use crate::{
    context::pattern::Pattern,
    path::{ancestors, clean},
};

/// Patterns, of which the last one that matches decides: those of `.dockerignore` leave out of the
/// build context, `!` takes back in, and a pattern that matches a folder matches everything in it.
/// `--exclude` and `--parents` have such patterns too.
///
/// # Spec
/// Docker, "Build context", ".dockerignore files".
#[derive(Debug, Default)]
pub(crate) struct Patterns {
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    pattern: Pattern,
    /// With a `!`.
    except: bool,
}

/// Which of the patterns match a folder, for what is in it.
pub(crate) type Matched = Vec<bool>;

impl Patterns {
    /// Those of a file, one on each line. Or the one that is malformed.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.split('\n').filter(|line| !line.starts_with('#')).map(str::trim);
        let lines = lines.filter(|line| !line.is_empty()).map(|line| {
            let (mark, pattern) = match line.strip_prefix('!') {
                Some(rest) => ("!", rest.trim()),
                None => ("", line),
            };
            let pattern = if pattern.is_empty() { String::new() } else { clean(pattern) };
            let inside = pattern.strip_prefix('/').filter(|inside| !inside.is_empty());
            format!("{mark}{}", inside.unwrap_or(&pattern))
        });
        Self::of(&lines.collect::<Vec<_>>())
    }

    pub(crate) fn of(patterns: &[String]) -> Result<Self, String> {
        let texts = patterns.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
        let lines = texts.map(|text| {
            let cleaned = clean(text);
            let (except, pattern) = match cleaned.strip_prefix('!') {
                Some(rest) => (true, rest),
                None => (false, cleaned.as_str()),
            };
            let pattern = Some(pattern).filter(|pattern| !pattern.is_empty());
            let pattern = pattern.and_then(Pattern::of_ignore).ok_or_else(|| text.to_owned())?;
            Ok::<_, String>(Line { pattern, except })
        });
        Ok(Self { lines: lines.collect::<Result<_, _>>()? })
    }

    /// Whether something in a folder that matches may not match.
    pub(crate) fn has_exceptions(&self) -> bool {
        self.lines.iter().any(|line| line.except)
    }

    /// Whether they match `path`, and each of them, where `folder` is what matched the folder that
    /// it is in.
    pub(crate) fn matched(&self, path: &str, folder: &[bool]) -> (bool, Matched) {
        let (mut matched, mut each) = (false, vec![false; self.lines.len()]);
        for (at, line) in self.lines.iter().enumerate() {
            let inherited = folder.get(at).copied().unwrap_or(false);
            // Only a pattern that changes the decision is looked at.
            each[at] = inherited || line.except == matched && line.pattern.matches(path);
            if each[at] {
                matched = !line.except;
            }
        }
        (matched, each)
    }

    /// The same for a path of which no folder was looked at before.
    pub(crate) fn matched_from_root(&self, path: &str) -> (bool, Matched) {
        let (mut matched, mut each) = (false, Matched::new());
        for part in ancestors(path).chain([path]) {
            (matched, each) = self.matched(part, &each);
        }
        (matched, each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_matching_line_decides() {
        for (lines, path, want) in [
            ("", "a", false),
            ("a", "a", true),
            ("a", "a/b", true),
            ("a", "ab", false),
            ("/a/", "a/b/c", true),
            ("# a", "# a", false),
            (" # a", "# a", true),
            ("*.md\n!README.md", "README.md", false),
            ("*.md\n!README.md", "x.md", true),
            ("*.md", "d/x.md", false),
            ("**/*.md", "d/x.md", true),
            ("target\n!target/app.wasm", "target/app.wasm", false),
            ("target\n!target/app.wasm", "target/app.rs", true),
            ("*\n!www", "www/index.html", false),
            ("*\n!www\nwww/secret", "www/secret/x", true),
            ("./a", "a", true),
            ("a \r\nb", "a", true),
            ("\u{feff}a", "a", true),
        ] {
            let got = Patterns::parse(lines).unwrap().matched_from_root(path).0;
            assert_eq!(got, want, "{lines:?} on {path}");
        }
        assert_eq!(Patterns::parse("!").unwrap_err(), "!");
        assert_eq!(Patterns::parse("a\n[").unwrap_err(), "[");
    }
}
