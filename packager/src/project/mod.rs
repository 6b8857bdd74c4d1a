//! The sources of an app: in which language they are, what builds them, and what a new app begins
//! with.
//!
//! Enter at [`Project::recognise`] with a folder, at [`init`] to write a `margay.toml` for it.

mod language; // five languages, and two kinds of programs
mod entry; // which file of a folder is its program
mod recognise; // a folder -> language, kind and name
mod toolchain; // what has to be installed, looked up on this machine
mod template; // the files of a new app, and its build file
mod init; // writes them, and nothing that is there already

pub use init::{Init, Initialised, init};
pub use language::{Language, ProgramKind};
pub use recognise::Project;
pub(crate) use toolchain::one_line;

/// The name of a build file in its folder.
pub(crate) const BUILD_FILE: &str = "margay.toml";
