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
/// Connections with one. A node holds two for its long polls, one for its reports and one for each
/// stream. One node, which a tenant may own, cannot take all.
pub(crate) const NODE_CONNECTIONS_MAX: usize = 4096;
pub(crate) const CONNECTIONS_PER_NODE_MAX: usize = 16 + STREAMS_PER_NODE_MAX;
/// Descriptors for all of these, the store, the registry and the log. Where there are fewer, the
/// limits are less in proportion.
pub(crate) const DESCRIPTORS_WANTED: u64 =
    (OPERATOR_CONNECTIONS_MAX + HANDSHAKES_MAX + UNAUTHENTICATED_MAX + NODE_CONNECTIONS_MAX + 256)
        as u64;

/// For the head of a request: no client of the API is slower.
pub(crate) const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// The head of a request: a path, a token and a key are one kilobyte.
pub(crate) const HEAD_BYTES_MAX: usize = 8 << 10;
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
/// A replica that ended so often and was never ready has failed: its node has tried it three times
/// within seconds.
pub(crate) const RESTARTS_UNREADY_MAX: u32 = 2;
/// What a replica does is measured over one to two of these: five reports, so that one late report
/// moves no count.
pub(crate) const RATE_WINDOW: Duration = Duration::from_secs(15);
/// And over no less: what a program does while it starts says little.
pub(crate) const RATE_WINDOW_MIN: Duration = Duration::from_secs(10);
/// Requests of a deployment that fail before it fails for them: one page that was broken before is
/// asked for a few times by one visitor.
pub(crate) const FAILED_REQUESTS_MIN: u64 = 5;
/// What was counted of a task that its node reports no more: an ingress that begins anew is back
/// sooner.
pub(crate) const COUNTED_KEPT_FOR: Duration = Duration::from_secs(60);
/// Deployments of a service that are kept, as Kubernetes keeps revisions. The one to go back to is
/// kept besides.
pub(crate) const DEPLOYMENTS_KEPT_MAX: usize = 10;
/// Events of a service that are kept, newest first: some hundred bytes each, in one record.
pub(crate) const SERVICE_EVENTS_MAX: usize = 50;
/// Restarts of the containers of one task that are kept: some 80 bytes each, in its record.
pub(crate) const RESTARTS_KEPT_MAX: usize = 10;
/// Ended tasks are shown for so long, as ECS does.
pub(crate) const ENDED_SHOWN_FOR: Duration = Duration::from_secs(3600);
/// And at most so many of one tenant, so that a loop of short tasks cannot fill the store.
pub(crate) const ENDED_SHOWN_MAX: usize = 1_000;

// Nodes.

