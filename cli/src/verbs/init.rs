use std::path::{Path, PathBuf};

use packager::{Init, Language, ProgramKind};
use spec::Reference;

use crate::output::{line, notice, printable};

/// Write a margay.toml for the sources in a folder, or begin an app in an empty one
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Knows Rust (Cargo.toml), Go (go.mod), JavaScript (package.json), Python (pyproject.toml, app.py, main.py)
and C (*.c). Writes what the build needs beside the sources, and never changes a file that is there.

Examples:
  margay init                              for the sources in this folder
  margay init --language go hello          a small app in Go that answers HTTP
  margay init --language c --command tool  a small program in C that runs to its end"
)]
pub struct Args {
    /// Name the image [default: the name in the sources, else the folder's]
    #[arg(long, value_parser = name)]
    name: Option<String>,
    /// Begin a small app of this language where there are no sources
    #[arg(short, long, value_parser = language, value_name = "LANGUAGE")]
    language: Option<Language>,
    /// The program answers HTTP [default for a new app]
    #[arg(long, conflicts_with = "command")]
    http: bool,
    /// The program runs from its start to its end
    #[arg(long)]
    command: bool,
    /// Write a margay.toml anew that is there
    #[arg(short, long)]
    force: bool,
    /// The folder; made when it is not there
    #[arg(default_value = ".")]
    folder: PathBuf,
}

fn language(text: &str) -> Result<Language, String> {
    let text = text.to_lowercase();
    let alias = match text.as_str() {
        "js" | "node" => "javascript",
        "py" => "python",
        "golang" => "go",
        other => other,
    };
    Language::ALL.into_iter().find(|language| language.word() == alias).ok_or_else(|| {
        let words = Language::ALL.map(Language::word);
        format!("there is a page for {}", words.join(", "))
    })
}

/// A name for `margay.toml`, `Cargo.toml` and `package.json`.
fn name(text: &str) -> Result<String, String> {
    let reference: Reference = text.parse().map_err(|error| format!("{error}"))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    match text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(plain) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "`{reference}` names more than a program: use letters, digits and `-`, and name the \
             registry in `margay push`"
        )),
    }
}

impl Args {
    /// Prints the name of each file that it writes.
    pub fn run(self) -> anyhow::Result<()> {
        let kind = match (self.http, self.command) {
            (true, _) => Some(ProgramKind::Http),
            (_, true) => Some(ProgramKind::Command),
            (false, false) => None,
        };
        let done = packager::init(&Init {
            folder: &self.folder,
            name: self.name,
            kind,
            language: self.language,
            force: self.force,
        })?;
        let kind = match done.project.kind {
            ProgramKind::Http => "An app that answers HTTP",
            ProgramKind::Command => "A command",
        };
        notice(format_args!("{} in {}:", kind, done.project.language.name()));
        for file in &done.kept {
            notice(format_args!("there already: {}", printable(file)));
        }
        for file in &done.written {
            line(format_args!("{file}"));
        }
        let missing = done.project.missing();
        if !missing.is_empty() {
            notice(format_args!("To install first:"));
            missing.iter().for_each(|step| notice(format_args!("  {}", printable(step))));
        }
        let port = match done.project.kind {
            ProgramKind::Http => "-p 8080:80 ",
            ProgramKind::Command => "",
        };
        let name = &done.project.name;
        let enter = match self.folder == Path::new(".") {
            true => String::new(),
            false => format!("cd {} && ", printable(&self.folder.display().to_string())),
        };
        notice(format_args!("Next: {enter}margay build && margay run {port}{name}"));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_have_other_names_too() {
        for (text, want) in [
            ("rust", Ok(Language::Rust)),
            ("Go", Ok(Language::Go)),
            ("js", Ok(Language::JavaScript)),
            ("cobol", Err("there is a page for rust, go, c, javascript, python".to_owned())),
        ] {
            assert_eq!(language(text), want, "{text}");
        }
    }

    #[test]
    fn a_name_is_one_for_crates_and_images() {
        for (text, ok) in
            [("hello", true), ("a-b1", true), ("box.local/a", false), ("a:1", false), ("1a", false)]
        {
            assert_eq!(name(text).is_ok(), ok, "{text}");
        }
    }
}
