//! The control plane: what should run where, and the API through which clients and nodes say so.
//!
//! Enter at [`serve`] to be the control plane, at [`Client`] to call one. What it keeps is in
//! `store` and nowhere else, so it can be killed at any time: what runs keeps running, and what was
//! acknowledged is there after the restart. Three layers, each of which uses only those above it:
//! `state` keeps, `plan` decides, `api` answers. Usage is billed in `api::handlers::ledger`; tasks
//! get nodes in `plan::placement`; nodes are told their tasks and routes by `plan::node_watch`.
//! Absent on purpose: it starts no process, reads no image (an [`ImageResolver`] does), and sends
//! no command to a node. Absent for now: more than one control plane at a time, preemption, moving
//! standalone tasks off a lost node.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::too_many_lines, reason = "tables of cases"))]

mod limits; // every limit, with the reason for its number
mod error; // why it cannot start, or could not be called

mod state; // the store, everything in it in memory, and what nodes report
mod plan; // the next steps, as pure functions; the reconciler that writes them
mod acme; // certificates for hosts, from an authority
mod certificates; // certificates for servers beside the control plane
mod api; // routes, authorization, and the way from a request to its answer; the client

#[cfg(test)]
mod journeys; // the whole control plane in one process

pub use acme::{AcmeConfig, ExternalAccount};
pub use api::{
    AccessTokenAnswer, Caller, ChangeDomains, ChangeRollout, Client, Config, ContainerGrants,
    CreateCertificate, CreateCluster, CreateCredential, CreateJoinToken, CreateNodeGroup,
    CreateSecret, CreateService, CreatedJoinToken, Credential, CredentialInfo, Drain, Health,
    HookAction, HookOutcome, ImageResolver, IssueToken, ListPage, NodeGroupRequest, PutMetric,
    QuotaReport, RegisteredDefinition, ReplaceCertificate, ReportedMetric, ResolvedImage,
    RolloutAction, RunTask, TenantUsage, UpdateNode, UpdateNodeGroup, UpdateService, UsageReport,
    serve,
};
pub use certificates::{ServerCertificate, certificate_authority, issue_certificate};
pub use error::Error;
pub use state::credentials::CredentialScope;
pub use state::hosts::TenantDomains;
pub use state::node_groups::{GroupMachine, MachineState, NodeGroup, NodeGroupSpec};
pub use state::objects::{
    Certificate, Claim, DayUsage, DisputedUsage, Runs, Secret, UsageTotal, Volume,
};
pub use state::orders::CertificateOrder;
