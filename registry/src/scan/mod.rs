//! What software is in an image, and which published vulnerabilities it has: parsers of bytes that
//! are hostile, comparisons of versions, and the documents that are made of them. Nothing here
//! waits, and only [`Database`] has a file.

mod package; // a piece of software, and what an image has of them
mod parse; // databases of package managers, lock files, programs
mod inventory; // layers on top of each other, read once
mod purl; // package URLs
mod documents; // bills of material in SPDX and CycloneDX
mod advisory_base; // where the vulnerabilities of a package are published
mod version; // versions, compared as their managers do it
mod osv; // records of vulnerabilities, made small
mod zip; // archives of them
mod feed; // files of them
mod matching; // whether a version is affected
mod rows; // values as the database has them
mod comparison; // which packages have which vulnerabilities
mod database; // what was found, in a file
mod advisories; // vulnerabilities beside the packages that have them
mod report; // what is known of an image

pub use feed::{OsvCounts, read_osv};
pub(crate) use {
    database::{Database, ScannedImage},
    documents::document,
    inventory::inventory,
    report::stale,
};
