use std::collections::HashSet;

/// The parts of a path that count: no empty ones and no `.`.
pub(crate) fn parts(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|part| !matches!(*part, "" | "."))
}

/// `path` relative to its root, without `..`; `None` when it leads above that root.
pub(crate) fn normal(path: &str) -> Option<String> {
    let mut normal = Vec::new();
    for part in parts(path) {
        match part {
            ".." => drop(normal.pop()?),
            _ => normal.push(part),
        }
    }
    Some(normal.join("/"))
}

/// The same as a program sees it inside of its root filesystem: `..` at the root stays there.
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

/// Without the paths that are in a folder of the list: a folder brings what is in it.
pub(crate) fn outermost(mut paths: Vec<String>) -> Vec<String> {
    let all: HashSet<String> = paths.iter().cloned().collect();
    paths.retain(|path| !ancestors(path).any(|folder| all.contains(folder)));
    paths
}
