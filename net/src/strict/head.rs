use http::StatusCode;

use super::Fault;
use crate::limits::HEADERS_MAX;

/// How a body follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length(u64),
    Chunked,
}

/// A head as far as its lines have come.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Start of the first line that is not judged.
    line: usize,
    /// How far there is no end of that line.
    scanned: usize,
    is_http_1_1: bool,
    has_request_line: bool,
    /// Of a request line with a whole URL.
    authority: Option<Vec<u8>>,
    has_host: bool,
    headers: usize,
    length: Option<u64>,
    is_chunked: bool,
    /// Which of [`SINGLE`] have come, one bit for each.
    singles: u8,
}

/// Headers beside those of the framing of which one reader takes the first and another the last,
/// and which decide about rights or about the body.
const SINGLE: [(&[u8], Fault); 6] = [
    (b"authorization", Fault::bad("the request has more than one Authorization header")),
    (
        b"proxy-authorization",
        Fault::bad("the request has more than one Proxy-Authorization header"),
    ),
    (b"content-type", Fault::bad("the request has more than one Content-Type header")),
    (b"content-range", Fault::bad("the request has more than one Content-Range header")),
    (b"range", Fault::bad("the request has more than one Range header")),
    (b"expect", Fault::bad("the request has more than one Expect header")),
];

impl Head {
    /// Whether nothing of it has come.
    pub fn is_new(&self) -> bool {
        self.scanned == 0
    }

    /// Judges what has come of the head, which is all of `bytes` or its beginning, and of which
    /// there may be `bytes_max`. With the last line come its length and the framing of the body.
    pub fn read(
        &mut self,
        bytes: &[u8],
        bytes_max: usize,
    ) -> Result<Option<(usize, Framing)>, Fault> {
        while let Some(end) = memchr::memchr(b'\n', &bytes[self.scanned..]) {
            let end = self.scanned + end;
            if end >= bytes_max {
                return Err(TOO_LARGE);
            }
            let line = match bytes[self.line..end].split_last() {
                Some((b'\r', line)) => line,
                _ => return Err(Fault::bad("a line of the head ends without a carriage return")),
            };
            let is_leading = self.line == 0 && line.is_empty();
            (self.line, self.scanned) = (end + 1, end + 1);
            if is_leading {
                continue; // one empty line may come before a request (RFC 9112 2.2)
            }
            if !self.has_request_line {
                self.request_line(line)?;
            } else if line.is_empty() {
                return Ok(Some((end + 1, self.framing()?)));
            } else {
                self.header(line)?;
            }
        }
        self.scanned = bytes.len();
        if bytes.len() >= bytes_max { Err(TOO_LARGE) } else { Ok(None) }
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        self.has_request_line = true;
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Fault::bad("the request line is not METHOD TARGET VERSION"));
        };
        if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) {
            return Err(Fault::bad("the method is not a token"));
        }
        self.is_http_1_1 = match version {
            b"HTTP/1.1" => true,
            b"HTTP/1.0" => false,
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                let status = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
                return Err(Fault { status, text: "HTTP/1.1 is spoken here" });
            }
            _ => return Err(Fault::bad("the request line has no version of HTTP")),
        };
        self.target(method, target)
    }

    /// One whose method, path and authority came in fields of their own, as in HTTP/2.
    pub fn in_fields(method: &[u8], path: &[u8], authority: Option<&[u8]>) -> Result<Self, Fault> {
        let mut head = Self { is_http_1_1: true, has_request_line: true, ..Self::default() };
        head.target(method, path)?;
        if let Some(authority) = authority {
            head.authority = Some(host_of(authority)?.to_vec());
        }
        Ok(head)
    }

    /// The framing of one that came in fields, when all of them were judged: its authority names
    /// the host.
    pub fn end_of_fields(&mut self) -> Result<Framing, Fault> {
        self.has_host |= self.authority.is_some();
        self.framing()
    }

    fn target(&mut self, method: &[u8], target: &[u8]) -> Result<(), Fault> {
        // No space, no control character; `#` never leaves a client.
        if target.is_empty() || target.iter().any(|byte| matches!(byte, 0..=b' ' | b'#' | 0x7f)) {
            return Err(Fault::bad("the target has a character that a URL does not have"));
        }
        if method == b"CONNECT" {
            let status = StatusCode::NOT_IMPLEMENTED;
            return Err(Fault { status, text: "CONNECT is not offered here" });
        }
        if target[0] == b'/' || (target == b"*" && method == b"OPTIONS") {
            return Ok(());
        }
        let authority = without_scheme(target)
            .ok_or(Fault::bad("the target is neither a path nor the URL of a page"))?;
        let end = authority.iter().position(|byte| matches!(byte, b'/' | b'?'));
        let host = host_of(&authority[..end.unwrap_or(authority.len())])?;
        self.authority = Some(host.to_vec());
        Ok(())
    }

    fn header(&mut self, line: &[u8]) -> Result<(), Fault> {
        let (name, value) = field(line)?;
        self.field(name, value)
    }

    /// Judges the next header.
    pub fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.headers += 1;
        if self.headers > HEADERS_MAX {
            return Err(Fault::bad("the head has more than 100 headers"));
        }
        match framing_name(name)? {
            Some(FramingName::Host) => self.host(value),
            Some(FramingName::ContentLength) => self.content_length(value),
            Some(FramingName::TransferEncoding) => self.transfer_encoding(value),
            None => self.single(name),
        }
    }

    fn single(&mut self, name: &[u8]) -> Result<(), Fault> {
        let known = SINGLE.iter().position(|(single, _)| name.eq_ignore_ascii_case(single));
        let Some(known) = known else { return Ok(()) };
        let bit = 1 << known;
        if self.singles & bit != 0 {
            return Err(SINGLE[known].1);
        }
        self.singles |= bit;
        Ok(())
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.has_host {
            return Err(Fault::bad("the request has more than one Host header"));
        }
        self.has_host = true;
        let host = host_of(value)?;
        match &self.authority {
            Some(asked) if !is_same_host(asked, host) => {
                Err(Fault::bad("the request line and the Host header name two different hosts"))
            }
            _ => Ok(()),
        }
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.length.is_some() {
            return Err(Fault::bad("the request has more than one Content-Length"));
        }
        let wrong = Fault::bad("the Content-Length is not a number of bytes");
        if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return Err(wrong);
        }
        let length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        self.length = Some(length.filter(|length| *length <= i64::MAX as u64).ok_or(wrong)?);
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.is_chunked {
            return Err(Fault::bad("the request has more than one Transfer-Encoding"));
        }
        if value != b"chunked" {
            return Err(Fault::bad("the Transfer-Encoding is not `chunked`"));
        }
        self.is_chunked = true;
        Ok(())
    }

    fn framing(&self) -> Result<Framing, Fault> {
        if self.is_http_1_1 && !self.has_host {
            return Err(Fault::bad("the request has no Host header"));
        }
        match (self.length, self.is_chunked) {
            (Some(_), true) => {
                Err(Fault::bad("the request has a Content-Length and a Transfer-Encoding"))
            }
            (None, true) if !self.is_http_1_1 => {
                Err(Fault::bad("HTTP/1.0 has no Transfer-Encoding"))
            }
            (None, true) => Ok(Framing::Chunked),
            (Some(length @ 1..), false) => Ok(Framing::Length(length)),
            (Some(0) | None, false) => Ok(Framing::None),
        }
    }
}

