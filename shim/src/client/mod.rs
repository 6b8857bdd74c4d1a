//! The supervisor's side of a task shim.
pub(crate) mod task; // spawn, adopt, ask, stop
pub(crate) mod connect; // what the container connects to
pub(crate) mod sweep; // what a shim that was killed left behind