/// Agents of the version before send no heartbeat beside their reports, which come so often.
pub(crate) const REPORT_EVERY: Duration = Duration::from_secs(3);
/// What an agent may ask for: less is a flood, and with more a lost node is replaced too late.
pub(crate) const HEARTBEAT_EVERY_MIN: Duration = Duration::from_secs(1);
pub(crate) const HEARTBEAT_EVERY_MAX: Duration = Duration::from_secs(5);
/// Heartbeats that are missed until a node is suspect, and disconnected, with half a second for the
/// way. With one each second a replacement serves within five seconds; on a network that loses
/// packets the third one still arrives, as TCP sends again after one second and after three.
pub(crate) const SUSPECT_AFTER_MISSED: u32 = 2;
pub(crate) const DISCONNECTED_AFTER_MISSED: u32 = 4;
pub(crate) const HEARTBEAT_SLACK: Duration = Duration::from_millis(500);
/// A control plane that did not look for so long was stopped itself: what it missed meanwhile is no
/// silence of nodes.
pub(crate) const INATTENTIVE_AFTER: Duration = Duration::from_secs(3);
/// How far the clock of a node may be from ours, with the time that a report travels: certificates
/// are good from a minute before they are made.
pub(crate) const CLOCK_SKEW_MAX: Duration = Duration::from_secs(15);
/// What a node reports as wrong with itself: there are five kinds.
pub(crate) const NODE_PROBLEMS_MAX: usize = 16;
/// Services that requests at one ingress wait for: as many as that holds requests for at one time
/// would take a thousand services asleep at once.
pub(crate) const WAITING_SERVICES_MAX: usize = 1_000;
/// After a start of the control plane no node has reported yet; moving every task because the
/// control plane was away would be the larger fault.
pub(crate) const NODE_GRACE: Duration = Duration::from_secs(30);
/// A long poll ends after this, so that a connection through a proxy is never idle for a minute.
pub(crate) const POLL_TIME_MAX: Duration = Duration::from_secs(30);
/// Labels of one node, and bytes of each of its texts.
pub(crate) const NODE_LABELS_MAX: usize = 64;
pub(crate) const NODE_TEXT_BYTES_MAX: usize = 256;
/// Taints of one node.
pub(crate) const NODE_TAINTS_MAX: usize = 16;
/// Groups of nodes: one for each kind of machine.
pub(crate) const NODE_GROUPS_MAX: usize = 50;
/// Nodes of one group: each is an entry of one record.
pub(crate) const GROUP_NODES_MAX: u32 = 500;
/// Machines that one group asks for in an hour: a hook that adds machines which never join costs no
/// more than these.
pub(crate) const GROUP_MACHINES_PER_HOUR: usize = 60;
/// Between two tries of a hook that fails: a quota of a cloud is not gone within seconds.
pub(crate) const GROUP_BACK_OFF_MIN: Duration = Duration::from_secs(5);
pub(crate) const GROUP_BACK_OFF_MAX: Duration = Duration::from_secs(600);
/// For the tasks of a node to move before its machine is removed, as EKS has it.
pub(crate) const GROUP_DRAIN_TIME: Duration = Duration::from_secs(15 * 60);
/// A machine whose node is silent for so long is replaced; its tasks are long before.
pub(crate) const GROUP_LOST_AFTER: Duration = Duration::from_secs(600);
/// For a machine to join, and until an unused one is removed.
pub(crate) const GROUP_JOIN_SECONDS: std::ops::RangeInclusive<u32> = 10..=3600;
pub(crate) const GROUP_SCALE_IN_SECONDS: std::ops::RangeInclusive<u32> = 1..=86_400;
/// What a hook says when it fails: its last line or two.
pub(crate) const HOOK_MESSAGE_BYTES_MAX: usize = 500;
/// The longest time that a drain waits before it stops tasks: a week, as for a job that ends.
pub(crate) const DRAIN_DEADLINE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// A reason is a sentence. The log of the task has all of it.
pub(crate) const REASON_BYTES_MAX: usize = 1 << 10;
/// A node's certificate renews at half of this, so a control plane that is away over a weekend
/// locks no node out.
pub(crate) const LEAF_TIME: Duration = Duration::from_secs(7 * 24 * 3600);
pub(crate) const CA_TIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Clocks differ; a certificate is valid from a little before it was made.
pub(crate) const CLOCK_SLACK: Duration = Duration::from_secs(300);
/// Long enough to paste a join token on another machine, short enough to lie in a shell history.
pub(crate) const JOIN_TIME: Duration = Duration::from_secs(600);

// Credentials.

/// An access token holds for so long. Requests look at its credential besides, so this only bounds
/// what a copied token is worth to a thief that the credential's owner never notices.
pub(crate) const ACCESS_TOKEN_TIME: Duration = Duration::from_secs(15 * 60);
/// A credential holds for a quarter when nothing else is asked for, and for a year at most, as the
/// tokens of GitHub do.
pub(crate) const CREDENTIAL_TIME_DEFAULT: Duration = Duration::from_secs(90 * 24 * 3600);
pub(crate) const CREDENTIAL_TIME_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
pub(crate) const CREDENTIAL_TIME_MIN: Duration = Duration::from_secs(60);
/// Credentials of one tenant: each is half a kilobyte, and a list of more is not read.
pub(crate) const CREDENTIALS_MAX: usize = 100;
/// The last use of a credential is written down once in so long, so that a loop of clients does not
/// write with each token.
pub(crate) const CREDENTIAL_USE_NOTED_AFTER: Duration = Duration::from_secs(60);
/// The operator's credential is renewed at half of this.
pub(crate) const OPERATOR_CREDENTIAL_TIME: Duration = Duration::from_secs(30 * 24 * 3600);
pub(crate) const OPERATOR_CREDENTIAL_WATCHED_EVERY: Duration = Duration::from_secs(3600);

