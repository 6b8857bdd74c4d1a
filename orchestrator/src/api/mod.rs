//! The API: its types, its routes, and the way from a request to its answer.

mod types; // what the API takes and answers beyond the objects of `spec`
pub(crate) mod resolver; // who knows what an image name means
pub(crate) mod routes; // the API as a table: who may do what, and the OpenAPI document
pub(crate) mod principal; // who asks, and whether they may
pub(crate) mod call; // one request, read
pub(crate) mod create; // creates that happen once, however often they are sent
pub(crate) mod handle; // one function per route
pub(crate) mod connections; // how many connections of which clients
pub(crate) mod resolving; // how many requests may ask registries
pub(crate) mod server; // sockets, TLS, and the way from a request to its answer
pub(crate) mod client; // the API from the other end

pub use types::*;
