//! The limits of this crate.

/// Descriptors beside one message: what the kernel carries (`SCM_MAX_FD`).
pub const FDS_MAX: usize = 253;

/// Bytes of one message. More than any but an assignment, which rides in a memory file.
pub(crate) const FRAME_BYTES_MAX: usize = 16 << 10;

/// Agents connect to a container one at a time, and visitors such as `margay stats` are few.
pub(crate) const BACKLOG: i32 = 64;

/// Killed processes leave their cgroup within milliseconds, also under load.
pub(crate) const CGROUP_REMOVE_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(5);
/// A cgroup without a process for so long belongs to no worker that is about to start: between
/// making one and entering it are milliseconds.
pub(crate) const CGROUP_UNUSED_FOR: std::time::Duration = std::time::Duration::from_secs(10);
/// Entries of one copy in or out of a container: four full Debian roots. A tree that grows while it
/// is read ends here.
pub const COPY_ENTRIES_MAX: u64 = 2_000_000;
/// Bytes of one copy, holes included: more than a volume of a database has.
pub const COPY_BYTES_MAX: u64 = 1 << 40;
/// Folders in each other that a copy follows; the reader of archives takes as many.
pub const COPY_DEPTH_MAX: usize = 256;

/// Characters of a name in a report: enough to find it.
pub(crate) const LEFT_OUT_CHARS_MAX: usize = 200;
