//! The limits and times of an agent.

use std::time::Duration;

/// Between two reports in which nothing has changed: they name every task.
pub(super) const REPORT_EVERY: Duration = Duration::from_secs(3);
/// Silence of more than two of these makes a node suspect, and of more than four disconnected.
pub(super) const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
/// One that gets no answer for so long is sent anew over another connection.
pub(super) const HEARTBEAT_TIME_MAX: Duration = Duration::from_secs(2);
/// An agent that leaves its tasks to the next one asks for this much between two of them: that one
/// is there within twelve seconds, or its tasks are replaced.
pub(super) const HEARTBEAT_AT_END: Duration = Duration::from_secs(3);
/// After its route has gone requests may still be on their way to a task: the ingress of this node
/// looks at its table every 25 milliseconds, and those of others are told within a poll, which
/// takes some 200 milliseconds on machines that are busy.
pub(super) const ROUTES_TIME_MAX: Duration = Duration::from_millis(500);
/// Changes within so little time go into one report.
pub(super) const GATHER_FOR: Duration = Duration::from_millis(10);
/// Between two looks at which services requests wait for: a twentieth of what a program takes to
/// start.
pub(super) const WAITING_LOOK_EVERY: Duration = Duration::from_millis(50);
/// At most so much usage is lost with the node.
pub(super) const MEASURE_EVERY: Duration = Duration::from_secs(10);
/// Between two looks for what is not needed any more.
pub(super) const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Between two looks at the age of certificates, which last for days.
pub(super) const CERTIFICATES_EVERY: Duration = Duration::from_secs(60);
/// Half of the seven days for which a certificate is good.
pub(super) const RENEW_AFTER: Duration = Duration::from_secs(3 * 24 * 3600 + 12 * 3600);
/// For all tasks to end at the end of the platform: their grace and then some. Together with what
/// is sent after it, less than `margay up` waits before it kills the agent.
pub(super) const END_TIME_MAX: Duration = Duration::from_secs(15);
pub(super) const LAST_REPORT_TIME_MAX: Duration = Duration::from_secs(2);
/// A node ends once the control plane has not known it for so long: time for an operator to notice
/// that the wrong backup was restored.
pub(super) const REMOVED_AFTER: Duration = Duration::from_secs(10);
/// Streams of clients at one time: what the control plane passes on of one node, and those whose
/// client has gone and that are ending.
pub(super) const STREAMS_MAX: usize = 96;
/// A stream says so often that this side is there.
pub(super) const STREAM_ALIVE_EVERY: Duration = Duration::from_secs(5);
/// Between two looks at what a container uses, as `docker stats` has it.
pub(super) const STATS_EVERY: Duration = Duration::from_secs(1);
/// To a socket of this machine: a program that has just been started may still come to accept.
pub(super) const FORWARD_CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// A control plane that knows of no streams is an earlier version: until it is updated.
pub(super) const STREAMS_UNKNOWN_PAUSE: Duration = Duration::from_secs(10);
/// A node is under pressure when less than so many bytes of its disk, or of its memory, and less
/// than so many hundredths are free: an image of hundreds of megabytes still fits then.
pub(super) const DISK_FREE_BYTES: u64 = 2 << 30;
pub(super) const MEMORY_FREE_BYTES: u64 = 256 << 20;
pub(super) const PRESSURE_PERCENT: u64 = 5;
/// That ends when a quarter more is free than where it begins.
pub(super) const PRESSURE_ENDS_AT: (u64, u64) = (5, 4);
