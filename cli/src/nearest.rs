//! What a misspelled word was meant to be: a verb, a flag, the name of a file.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// More names than these are not looked at: a folder with more is no folder that a user wrote.
const ENTRIES_MAX: usize = 4096;

/// The one of `names` that `text` is a misspelling of: a slip or two away, not merely alike.
pub fn nearest<'a>(text: &str, names: &[&'a str]) -> Option<&'a str> {
    let slips_max = match text.chars().count() {
        // Every other letter would be near.
        0 | 1 => 0,
        2..5 => 1,
        _ => 2,
    };
    let near = names.iter().map(|name| (slips(text, name), *name)).min()?;
    (near.0 <= slips_max).then_some(near.1)
}

/// What to do about a path at which there is nothing: the entry of its folder that is meant, or
/// where to look.
pub fn hint_for_path(path: &Path) -> Option<String> {
    if path.exists() {
        return None;
    }
    if path.is_symlink() {
        return Some(format!("it is a link that leads nowhere: ls -l {}", path.display()));
    }
    let (existing, _) = parts_of_path(path)?;
    let folder = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    Some(match entry_for_path(path) {
        Some(entry) => format!("did you mean `{}`?", entry.display()),
        None => format!("see what is there: ls {}", folder.display()),
    })
}

/// The entry that a path at which there is nothing is a misspelling of, up to its first part that
/// is not there.
pub fn entry_for_path(path: &Path) -> Option<PathBuf> {
    let (existing, missing) = parts_of_path(path)?;
    let folder = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    let names: Vec<String> = fs::read_dir(folder)
        .ok()?
        .take(ENTRIES_MAX)
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    nearest(missing, &all).map(|name| existing.join(name))
}

/// The folder that a path leads to, and its first part that is not there.
fn parts_of_path(path: &Path) -> Option<(&Path, &str)> {
    let existing =
        path.ancestors().skip(1).find(|folder| folder.as_os_str().is_empty() || folder.exists())?;
    let missing = path.strip_prefix(existing).ok()?.components().next()?;
    Some((existing, missing.as_os_str().to_str()?))
}

/// How many slips of the pen turn `from` into `to`: a letter too many, too few, a wrong one, or two
/// swapped. The optimal string alignment distance, in a row for each letter.
fn slips(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=to.len()).collect()];
    for (i, letter) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, other) in to.iter().enumerate() {
            let (above, before) = (rows[i][j + 1] + 1, row[j] + 1);
            let mut least = above.min(before).min(rows[i][j] + usize::from(letter != other));
            if i > 0 && j > 0 && from[i - 1] == *other && to[j - 1] == *letter {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_counted() {
        assert_eq!((slips("", "abc"), slips("abc", "abc"), slips("ca", "ac")), (3, 0, 1));
    }

    #[test]
    fn a_path_that_leads_nowhere_has_a_next_step() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("samples/hello")).unwrap();
        fs::create_dir_all(at("samples/x")).unwrap();
        fs::write(at("samples/hello/hello.wasm"), "").unwrap();
        std::os::unix::fs::symlink("nothing", at("link")).unwrap();
        for (path, want) in [
            ("samples/hello/helo.wasm", Some("did you mean `samples/hello/hello.wasm`?")),
            ("sampels/hello/hello.wasm", Some("did you mean `samples`?")),
            ("samples/hello/other", Some("see what is there: ls samples/hello")),
            ("samples/y", Some("see what is there: ls samples")),
            ("link", Some("it is a link that leads nowhere: ls -l link")),
            ("samples/hello/hello.wasm", None),
        ] {
            let hint = hint_for_path(&at(path));
            let place = format!("{}/", folder.path().display());
            assert_eq!(hint.map(|hint| hint.replace(&place, "")).as_deref(), want, "{path}");
        }
    }
}
