//! HTTP/2 towards clients: over TLS when both sides choose it, and in the clear for clients that
//! know. And what bounds servers of it that are not trusted.
//!
//! hyper and h2 bound streams, windows and header blocks. What they leave open is bounded here: a
//! connection that asks for nothing, frames that cost work and carry nothing, responses that are
//! never taken, and how many requests all connections of one address have open at once. Heads are
//! judged as those of HTTP/1.1 are. Absent on purpose: CONNECT, server push, priorities.

mod times; // how long a client may take for what
mod frames; // where frames begin, and of what kind they are
mod budget; // frames that carry nothing
mod streams; // what is open on one connection, and whether it gets on
mod guard; // the stream of bytes under a connection
mod body; // a response on its way to the client
mod serve; // one connection, from its preface to its end
mod untrusted; // the stream of bytes under a connection to a server

pub use {serve::is_http2, times::Http2Limits, untrusted::UntrustedServer};
