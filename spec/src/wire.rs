//! The messages between nodes, ingresses and the control plane: JSON over mTLS, each with a
//! version.
//!
//! A node long-polls its whole desired set, reconciles towards it, and posts what it observes. It
//! receives no commands.
//!
//! A control plane understands the agents of the version before its own, and is upgraded first.
//! What an agent observes may have fields that a reader leaves out of account; what it is told to
//! do may not: a node that does not understand all of it goes on with what it was told before.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    definition::{TaskDefinition, TaskDefinitionId},
    host_name::HostName,
    launch_type::LaunchType,
    listener::ServiceListener,
    name::{CertificateName, ClusterName, NodeId, ServiceName, TaskId, Tenant},
    node_problem::NodeProblem,
    object::{NodeSpec, TaskStatus},
    protocol::Protocol,
    route::{RouteRule, RouteSettings, ServiceRef},
    secret::{SecretName, SecretValue},
    text::{ParseError, hex_bytes},
    time::Timestamp,
    transport::Port,
};

/// The version of every message here. A reader refuses a newer one by name.
pub const VERSION: u32 = 1;

/// Checks the version of a message.
///
/// # Errors
/// Names both versions when `found` is newer than [`VERSION`].
pub fn check_version(what: &str, found: u32) -> Result<(), ParseError> {
    match found {
        1..=VERSION => Ok(()),
        _ => Err(ParseError(format!(
            "{what} has version {found}, and this margay knows {VERSION}: update margay"
        ))),
    }
}

/// What `margay node join` needs: the address of the control plane, the fingerprint that
/// authenticates it, and a secret that works once. Written as `margay1.` and the JSON in hex
/// digits, so that it survives every shell and chat.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinToken {
    /// `host:port` of the control plane's TCP listener.
    pub address: String,
    /// SHA-256 of the CA certificate (DER), 64 hex digits.
    pub ca_fingerprint: String,
    /// Valid once, for ten minutes.
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
        let digits = text.trim().strip_prefix(TOKEN_PREFIX).ok_or_else(wrong)?;
        if digits.len() > TOKEN_CHARS_MAX {
            return Err(wrong());
        }
        let json = hex_bytes(&digits.to_ascii_lowercase()).ok_or_else(wrong)?;
        serde_json::from_slice(&json).map_err(|_| wrong())
    }
}

/// A host asks to become a node: the only request that it makes without a client certificate.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// [`VERSION`].
    pub version: u32,
    /// The secret of the [`JoinToken`].
    pub secret: String,
    /// The requested name; the control plane decides.
    pub name: Option<NodeId>,
    /// PKCS#10 certificate signing request, PEM. Its names are ignored.
    pub csr_pem: String,
    /// The host's capacity and properties.
    pub spec: NodeSpec,
}

/// The answer to a [`JoinRequest`]. Its certificate names the node as `spiffe://margay/node/ID`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinResponse {
    /// [`VERSION`].
    pub version: u32,
    /// The name that it was given.
    pub node: NodeId,
    /// Its certificate, PEM.
    pub certificate_pem: String,
    /// The CA to trust, PEM.
    pub ca_pem: String,
    /// Address of the bundled registry, `host:port`.
    pub registry: Option<String>,
}

/// A node asks for its next certificate, authenticated by the current one. The answer is a
/// [`JoinResponse`].
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// [`VERSION`].
    pub version: u32,
    /// PKCS#10 certificate signing request, PEM. Its names are ignored.
    pub csr_pem: String,
}

/// A node is there, which it says between two reports: those name each task, and come less often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Heartbeat {
    /// [`VERSION`].
    pub version: u32,
    /// The next one comes within so many milliseconds. An agent that ends and leaves its tasks to
    /// the next one asks for longer.
    pub next_ms: u32,
}

/// The certificate of a node's ingress, which names it as `spiffe://margay/ingress/ID`: other
/// ingresses know it by that, and no route takes it for the node. The answer to a [`RenewRequest`]
/// for the ingress.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IngressCertificate {
    /// [`VERSION`].
    pub version: u32,
    /// Its certificate, PEM.
    pub certificate_pem: String,
    /// The CA of the ingresses to trust, PEM.
    pub ca_pem: String,
}

/// The answer to a [`UsageBatch`](crate::UsageBatch).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UsageTaken {
    /// [`VERSION`].
    pub version: u32,
    /// The ledger has every record of this `(node, boot)` up to this sequence number; the next
    /// batch begins after it.
    pub seq: u64,
}