// Streams between clients and nodes.

/// Streams at one time, of all tenants, of one, and with one node. Each holds a connection on
/// either side and some hundred kilobytes; a service of 50 replicas is followed as a whole.
pub(crate) const STREAMS_MAX: usize = 256;
pub(crate) const STREAMS_PER_TENANT_MAX: usize = 64;
pub(crate) const STREAMS_PER_NODE_MAX: usize = 64;
/// Of these, of one tenant with a node that it does not own: other tenants of the pool get theirs.
pub(crate) const STREAMS_PER_POOL_NODE_MAX: usize = 48;
/// Bytes per second of all streams of one tenant, both ways: a log of the usual size in two
/// seconds. What a tenant has not used passes at once, as far as this goes back.
pub(crate) const STREAM_BYTES_PER_SECOND: usize = 8 << 20;
pub(crate) const STREAM_BURST_TIME: Duration = Duration::from_secs(2);
/// For a node to take up a stream: it waits for news of them.
pub(crate) const STREAM_ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// For a node to begin with it: a program may have to be made ready first, which takes a minute,
/// and others are before it.
pub(crate) const STREAM_BEGIN_TIME_MAX: Duration = Duration::from_secs(300);
/// Between two looks whether a stream may go on: a credential that was removed ends within five
/// seconds, everywhere.
pub(crate) const STREAM_CHECKED_EVERY: Duration = Duration::from_secs(2);
/// Nodes say every five seconds that they are there, and are told so.
pub(crate) const STREAM_ALIVE_EVERY: Duration = Duration::from_secs(5);
/// Three of these missed.
pub(crate) const STREAM_SILENCE_MAX: Duration = Duration::from_secs(16);
/// A stream in which nothing is said, as long as the kubelet keeps one.
pub(crate) const STREAM_IDLE_MAX: Duration = Duration::from_secs(4 * 3600);
/// For a client to take the reason for an end, and for all of them when the control plane ends:
/// less than there is to drain.
pub(crate) const STREAM_LAST_WORD_TIME_MAX: Duration = Duration::from_millis(500);
pub(crate) const STREAMS_END_TIME_MAX: Duration = Duration::from_secs(1);
/// The words of a program, or what lines of a log are to hold: a request is no place for files.
pub(crate) const STREAM_TEXT_BYTES_MAX: usize = 64 << 10;

// Requests.

/// A definition of ten containers is a few kilobytes, a batch of usage a few hundred.
pub(crate) const BODY_BYTES_MAX: usize = 1 << 20;
/// Larger bodies need a principal, and memory of a budget. With all connections that may be open
/// this is 16 MiB at most.
pub(crate) const BODY_BYTES_FREE: usize = 16 << 10;
/// A node's report names each of its tasks: one of ten containers with ports and reasons is some
/// 40 KiB, and 500 of them are some 20 MiB.
/// Tasks that it has not cleared away yet come on top of those that it was given.
pub(crate) const REPORT_BYTES_MIN: usize = 4 << 20;
pub(crate) const REPORT_BYTES_PER_TASK: usize = 64 << 10;
pub(crate) const REPORT_BYTES_MAX: usize = 32 << 20;
/// Bytes of large bodies that are read or answered at one time, of all tenants and of all nodes:
/// eight of the largest, and one report of the largest.
pub(crate) const TENANT_BODIES_BYTES_MAX: usize = 8 << 20;
pub(crate) const NODE_BODIES_BYTES_MAX: usize = REPORT_BYTES_MAX;
/// Of these, of one tenant: others get their turn beside it. A node has one report under way.
pub(crate) const BODIES_PER_TENANT_MAX: usize = 4;
pub(crate) const BODIES_PER_NODE_MAX: usize = 1;
/// A large body waits for so long for the others of its sender.
pub(crate) const BODY_WAIT_MAX: Duration = Duration::from_secs(5);
/// A slow body holds a connection for so long and no longer.
pub(crate) const BODY_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes and time that a client may still send after a refusal, so that it comes to read the
/// answer.
pub(crate) const DISCARDED_BYTES_MAX: usize = 2 << 20;
pub(crate) const DISCARDED_TIME_MAX: Duration = Duration::from_secs(2);
/// Items of one page of a list.
pub(crate) const PAGE_MAX: usize = 1_000;
/// As ECS has it.
pub(crate) const IDEMPOTENCY_KEY_CHARS_MAX: usize = 64;
/// A create may be repeated with the same answer for so long, as ECS does.
pub(crate) const REMEMBERED_FOR: Duration = Duration::from_secs(24 * 3600);
/// Tries before a request that keeps losing to concurrent ones is answered with a conflict.
pub(crate) const WRITE_TRIES_MAX: usize = 16;

