//! What this machine offers to native images.
pub(crate) mod probe; // which OCI runtime is installed, and what is known to be wrong with it
pub(crate) mod answers; // what installed runtimes have answered before
pub(crate) mod package; // the version of a distribution's package
pub(crate) mod doctor; // what this machine can and cannot do about native images
pub(crate) mod command; // a child process with a deadline
pub(crate) mod rights; // what this process may do
pub(crate) mod layering; // whether a folder can hold writable layers

pub(crate) use engine::cgroup;
