//! What an OCI runtime is given: a root file system and a `config.json`.
pub(crate) mod config; // everything decided so far as one config.json
pub(crate) mod strings; // the arguments and variables that Linux starts a program with
pub(crate) mod signal; // which one STOPSIGNAL names
pub(crate) mod stage; // a private mount namespace with the root file system in it

pub(crate) mod account; // USER of the image, by the container's own files
pub(crate) mod root; // layers under a writable layer
mod mounts; // volumes, and files of the host
mod fill; // the first content of a volume
mod init; // process 1 of a container that asks for one
pub(crate) mod rootfs; // paths of the container, resolved without leaving its root file system
pub(crate) mod seccomp_container; // the system calls that a container may make

/// Which resolver a container asks that may connect to others.
pub(crate) const NAME_SERVER: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 77, 1);
