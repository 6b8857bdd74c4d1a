//! What nodes, ingresses and the control plane say to each other: JSON over mTLS, each message with
//! a version.
//!
//! A node long-polls its whole desired set, acts on it level by level, and posts what it sees. It
//! never gets a command.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    definition::{LaunchType, TaskDefinition, TaskDefinitionId},
    name::{ClusterName, NodeId, ServiceName, TaskId, Tenant},
    object::{NodeSpec, TaskStatus},
    secret::{SecretName, SecretValue},
    text::ParseError,
};

/// The version of every message here. A reader refuses a newer one by name.
pub const VERSION: u32 = 1;

/// Checks the version of a message.
///
/// # Errors
/// Names both versions when `found` is newer than ours.
pub fn check_version(what: &str, found: u32) -> Result<(), ParseError> {
    match found {
        1..=VERSION => Ok(()),
        _ => Err(ParseError(format!(
            "{what} has version {found}, and this margay knows {VERSION}: update margay"
        ))),
    }
}

/// `margay node join` takes one of these: where the control plane is, how to know it, and a secret
/// that works once. Written as `margay1.` and the JSON in hex digits, so that it survives every
/// shell and chat.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinToken {
    /// `host:port` of the control plane's TCP listener.
    pub address: String,
    /// SHA-256 of the CA certificate (DER), 64 hex digits.
    pub ca_fingerprint: String,
    /// Works once, for ten minutes.
    pub secret: String,
}

const TOKEN_PREFIX: &str = "margay1.";
/// An address and two hashes are far shorter.
const TOKEN_CHARS_MAX: usize = 4096;

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(TOKEN_PREFIX)?;
        let json = serde_json::to_vec(self).map_err(|_| fmt::Error)?;
        json.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for JoinToken {
    type Err = ParseError;

    /// The error never repeats the token: it is a secret.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong =
            || ParseError("this is not a join token of `margay1.` and hex digits".to_owned());
        let digits = text.trim().strip_prefix(TOKEN_PREFIX).ok_or_else(wrong)?.as_bytes();
        if !digits.len().is_multiple_of(2) || digits.len() > TOKEN_CHARS_MAX {
            return Err(wrong());
        }
        let nibble =
            |digit: u8| (digit as char).to_digit(16).and_then(|value| u8::try_from(value).ok());
        let json: Option<Vec<u8>> = digits
            .chunks_exact(2)
            .map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?))
            .collect();
        serde_json::from_slice(&json.ok_or_else(wrong)?).map_err(|_| wrong())
    }
}

/// A node asks to become one: the only request that a node makes without a client certificate.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// [`VERSION`].
    pub version: u32,
    /// From the token.
    pub secret: String,
    /// The name that it would like; the control plane decides.
    pub name: Option<NodeId>,
    /// PKCS#10 certificate signing request, PEM. Its names are ignored.
    pub csr_pem: String,
    /// What it is and has.
    pub spec: NodeSpec,
}

/// The answer to a [`JoinRequest`]. Its certificate names the node as `spiffe://margay/node/ID`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinResponse {
    /// [`VERSION`].
    pub version: u32,
    /// Its name from now on.
    pub node: NodeId,
    /// Its certificate, PEM.
    pub certificate_pem: String,
    /// The CA to trust, PEM.
    pub ca_pem: String,
    /// Where the bundled registry is, `host:port`.
    pub registry: Option<String>,
}

/// A node asks for its next certificate, by the one it has. The answer is a [`JoinResponse`].
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// [`VERSION`].
    pub version: u32,
    /// PKCS#10 certificate signing request, PEM. Its names are ignored.
    pub csr_pem: String,
}

/// The answer to a [`UsageBatch`](crate::UsageBatch).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UsageTaken {
    /// [`VERSION`].
    pub version: u32,
    /// The ledger has every record of this `(node, boot)` up to this sequence number; go on after
    /// it.
    pub seq: u64,
}

