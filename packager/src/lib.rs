//! From source and a build file to an image: in a folder of images, ready to run or to push.
//!
//! Enter at [`build`] with a [`Build`], at [`Layout`] for the local images, at [`import`] and
//! [`export`] for image files. The same input gives the same bytes, on every machine and every day.
//! Absent on purpose: executing RUN, network, machine code.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::too_many_lines, reason = "tables of cases"))]

mod limits; // every limit, with the reason for its number
mod layout; // the folder of local images
mod path; // paths as text

mod context; // the folder that a build may read, and nothing outside of it
mod items; // what a layer will hold, before it has bytes
mod layer; // the bytes of a layer
mod attributes; // owners and special permissions of the files of an image
mod history; // how an image was made
mod stage; // an image in the making

mod diagnostic; // what is wrong with a build file, where, and what to write instead
mod fault; // a diagnostic whose place is not known yet, or another error
mod dockerfile; // a Dockerfile as values
mod execute; // these carried out into a stage, one file for each instruction
mod component; // core modules that answer HTTP, as components
mod project; // the sources of an app, and what builds them
mod build_file; // margay.toml, likewise

mod cache; // results of earlier builds
mod prune; // what no named image needs
mod program; // which file an image runs, and whether it can
mod assemble; // a stage, written as an image
mod build; // all of it in order
mod watched; // which files a build depends on

mod check; // layers, read to their end before an image gets a name
mod import; // image files of other tools
mod export; // an image as a file

mod error;

pub use assemble::BuiltLayer;
pub use build::{Build, Built, build, check};
pub use context::unpack_context;
pub use diagnostic::{
    ArchiveProblem, ContextProblem, Diagnostic, DiagnosticKind, ExpansionError, Place, SourceTree,
    Warning, WarningKind,
};
pub use dockerfile::duration::parse_duration_ns;
pub use error::{Error, ImportProblem, InitProblem, NoBuildFile};
pub use execute::{Fetch, Pull, parse_platform};
pub use export::export;
pub use import::{ImportStep, Imported, import};
pub use layout::{Hold, Layout, LocalImage, REF_NAME};
pub use limits::ARCHIVE_BYTES_MAX;
pub use program::host_platforms;
pub use project::{Init, Initialised, Language, ProgramKind, Project, init};
pub use watched::Watched;
