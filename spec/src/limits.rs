use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Of a capability line: longer than any honest one.
pub(crate) const CAPABILITY_LINE_BYTES_MAX: usize = 1024;
/// Of a folder in a capability line, which must leave place for its keys.
pub(crate) const GUEST_PATH_BYTES_MAX: usize = 256;
/// Of a variable's name in a capability line.
pub(crate) const VARIABLE_NAME_BYTES_MAX: usize = 128;

/// What one container of a task may use at most. Every field is a ceiling that something real
/// enforces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Linear memories and tables of all live instances of the container together, in bytes.
    pub memory_bytes_max: u64,
    /// CPU time of one request, or of a whole command; `None` for commands and jobs that may take
    /// as long as they like.
    pub cpu_time_max: Option<Duration>,
    /// Wall time of one request, or of a whole command.
    pub wall_time_max: Option<Duration>,
    /// Handles (files, streams, requests, …) that one instance may hold.
    pub handles_max: u32,
    /// Requests that run at the same time; more wait in the listener's queue.
    pub concurrency_max: u32,
    /// Bytes in the task's writable layer.
    pub writable_bytes_max: u64,
    /// Bytes of one request's body.
    pub request_body_bytes_max: u64,
    /// Bytes of log that are kept.
    pub log_bytes_max: u64,
}

impl Limits {
    /// For one HTTP request: 50 ms of CPU and 128 MiB, as the shared pools of others give (Fastly,
    /// Cloudflare).
    pub fn for_requests() -> Self {
        Self {
            memory_bytes_max: 128 << 20,
            cpu_time_max: Some(Duration::from_millis(50)),
            wall_time_max: Some(Duration::from_secs(30)),
            handles_max: 256,
            concurrency_max: 100,
            writable_bytes_max: 64 << 20,
            request_body_bytes_max: 16 << 20,
            log_bytes_max: 16 << 20,
        }
    }

    /// For a command: as long as it likes, within the same memory.
    pub fn for_commands() -> Self {
        Self { cpu_time_max: None, wall_time_max: None, ..Self::for_requests() }
    }
}
