//! How a verb fails: a message on stderr, a hint when an error has one, and an exit code.

use std::{
    error::Error as StdError,
    fmt,
    io::{self, ErrorKind},
    path::Path,
};

use crate::nearest;

/// An error of the command line with a hint.
#[derive(Debug)]
pub struct Advice {
    message: String,
    hint: Option<String>,
    code: Option<u8>,
}

impl Advice {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: None }
    }

    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Ends the process with `code` instead of 1.
    pub fn code(self, code: u8) -> Self {
        Self { code: Some(code), ..self }
    }
}

/// An error about what came through standard input, by the name that it has on a command line: the
/// file or folder at `path`, which holds it for a while, means nothing to its reader.
pub fn about_stdin(error: &anyhow::Error, path: &Path) -> Advice {
    let path = path.display().to_string();
    Advice {
        message: message(error).replace(&path, "-"),
        hint: hint(error).map(|hint| hint.replace(&path, "-")),
        code: code(error),
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Advice {}

/// The exit code of clap for arguments that it refuses itself.
pub const USAGE_ERROR: u8 = 2;
/// Docker's code for a container that could not be run because of the host.
pub const HOST_ERROR: u8 = 125;

/// The message: every error of the chain once, outermost first.
pub fn message(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        // Errors of some libraries print their source themselves; it is shown once.
        if !parts.last().is_some_and(|last| last.ends_with(&text)) {
            parts.push(text);
        }
    }
    crate::output::printable(&parts.join(": "))
}

/// The hint of the outermost error that has one.
pub fn hint(error: &anyhow::Error) -> Option<String> {
    let hint = error.chain().find_map(hint_of).or_else(|| hint_for_file(error));
    hint.map(|hint| crate::output::printable(&hint))
}

/// Of what the system says about a file, whichever verb wanted it. A file that is not there is the
/// first that the message names.
fn hint_for_file(error: &anyhow::Error) -> Option<String> {
    let kinds = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    kinds.map(io::Error::kind).find_map(|kind| match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Some("the disk is full: make room, for example with margay prune".to_owned())
        }
        ErrorKind::ReadOnlyFilesystem => {
            Some("write elsewhere: --home FOLDER moves everything that margay keeps".to_owned())
        }
        // A link that leads nowhere is in the way of a folder that is to be made.
        ErrorKind::NotFound | ErrorKind::AlreadyExists => {
            let text = message(error);
            let mut named = text.split('`').skip(1).step_by(2);
            named.find_map(|path| nearest::hint_for_path(Path::new(path)))
        }
        _ => None,
    })
}

/// The exit code that an error asks for, if it does.
pub fn code(error: &anyhow::Error) -> Option<u8> {
    let of_start = |cause: &(dyn StdError + 'static)| {
        let code = cause.downcast_ref::<node::Error>()?.exit_code();
        // For another verb than `run` a host error is an ordinary failure.
        Some(code).filter(|code| *code != HOST_ERROR)
    };
    error.chain().find_map(|cause| match cause.downcast_ref::<Advice>() {
        Some(advice) => advice.code,
        None => of_start(cause),
    })
}

fn hint_of(cause: &(dyn StdError + 'static)) -> Option<String> {
    macro_rules! hints {
        ($($error:ty),+) => {
            $(if let Some(error) = cause.downcast_ref::<$error>() { return error.hint(); })+
        };
    }
    if let Some(advice) = cause.downcast_ref::<Advice>() {
        return advice.hint.clone();
    }
    if let Some(fault) = cause.downcast_ref::<spec::wire::Fault>() {
        return fault.hint.clone();
    }
    hints!(node::Error, packager::Error, registry::Error, orchestrator::Error, image::Error);
    None
}

pub fn report(error: &anyhow::Error) {
    let red = crate::output::Paint::on_stderr();
    crate::output::notice(format_args!("{} {}", red.error("error:"), message(error)));
    if let Some(hint) = hint(error) {
        crate::output::notice(format_args!("{} {hint}", red.hint("hint:")));
    }
}
