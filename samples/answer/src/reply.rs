use std::io::{self, Write};

use wasip2::http::types::{Fields, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasip2::io::streams::OutputStream;

/// The head of an answer. Sending it consumes it, so nothing is answered twice.
pub struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
}

impl Answer {
    /// An answer with nothing but a status.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new() }
    }

    /// Adds one header. A value that HTTP forbids is left out when the answer is sent.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Adds the type of the body.
    #[must_use]
    pub fn content_type(self, media_type: impl Into<String>) -> Self {
        self.header("content-type", media_type)
    }

    /// Adds the length of the body, which an answer to `HEAD` names without having one.
    #[must_use]
    pub fn content_length(self, bytes: u64) -> Self {
        self.header("content-length", bytes.to_string())
    }

    /// Sends the head alone: for `HEAD`, and for statuses without a body.
    pub fn send_head(self, out: ResponseOutparam) {
        ResponseOutparam::set(out, Ok(self.into_response()));
    }

    /// Sends `body`, whose length is known.
    pub fn send(self, out: ResponseOutparam, body: &[u8]) {
        let mut open = self.content_length(body.len() as u64).open(out);
        if open.write_all(body).is_ok() {
            open.finish();
        }
    }

    /// Sends the head and hands back the body to write into. Call [`Body::finish`] when it is
    /// whole.
    pub fn open(self, out: ResponseOutparam) -> Body {
        let response = self.into_response();
        let body = response.body().expect("a new response still has its body");
        ResponseOutparam::set(out, Ok(response)); // before the first byte: the body is read only from then on
        let stream = body.write().expect("a new body still has its stream");
        Body { stream, body }
    }

    fn into_response(self) -> OutgoingResponse {
        let fields = Fields::new();
        for (name, value) in &self.headers {
            let _ = fields.append(name, value.as_bytes());
        }
        let response = OutgoingResponse::new(fields);
        response.set_status_code(self.status).expect("every status of the samples is three digits");
        response
    }
}

/// A body on its way out. Dropped before [`Body::finish`], it tells the caller that the rest is
/// missing.
pub struct Body {
    stream: OutputStream, // first, because a stream must be dropped before the body it belongs to
    body: OutgoingBody,
}

impl Body {
    /// Closes the body as complete.
    pub fn finish(self) {
        let Self { stream, body } = self;
        drop(stream);
        let _ = OutgoingBody::finish(body, None); // the client is gone
    }
}

impl Write for Body {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Write::write(&mut self.stream, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Write::flush(&mut self.stream)
    }
}
