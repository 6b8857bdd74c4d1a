//! What a guest may reach: one file per kind of capability, the grammar of the lines that grant
//! them, and the one function that turns wants and grants into what a container gets.

mod clock; // how well it tells time
mod env; // variables, by name
mod files; // folders of its tree, and the volumes mounted there
mod inbound; // ports on which it is reached
mod outbound; // hosts that it connects to
mod random; // where its random numbers come from
mod secrets; // secrets, as files or variables

mod grammar; // kind:target[#rights][;key[=value]]…
mod kinds; // the kinds as one enum: a line, and what covers what
mod resolve; // wants and grants become Capabilities
mod policy; // and what the launch type gives of it at most

pub use {
    clock::ClockLevel,
    env::EnvGrant,
    files::{FileGrant, Rights},
    inbound::InboundGrant,
    kinds::{Capability, Want},
    outbound::{Host, OutboundGrant, Scheme},
    policy::{Bounded, Clamped, LimitRequest, bound},
    random::RandomLevel,
    resolve::{Capabilities, MissingGrant, OperatorGrants, Resolved, resolve},
    secrets::SecretGrant,
};
