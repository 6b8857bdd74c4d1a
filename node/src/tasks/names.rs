//! Names are symbolic links in `tasks/.names`: making one is atomic, so two tasks cannot take the
//! same.

use std::{fs, io, os::unix::fs::symlink, path::Path};

use crate::error::{Error, Result};

const NAMES: &str = ".names";

/// Docker's grammar for container names, and its length.
///
/// # Errors
/// [`Error::BadName`].
pub fn check(name: &str) -> Result<()> {
    let mut bytes = name.bytes();
    let good = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.len() <= 200
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if good { Ok(()) } else { Err(Error::BadName(name.chars().take(100).collect())) }
}

/// Takes `name` for the task `id`, or finds one.
pub(super) fn take(tasks: &Path, name: Option<&str>, id: &str) -> Result<String> {
    let names = tasks.join(NAMES);
    crate::home::make_private(&names)?;
    if let Some(name) = name {
        check(name)?;
        return match claim(tasks, name, id)? {
            None => Ok(name.to_owned()),
            Some(owner) => Err(Error::NameTaken { name: name.to_owned(), id: owner }),
        };
    }
    // 2,304 pairs: a machine with hundreds of tasks finds a free one in a few tries, a fuller one
    // gets a number.
    for attempt in 0..100u32 {
        let name = match attempt {
            0..20 => random_name(),
            _ => format!("{}-{}", random_name(), disk::random_hex::<2>()),
        };
        if claim(tasks, &name, id)?.is_none() {
            return Ok(name);
        }
    }
    take(tasks, Some(id), id)
}

/// Takes `name`, or says which task has it.
fn claim(tasks: &Path, name: &str, id: &str) -> Result<Option<String>> {
    let link = tasks.join(NAMES).join(name);
    for _ in 0..3 {
        match symlink(Path::new("..").join(id), &link) {
            Ok(()) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::file("make link", &link)(error)),
        }
        match owner(tasks, name) {
            Some(other) if other == id => return Ok(None),
            Some(other) if tasks.join(&other).is_dir() => return Ok(Some(other)),
            // Its task is gone without its name: a crash between two removals.
            _ => drop(fs::remove_file(&link)),
        }
    }
    Ok(Some("another".to_owned()))
}

/// The id of the task that has `name`.
pub(super) fn owner(tasks: &Path, name: &str) -> Option<String> {
    let target = fs::read_link(tasks.join(NAMES).join(name)).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

/// Gives `name` back, if the task `id` has it.
pub(super) fn release(tasks: &Path, name: &str, id: &str) {
    if owner(tasks, name).as_deref() == Some(id) {
        let _ = fs::remove_file(tasks.join(NAMES).join(name));
    }
}

fn random_name() -> String {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).expect("the kernel has randomness");
    let [a, b] = bytes.map(usize::from);
    format!("{}-{}", ADJECTIVES[a % ADJECTIVES.len()], CATS[b % CATS.len()])
}

const ADJECTIVES: [&str; 64] = [
    "agile", "amber", "bold", "brave", "brisk", "bushy", "calm", "clever", "cosy", "curious",
    "dapper", "daring", "dozing", "drowsy", "dusky", "eager", "elegant", "fearless", "fluffy",
    "frisky", "gentle", "ginger", "golden", "graceful", "happy", "hidden", "hungry", "jolly",
    "keen", "lazy", "little", "lively", "lucky", "mellow", "merry", "mighty", "misty", "nimble",
    "noble", "patient", "playful", "plucky", "polite", "proud", "purring", "quick", "quiet",
    "royal", "rusty", "shy", "silent", "silky", "sleepy", "sly", "smoky", "snug", "soft",
    "spotted", "stealthy", "striped", "sunny", "swift", "velvet", "wild",
];

const CATS: [&str; 36] = [
    "bengal", "birman", "bobcat", "bombay", "burmese", "caracal", "cheetah", "chausie", "civet",
    "colocolo", "cougar", "fossa", "genet", "jaguar", "kitten", "kodkod", "korat", "leopard",
    "lion", "lynx", "manul", "manx", "margay", "ocelot", "oncilla", "panther", "persian", "puma",
    "ragdoll", "serval", "siamese", "sphynx", "tabby", "tiger", "tomcat", "wildcat",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_belongs_to_one_task_until_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let tasks = folder.path();
        fs::create_dir(tasks.join("one")).unwrap();
        assert_eq!(take(tasks, Some("cat"), "one").unwrap(), "cat");
        let error = take(tasks, Some("cat"), "two").unwrap_err();
        assert_eq!(error.to_string(), "the name `cat` is taken by task `one`");
        release(tasks, "cat", "two");
        assert_eq!(owner(tasks, "cat").as_deref(), Some("one"));
        fs::remove_dir(tasks.join("one")).unwrap();
        assert_eq!(take(tasks, Some("cat"), "two").unwrap(), "cat", "its task vanished in a crash");
        for _ in 0..200 {
            let name = take(tasks, None, "three").unwrap();
            check(&name).unwrap();
        }
    }

    #[test]
    fn a_name_that_could_be_a_path_is_refused() {
        for name in ["", ".names", "../x", "a/b", "-x", "a b", "é", &"a".repeat(201)] {
            assert!(check(name).is_err(), "{name}");
        }
        for name in ["a", "Sleepy_Cat.2-x", "4"] {
            check(name).unwrap();
        }
    }
}
