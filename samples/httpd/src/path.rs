use std::path::{Path, PathBuf};

use answer::percent_decode;

/// The names from the root to what was asked for. Holding one proves that it stays below the root.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted {
    names: Vec<String>,
    /// Whether the path ended with `/`, as that of a folder does.
    pub folder: bool,
}

impl Wanted {
    /// Reads the path of a request. `None` for what no honest link contains: `..`, NUL, a lone
    /// percent sign, bytes that are not UTF-8.
    pub fn parse(path: &str) -> Option<Self> {
        let path = percent_decode(path)?; // first, so that `%2e%2e` and `%2f` are judged as what they mean
        let rest = path.strip_prefix('/')?;
        if path.contains('\0') || rest.split('/').any(|name| name == "..") {
            return None;
        }
        let names: Vec<String> =
            rest.split('/').filter(|name| !matches!(*name, "" | ".")).map(str::to_owned).collect();
        Some(Self {
            folder: names.is_empty() || path.ends_with('/') || path.ends_with("/."),
            names,
        })
    }

    /// Whether a name starts with a dot, as those of `.git` and `.env` do. `.well-known` is meant
    /// to be seen.
    pub fn hidden(&self) -> bool {
        self.names.iter().any(|name| name.starts_with('.') && name != ".well-known")
    }

    /// Where it lies below `root`.
    pub fn below(&self, root: &Path) -> PathBuf {
        self.names.iter().fold(root.to_path_buf(), |path, name| path.join(name))
    }

    /// The same path as that of a folder, fit for a `Location`. It is built from the names, never
    /// from what was sent: `//example.com` would lead a browser to another host.
    pub fn as_folder(&self) -> String {
        let mut location = String::from("/");
        for name in &self.names {
            name.bytes().for_each(|byte| push_encoded(&mut location, byte));
            location.push('/');
        }
        location
    }
}

fn push_encoded(location: &mut String, byte: u8) {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            location.push(byte as char)
        }
        _ => location.push_str(&format!("%{byte:02X}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_below_the_root() {
        for (path, want) in [
            ("/", Some("/srv")),
            ("/a/b.txt", Some("/srv/a/b.txt")),
            ("//a///./b", Some("/srv/a/b")),
            ("/a%20b", Some("/srv/a b")),
            ("/...", Some("/srv/...")),
            ("/..", None),
            ("/a/../b", None),
            ("/%2e%2e/etc/passwd", None),
            ("/a%2f..%2f..%2fetc", None),
            ("/a%00.html", None),
            ("/%", None),
            ("/%ff", None),
            ("a", None),
            ("*", None),
        ] {
            let got = Wanted::parse(path).map(|wanted| wanted.below(Path::new("/srv")));
            assert_eq!(got.as_deref(), want.map(Path::new), "asking for {path}");
        }
    }

    #[test]
    fn a_redirect_never_leaves_the_host() {
        for (path, want) in
            [("/a", "/a/"), ("//example.com", "/example.com/"), ("/a%0d%0ab c", "/a%0D%0Ab%20c/")]
        {
            let got = Wanted::parse(path).map(|wanted| wanted.as_folder());
            assert_eq!(got.as_deref(), Some(want), "asking for {path}");
        }
    }

    #[test]
    fn dot_files_are_hidden() {
        for (path, want) in
            [("/.git/config", true), ("/a/.env", true), ("/.well-known/x", false), ("/a.b", false)]
        {
            assert_eq!(
                Wanted::parse(path).map(|wanted| wanted.hidden()),
                Some(want),
                "asking for {path}"
            );
        }
    }
}