const TOO_LARGE: Fault = Fault::bad("the head is too large");

/// Headers that say where a request ends and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FramingName {
    Host,
    ContentLength,
    TransferEncoding,
}

/// Which of those `name` is. In another spelling, which some program behind this one might read as
/// the same name, it is refused.
pub(super) fn framing_name(name: &[u8]) -> Result<Option<FramingName>, Fault> {
    let (known, text) = match name.len() {
        4 => (FramingName::Host, &b"host"[..]),
        14 => (FramingName::ContentLength, &b"content-length"[..]),
        17 => (FramingName::TransferEncoding, &b"transfer-encoding"[..]),
        _ => return Ok(None),
    };
    if name.eq_ignore_ascii_case(text) {
        return Ok(Some(known));
    }
    let is_separator = |byte: &u8| !byte.is_ascii_alphanumeric();
    let mut letters = name.iter().zip(text);
    match letters.all(|(a, b)| a.eq_ignore_ascii_case(b) || (is_separator(a) && is_separator(b))) {
        true => Err(Fault::bad("a header that frames the request is misspelled")),
        false => Ok(None),
    }
}

/// Name and value of a header's line, or of a trailer's.
pub(super) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Fault::bad("a header goes on over a second line"));
    }
    let end = line.iter().position(|byte| !is_token(*byte)).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let Some((b':', value)) = rest.split_first() else {
        return Err(Fault::bad("the name of a header is not a token with a colon behind it"));
    };
    // Folded, not searched: there is nearly always nothing to find.
    let is_bad = value.iter().fold(false, |is_bad, byte| is_bad | !is_text(*byte));
    if name.is_empty() || is_bad {
        return Err(Fault::bad("a header has no name, or a control character in its value"));
    }
    Ok((name, trim_spaces(value)))
}

/// Without the spaces around it. Tabs stay, which makes a framing header that has them invalid:
/// parsers differ in whether they are part of the value.
fn trim_spaces(mut value: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] | [rest @ .., b' '] = value {
        value = rest;
    }
    value
}

/// `value` when it is `HOST[:PORT]`, as it stands in a Host header or a URL.
fn host_of(value: &[u8]) -> Result<&[u8], Fault> {
    let wrong = Fault::bad("the Host header names no host, or more than a host and a port");
    let port = match value {
        [b'[', rest @ ..] => {
            let end = rest.iter().position(|byte| *byte == b']').ok_or(wrong)?;
            let is_address = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
            if end == 0 || !rest[..end].iter().all(is_address) {
                return Err(wrong);
            }
            &value[end + 2..]
        }
        _ => {
            let end = value.iter().position(|byte| *byte == b':').unwrap_or(value.len());
            let is_name =
                |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            if end == 0 || !value[..end].iter().all(is_name) {
                return Err(wrong);
            }
            &value[end..]
        }
    };
    match port {
        [] => {}
        [b':', digits @ ..] => {
            let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse::<u16>().ok());
            if number.is_none() || !digits.iter().all(u8::is_ascii_digit) {
                return Err(wrong);
            }
        }
        _ => return Err(wrong),
    }
    Ok(value)
}

fn without_scheme(target: &[u8]) -> Option<&[u8]> {
    [&b"http://"[..], b"https://"].iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    })
}

fn is_same_host(one: &[u8], other: &[u8]) -> bool {
    without_default_port(one).eq_ignore_ascii_case(without_default_port(other))
}

/// `a:80` and `a` are one host, and so are `a:443` and `a`: which scheme the client has spoken with
/// a proxy in front is not known here.
fn without_default_port(host: &[u8]) -> &[u8] {
    host.strip_suffix(b":80").or_else(|| host.strip_suffix(b":443")).unwrap_or(host)
}

/// Letters, digits and the fifteen signs of a token (RFC 9110 5.6.2).
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric()
            || matches!(
                byte as u8,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        byte += 1;
    }
    table
};

fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// Visible, a space, a tab, or not ASCII.
pub(super) fn is_text(byte: u8) -> bool {
    (byte >= b' ' || byte == b'\t') && byte != 0x7f
}
