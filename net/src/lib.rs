//! Connections: admission, timeouts, drain, TLS and Unix sockets, for every server and client.
//!
//! A server is one [`Connections`], an accept loop for each listener and a [`ConnectionLimits`] for
//! each class of clients, in which connections without a request make room for others. The control
//! plane is called through [`ApiClient`]. Absent on purpose: routes, authorization, and any
//! knowledge of what a request means.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::too_many_lines, reason = "tables of cases"))]

mod limits; // what one connection may take, with the reasons

mod activity; // what one connection waits for
mod admission; // how many connections there may be, in all and of one client
mod eviction; // which of them are closed when there are too many
mod listen; // what connections come from: TCP, and Unix sockets of one owner
mod proxy_protocol; // the client of a connection, as a proxy in front says
mod sender; // the client of a request, and what it may not say
mod strict; // requests that every parser reads in one way
mod server; // accept loop, TLS, drain
mod http1; // HTTP/1.1 over one connection
mod files; // bodies that are files
mod tunnel; // a connection that is HTTP no more
mod file_server; // the same, where bodies may be files
mod http2; // the same for HTTP/2, within tighter limits
mod observed; // a body that is counted while it is sent
mod drained; // a body whose rest is read when its reader is done
mod write_timeout; // a peer that reads too slowly
mod throughput; // a body that comes too slowly
mod descriptors; // RLIMIT_NOFILE

pub mod tls; // configurations, the verifier that pins a CA, names in certificates
mod stream; // frames in both directions over one request
mod client; // JSON over HTTP/1.1, as the API of the control plane speaks it

pub use admission::{
    AddressPrefix, ConnectionLimits, ConnectionPermit, KeyedPermit, KeyedSemaphore,
};
pub use client::{ApiClient, ApiRequest, ClientError, FrameStream};
pub use descriptors::{DESCRIPTORS_MIN, Descriptors};
pub use drained::DrainedBody;
pub use files::{FileBody, TakesFiles};
pub use http2::{Http2Limits, UntrustedServer, is_http2};
pub use listen::{Listener, PrivateListener, connect_unix};
pub use observed::{BodyObserver, ObservedBody};
pub use proxy_protocol::read_proxy_header;
pub use sender::{Scheme, Sender, TrustedProxies, remove_claims, remove_own};
pub use server::{Connections, HttpLimits, Negotiated};
pub use stream::{FrameBody, FrameReader, FrameSender, Gone, frame_body};
pub use throughput::{MinThroughput, TimedBody};
pub use tunnel::{Duplex, Tunnel};
pub use write_timeout::WriteTimeout;
