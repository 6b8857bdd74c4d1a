use std::time::Duration;

use net::{Http2Limits, HttpLimits, MinThroughput};

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections of clients at one time. One without a request makes room for another; while all
    /// have one, more wait in the listener's queue. Ten thousand idle ones hold some 60 MB.
    pub connections_max: usize,
    /// Of these, from one address prefix: one of its own without a request makes room, and while
    /// all have one, more are closed. Many, for a proxy in front brings all clients from one.
    pub connections_per_address_max: usize,
    /// From the first byte of a request (or the end of the one before) to the end of its head.
    pub head_time_max: Duration,
    /// How long a body may pause, and how long a client may take no byte of a response.
    pub stall_time_max: Duration,
    /// The slowest body, in bytes a second.
    pub body_bytes_per_second_min: u64,
    pub body_bytes_max: u64,
    /// From the last of a request to the head of its response, or to the next piece that is taken
    /// of its body: more than a worker gives a request.
    pub response_time_max: Duration,
    /// Between two pieces of a response; for a client of HTTP/2 also to take one of them, and
    /// between two requests.
    pub idle_time_max: Duration,
    /// For requests to finish once the end was asked for.
    pub drain_time_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            connections_per_address_max: 2_500,
            head_time_max: Duration::from_secs(10),
            stall_time_max: Duration::from_secs(10),
            body_bytes_per_second_min: 1024,
            body_bytes_max: 64 << 20,
            response_time_max: Duration::from_secs(65),
            idle_time_max: Duration::from_secs(65),
            drain_time_max: Duration::from_secs(10),
        }
    }
}

impl Limits {
    pub(super) fn http(&self) -> HttpLimits {
        HttpLimits::with_times(self.head_time_max, self.stall_time_max)
    }

    pub(super) fn http2(&self) -> Http2Limits {
        Http2Limits {
            first_time_max: self.head_time_max,
            idle_time_max: self.idle_time_max,
            take_time_max: self.idle_time_max,
            write_time_max: self.stall_time_max,
        }
    }

    pub(super) fn throughput(&self) -> MinThroughput {
        MinThroughput {
            grace: self.stall_time_max,
            bytes_per_second: self.body_bytes_per_second_min,
        }
    }
}

/// Connections of nodes of the pool, each of which keeps some for each replica here.
pub(super) const POOL_CONNECTIONS_MAX: usize = 4096;
/// Of these, from one node: all requests under way at once to a replica that takes half a second
/// for each, at 2,000 a second.
pub(super) const POOL_CONNECTIONS_PER_NODE_MAX: usize = 1024;
/// Connections of nodes of tenants, which are trusted less and ask for less: hosts of one tenant.
pub(super) const TENANT_CONNECTIONS_MAX: usize = 2048;
/// Of these, from one node.
pub(super) const TENANT_CONNECTIONS_PER_NODE_MAX: usize = 256;
/// Connections that have shown no certificate yet; each has 5 seconds for that.
pub(super) const HANDSHAKES_MAX: usize = 512;
/// Of these, from one address prefix.
pub(super) const HANDSHAKES_PER_ADDRESS_MAX: usize = 128;
/// Connections of guests of this node to services elsewhere, each of which is one request.
pub(super) const INSIDE_CONNECTIONS_MAX: usize = 2048;
/// Of these, of one tenant.
pub(super) const INSIDE_CONNECTIONS_PER_TENANT_MAX: usize = 512;
/// For the agent to name its tenant, which it does before it hands the connection on.
pub(super) const INSIDE_PREFACE_TIME_MAX: Duration = Duration::from_secs(2);
/// Connections to ports of services that speak no HTTP, of all services: each has two descriptors
/// and two buffers of 8 KiB.
pub(super) const LAYER4_CONNECTIONS_MAX: usize = 4096;
/// Of these, from one address prefix.
pub(super) const LAYER4_CONNECTIONS_PER_ADDRESS_MAX: usize = 1024;
/// Clients of ports for datagrams, of all services: each has a descriptor and a buffer of 8 KiB.
/// The one that was silent for longest makes room for another.
pub(super) const LAYER4_SESSIONS_MAX: usize = 4096;
/// Of these, of one port from one address prefix.
pub(super) const LAYER4_SESSIONS_PER_ADDRESS_MAX: usize = 1024;
/// Descriptors for all of these, and one more for each on its way to a replica. Where there are
/// fewer, the limits are less in proportion.
pub(super) const DESCRIPTORS_WANTED: u64 = 2
    * (10_000
        + POOL_CONNECTIONS_MAX
        + TENANT_CONNECTIONS_MAX
        + HANDSHAKES_MAX
        + INSIDE_CONNECTIONS_MAX
        + LAYER4_CONNECTIONS_MAX) as u64
    + LAYER4_SESSIONS_MAX as u64
    + 512;

