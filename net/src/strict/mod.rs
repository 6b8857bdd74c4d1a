//! The parser in front of hyper: what a request looks like on the wire, judged byte by byte.
//!
//! Two parsers that read one byte stream differently are a way past whatever the first of them
//! decided. So each head and each chunk is judged before hyper sees it, and a request that any
//! parser could read in another way is refused with 400 and its connection is closed. Every HTTP
//! server of margay reads through this, and a head that came in frames of HTTP/2 is judged by the
//! same rules. Absent on purpose: repairing.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

mod head; // lines of a head, and how a body follows it
mod fields; // a head that came in frames
mod chunks; // a chunked body, with its trailers
mod held; // heads that have not come in full, of all connections
mod stream; // a stream that passes on what was judged
mod refusal; // the response, in the place of the service's

pub(crate) use fields::check;
pub(crate) use held::{HeldHead, HeldHeads};
pub(crate) use refusal::StrictService;
pub(crate) use stream::StrictStream;

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    status: http::StatusCode,
    text: &'static str,
}

impl Fault {
    const fn bad(text: &'static str) -> Self {
        Self { status: http::StatusCode::BAD_REQUEST, text }
    }

    /// There are as many requests as there may be.
    pub(crate) const REQUESTS: Self = Self {
        status: http::StatusCode::SERVICE_UNAVAILABLE,
        text: "this address has too many requests under way: try again",
    };

    const BUSY: Self = Self {
        status: http::StatusCode::SERVICE_UNAVAILABLE,
        text: "too many long heads are unfinished: try again, or send a shorter one",
    };
}

/// What was judged of the requests of one connection.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// The one that was refused, which is the last.
    refused: OnceLock<(u64, Fault)>,
    /// How many heads were passed on.
    passed: AtomicU64,
    /// Bytes have come that are not the end of a request.
    is_within: AtomicBool,
}

impl Verdict {
    fn refuse(&self, request: u64, fault: Fault) {
        let _ = self.refused.set((request, fault)); // the first stands: nothing is read after it
    }

    fn fault_of(&self, request: u64) -> Option<Fault> {
        self.refused.get().filter(|(refused, _)| *refused == request).map(|(_, fault)| *fault)
    }

    pub fn is_refused(&self) -> bool {
        self.refused.get().is_some()
    }

    fn came(&self, passed: u64, is_within: bool) {
        self.passed.store(passed, Ordering::Relaxed);
        self.is_within.store(is_within, Ordering::Relaxed);
    }

    /// Whether nothing has come that does not belong to the first `served` requests.
    pub fn is_between_requests(&self, served: u64) -> bool {
        !self.is_refused()
            && !self.is_within.load(Ordering::Relaxed)
            && self.passed.load(Ordering::Relaxed) == served
    }
}

#[cfg(test)]
mod tests;
