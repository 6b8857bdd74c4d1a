//! The task shim: a process that owns one container, its streams, its ports and its exit status.
pub(crate) mod event_loop; // everything that happens to the container, in one loop

mod runner; // the OCI runtime as a child process: create and start
mod program; // when the runtime's process has become the program
mod poller; // epoll with tokens
mod control; // the requests of supervisors, one for each connection
mod streams; // stdin, stdout and stderr on their way through the shim
mod log; // lines of output on their way into the log
mod exec; // programs that join the container, and their clients
mod relay; // connections from published ports into the container's network
mod members; // the processes of the container, and what they use
mod meter; // usage and time limits, from the counters of those
mod outcome; // why the container ended
mod disk_quota; // the limit of the writable layer
