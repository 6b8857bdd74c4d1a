use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    digest::Digest,
    name::{ContainerName, NodeId, TaskId, Tenant},
    time::Timestamp,
};

/// What was used, in raw units; prices are applied by whatever reads the ledger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// Requests answered, or commands run.
    pub runs: u64,
    /// Of these, how many ended in a trap or a limit.
    pub failed_runs: u64,
    /// Time on a processor, in nanoseconds.
    pub cpu_ns: u64,
    /// Guest memory multiplied by the time it was held, in byte-milliseconds.
    pub memory_byte_ms: u64,
    /// The most guest memory at one time, in bytes.
    pub memory_bytes_peak: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
}

impl Usage {
    /// The sum of both. Peaks do not add: the larger one counts.
    pub fn plus(self, other: Self) -> Self {
        Self {
            runs: self.runs.saturating_add(other.runs),
            failed_runs: self.failed_runs.saturating_add(other.failed_runs),
            cpu_ns: self.cpu_ns.saturating_add(other.cpu_ns),
            memory_byte_ms: self.memory_byte_ms.saturating_add(other.memory_byte_ms),
            memory_bytes_peak: self.memory_bytes_peak.max(other.memory_bytes_peak),
            bytes_in: self.bytes_in.saturating_add(other.bytes_in),
            bytes_out: self.bytes_out.saturating_add(other.bytes_out),
        }
    }

    /// What was used since `earlier`, an older reading of the same counters.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            runs: self.runs.saturating_sub(earlier.runs),
            failed_runs: self.failed_runs.saturating_sub(earlier.failed_runs),
            cpu_ns: self.cpu_ns.saturating_sub(earlier.cpu_ns),
            memory_byte_ms: self.memory_byte_ms.saturating_sub(earlier.memory_byte_ms),
            memory_bytes_peak: self.memory_bytes_peak,
            bytes_in: self.bytes_in.saturating_sub(earlier.bytes_in),
            bytes_out: self.bytes_out.saturating_sub(earlier.bytes_out),
        }
    }
}

/// One line of a node's usage log: what one container used since the line before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UsageRecord {
    /// Counts up by one from 1 within `(node, boot)`.
    pub seq: u64,
    /// The tenant to bill.
    pub tenant: Tenant,
    /// The task that used it.
    pub task: TaskId,
    /// One of the task's containers.
    pub container: ContainerName,
    /// The image that ran.
    pub image: Digest,
    /// When the reading was taken: a label, not a measurement.
    pub at: Timestamp,
    /// Used since the record before it of the same container.
    pub usage: Usage,
}

/// Records on their way to the ledger, which takes each exactly once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UsageBatch {
    /// Always 1; a newer one is refused by name.
    pub version: u32,
    /// The node that measured it.
    pub node: NodeId,
    /// Identifies one usage log of that node: sequence numbers start anew with it.
    pub boot: String,
    /// In order and without a gap.
    pub records: Vec<UsageRecord>,
}
