use std::{
    cell::Cell,
    ffi::{OsStr, OsString},
    io::{IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use node::{Copied, CopyEnd, CopyOptions, CopyWatch, Note, tasks};

use crate::{
    failure::{Advice, USAGE_ERROR},
    home::Home,
    output::{docker_size, notice, printable},
    verbs::run,
};

/// Copy files between a task and this machine
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "margay cp [OPTIONS] TASK:PATH DEST
       margay cp [OPTIONS] SOURCE TASK:PATH",
    after_help = "One side names a task and an absolute path in it; the other is a path here, or `-` for a tar archive.
A folder goes into a folder that is there, and becomes one that is not; `FOLDER/.` stands for its content.
The task need not run. What it may not write itself is not written.

Examples:
  margay cp web:/etc/nginx/nginx.conf .
  margay cp ./site/. web:/srv/www
  margay cp web:/var/log - | tar t"
)]
pub struct Args {
    /// Keep users and groups by number, and set-user-id
    #[arg(short, long)]
    archive: bool,
    /// Copy what a link at the end of the source leads to
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Say nothing of what was copied
    #[arg(short, long)]
    quiet: bool,
    /// What is copied
    #[arg(value_name = "SOURCE")]
    source: OsString,
    /// Where it goes
    #[arg(value_name = "DEST")]
    dest: OsString,
}

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    Task(&'a str, &'a str),
    Here(&'a OsStr),
    Stream,
}

impl<'a> Side<'a> {
    /// As Docker tells them apart: an absolute path and one that begins with `.` is one of this
    /// machine.
    fn of(text: &'a OsStr) -> Self {
        if text == "-" {
            return Self::Stream;
        }
        let named = text.to_str().filter(|text| !text.starts_with(['/', '.']));
        match named.and_then(|text| text.split_once(':')) {
            Some((task, path)) => Self::Task(task, path),
            None => Self::Here(text),
        }
    }
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<ExitCode> {
        let options = CopyOptions { keep_owners: self.archive, follow: self.follow_link };
        let mut watch = Watch::new(self.quiet);
        let wrong = |message: &str, hint: &str| {
            Err(Advice::new(message).hint(hint).code(USAGE_ERROR).into())
        };
        let ended = match (Side::of(&self.source), Side::of(&self.dest)) {
            (Side::Task(task, path), to @ (Side::Here(_) | Side::Stream)) => {
                named(task, path)?;
                let to = match to {
                    Side::Here(path) => Some(Path::new(path)),
                    Side::Stream | Side::Task(..) => {
                        ensure!(
                            !std::io::stdout().is_terminal(),
                            Advice::new("an archive is nothing for a terminal")
                                .hint("write it elsewhere: margay cp TASK:PATH - > FILE.tar")
                                .code(USAGE_ERROR)
                        );
                        watch.quiet = true;
                        None
                    }
                };
                let task = tasks::find(home.node(), task)?;
                node::copy_out(home.node(), task, path, to, options, &mut watch)
            }
            (from @ (Side::Here(_) | Side::Stream), Side::Task(task, path)) => {
                named(task, path)?;
                let from = match from {
                    Side::Here(path) => Some(Path::new(path)),
                    Side::Stream | Side::Task(..) => None,
                };
                let task = tasks::find(home.node(), task)?;
                node::copy_in(home.node(), task, from, path, options, &mut watch)
            }
            (Side::Task(..), Side::Task(..)) => {
                return wrong(
                    "copying between two tasks is not supported",
                    "copy through a pipe: margay cp A:/x - | margay cp - B:/y",
                );
            }
            (Side::Here(_) | Side::Stream, Side::Here(_) | Side::Stream) => {
                return wrong("one side must name a task", "write TASK:PATH on one side");
            }
        };
        watch.clear();
        match ended? {
            CopyEnd::Done { bytes, place, copied } => {
                if !self.quiet {
                    say_what_is_missing(copied);
                }
                if !watch.quiet {
                    let place = printable(&place);
                    notice(format_args!("Successfully copied {} to {place}", docker_size(bytes)));
                }
                Ok(ExitCode::SUCCESS)
            }
            CopyEnd::Interrupted(signal) => {
                Ok(ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX)))
            }
        }
    }
}

fn say_what_is_missing(copied: Copied) {
    if let Some(first) = copied.left_out_first {
        let (number, first) = (copied.left_out, printable(&first));
        notice(format_args!("Left out {number} devices, pipes and sockets, `{first}` first"));
    }
    if let Some(first) = copied.made_plain_first {
        let (number, first) = (copied.made_plain, printable(&first));
        notice(format_args!(
            "Took set-user-id and set-group-id from {number} files, `{first}` first: \
             --archive keeps them"
        ));
    }
}

fn named(task: &str, path: &str) -> anyhow::Result<()> {
    if task.is_empty() || path.is_empty() {
        let text = format!("{task}:{path}");
        bail!(
            Advice::new(format!("`{text}` names no file of a task"))
                .hint("write TASK:PATH, as in web:/srv/www")
                .code(USAGE_ERROR)
        );
    }
    Ok(())
}

/// A line on a terminal that says how far a copy is.
struct Watch {
    quiet: bool,
    talk: run::Talk,
    shown: Cell<Option<Instant>>,
    is_terminal: bool,
}

/// Twice in a second is often enough to read, and costs nothing.
const SHOW_EVERY: Duration = Duration::from_millis(500);

impl Watch {
    /// Docker says nothing where stdout is no terminal.
    fn new(quiet: bool) -> Self {
        Self {
            quiet: quiet || !std::io::stdout().is_terminal(),
            talk: run::Talk::default(),
            shown: Cell::new(Some(Instant::now())),
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    fn clear(&self) {
        if self.is_terminal && !self.quiet {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl CopyWatch for Watch {
    fn note(&mut self, note: Note) {
        self.talk.hear(&note);
    }

    fn moved(&mut self, bytes: u64) {
        let due = self.shown.get().is_none_or(|shown| shown.elapsed() >= SHOW_EVERY);
        if due && self.is_terminal && !self.quiet {
            let _ = write!(std::io::stderr(), "\r\x1b[KCopying - {}", docker_size(bytes));
            self.shown.set(Some(Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_told_apart_as_docker_does() {
        for (text, want) in [
            ("web:/a:b", Side::Task("web", "/a:b")),
            ("web:a", Side::Task("web", "a")),
            ("-", Side::Stream),
            ("./web:a", Side::Here(OsStr::new("./web:a"))),
            ("/web:a", Side::Here(OsStr::new("/web:a"))),
            ("web", Side::Here(OsStr::new("web"))),
        ] {
            assert_eq!(Side::of(OsStr::new(text)), want, "{text}");
        }
    }
}
