use crate::{
    context::pattern::matches,
    path::{ancestors, parts},
};

/// What `.dockerignore` excludes from the build context.
///
/// # Spec
/// Docker, "Build context", ".dockerignore files": the last matching line decides, `!` takes back
/// in, and a pattern that matches a folder matches everything in it.
#[derive(Debug, Default)]
pub(crate) struct Ignore {
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    pattern: String,
    keep: bool,
}

impl Ignore {
    pub(crate) fn parse(text: &str) -> Self {
        let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self { lines: lines.filter_map(Line::parse).collect() }
    }

    /// Whether the file or folder at `path` is excluded.
    pub(crate) fn ignores(&self, path: &str) -> bool {
        let mut ignored = false;
        for line in &self.lines {
            // Only a line that changes the decision needs to be looked at.
            if line.keep == ignored && line.covers(path) {
                ignored = !line.keep;
            }
        }
        ignored
    }

    /// Whether nothing below an ignored folder can come back in, so that it need not be walked.
    pub(crate) fn is_final(&self) -> bool {
        self.lines.iter().all(|line| !line.keep)
    }
}

impl Line {
    fn parse(line: &str) -> Option<Self> {
        let (keep, pattern) = match line.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, line),
        };
        let parts: Vec<_> = parts(pattern).collect();
        (!parts.is_empty()).then(|| Self { pattern: parts.join("/"), keep })
    }

    /// Whether it matches `path` or a folder on the way there.
    fn covers(&self, path: &str) -> bool {
        ancestors(path).chain([path]).any(|path| matches(&self.pattern, path))
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
            ("*.md\n!README.md", "README.md", false),
            ("*.md\n!README.md", "x.md", true),
            ("*.md", "d/x.md", false),
            ("**/*.md", "d/x.md", true),
            ("target\n!target/app.wasm", "target/app.wasm", false),
            ("target\n!target/app.wasm", "target/app.rs", true),
            ("*\n!www", "www/index.html", false),
            ("*\n!www\nwww/secret", "www/secret/x", true),
            ("./a", "a", true),
        ] {
            assert_eq!(Ignore::parse(lines).ignores(path), want, "{lines:?} on {path}");
        }
    }
}