/// Everything that should run on a node, as of a revision. Whatever is not in it should not run
/// there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DesiredSet {
    /// [`VERSION`].
    pub version: u32,
    /// Of the control plane's leader; a node refuses a lower one than it has seen.
    pub epoch: u64,
    /// What to wait for a change after.
    pub revision: i64,
    /// In the order of their ids.
    pub tasks: Vec<DesiredTask>,
    /// What this node's ingress should know.
    pub routes: RouteTable,
}

/// One task that should run here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DesiredTask {
    /// Unique for its tenant.
    pub id: TaskId,
    /// Whose it is.
    pub tenant: Tenant,
    /// Where it lives.
    pub cluster: ClusterName,
    /// The service that it is a copy of, if any.
    pub service: Option<ServiceName>,
    /// Under which revision it was registered.
    pub definition_id: TaskDefinitionId,
    /// What it is; every digest is resolved.
    pub definition: TaskDefinition,
    /// On whose hosts it was launched: the pool's limits are tighter.
    pub launch_type: LaunchType,
    /// Whether it should end; it stays in the set until its node has reported that.
    pub stop: bool,
    /// A short-lived registry token for its images, where they are not public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_token: Option<String>,
}

/// The values of the secrets that one task may have. A node asks for them when it starts the task,
/// so they are in no desired set and on no disk of its.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskSecrets {
    /// [`VERSION`].
    pub version: u32,
    /// Each by its name.
    pub secrets: BTreeMap<SecretName, SecretValue>,
}

/// What a node sees. Posted when it changes, and as a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeReport {
    /// [`VERSION`].
    pub version: u32,
    /// Which life of the agent.
    pub boot: String,
    /// Counts up by one within `boot`; an older report than the last is ignored.
    pub seq: u64,
    /// The desired set that it is acting on.
    pub revision: i64,
    /// What the machine is and has.
    pub spec: NodeSpec,
    /// Every task that has something left here, by tenant and id.
    pub tasks: Vec<ReportedTask>,
}

/// What a node sees of one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportedTask {
    /// Whose it is.
    pub tenant: Tenant,
    /// Which one.
    pub id: TaskId,
    /// What is seen.
    pub status: TaskStatus,
}

/// Who answers for which host name. An ingress keeps its last one when everything else is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteTable {
    /// [`VERSION`].
    pub version: u32,
    /// Host names, without a port, lower case.
    pub hosts: BTreeMap<String, Vec<Backend>>,
    /// Where each node's ingress is reached by the others.
    pub ingresses: BTreeMap<NodeId, String>,
}

/// One healthy replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// Where it runs.
    pub node: NodeId,
    /// Whose it is.
    pub tenant: Tenant,
    /// Which task.
    pub task: TaskId,
    /// The port as its container knows it.
    pub container_port: u16,
}

/// Why a request was refused: a code for programs, a sentence for people, and what to try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// A stable word, as in `not-found`.
    pub code: String,
    /// One sentence that names the thing.
    pub message: String,
    /// The next thing to try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_token_prints_what_it_parses_and_never_repeats_a_secret() {
        let token = JoinToken {
            address: "127.0.0.1:7".into(),
            ca_fingerprint: "ab".repeat(32),
            secret: "s3cret".into(),
        };
        let text = token.to_string();
        assert!(text.starts_with("margay1.7b22"), "{text}");
        assert!(format!(" {text}\n").parse::<JoinToken>().unwrap() == token);
        for text in [
            "",
            "margay1.",
            "margay1.7",
            "margay1.zz",
            "margay2.7b7d",
            "margay1.7b7d",
            &text[..text.len() - 2],
        ] {
            let Err(error) = text.parse::<JoinToken>() else { panic!("{text}") };
            assert_eq!(error.to_string(), "this is not a join token of `margay1.` and hex digits");
        }
    }
}