// Objects.

/// Objects of one tenant, remembered answers among them: a few hundred megabytes at most, and
/// minutes to make by hand.
pub(crate) const OBJECTS_MAX: usize = 50_000;
/// For the model to catch up with the store: it follows within milliseconds, and is behind for
/// longer only while the control plane starts.
pub(crate) const MODEL_TIME_MAX: Duration = Duration::from_secs(5);
/// A node is told the definitions of all its tasks in one answer.
pub(crate) const DEFINITION_BYTES_MAX: usize = 64 << 10;
/// For a registry to resolve one image.
pub(crate) const RESOLVE_TIME_MAX: Duration = Duration::from_secs(10);
/// A number that clients reported is good for so long: as CloudWatch has it for a metric of one
/// minute, with some that were lost. A count stays as it is when there is none.
pub(crate) const METRIC_KEPT_FOR: Duration = Duration::from_secs(300);
/// Replicas of one service. More is a typing error on clusters of this size.
pub(crate) const REPLICAS_MAX: u32 = 1_000;
/// Standalone tasks of one request, as ECS has it.
pub(crate) const RUN_MAX: u32 = 10;

// Usage.

/// Records of one batch, some 400 bytes each.
pub(crate) const USAGE_RECORDS_MAX: usize = 2_000;
/// Totals that one transaction moves: with the cursor they stay below the store's 100 operations.
/// What is left of a batch is asked for again by the answer.
pub(crate) const USAGE_TOTALS_MAX: usize = 40;
/// Tasks of one tenant whose usage is told apart on one day: some 350 bytes each. What more there
/// are used is one sum.
pub(crate) const USAGE_TASKS_PER_DAY_MAX: usize = 1_000;
/// Days of usage that are kept: two months and a bill that is written late. Totals stay.
pub(crate) const USAGE_DAYS_KEPT_FOR: Duration = Duration::from_secs(93 * 24 * 3600);
/// Usage logs of one node that are known. A new one begins when the log was lost; an honest node
/// sends the newest alone, and another one must not fill the store with them.
pub(crate) const USAGE_LOGS_MAX: usize = 32;
/// Clocks and rounding, on top of what a machine can have used.
pub(crate) const USAGE_SLACK: Duration = Duration::from_secs(10);
/// A node sends every few seconds; unused time of the last hour may still be billed, because a log
/// is kept while the control plane is away.
pub(crate) const USAGE_WINDOW_MIN: Duration = Duration::from_secs(3600);
/// Requests that follow each other so soon are parts of one long log.
pub(crate) const USAGE_BACKLOG_GAP: Duration = Duration::from_secs(60);
/// A machine has a tenth more memory than it offers, and a task may hold more than it reserves.
pub(crate) const USAGE_MEMORY_FACTOR: u64 = 2;
/// A network interface of 100 Gbit/s, and more requests than any process answers.
pub(crate) const USAGE_BYTES_PER_SECOND_MAX: u64 = 12_500_000_000;
pub(crate) const USAGE_RUNS_PER_SECOND_MAX: u64 = 1_000_000;
/// Processors and memory of the largest machine: a node says itself what it has.
pub(crate) const NODE_CPU_MILLIS_MAX: u32 = 4096 * 1000;
pub(crate) const NODE_MEMORY_BYTES_MAX: u64 = 64 << 40;
/// Tasks that are remembered after they were forgotten, for their last usage, and how long.
pub(crate) const FORGOTTEN_TASKS_MAX: usize = 10_000;
/// How long the ledger knows how far it has read the log of a node that was removed: its machine
/// may join again.
pub(crate) const CURSOR_KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

