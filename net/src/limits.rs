use std::time::Duration;

/// A TLS handshake is two messages each way.
pub(crate) const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
/// A request line and its headers, and what is read ahead of a body: more than browsers and curl
/// ever send.
pub(crate) const HEAD_BYTES_MAX: usize = 64 << 10;
/// What one connection holds of a head that has not come in full, without asking: more than a
/// browser's with its cookies has.
pub(crate) const HELD_HEAD_BYTES_FREE: usize = 8 << 10;
/// In which steps it asks for more.
pub(crate) const HELD_HEAD_BYTES_STEP: usize = 8 << 10;
/// What all connections of a server hold beyond that: 290 of the longest heads at once. Without it
/// the 2,500 connections of one address could hold 160 MiB.
pub(crate) const HELD_HEADS_BYTES_MAX: usize = 16 << 20;
/// When all connections of a class are taken, one whose client has kept a request waiting for so
/// long, and moved less than a slow mobile connection does, makes room for another.
pub(crate) const STALLED_TIME_MIN: Duration = Duration::from_secs(2);
pub(crate) const STALLED_BYTES_PER_SECOND_MIN: u64 = 16 << 10;
/// One that has just come does not: in a burst its request waits to be read, and may need a round
/// trip between continents to come.
pub(crate) const NEW_TIME_MIN: Duration = Duration::from_millis(100);
/// Which part of a class is closed at one time then: to look at all of them for each new one would
/// cost a server of ten thousand more than to serve it.
pub(crate) const EVICTED_PART: usize = 64;
/// For what was closed to be gone: its task only has to be dropped.
pub(crate) const EVICTION_TIME_MAX: Duration = Duration::from_millis(200);
/// Between two looks while none can be closed.
pub(crate) const EVICTION_PAUSE: Duration = Duration::from_millis(100);
/// Between two words about it in the log.
pub(crate) const EVICTION_WARNING_EVERY: Duration = Duration::from_secs(60);
/// Headers of one request: hyper's own limit.
pub(crate) const HEADERS_MAX: usize = 100;
/// The extensions of all chunks of a body, which have no meaning that is in use: half of what hyper
/// takes, so that they are refused here.
pub(crate) const CHUNK_EXTENSIONS_BYTES_MAX: usize = 8 << 10;
/// Trailers of one body: half of what hyper takes as well.
pub(crate) const TRAILER_BYTES_MAX: usize = 8 << 10;
/// A connection that waits for its next request for so long gives back its buffers: longer than the
/// pauses of a client that is at work.
pub(crate) const REST_AFTER: Duration = Duration::from_millis(200);
/// The longest pause between two looks at whether it waits, while it is at work.
pub(crate) const REST_LOOKS_PAUSE_MAX: Duration = Duration::from_secs(2);
/// What is read at once of one that has none: more than an ordinary head.
pub(crate) const FIRST_BYTES_MAX: usize = 4 << 10;
/// How long, and how much, a client that was refused is read for nothing, so that it gets to read
/// why: a round trip between continents, and what a socket's buffer holds.
pub(crate) const LINGER_TIME_MAX: Duration = Duration::from_secs(1);
pub(crate) const LINGER_BYTES_MAX: usize = 1 << 20;
/// What is read of a body that its reader has dropped, so that the connection stays: a form or a
/// small upload. To close the connection is cheaper than to read more, or for longer.
pub(crate) const DRAINED_BYTES_MAX: u64 = 256 << 10;
pub(crate) const DRAINED_TIME_MAX: Duration = Duration::from_secs(2);
/// Requests of one connection of HTTP/2 at once: as many as browsers and gRPC expect at least.
pub(crate) const HTTP2_STREAMS_MAX: usize = 100;
/// What is read ahead of the body of one request, and of all of a connection: what a connection of
/// HTTP/1.1 may hold, and twice that.
pub(crate) const HTTP2_WINDOW_BYTES: u32 = 64 << 10;
pub(crate) const HTTP2_WINDOW_BYTES_ALL: u32 = 128 << 10;
/// What h2 holds of one response: a frame.
pub(crate) const HTTP2_PIECE_BYTES_MAX: usize = 16 << 10;
/// Requests that were reset before they were begun: h2's own limit.
pub(crate) const HTTP2_RESETS_PENDING_MAX: usize = 20;
/// Requests of one connection that were reset here because they were malformed.
pub(crate) const HTTP2_ERRORS_MAX: usize = 100;
/// Frames of a client that carry nothing, at once, for each second, and for each frame of a
/// response: one that takes a large file in small pieces sends two for each piece.
pub(crate) const HTTP2_OVERHEAD_MAX: u32 = 1000;
pub(crate) const HTTP2_OVERHEAD_PER_SECOND: u32 = 100;
pub(crate) const HTTP2_OVERHEAD_PER_RESPONSE_FRAME: u32 = 4;
/// A request that was begun and is reset costs as much as so many of them: 200 at once, 20 a
/// second.
pub(crate) const HTTP2_RESET_COST: u32 = 5;
/// A client that is gone without a word is found within a minute.
pub(crate) const HTTP2_PING_EVERY: Duration = Duration::from_secs(40);
pub(crate) const HTTP2_PING_TIME_MAX: Duration = Duration::from_secs(20);
/// Between two looks at what is open on a connection.
pub(crate) const HTTP2_LOOK_EVERY: Duration = Duration::from_secs(5);
/// The preface is 24 bytes, which come in one packet.
pub(crate) const HTTP2_PREFACE_PAUSE: Duration = Duration::from_millis(10);
/// A file with a certificate or a key: a chain has a few KiB, and a mistaken path leads anywhere.
pub(crate) const CERTIFICATE_BYTES_MAX: u64 = 1 << 20;
/// Between two looks at the files of a certificate: before an operator looks whether it worked.
pub(crate) const CERTIFICATE_LOOK_EVERY: Duration = Duration::from_secs(2);
/// Proxies in a row in front of this machine. Further hops are not looked at.
pub(crate) const PROXIES_MAX: usize = 64;
/// The longest line of PROXY protocol version 1, by its specification.
pub(crate) const PROXY_V1_BYTES_MAX: usize = 107;
/// A header of version 2 with its extensions, which hold a certificate's name at most.
pub(crate) const PROXY_V2_BYTES_MAX: usize = 4096;
/// After a failed accept. Usually there are no descriptors left, and some are free soon.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A connection to the control plane with its handshake: a round trip or three between continents.
pub(crate) const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Frames that wait to be written to the peer of a stream: each has 128 KiB at most, and a peer
/// that reads slowly is to hold up its sender, not memory.
pub(crate) const STREAM_FRAMES_AHEAD: usize = 2;
/// A stream has a frame every few seconds, if only to say that its sender is there.
pub(crate) const STREAM_SILENCE_MAX: Duration = Duration::from_secs(20);
/// A desired set of a thousand tasks is a few megabytes, and a page of the API less.
pub(crate) const RESPONSE_BYTES_MAX: usize = 64 << 20;
/// Of a file that is sent: how much until it is asked whether the client may still have it.
pub(crate) const FILE_PIECE_BYTES: u64 = 4 << 20;
/// How long a thread that sends a file waits for its peer, before it serves another: a round trip
/// of a data centre.
pub(crate) const FILE_WAIT_MAX: Duration = Duration::from_millis(2);
/// What is read ahead of a body on a connection that moves files, if it comes so fast: each piece
/// wakes the task of its connection, and with it another thread. A head is not longer for it.
pub(crate) const FILE_BYTES_AHEAD: usize = 256 << 10;
