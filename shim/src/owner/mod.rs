//! The process that owns one container: the *task shim*.
pub(crate) mod event_loop; // one container, its streams, its ports, its supervisors
pub(crate) mod runner; // the OCI runtime as a child, with a deadline

mod poller; // epoll with names
mod streams; // stdin, stdout and stderr on their way through the shim
mod log; // lines in the CRI format, in a file that cannot grow without end
mod relay; // connections from published ports into the container's network
