//! Every limit of the control plane, with the reason for its number.

use std::time::Duration;

// Connections.

/// Connections through the operator's own socket: clients and scripts.
pub(crate) const OPERATOR_CONNECTIONS_MAX: usize = 256;
/// TLS handshakes under way, and those from one address prefix: each may take five seconds and
/// fail.
pub(crate) const HANDSHAKES_MAX: usize = 512;
pub(crate) const HANDSHAKES_PER_ADDRESS_MAX: usize = 128;
/// Connections without the certificate of a node: clients of tenants, nodes that join, and whatever
/// else finds the port.
pub(crate) const UNAUTHENTICATED_MAX: usize = 1024;
pub(crate) const UNAUTHENTICATED_PER_ADDRESS_MAX: usize = 256;
/// Connections with one. A node holds one for its long poll and one for its reports. One node,
/// which a tenant may own, cannot take all.
pub(crate) const NODE_CONNECTIONS_MAX: usize = 4096;
pub(crate) const CONNECTIONS_PER_NODE_MAX: usize = 16;
/// Descriptors for all of these, the store, the registry and the log.
pub(crate) const DESCRIPTORS_MIN: u64 =
    (OPERATOR_CONNECTIONS_MAX + HANDSHAKES_MAX + UNAUTHENTICATED_MAX + NODE_CONNECTIONS_MAX + 256)
        as u64;

/// For the head of a request: no client of the API is slower.
pub(crate) const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// For a client to take the next piece of a response: as long as a registry waits for its own.
pub(crate) const WRITE_TIME_MAX: Duration = Duration::from_secs(30);
/// For requests to finish once the end was asked for.
pub(crate) const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// Definitions whose images are being resolved at one time, of all tenants and of one: each holds a
/// connection to a registry, which may be one that never answers.
pub(crate) const RESOLVING_MAX: usize = 16;
pub(crate) const RESOLVING_PER_TENANT_MAX: usize = 2;
/// A request that waits for longer is answered with `Retry-After`.
pub(crate) const RESOLVING_WAIT_MAX: Duration = Duration::from_secs(5);

// Planning.

/// Tasks on one node. Each is a process or more that its agent supervises and reports, and all of
/// their definitions go to it in one answer: 500 of the largest are half of what a node reads.
pub(crate) const TASKS_PER_NODE_MAX: usize = 500;
/// What a container takes at least, whatever it reserves: a worker that does nothing has ten
/// megabytes, most of them shared. Without this, tasks that reserve nothing would fit everywhere,
/// without end.
pub(crate) const CONTAINER_CPU_MILLIS_MIN: u32 = 10;
pub(crate) const CONTAINER_MEMORY_BYTES_MIN: u64 = 8 << 20;
/// A replica that ran for so long has not failed at once: its next one starts without a wait.
pub(crate) const STEADY_AFTER: Duration = Duration::from_secs(60);
/// The longest wait between two tries of a replica that keeps failing.
pub(crate) const BACK_OFF_MAX: Duration = Duration::from_secs(60);
/// For so long a replica is kept from a node on which it could not be started. A registry that was
/// away is back by then, a full disk swept; and the node is tried all the same when no other has
/// capacity.
pub(crate) const AVOIDED_FOR: Duration = Duration::from_secs(300);
/// Ended tasks are shown for so long, as ECS does.
pub(crate) const ENDED_SHOWN_FOR: Duration = Duration::from_secs(3600);
/// And at most so many of one tenant, so that a loop of short tasks cannot fill the store.
pub(crate) const ENDED_SHOWN_MAX: usize = 1_000;