/// Everything that should run on a node, as of a revision. A task that is not in it should not run
/// there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DesiredSet {
    /// [`VERSION`].
    pub version: u32,
    /// Of the control plane's leader; a node ignores sets of a lower epoch than it has seen.
    pub epoch: u64,
    /// The store's revision; the next long poll waits for a later one.
    pub revision: i64,
    /// In the order of their ids.
    pub tasks: Vec<DesiredTask>,
    /// For this node's ingress.
    pub routes: RouteTable,
}

/// One task that should run on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DesiredTask {
    /// Unique for its tenant.
    pub id: TaskId,
    /// The tenant that it belongs to.
    pub tenant: Tenant,
    /// The cluster that it belongs to.
    pub cluster: ClusterName,
    /// The service that it is a replica of, if any.
    pub service: Option<ServiceName>,
    /// The revision of its definition.
    pub definition_id: TaskDefinitionId,
    /// That revision, with every image digest resolved.
    pub definition: TaskDefinition,
    /// On its tenant's nodes or in the pool, whose limits are tighter.
    pub launch_type: LaunchType,
    /// Whether it should stop; it stays in the set until its node has reported that it stopped.
    pub stop: bool,
    /// A short-lived registry token for its images, where they are not public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_token: Option<String>,
}

/// The values of the secrets that one task is granted. A node asks for them when it starts the
/// task, so they are in no desired set and on no disk of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskSecrets {
    /// [`VERSION`].
    pub version: u32,
    /// Values by name.
    pub secrets: BTreeMap<SecretName, SecretValue>,
}

/// The observed state of a node. Posted when it changes, and as a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeReport {
    /// [`VERSION`].
    pub version: u32,
    /// Identifies one run of the agent process: new with each start.
    pub boot: String,
    /// Counts up by one within `boot`; an older report than the last is ignored.
    pub seq: u64,
    /// The desired set that it is acting on.
    pub revision: i64,
    /// The host's capacity and properties.
    pub spec: NodeSpec,
    /// Every task of which something is left on the node, ordered by tenant and id.
    pub tasks: Vec<ReportedTask>,
    /// What its clock says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<NodeProblem>,
    /// Services without a replica that requests at its ingress wait for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<WaitingRequests>,
}

/// Requests that an ingress holds until their service has a replica again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WaitingRequests {
    /// What they wait for.
    pub service: ServiceRef,
    /// How many there are.
    pub requests: u32,
}

/// Requests that the ingress of a node handed to one task there since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestCounts {
    /// Requests that it answered, or lost.
    pub requests: u64,
    /// Of these, those that were answered with 5XX or not at all.
    pub failed_requests: u64,
    /// Requests under way, multiplied by the time that they were, in milliseconds.
    pub in_flight_ms: u64,
}

/// The observed state of one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReportedTask {
    /// The tenant that it belongs to.
    pub tenant: Tenant,
    /// Unique for its tenant.
    pub id: TaskId,
    /// Its phase and containers.
    pub status: TaskStatus,
    /// What it was asked, where its route has that counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestCounts>,
}

/// The backends of each host name. An ingress keeps its last table when the control plane is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteTable {
    /// [`VERSION`].
    pub version: u32,
    /// The host name that each service and each task of its own has by itself, without a port,
    /// lower case.
    pub hosts: BTreeMap<String, Vec<Backend>>,
    /// Other host names, and the services that answer for their paths.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rules: BTreeMap<HostName, Vec<RouteRule>>,
    /// Of some of `hosts`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, RouteSettings>,
    /// The certificate that clients of a host are shown, which may stand for all names of a
    /// domain: a certificate's exact name goes before its wildcard.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub certificates: BTreeMap<HostName, RouteCertificate>,
    /// What an authority that is to issue a certificate for a host asks it, and the answer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub challenges: BTreeMap<HostName, HttpChallenge>,
    /// Ports of the ingress whose connections or datagrams go to services as they come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<ListenerRoute>,
    /// Address of each node's ingress for the other ingresses, `address:port`.
    pub ingresses: BTreeMap<NodeId, String>,
    /// What the ingress of each node is trusted with. One that is not here may ask for nothing.
    #[serde(default)]
    pub peers: BTreeMap<NodeId, PeerTrust>,
}

/// A port of the ingress, and the replicas that its connections go to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerRoute {
    /// The port, and how it is served.
    pub listener: ServiceListener,
    /// The host name that its service has by itself, whose settings count here too.
    pub host: String,
    /// Replicas that are ready.
    pub backends: Vec<Backend>,
}