// Host names.

/// Routes of one host, which every ingress goes through for each request.
pub(crate) const HOST_ROUTES_MAX: usize = 256;
/// Domains of one tenant: each is looked through when a service asks for a host.
pub(crate) const DOMAINS_MAX: usize = 64;

// Reconciling and expiry.

/// Nodes fall silent and waits pass without any event.
pub(crate) const TICK: Duration = Duration::from_secs(1);
/// Steps that are written at one time: what the store commits together.
pub(crate) const STEPS_AT_ONCE: usize = 128;
/// Plans in a row. The bound is for a plan that does not settle: then the next tick goes on, and no
/// other work starves.
pub(crate) const PASSES_MAX: usize = 4;
/// How often what has expired is looked for.
pub(crate) const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// Keys that one transaction deletes: what the store takes.
pub(crate) const SWEPT_AT_ONCE: usize = 100;

// Certificates by ACME.

/// How soon a new host, or one whose order has waited for long enough, is seen.
pub(crate) const ACME_LOOK_EVERY: Duration = Duration::from_secs(2);
/// For one request to the authority, with its connection.
pub(crate) const ACME_REQUEST_TIME_MAX: Duration = Duration::from_secs(30);
/// For the authority to look for the host, and to sign: it may be busy.
pub(crate) const ACME_DECISION_TIME_MAX: Duration = Duration::from_secs(90);
/// For one order as a whole: others wait for it.
pub(crate) const ACME_ORDER_TIME_MAX: Duration = Duration::from_secs(240);
/// For nodes to take up what their ingresses answer, and for these to read it.
pub(crate) const ACME_SPREAD_TIME_MAX: Duration = Duration::from_secs(10);
pub(crate) const ACME_SETTLE_TIME: Duration = Duration::from_millis(500);
/// An order, and a chain of certificates, are a few kilobytes.
pub(crate) const ACME_ANSWER_BYTES_MAX: usize = 256 << 10;
/// An authority that has had enough and does not say for how long.
pub(crate) const ACME_BUSY_FOR: Duration = Duration::from_secs(3600);
/// Let's Encrypt takes 300 orders of an account in three hours.
pub(crate) const ACME_ORDERS_PER_HOUR_MAX: usize = 90;
/// A tenant with hosts that cannot be proven leaves the others theirs.
pub(crate) const ACME_ORDERS_PER_TENANT_AND_HOUR_MAX: usize = 30;
/// Let's Encrypt takes five failures for a host in an hour; this doubles with each.
pub(crate) const ACME_BACK_OFF_FIRST: Duration = Duration::from_secs(120);
/// Long enough for an authority, short enough to see that a record in DNS was mended.
pub(crate) const ACME_BACK_OFF_MAX: Duration = Duration::from_secs(6 * 3600);
/// A sentence of the authority's.
pub(crate) const ACME_ERROR_CHARS_MAX: usize = 500;

/// Of one certificate with its intermediates: chains have two or three.
pub(crate) const CERTIFICATE_CHAIN_MAX: usize = 8;
/// In PEM: some 2 KiB for each.
pub(crate) const CERTIFICATE_CHAIN_BYTES_MAX: usize = 64 << 10;
/// As many as public authorities put into one.
pub(crate) const CERTIFICATE_HOSTS_MAX: usize = 100;
/// Of one tenant: every node of the pool holds all that are served.
pub(crate) const CERTIFICATES_MAX: usize = 100;
