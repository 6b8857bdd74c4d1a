//! From source and a build file to an image: in a folder of images, ready to run or to push.
//!
//! Enter at [`build`] with a [`Build`], at [`Layout`] for the local images, at [`import`] and [`export`] for image files.
//! The same input gives the same bytes, whoever builds where and when. Absent on purpose: executing RUN, network,
//! machine code.
#![forbid(unsafe_code)]

mod blobs; // bytes by digest, complete as soon as they are visible
mod layout; // the folder of local images

mod error;

pub use blobs::BlobWriter;
pub use error::Error;
pub use layout::{Hold, Layout, LocalImage, Pruned, REF_NAME};
