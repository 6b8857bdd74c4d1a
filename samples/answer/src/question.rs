use std::io::{self, Read};

use wasip2::http::types::{IncomingBody, IncomingRequest, Method};

/// A request, seen the way the samples need it.
pub struct Question {
    request: IncomingRequest,
    /// What the caller wants done.
    pub method: Method,
    /// The path as it was sent, percent signs and all; always starts with `/`.
    pub path: String,
    /// What followed the `?`, as it was sent.
    pub query: Option<String>,
}

/// A body went on after the limit that the caller of [`Question::read`] set.
#[derive(Debug)]
pub struct TooLong;

impl Question {
    /// Looks at `request` without reading its body.
    pub fn of(request: IncomingRequest) -> Self {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target.as_str(), None),
        };
        let path = if path.is_empty() { "/" } else { path }.to_owned();
        Self { method: request.method(), path, query, request }
    }

    /// The value of the header `name`, or `None` when it is missing, repeated or not text.
    pub fn header(&self, name: &str) -> Option<String> {
        match self.request.headers().get(name).as_slice() {
            [value] => String::from_utf8(value.clone()).ok(),
            _ => None,
        }
    }

    /// The whole body, if it has at most `bytes_max` bytes.
    pub fn read(self, bytes_max: u64) -> io::Result<Result<Vec<u8>, TooLong>> {
        let gone = || io::Error::other("the body was taken before");
        let body = self.request.consume().map_err(|()| gone())?;
        let stream = body.stream().map_err(|()| gone())?;
        let mut bytes = Vec::new();
        stream.take(bytes_max + 1).read_to_end(&mut bytes)?;
        drop(IncomingBody::finish(body));
        Ok(if bytes.len() as u64 > bytes_max { Err(TooLong) } else { Ok(bytes) })
    }
}