/// Clients of one service whose requests are counted at one time: some 5 MB.
pub(super) const RATE_CLIENTS_MAX: usize = 65_536;
/// Between two looks at the requests that are under way: several within the time of a page.
pub(super) const SAMPLED_EVERY: Duration = Duration::from_millis(100);
/// Between two writes of what was counted: the agent reports every three seconds.
pub(super) const COUNTED_EVERY: Duration = Duration::from_secs(1);
/// Of the file with these counts: some 10,000 replicas.
pub(super) const COUNTED_BYTES_MAX: u64 = 4 << 20;
/// Requests that wait for the first replica of a service: each is a connection, of which there are
/// ten thousand, and its body is not read.
pub(super) const WAITING_MAX: u32 = 2_560;
/// Of these, for one service: another one is woken beside it.
pub(super) const WAITING_PER_SERVICE_MAX: u32 = 256;
/// Between two writes of how many wait: the first one is told at once.
pub(super) const WAITING_TOLD_EVERY: Duration = Duration::from_millis(50);
/// Of the file with these: each service is some 100 bytes.
pub(super) const WAITING_BYTES_MAX: u64 = 1 << 20;
/// A body that is sent to the ingress of another node is kept until that has answered, where it has
/// no more than this: forms and calls of APIs, and some 40 MB where every connection has one.
pub(super) const COPIED_BYTES_MAX: usize = 4 << 10;
/// Upgraded connections of one service at one time, WebSockets above all: with two descriptors each
/// two services leave enough for the requests of others.
pub(super) const UPGRADES_PER_SERVICE_MAX: usize = 4096;
/// Requests of one connection of HTTP/2 to a replica at once, before another one is opened: what
/// servers allow at least.
pub(super) const UPSTREAM_STREAMS_MAX: usize = 100;
/// What is read ahead of one response of HTTP/2, and of all of a connection.
pub(super) const UPSTREAM_WINDOW_BYTES: u32 = 64 << 10;
pub(super) const UPSTREAM_WINDOW_BYTES_ALL: u32 = 1 << 20;
/// What an ingress waits for a replica beyond what the replica itself gives a request: its own
/// answer says more, and comes within tens of milliseconds of its limit.
pub(super) const BEYOND_THE_REPLICA: Duration = Duration::from_secs(1);
/// For a request that may not be sent twice, once its replica stopped answering: one that was only
/// stopped for a moment still answers it.
pub(super) const EJECTED_WAIT_MAX: Duration = Duration::from_secs(10);

/// Of the access log; the one before it may have as much.
pub(super) const ACCESS_LOG_BYTES_MAX: u64 = 64 << 20;
/// Lines that the disk has not taken yet: some 2 MB, a quarter of a second of the busiest ingress.
pub(super) const ACCESS_LINES_WAITING_MAX: usize = 4096;
/// For the last of them, at the end.
pub(super) const ACCESS_LOG_END_TIME_MAX: Duration = Duration::from_secs(1);
/// Of a path, a host and the name of a program in one line.
pub(super) const ACCESS_TEXT_BYTES_MAX: usize = 1024;

/// Connections that wait for an accept, as the kernel has it for every other port.
pub(super) const LAYER4_BACKLOG: i32 = 1024;
/// Between two looks at which ports services have: soon after a change is in service.
pub(super) const LAYER4_LOOK_EVERY: Duration = Duration::from_millis(100);
/// Replicas that one connection is tried with: three that cannot be reached are no chance.
pub(super) const LAYER4_REPLICAS_TRIED_MAX: usize = 3;
/// Others are tried first for so long after a replica, or the ingress of its node, was not reached:
/// the control plane knows by then whether it is lost.
pub(super) const LAYER4_LEFT_OUT_FOR: Duration = Duration::from_secs(10);
/// A connection in which nothing moves, as a network load balancer of AWS has it.
pub(super) const LAYER4_IDLE_TIME_MAX: Duration = Duration::from_secs(350);

