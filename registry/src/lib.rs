//! Bytes named by their digest, and the OCI distribution API from both ends.
//!
//! Enter at [`Server`] to offer images, at [`Client`] to move them, at [`Admin`] to say who may, at
//! [`Tokens`] to let a part of the platform in for some minutes. All speak in [`spec::Digest`];
//! none looks inside a layer.
//!
//! A blob is a file named by its digest; everything else (users, repositories, tags, which
//! repository has which blob) is in one [`store`]. What was acknowledged was first made durable:
//! the file, its name, the record, and then the answer. Absent on purpose: building and scheduling.
//! Absent until they are needed: collecting blobs that nobody names any more, quotas of bytes,
//! replication, TLS on the server's side.
#![forbid(unsafe_code)]

mod repository; // the name of a repository, and what can be done with one
mod access; // users, tokens, and who may do what
mod storage; // blobs as files, everything else as records

mod server; // one function per endpoint
mod client; // the same endpoints, from the other end
mod admin; // the socket in the data folder, from the other end

mod error;

#[cfg(test)]
mod tests; // both ends against each other, and against worse

pub use access::{Cost, Tokens};
pub use admin::Admin;
pub use client::{
    Auth, BlobSink, BlobSource, BlobWriter, Client, ClientOptions, Entries, Event, Outcome,
    Progress, PullOptions, PushOptions, Reach, Resolved, unwatched,
};
pub use error::Error;
pub use repository::{Action, Repository};
pub use server::{Config, Limits, RepositoryInfo, Server, Visibility};

/// Runs what may wait for a disk where waiting is allowed.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => unreachable!("a blocking task that has started is not cancelled"),
        },
    }
}
