/// The parts of a path that count: no empty ones and no `.`.
pub(crate) fn parts(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|part| !matches!(*part, "" | "."))
}

/// `path` relative to its root, as a program sees it there: `..` at the root stays at the root.
pub(crate) fn clamped(path: &str) -> String {
    let mut normal = Vec::new();
    for part in parts(path) {
        match part {
            ".." => drop(normal.pop()),
            _ => normal.push(part),
        }
    }
    normal.join("/")
}

/// The shortest path with the same meaning, as Go's `path.Clean` writes it.
pub(crate) fn clean(path: &str) -> String {
    let is_absolute = path.starts_with('/');
    let mut kept: Vec<&str> = Vec::new();
    for part in parts(path) {
        match (part, kept.last()) {
            ("..", Some(last)) if *last != ".." => drop(kept.pop()),
            ("..", None) if is_absolute => {}
            _ => kept.push(part),
        }
    }
    match (is_absolute, kept.is_empty()) {
        (true, _) => format!("/{}", kept.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => kept.join("/"),
    }
}

/// `a` and `b` with a `/` in between, where both are there.
pub(crate) fn joined(a: &str, b: &str) -> String {
    match (a, b) {
        ("", b) => b.to_owned(),
        (a, "") => a.to_owned(),
        (a, b) => format!("{a}/{b}"),
    }
}

/// `text` as the name of an image: characters that no name has become `-`.
pub(crate) fn as_name(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// Every folder above `path`, from the top.
pub(crate) fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}
