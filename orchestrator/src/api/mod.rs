//! The API: its types, its routes, and the way from a request to its answer.

mod config; // what the control plane is told when it starts
mod types; // what the API takes and answers beyond the objects of `spec`
mod error; // an answer to a request that failed
mod resolver; // what an image name means
mod streams; // what clients and nodes send each other, passed on
mod resolving; // how many definitions are resolved at one time
mod context; // what handlers use
pub(crate) mod routes; // the API as a table: access, and what each route takes and answers
mod openapi; // the table as an OpenAPI document
mod principal; // on whose behalf a request is made, and whether it may be
mod audited; // a request on its way into the audit log
mod bodies; // how much memory the bodies of requests may take
mod query; // values in a query string
mod call; // one request, read
mod quota; // what tenants may have, counted
mod create; // creates that happen once, however often they are sent
pub(crate) mod handlers; // one function per route, one file per resource
mod connections; // how many connections each class of clients may have
mod server; // sockets, TLS, and the way from a request to its answer
mod client; // the API from the other end

pub use client::Client;
pub use config::Config;
pub use resolver::{ImageResolver, ResolvedImage};
pub use server::serve;
pub use types::*;

/// What tests of the whole control plane reach into.
#[cfg(test)]
pub(crate) mod test {
    pub(crate) use super::{
        call::Call,
        context::Api,
        handlers,
        openapi::openapi,
        principal::{Access, Principal},
    };
}
