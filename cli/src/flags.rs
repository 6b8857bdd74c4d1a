//! What several verbs take: durations, sizes, and variables from flags and files.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;

use crate::failure::{Advice, MISUSED, fail};

/// A duration for clap.
pub fn duration(text: &str) -> Result<Duration, String> {
    spec::parse_duration(text).map_err(|error| error.to_string())
}

/// A size for clap.
pub fn bytes(text: &str) -> Result<u64, String> {
    spec::parse_bytes(text).map_err(|error| error.to_string())
}

/// Larger than any list of variables that was written by hand.
const ENV_FILE_BYTES_MAX: u64 = 1 << 20;

/// Variables from `--env-file` (first) and `-e` (they win). A name alone takes its value from our own environment, and
/// is left out when it has none there.
pub fn environment(files: &[PathBuf], flags: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut variables = BTreeMap::new();
    for path in files {
        for line in read_lines(path)? {
            add(&mut variables, &line).with_context(|| format!("in `{}`", path.display()))?;
        }
    }
    for flag in flags {
        add(&mut variables, flag)?;
    }
    Ok(variables)
}

fn read_lines(path: &Path) -> anyhow::Result<Vec<String>> {
    let named = || format!("cannot read the variables in `{}`", path.display());
    let size = std::fs::metadata(path).with_context(named)?.len();
    if size > ENV_FILE_BYTES_MAX {
        return fail(Advice::new(format!("`{}` has {size} bytes, which is no list of variables", path.display())));
    }
    let text = std::fs::read_to_string(path).with_context(named)?;
    let lines = text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

fn add(variables: &mut BTreeMap<String, String>, text: &str) -> anyhow::Result<()> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, std::env::var(text).ok()),
    };
    if format!("env:{name}").parse::<spec::Capability>().is_err() {
        return fail(
            Advice::new(format!("`{}` cannot name a variable", name.chars().take(100).collect::<String>()))
                .hint("use letters, digits and `_`, as in -e NAME=VALUE")
                .code(MISUSED),
        );
    }
    if let Some(value) = value {
        variables.insert(name.to_owned(), value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_alone_takes_our_value_and_a_bad_name_is_misuse() {
        let flags = ["A=1", "B=x=y", "MARGAY_NO_SUCH_VARIABLE", "PATH"].map(str::to_owned);
        let variables = environment(&[], &flags).unwrap();
        assert_eq!(variables["A"], "1");
        assert_eq!(variables["B"], "x=y");
        assert_eq!(variables["PATH"], std::env::var("PATH").unwrap());
        assert_eq!(variables.len(), 3);
        for flag in ["=x", "A B=1", "a\nb"] {
            let error = environment(&[], &[flag.to_owned()]).unwrap_err();
            assert_eq!(crate::failure::code(&error), Some(MISUSED), "{flag}");
        }
    }
}
