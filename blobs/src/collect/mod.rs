//! Garbage collection of images: what may be deleted is decided here and nowhere else.
//!
//! Images take space in four forms: blobs of a local OCI layout, blobs that a node has pulled,
//! machine code and layers that a node has prepared from them, and layers that it has unpacked.
//! Two rules decide, and both are pure functions of what is there:
//!
//! - **Reachability** ([`unmarked`]): [`Roots`] are the images that have a name and those that
//!   tasks run from; [`mark`] follows them to everything that they need; what is left may go.
//!   `margay prune` and `margay rmi` work by it.
//! - **Recency** ([`least_recently_used`]): above a limit of bytes the items that were not used for
//!   the longest time may go, because they can be made or pulled again. The node's agent works by
//!   it.
//!
//! [`sweep`] removes what may go, with a function of the caller's, which knows whether an item is
//! in use and how it is removed.

mod mark; // from roots to everything that they need
mod sweep; // the rules, and the loop that removes

pub use mark::{Marked, Roots, mark};
pub use sweep::{
    Candidates, Item, Removal, Swept, files_below, least_recently_used, remove_file, sweep,
    sweep_blobs, unmarked,
};
