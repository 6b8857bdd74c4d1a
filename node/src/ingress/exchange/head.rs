use std::{io, mem::MaybeUninit};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request, response,
    uri::PathAndQuery,
};
use httparse::ParserConfig;

use super::{
    body::{Framing, Incoming},
    piece::malformed,
};
use crate::ingress::limits::{
    INTERIM_RESPONSES_MAX, RESPONSE_HEAD_BYTES_MAX, RESPONSE_HEADERS_MAX,
};

/// What the head of a response says.
pub(super) struct Answer {
    pub parts: response::Parts,
    pub incoming: Incoming,
    /// Whether the connection may have another request.
    pub keeps: bool,
}

/// Writes the head of a request whose body follows as `framing` says.
pub(super) fn write(head: &request::Parts, framing: Framing, out: &mut Vec<u8>) {
    let path = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let method = head.method.as_str();
    let headers = || head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let length: usize = headers().map(|(name, value)| name.len() + value.len() + 4).sum();
    out.reserve(method.len() + path.len() + length + 64);
    for part in [method, " ", path, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    for (name, value) in headers() {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    if let Framing::Chunked = framing {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether a head has come in full, of which the first `scanned` bytes were looked at. So that one
/// that comes byte by byte is not read anew with each.
pub(super) fn is_complete(came: &[u8], scanned: &mut usize) -> io::Result<bool> {
    let mut from = *scanned;
    while let Some(at) = memchr::memchr(b'\n', &came[from..]) {
        let rest = &came[from + at + 1..];
        if rest.starts_with(b"\n") || rest.starts_with(b"\r\n") {
            return Ok(true);
        }
        if matches!(rest, [] | [b'\r']) {
            *scanned = from + at; // what follows this line is not there yet
            return within_limit(came);
        }
        from += at + 1;
    }
    *scanned = came.len();
    within_limit(came)
}

fn within_limit(came: &[u8]) -> io::Result<bool> {
    match came.len() < RESPONSE_HEAD_BYTES_MAX {
        true => Ok(false),
        false => Err(malformed("the head of the response is too large")),
    }
}

/// Takes a head that has come in full. `None` for one that another follows.
pub(super) fn read(came: &mut BytesMut, method: &Method) -> io::Result<Option<Answer>> {
    let mut fields =
        [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; RESPONSE_HEADERS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let read = ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        came,
        &mut fields,
    );
    let length = match read {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => {
            return Err(malformed("the head of the response is broken"));
        }
        Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    };
    let status = StatusCode::from_u16(response.code.unwrap_or_default())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let is_http_1_1 = response.version == Some(1);
    let mut headers = HeaderMap::with_capacity(response.headers.len() + 2);
    // Values are parts of what came: in one piece for all of them.
    let whole = Bytes::copy_from_slice(&came[..length]);
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(part_of(&whole, came, field.value));
        match (name, value) {
            (Ok(name), Ok(value)) => headers.append(name, value),
            _ => return Err(malformed("a header of the response is malformed")),
        };
    }
    bytes::Buf::advance(came, length);
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(None);
    }
    let incoming = incoming(status, method, is_http_1_1, &mut headers)?;
    let keeps = !incoming.ends_with_its_connection()
        && status != StatusCode::SWITCHING_PROTOCOLS
        && keeps(is_http_1_1, &headers);
    let mut parts = http::Response::new(()).into_parts().0;
    (parts.status, parts.headers) = (status, headers);
    Ok(Some(Answer { parts, incoming, keeps }))
}

/// The same part of `copy` as `value` is of `came`.
fn part_of(copy: &Bytes, came: &[u8], value: &[u8]) -> Bytes {
    let start = value.as_ptr() as usize - came.as_ptr() as usize;
    copy.slice(start..start + value.len())
}

/// How a body follows (RFC 9112 6.3).
fn incoming(
    status: StatusCode,
    method: &Method,
    is_http_1_1: bool,
    headers: &mut HeaderMap,
) -> io::Result<Incoming> {
    let has_none = matches!(
        status,
        StatusCode::SWITCHING_PROTOCOLS | StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    if has_none || *method == Method::HEAD {
        return Ok(Incoming::Length(0));
    }
    if let Some(last) = headers.get_all(header::TRANSFER_ENCODING).iter().next_back() {
        if !is_http_1_1 {
            return Err(malformed("HTTP/1.0 has no Transfer-Encoding"));
        }
        let last = last.as_bytes().rsplit(|byte| *byte == b',').next().unwrap_or_default();
        let is_chunked = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
        headers.remove(header::CONTENT_LENGTH); // which is not what frames it
        return Ok(if is_chunked { Incoming::chunked() } else { Incoming::UntilClosed });
    }
    let mut length = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        for said in value.as_bytes().split(|byte| *byte == b',') {
            let said = number(said.trim_ascii());
            match said.filter(|said| length.is_none_or(|length| length == *said)) {
                Some(said) => length = Some(said),
                None => return Err(malformed("the response has no length that can be meant")),
            }
        }
    }
    let Some(length) = length else { return Ok(Incoming::UntilClosed) };
    if headers.get_all(header::CONTENT_LENGTH).iter().nth(1).is_some() {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(Incoming::Length(length))
}

fn number(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
    text.parse().ok().filter(|number| *number < u64::MAX / 2)
}

/// Whether the replica keeps the connection open (RFC 9112 9.3).
fn keeps(is_http_1_1: bool, headers: &HeaderMap) -> bool {
    let says = |word: &str| {
        let lines = headers.get_all(header::CONNECTION).iter();
        let mut words = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
        words.any(|said| said.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    };
    !says("close") && (is_http_1_1 || says("keep-alive"))
}

/// A replica that says `100 Continue` without an end says nothing.
pub(super) fn check_interim(count: usize) -> io::Result<()> {
    match count <= INTERIM_RESPONSES_MAX {
        true => Ok(()),
        false => Err(malformed("there are too many responses in front of the response")),
    }
}
