//! The audit log of a server: which principal did what to which object, from where, and how it
//! ended.
//!
//! Enter at [`AuditLog`] to write one, at [`entries`] to read it, at [`verify`] to find out whether
//! it is whole. Each line carries the hash of the line before it, so a line that is changed, added
//! or left out shows. Files rotate at a size, and the oldest are deleted. Absent on purpose: what a
//! request or an answer contained, and so every secret; and a guard against the owner of the
//! machine: they can write the log anew, so keep elsewhere the hash that [`verify`] returns.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::too_many_lines, reason = "tables of cases"))]

mod limits; // sizes of lines, files and logs
mod record; // one line, and how lines are chained
mod files; // the names of the files of a log
mod log; // the writer
mod read; // entries of a log, and whether they are whole

pub use log::AuditLog;
pub use read::{Broken, Verified, entries, verify};
pub use record::{Event, Record};
