//! Connections: admission, timeouts, drain, TLS and Unix sockets, for every server and client.
