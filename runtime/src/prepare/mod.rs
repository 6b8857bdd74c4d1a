//! From an image's layers to what a worker maps: the uncompressed tars, the index over them, and
//! machine code.
//!
//! The hostile bytes are decompressed, indexed and compiled by a one-shot process that has no
//! network, no files but the descriptors it was given, and limits on memory, CPU time and wall
//! time. What comes out is sealed with the node's key; machine code is never accepted from anywhere
//! else.

mod cache; // what is kept, where, and the seals on it
mod child; // the other process: into the sandbox, then the work
mod code; // Wasm to machine code, and what is wrong with the Wasm
mod adapter; // WASI 0.1 modules as components, exit codes kept
mod task; // the job of the process, and its answer

use std::{
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use spec::Digest;

use crate::{Error, Key};

pub(crate) use adapter::{EXIT_FUNCTION, EXIT_INTERFACE};
pub use cache::{Facts, layer_files, open};
pub use child::main;

/// What is to be prepared, and where it goes.
#[derive(Debug)]
pub struct Preparation<'a> {
    /// The binary whose `main` calls [`main`] when it sees `arguments`.
    pub exe: PathBuf,
    pub arguments: Vec<OsString>,
    /// From the lowest to the highest.
    pub layers: Vec<LayerBlob>,
    pub program: Program,
    /// Where the uncompressed tars of all images are kept, by diff id. A private folder, made when
    /// it is missing.
    pub layers_dir: &'a Path,
    /// Where this image's index, machine code and facts go. A private folder, made when it is
    /// missing.
    pub out: &'a Path,
    /// Seals what was made.
    pub key: &'a Key,
    /// What the process may use.
    pub limits: PrepareLimits,
}

/// A layer as it was pulled or built.
#[derive(Debug)]
pub struct LayerBlob {
    /// Open for reading: plain tar, gzip or zstd.
    pub blob: File,
    /// The digest of the blob.
    pub digest: Digest,
    /// The digest of the uncompressed tar, as the image's config claims it.
    pub diff_id: Option<Digest>,
}

/// Where the program is.
#[derive(Debug)]
pub enum Program {
    /// A file in the layers, relative to their root.
    InLayers(String),
    /// A blob of its own (`application/wasm`).
    Blob { blob: File, digest: Digest },
}

/// What one preparation may use. Compiling is where hostile bytes hurt most (W6 in the threat
/// model).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrepareLimits {
    /// Address space of the process, in bytes. A 13 MB JavaScript engine needs 369 MB to compile.
    pub memory_bytes_max: u64,
    /// Time on a processor. The same engine needs 8.5 s.
    pub cpu_time_max: Duration,
    /// Until it is killed.
    pub wall_time_max: Duration,
    /// Bytes of the uncompressed layers together.
    pub layer_bytes_max: u64,
    /// Bytes of the program. 100 MiB as Fastly allows.
    pub program_bytes_max: u64,
}

impl Default for PrepareLimits {
    fn default() -> Self {
        Self {
            memory_bytes_max: 4 << 30,
            cpu_time_max: Duration::from_secs(120),
            wall_time_max: Duration::from_secs(180),
            layer_bytes_max: 4 << 30,
            program_bytes_max: 100 << 20,
        }
    }
}

/// An image that is ready to be assigned, every file open.
#[derive(Debug)]
pub struct Prepared {
    /// For [`Assignment::code`](crate::Assignment::code).
    pub code: File,
    /// For [`Assignment::index`](crate::Assignment::index).
    pub index: File,
    /// For [`Assignment::layers`](crate::Assignment::layers).
    pub layers: Vec<File>,
    /// About the program.
    pub facts: Facts,
    /// Whether all of it was there already.
    pub cached: bool,
}

/// Prepares an image, or opens what an earlier preparation of the same layers and program has left.
/// Blocks; compiling takes from 50 ms to several seconds.
///
/// # Errors
/// [`Error::Refused`] when the image is not fit to run, with the reason's code; others when the
/// node fails.
pub fn prepare(preparation: &Preparation<'_>) -> Result<Prepared, Error> {
    match open(preparation.out, preparation.layers_dir, preparation.key)? {
        Some(prepared) => Ok(prepared),
        None => task::run(preparation),
    }
}
