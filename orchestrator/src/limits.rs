use std::time::Duration;

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
