//! From source and a build file to an image: in a folder of images, ready to run or to push.
//!
//! Enter at [`build`] with a [`Build`], at [`Layout`] for the local images, at [`import`] and
//! [`export`] for image files. The same input gives the same bytes, whoever builds where and when.
//! Absent on purpose: executing RUN, network, machine code.
#![forbid(unsafe_code)]

mod blobs; // bytes by digest, complete as soon as they are visible
mod layout; // the folder of local images

mod pattern; // `*.html`
mod ignore; // what `.dockerignore` leaves out
mod context; // the folder that a build may read, and nothing outside of it
mod items; // what a layer will hold, before it has bytes

mod expand; // variables and quotes
mod variables; // what a name stands for
mod duration; // `1m30s`
mod stage; // an image in the making
mod copy; // COPY and ADD
mod dockerfile; // a Dockerfile, carried out into a stage
mod build_file; // margay.toml, likewise

mod spool; // the bytes of what is copied, wherever they come from
mod gzip; // compression, the same bytes everywhere
mod tarball; // a layer, likewise
mod cache; // what earlier builds found out
mod program; // which file runs, and whether it can
mod assemble; // a stage, written as an image
mod build; // the door

mod import; // image files of others, read in
mod export; // an image as a file

mod error;

pub use assemble::BuiltLayer;
pub use blobs::BlobWriter;
pub use build::{Build, Built, build};
pub use error::Error;
pub use export::export;
pub use import::{ARCHIVE_BYTES_MAX, Imported, import};
pub use layout::{Hold, Layout, LocalImage, Pruned, REF_NAME};
pub use program::host_platforms;
