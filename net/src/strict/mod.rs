//! The parser in front of hyper: what a request looks like on the wire, judged byte by byte.
//!
//! Two parsers that read one byte stream differently are a way past whatever the first of them
//! decided. So each head and each chunk is judged before hyper sees it, and a request that any
//! parser could read in another way is refused with 400 and its connection is closed. Every HTTP
//! server of margay reads through this. Absent on purpose: repairing, and HTTP/2.

mod head; // lines of a head, and how a body follows it
mod chunks; // a chunked body, with its trailers
mod held; // heads that have not come in full, of all connections
mod stream; // a stream that passes on what was judged
mod refusal; // the response, in the place of the service's

pub(crate) use held::HeldHeads;
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

    const BUSY: Self = Self {
        status: http::StatusCode::SERVICE_UNAVAILABLE,
        text: "too many long heads are unfinished: try again, or send a shorter one",
    };
}

/// The one request of a connection that was refused, which is its last.
#[derive(Debug, Default)]
pub(crate) struct Verdict(std::sync::OnceLock<(u64, Fault)>);

impl Verdict {
    fn refuse(&self, request: u64, fault: Fault) {
        let _ = self.0.set((request, fault)); // the first one stands: nothing is read after it
    }

    fn fault_of(&self, request: u64) -> Option<Fault> {
        self.0.get().filter(|(refused, _)| *refused == request).map(|(_, fault)| *fault)
    }

    fn is_refused(&self) -> bool {
        self.0.get().is_some()
    }
}

#[cfg(test)]
mod tests;
