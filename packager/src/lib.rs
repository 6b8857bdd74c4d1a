//! From source and a build file to an image: in a folder of images, ready to run or to push.
//!
//! Enter at [`build`] with a [`Build`], at [`Layout`] for the local images, at [`import`] and
//! [`export`] for image files. The same input gives the same bytes, whoever builds where and when.
//! Absent on purpose: executing RUN, network, machine code.
#![forbid(unsafe_code)]

mod blobs; // bytes by digest, complete as soon as they are visible
mod layout; // the folder of local images

mod context; // the folder that a build may read, and nothing outside of it
mod layer; // new layers: what they will hold, then their bytes
mod stage; // an image in the making

mod dockerfile; // the words of a Dockerfile
mod execute; // a Dockerfile, carried out into a stage
mod build_file; // margay.toml, likewise

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
