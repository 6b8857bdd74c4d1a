//! What software is in an image, and which published vulnerabilities it has: parsers of bytes that
//! are hostile, comparisons of versions, and the documents that are made of them. Nothing here
//! waits, and only [`Database`] has a file.

mod package; // a piece of software, and what an image has of them
mod parse; // databases of package managers, lock files, programs
mod inventory; // layers on top of each other, read once
mod purl; // package URLs
mod documents; // bills of material in SPDX and CycloneDX
mod advisory_base; // where the vulnerabilities of a package are published
mod database; // what was found, in a file

pub(crate) use {
    database::{Database, ScannedImage},
    documents::document,
    inventory::inventory,
};
