//! The vocabulary of all crates: types that are written in a file or cross a wire, and that two
//! crates name.
//!
//! Enter at [`Digest`] and [`Reference`] for images, at [`Capability`] for what a guest may reach,
//! at [`TaskDefinition`] for what should run, and at [`wire`] for what nodes and the control plane
//! send each other. Absent on purpose: I/O, async, clocks, randomness. Everything here is a value.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::too_many_lines, reason = "tables of cases"))]

mod text; // types that are written as one string: how they parse, print and are documented

pub mod json; // documents that every reader understands alike

mod digest; // the name of some bytes, computed from them
mod media; // the media types that margay reads or writes
mod reference; // the name of an image

mod manifest; // OCI image-spec: descriptor, manifest, index, config

mod address; // which network addresses no tenant may reach without a second key
mod capability; // what a guest may reach: one file per kind, and how wants and grants meet
mod launch_type; // the hosts that a task runs on
mod transport; // ports, and what carries their bytes
mod protocol; // what is spoken on a port
mod limits; // what a run may use at most
mod quota; // what a tenant may have at most

mod name; // tenants, clusters, nodes, services, tasks: names that can be a DNS label
mod secret; // a name that stays in its folder, and bytes that print as their length
mod time; // a point in time as a value; sizes and durations as they are written
mod log; // the records of a task's log, and what is kept of them
mod usage; // what a run used

mod health; // how a replica is asked whether it is ready
mod dependency; // in which order the containers of a task start
mod restart; // when a container is started again
mod definition; // task definitions and their revisions
mod host_name; // host names and paths of routes, as they are written
mod error_pages; // what clients get in the place of the ingress' own errors
mod listener; // ports of the ingress for what is no HTTP
mod route; // how requests reach a service
mod deployment; // how one revision follows another
mod placement; // which nodes the tasks of a service go to
mod scaling; // how many replicas a service has when its load decides
mod overrides; // what one run changes in a task definition
mod stream; // what a client and a node send each other about one task
mod explanation; // why something is as it is, and what happened to it
mod node_problem; // what keeps a node from working as it should
mod object; // clusters, nodes, services and tasks, each with a spec and a status
pub mod wire; // the messages between nodes, ingresses and the control plane

pub use address::{Forbidden, forbidden};
pub use capability::{
    Bounded, Capabilities, Capability, Clamped, ClockLevel, EnvGrant, FileGrant, Host,
    InboundGrant, LimitRequest, MissingGrant, OperatorGrants, OutboundGrant, RandomLevel, Resolved,
    Rights, Scheme, SecretGrant, Want, bound, resolve,
};
pub use definition::{
    ContainerDefinition, Mount, PortMapping, Role, TaskDefinition, TaskDefinitionId, VolumeClaim,
};
pub use dependency::{ContainerDependency, DependencyCondition};
pub use deployment::{
    Deployment, DeploymentSettings, DeploymentState, DeploymentStrategy, ServiceEvent, TrafficShare,
};
pub use digest::{Algorithm, Digest, Hasher};
pub use error_pages::ErrorPages;
pub use explanation::{EventList, EventSubject, Explanation, ExplanationCause, ObjectEvent};
pub use health::HealthProbe;
pub use host_name::{HostName, RoutePath};
pub use launch_type::LaunchType;
pub use limits::{LimitOverrides, Limits};
pub use listener::{PortRange, ServiceListener, SourceNetwork};
pub use log::{LogDecoder, LogHead, LogIndex, LogPosition, LogRecord, LogSource};
pub use manifest::{
    Descriptor, ExecutionConfig, HealthCheck, ImageConfig, Index, Manifest, Platform, RootFs,
};
pub use media::MediaType;
pub use name::{
    CertificateName, ClusterName, ContainerName, CredentialName, Family, MetricName, NodeGroupName,
    NodeId, OPERATOR, ServiceName, TaskId, Tenant, VolumeName,
};
pub use node_problem::{NodeProblem, NodeProblemKind};
pub use object::{
    Cluster, ContainerHealth, ContainerPhase, ContainerStatus, Node, NodeCondition, NodeSpec,
    NodeStatus, POOL_NATIVE_LABEL, PublishedPort, Resources, Service, ServiceSpec, ServiceStatus,
    Task, TaskPhase, TaskSpec, TaskStatus,
};
pub use overrides::TaskOverrides;
pub use placement::{
    CapacityProvider, NodeExpression, NodeFacts, Placement, PlacementConstraint, PlacementStrategy,
    Reserved, SchedulingStrategy, Taint, TaintEffect, Toleration, check_label,
};
pub use protocol::Protocol;
pub use quota::{QuotaChange, QuotaExceeded, QuotaResource, TenantQuota};
pub use reference::Reference;
pub use restart::ContainerRestart;
pub use route::{IngressSettings, RateLimit, RouteRule, RouteSettings, ServiceRef};
pub use scaling::{Scaling, ScalingMetric, ScalingSchedule, ScalingTarget};
pub use secret::{SecretName, SecretValue};
pub use stream::{
    AccessQuery, ContainerStats, ExecProgram, Frame, Frames, LogQuery, STREAM_MEDIA_TYPE,
    StreamAsk, StreamEnd, StreamRequest, StreamRequests, TerminalSize,
};
pub use text::ParseError;
pub use time::{Timestamp, parse_bytes, parse_duration, print_bytes};
pub use transport::{Port, Transport};
pub use usage::{Usage, UsageBatch, UsageRecord};
