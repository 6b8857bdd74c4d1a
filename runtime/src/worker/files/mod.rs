//! A guest's files: one tree of read-only layers and a writable layer in memory, and volumes that
//! are mounted in it.
//!
//! All of it lives in this process. The only paths that ever reach the kernel are those below a
//! granted volume, and they go through `openat2`, which does not leave it.

mod filesystem; // what every tree of files can do
mod union; // the image's layers, and the writable layer above them
mod volume; // a granted folder of the host, and the quota around it
mod mounts; // which of them a path leads to
mod stream; // reading and writing through streams
mod host; // the two interfaces of wasi:filesystem
mod mapped; // a layer as memory
mod copy; // all of it as an archive, and back

#[cfg(test)]
mod tests;

pub(crate) use {
    copy::answer,
    host::{View, add_to_linker},
    mapped::mapped,
    mounts::Files,
    volume::Volume,
};
