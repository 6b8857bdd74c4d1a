//! Files that survive a crash: written durably, in folders of their owner, under locks.
//!
//! Enter at [`open()`] for a file that is there, at [`write`] to replace a small one, at
//! [`NewFile`] for one that is written piece by piece, at [`private_folder`] for where they lie, at
//! [`Lock`] to keep other processes away, and at [`SocketPath`] for a Unix socket in a deep folder.
//! Every function blocks. Absent on purpose: what the files contain, and errors of its own: callers
//! know which path they asked for, and attach it.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::too_many_lines, reason = "tables of cases"))]

mod folder; // folders for their owner alone, and their names on disk
mod open; // files of ours are regular ones, read up to a limit
mod file; // temporary file, fsync, rename, fsync of the folder
mod lock; // advisory locks that end with their process
mod socket; // addresses of sockets whose path is longer than an address
mod trace; // the steps of a write, for tests of durability

pub use file::{NewFile, Survives, create, remove, remove_unfinished, rename, write, write_with};
pub use folder::{private_folder, sync_folder};
pub use lock::{Lock, is_at, is_locked};
pub use open::{Purpose, open, open_plain, read, read_optional, read_plain, read_stream};
pub use socket::{SocketPath, bind, connect};
pub use trace::{Step, trace};

/// `BYTES` random bytes as lowercase hex digits, for names that no other process chooses.
///
/// # Panics
/// When the kernel has no randomness, which ends with its boot.
pub fn random_hex<const BYTES: usize>() -> String {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).expect("the kernel has randomness once it has booted");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
