//! Users of other registries, by their htpasswd files.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use anyhow::{bail, ensure};
use registry::Admin;
use spec::Tenant;

use crate::{
    failure::{Advice, about_stdin},
    output::line,
    serve::block_on,
    verbs,
};

/// A thousand users have seventy kilobytes.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A line of the file.
struct Entry {
    name: Tenant,
    hash: String,
}

/// Adds the users of a file, each of which is printed. The file is read whole before the first.
pub fn import(admin: &Admin, path: &Path) -> anyhow::Result<()> {
    let text = read(path)?;
    let entries = entries(&text, &path.display().to_string());
    let entries = entries.map_err(|error| match path == Path::new("-") {
        true => about_stdin(&error, path).into(),
        false => error,
    })?;
    verbs::each(&entries, |entry| {
        block_on(admin.import_user(&entry.name, &entry.hash))?;
        line(format_args!("{}", entry.name));
        Ok(())
    })
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = match path == Path::new("-") {
        true => io::stdin().take(FILE_BYTES_MAX).read_to_string(&mut text),
        false => fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text)),
    };
    read.map_err(|error| {
        Advice::new(format!("cannot read `{}`: {error}", path.display()))
            .hint("name the htpasswd file of a registry")
    })?;
    Ok(text)
}

fn entries(text: &str, file: &str) -> anyhow::Result<Vec<Entry>> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let mut entries = Vec::new();
    for (at, line) in lines {
        let Some((name, hash)) = line.split_once(':') else {
            bail!(
                Advice::new(format!("line {at} of `{file}` is not NAME:HASH"))
                    .hint("it is not an htpasswd file")
            );
        };
        ensure!(
            hash.starts_with("$2"),
            Advice::new(format!(
                "line {at} of `{file}`: the password of `{name}` is not of bcrypt"
            ))
            .hint(format!("make it again: htpasswd -B FILE {name}; or add the user by itself"))
        );
        let name = name.parse().map_err(|error| {
            Advice::new(format!("line {at} of `{file}`: {error}"))
                .hint("add that user with another name, and leave the line out")
        })?;
        entries.push(Entry { name, hash: hash.to_owned() });
    }
    ensure!(
        !entries.is_empty(),
        Advice::new(format!("`{file}` has no users")).hint("its lines are NAME:HASH")
    );
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_an_htpasswd_file_are_users_or_are_named() {
        for (text, want) in [
            ("ann:$2y$05$abc\n\n# others\nbob:$2b$10$def\n", "ann bob"),
            ("", "`f` has no users"),
            ("# nothing\n", "`f` has no users"),
            ("ann", "line 1 of `f` is not NAME:HASH"),
            (
                "ann:$2y$05$abc\nbob:{SHA}abc",
                "line 2 of `f`: the password of `bob` is not of bcrypt",
            ),
            ("Ann:$2y$05$abc", "line 1 of `f`: "),
        ] {
            let got = match entries(text, "f") {
                Ok(entries) => {
                    entries.iter().map(|entry| entry.name.to_string()).collect::<Vec<_>>().join(" ")
                }
                Err(error) => error.to_string(),
            };
            assert!(got.starts_with(want), "{text}: {got}");
        }
    }
}
