//! Every limit of a store, with the reason for its number.

use std::time::Duration;

/// R8: operations of each list of a transaction (etcd's limit is 128).
pub(crate) const OPS_MAX: usize = 100;
/// R8: bytes of a whole transaction (etcd's limit is 1.5 MiB).
pub(crate) const TXN_BYTES_MAX: usize = 1 << 20;
/// R8: bytes of one value. Larger objects are blobs, and blobs are files.
pub(crate) const VALUE_BYTES_MAX: usize = 256 << 10;
/// A key is a short path of names.
pub(crate) const KEY_BYTES_MAX: usize = 1 << 10;

/// Transactions that wait for the writer; at 300 commits of 128 a second this is a wait of a few
/// milliseconds.
pub(crate) const WAITING_MAX: usize = 1024;
/// Operations of one group commit: beyond this a commit gets longer as fast as it gets larger.
pub(crate) const GROUP_OPS_MAX: usize = 128;
/// The time in which a group may grow: below the 3 to 4 ms that its fsync takes.
pub(crate) const GROUP_TIME_MAX: Duration = Duration::from_millis(2);

/// R22: a client that reconnects within this time need not list again.
pub(crate) const HISTORY_TIME: Duration = Duration::from_secs(600);
/// 80 changes a second over that time.
pub(crate) const HISTORY_CHANGES_MAX: usize = 50_000;
/// Values that only the history still holds.
pub(crate) const HISTORY_BYTES_MAX: usize = 64 << 20;

/// R20: batches that wait for a slow consumer; a leader's model applies so many in well under a
/// second.
pub(crate) const WATCH_BATCHES_MAX: usize = 1024;
/// R20: and their bytes, so that a thousand idle consumers cannot fill the memory.
pub(crate) const WATCH_BYTES_MAX: usize = 4 << 20;
