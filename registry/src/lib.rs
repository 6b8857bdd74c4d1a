//! Bytes named by their digest, and the OCI distribution API from both ends.
//!
//! Enter at [`Client`] to move images, at [`Tokens`] to let somebody in for five minutes.
#![forbid(unsafe_code)]

mod repository; // the name of a repository, and what can be done with one
mod authorize; // who may do what
mod tokens; // proof of it, for five minutes

mod client; // the same endpoints, from the other end
mod error;

pub use client::{
    Auth, BlobSink, BlobSource, BlobWriter, Client, ClientOptions, Entries, Event, Outcome, Progress, PullOptions,
    PushOptions, Resolved, unwatched,
};
pub use error::Error;
pub use repository::{Action, Repository};
pub use tokens::Tokens;