/// Which certificate clients of a host are shown. Its key is in no table: a node asks for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteCertificate {
    /// The tenant that it belongs to.
    pub tenant: Tenant,
    /// Unique for its tenant.
    pub name: CertificateName,
    /// SHA-256 of the certificate (DER), 64 hex digits: another one has taken its place when it
    /// differs.
    pub fingerprint: String,
}

/// The proof that an ingress serves a host: RFC 8555, section 8.3 (`http-01`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpChallenge {
    /// The last segment of the path that is asked for.
    pub token: String,
    /// The body of the answer: it is of one account and one order, and no secret.
    pub key_authorization: String,
}

impl HttpChallenge {
    /// What the token is behind, for every host.
    pub const PATH: &str = "/.well-known/acme-challenge/";
}

/// A certificate with its key, for a node whose ingress serves a host of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificatePair {
    /// [`VERSION`].
    pub version: u32,
    /// The certificate and its intermediates, PEM.
    pub chain_pem: String,
    /// Its private key, PEM.
    pub key: SecretValue,
}

/// What the ingresses of other nodes believe of the ingress of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PeerTrust {
    /// A node of the pool: it asks for every host, and says on behalf of which client.
    Pool,
    /// A node of one tenant: it asks for hosts of that tenant.
    Tenant(Tenant),
}

/// One healthy replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// The node that it runs on.
    pub node: NodeId,
    /// The tenant of its task.
    pub tenant: Tenant,
    /// The task that serves the host name.
    pub task: TaskId,
    /// The port that its container listens on.
    pub container_port: u16,
    /// Whether it is of the revision that requests go over to, in shares.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub newest: bool,
    /// What it speaks there.
    #[serde(default, skip_serializing_if = "Protocol::is_http")]
    pub protocol: Protocol,
}

impl Backend {
    /// The port that its container listens on, with what it takes.
    pub fn port(&self) -> Port {
        Port { number: self.container_port, transport: self.protocol.transport() }
    }
}

/// Why a request was refused: a code for programs, a sentence for users, and what to try next.
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
    use serde_json::Value;

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

    /// Whether `new` says all that `old` says.
    fn says_all(old: &Value, new: &Value) -> bool {
        match (old, new) {
            (Value::Object(old), Value::Object(new)) => old
                .iter()
                .all(|(key, value)| new.get(key).is_some_and(|found| says_all(value, found))),
            (Value::Array(old), Value::Array(new)) => {
                old.len() == new.len() && old.iter().zip(new).all(|(old, new)| says_all(old, new))
            }
            (old, new) => old == new,
        }
    }

    /// Written by margay 0.1 before agents said their versions.
    const DESIRED_SET: &str = include_str!("../goldens/desired_set.json");
    const NODE_REPORT: &str = include_str!("../goldens/node_report.json");

    #[test]
    fn what_the_version_before_this_one_writes_is_understood_whole() {
        let set: DesiredSet = serde_json::from_str(DESIRED_SET).unwrap();
        let report: NodeReport = serde_json::from_str(NODE_REPORT).unwrap();
        assert_eq!((report.spec.version.as_str(), report.time), ("", None));
        for (golden, read) in [
            (DESIRED_SET, serde_json::to_value(set).unwrap()),
            (NODE_REPORT, serde_json::to_value(report).unwrap()),
        ] {
            let golden: Value = serde_json::from_str(golden).unwrap();
            assert!(says_all(&golden, &read), "{golden:#}\n{read:#}");
        }
    }

    #[test]
    fn a_later_agent_may_say_more_and_a_later_control_plane_may_not_ask_for_more() {
        let with = |golden: &str, place: &str| {
            let mut message: Value = serde_json::from_str(golden).unwrap();
            message.pointer_mut(place).unwrap()["later"] = 1.into();
            message
        };
        for place in ["", "/spec", "/tasks/0", "/tasks/0/status", "/tasks/0/status/containers/0"] {
            let report = serde_json::from_value::<NodeReport>(with(NODE_REPORT, place));
            assert!(report.is_ok(), "{place}: {report:?}");
        }
        for place in ["", "/tasks/0", "/tasks/0/definition", "/routes"] {
            let set = serde_json::from_value::<DesiredSet>(with(DESIRED_SET, place));
            let error = set.unwrap_err().to_string();
            assert!(error.contains("unknown field `later`"), "{place}: {error}");
        }
    }
}