/// A client of datagrams that was silent, and was not answered, for so long is forgotten, as a
/// network load balancer of AWS has it.
pub(super) const LAYER4_SESSION_IDLE_TIME_MAX: Duration = Duration::from_secs(120);
/// Datagrams of one client that wait for its replica; more are lost, as on any network.
pub(super) const LAYER4_DATAGRAMS_WAITING_MAX: usize = 64;
/// Bytes of those of all clients.
pub(super) const LAYER4_BYTES_WAITING_MAX: usize = 16 << 20;
/// Read at once of the answers to one client.
pub(super) const LAYER4_ANSWER_BYTES: usize = 8 << 10;
/// For a replica to take a datagram: its node is frozen after that, or cut off.
pub(super) const LAYER4_TAKEN_TIME_MAX: Duration = Duration::from_secs(2);
/// For the last answers of a replica that has left the port.
pub(super) const LAYER4_ANSWERS_TIME_MAX: Duration = Duration::from_secs(5);

/// A request that calls from service to service so often goes in circles.
pub(super) const HOPS_MAX: u32 = 16;

/// Between two looks at the identity and the idle connections.
pub(super) const MAINTENANCE_EVERY: Duration = Duration::from_secs(5);
/// Between two looks at the certificates of hosts: soon enough for a client that tries again.
pub(super) const CERTIFICATES_EVERY: Duration = Duration::from_millis(250);
/// Between two looks at the route table's file: a fifth of what a user calls immediate.
pub(super) const ROUTES_EVERY: Duration = Duration::from_millis(25);

/// A replica that was killed is back within this, so a request that can wait does.
pub(super) const REPLACEMENT_TIME_MAX: Duration = Duration::from_secs(1);
/// Between two looks at the routes while no replica can be reached.
pub(super) const RETRY_EVERY: Duration = Duration::from_millis(20);

/// A replica that has a request and answers nothing for so long is probed; with the probe it is
/// left out within the two seconds that are promised.
pub(super) const SILENT_TIME_MAX: Duration = Duration::from_secs(1);
/// For an answer to a probe. A worker whose guests take all of its processor time answers within
/// tens of milliseconds.
pub(super) const PROBE_TIME_MAX: Duration = Duration::from_millis(700);
/// What an ingress gives a replica to answer the probe of another ingress, which needs the rest of
/// its own time for the way.
pub(super) const HOP_PROBE_TIME_MAX: Duration = Duration::from_millis(500);
/// A replica that has answered so lately answers: a probe of another ingress costs it nothing.
pub(super) const ANSWERED_JUST_NOW: Duration = Duration::from_millis(200);
/// Between two probes of a replica that is left out.
pub(super) const PROBE_AGAIN_EVERY: Duration = Duration::from_millis(500);

/// The machine itself answers in microseconds, the next data centre in tenths of a second.
pub(super) const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// A request that is answered sooner costs no look at whether its replica answers others.
pub(super) const WATCHED_AFTER: Duration = Duration::from_millis(100);

/// Of the head of a response: what a server of margay takes of a request.
pub(super) const RESPONSE_HEAD_BYTES_MAX: usize = 64 << 10;
/// Headers of a response, or its trailers.
pub(super) const RESPONSE_HEADERS_MAX: usize = 100;
pub(super) const RESPONSE_TRAILERS_BYTES_MAX: usize = 16 << 10;
/// The line with the size of a chunk, and the extensions of all of them.
pub(super) const RESPONSE_CHUNK_LINE_BYTES_MAX: usize = 4 << 10;
pub(super) const RESPONSE_CHUNK_EXTENSIONS_BYTES_MAX: usize = 16 << 10;
/// Responses in front of a response, as `103 Early Hints`.
pub(super) const INTERIM_RESPONSES_MAX: usize = 16;
/// What is read of a response at once: at first, and when there is always so much.
pub(super) const RESPONSE_BYTES_FIRST: usize = 4 << 10;
pub(super) const RESPONSE_BYTES_AHEAD: usize = 32 << 10;
/// What is taken of a request's body before the replica has taken what came before.
pub(super) const REQUEST_BYTES_AHEAD: usize = 16 << 10;

/// Kept for each replica: what a burst leaves behind beyond that is not worth its memory.
pub(super) const IDLE_MAX: usize = 64;
/// Shorter than any worker keeps an idle connection, so that the worker is not the one to close it
/// under a request.
pub(super) const IDLE_TIME_MAX: Duration = Duration::from_secs(20);
