//! From an image's layers to what a worker maps: the uncompressed tars, the index over them, and
//! machine code.
//!
//! The hostile bytes are decompressed, indexed and compiled by a one-shot process that has no
//! network, no files but the descriptors it was given, and limits on memory, CPU time and wall
//! time. What comes out is sealed with the node's key; machine code is never accepted from anywhere
//! else.

mod preparation; // an image to prepare, and one that is ready
mod cache; // what is kept, where, and the seals on it
mod child; // the other process: into the sandbox, then the work
mod code; // Wasm to machine code, and what is wrong with the Wasm
mod adapter; // WASI 0.1 modules as components, exit codes kept
mod direct_imports; // imports without the detour that their memory asks for
mod go_memory; // memory for the adapter beside the heap of Go
mod debug_lines; // lines of the source, from debugging information
mod task; // the job of the process, and its answer

pub use {
    cache::{layer_files, open},
    child::main,
    preparation::{Facts, LayerBlob, Preparation, PrepareLimits, Prepared, Program},
};

use crate::Error;

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
