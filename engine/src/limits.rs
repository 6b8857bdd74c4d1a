//! The limits of this crate.

/// Descriptors beside one message: what the kernel carries (`SCM_MAX_FD`).
pub const FDS_MAX: usize = 253;

/// Bytes of one message. More than any but an assignment, which rides in a memory file.
pub(crate) const FRAME_BYTES_MAX: usize = 16 << 10;

/// Agents connect to a container one at a time, and visitors such as `margay stats` are few.
pub(crate) const BACKLOG: i32 = 64;
