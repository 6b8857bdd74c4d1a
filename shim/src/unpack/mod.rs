//! Layers of an image become folders, each unpacked by a process that can reach nothing else.
pub(crate) mod layers; // the cache of unpacked layers
pub(crate) mod sandbox; // the process that unpacks, confined to its folder

pub(crate) mod chore; // what is done with files of containers outside of one
pub(crate) mod disk_usage; // what a folder takes of the disk
mod tree; // one layer into one folder, without following a link
pub(crate) mod seccomp_unpack; // the system calls that the unpacking process may make
mod lower_links; // hard links of a layer to files of those below
