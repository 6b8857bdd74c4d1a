//! Request smuggling, shape by shape: what is published of it, each sent whole, byte by byte, and
//! behind a good request on the same connection.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::timeout,
};

use crate::{Connections, HttpLimits};

/// Answers with what it has read, and in place of a body that breaks with 502.
async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    Ok(match body.collect().await {
        Ok(body) => {
            let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            Response::new(Full::from(format!("[{} {} {text}]", head.method, head.uri)))
        }
        Err(_) => {
            let mut lost = Response::new(Full::from("lost"));
            *lost.status_mut() = StatusCode::BAD_GATEWAY;
            lost
        }
    })
}

fn served() -> DuplexStream {
    let (client, server) = duplex(1 << 20);
    tokio::spawn(async move {
        let time_max = Duration::from_secs(20);
        let limits = HttpLimits::with_times(time_max, time_max);
        Connections::new().serve_http(server, limits, service_fn(echo)).await;
    });
    client
}

/// All that a server answers to `bytes`, which are sent `step` at a time.
async fn exchange(bytes: &[u8], step: usize) -> String {
    let mut stream = served();
    for piece in bytes.chunks(step) {
        stream.write_all(piece).await.unwrap();
        if step < 16 {
            tokio::task::yield_now().await;
        }
    }
    let mut answer = Vec::new();
    let read = timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    read.unwrap_or_else(|_| panic!("not closed: {}", bytes.escape_ascii())).unwrap();
    String::from_utf8(answer).unwrap()
}

fn statuses(answer: &str) -> Vec<u16> {
    let lines = answer.split_inclusive("HTTP/1.1 ").skip(1);
    lines.filter_map(|rest| rest.get(..3)?.parse().ok()).collect()
}

const GOOD: &str = "GET /first HTTP/1.1\r\nHost: a\r\n\r\n";

/// Headers, behind `Host: a`, of requests that are refused.
const HEADERS: &[(&str, &[u8])] = &[
    ("CL.TE", b"Content-Length: 5\r\nTransfer-Encoding: chunked"),
    ("TE.CL", b"Transfer-Encoding: chunked\r\nContent-Length: 5"),
    ("CL 0 with TE", b"Content-Length: 0\r\nTransfer-Encoding: chunked"),
    ("TE twice", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
    ("TE identity too", b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"),
    ("TE list", b"Transfer-Encoding: gzip, chunked"),
    ("TE chunked twice in a list", b"Transfer-Encoding: chunked, chunked"),
    ("TE unknown", b"Transfer-Encoding: xchunked"),
    ("TE identity", b"Transfer-Encoding: identity"),
    ("TE empty", b"Transfer-Encoding:"),
    ("TE in capitals", b"Transfer-Encoding: CHUNKED"),
    ("TE quoted", b"Transfer-Encoding: \"chunked\""),
    ("TE with a comma", b"Transfer-Encoding: ,chunked"),
    ("TE with a parameter", b"Transfer-Encoding: chunked;q=1"),
    ("TE behind a tab", b"Transfer-Encoding:\tchunked"),
    ("TE before a tab", b"Transfer-Encoding: chunked\t"),
    ("TE behind a vertical tab", b"Transfer-Encoding: \x0bchunked"),
    ("TE with a NUL", b"Transfer-Encoding: chunked\0"),
    ("TE behind a space in the name", b"Transfer-Encoding : chunked"),
    ("TE behind a tab in the name", b"Transfer-Encoding\t: chunked"),
    ("TE on a line that goes on", b"Transfer-Encoding:\r\n chunked"),
    ("TE as what goes on", b"X: y\r\n Transfer-Encoding: chunked"),
    ("TE behind a bare LF", b"X: y\nTransfer-Encoding: chunked"),
    ("TE behind a bare CR", b"X: y\rTransfer-Encoding: chunked"),
    ("TE with an underscore", b"Transfer_Encoding: chunked"),
    ("TE with a dot", b"Transfer.Encoding: chunked"),
    ("two CLs that differ", b"Content-Length: 5\r\nContent-Length: 6"),
    ("two CLs that agree", b"Content-Length: 5\r\nContent-Length: 5"),
    ("CL list", b"Content-Length: 5, 5"),
    ("CL with a sign", b"Content-Length: +5"),
    ("CL below zero", b"Content-Length: -5"),
    ("CL in hexadecimal", b"Content-Length: 0x5"),
    ("CL with an underscore", b"Content-Length: 1_0"),
    ("CL with a space inside", b"Content-Length: 1 0"),
    ("CL beyond 2^64", b"Content-Length: 18446744073709551621"),
    ("CL beyond 2^63", b"Content-Length: 9223372036854775808"),
    ("CL empty", b"Content-Length:"),
    ("CL behind a tab", b"Content-Length:\t5"),
    ("CL behind a space in the name", b"Content-Length : 5"),
    ("CL misspelled", b"Content_Length: 5"),
    ("bare CR in a value", b"X: a\rb"),
    ("a header that goes on", b"X: a\r\n b"),
    ("two Authorizations", b"Authorization: Bearer a\r\nauthorization: Bearer b"),
    ("the same Authorization twice", b"Authorization: a\r\nX: y\r\nAUTHORIZATION: a"),
    ("two Proxy-Authorizations", b"Proxy-Authorization: a\r\nProxy-Authorization: b"),
    ("two Content-Types", b"Content-Type: text/plain\r\nContent-Type: application/json"),
    ("two Content-Ranges", b"Content-Range: 0-1\r\nContent-Range: 0-2"),
    ("two Ranges", b"Range: bytes=0-1\r\nRange: bytes=0-2"),
    ("two Expects", b"Expect: 100-continue\r\nExpect: 100-continue"),
    ("two Hosts", b"Host: b"),
    ("the same Host twice", b"host: a"),
    ("a header without a colon", b"X"),
    ("a header without a name", b": x"),
    ("a space before a colon", b"X : y"),
    ("a NUL in a name", b"X\0: y"),
    ("a NUL in a value", b"X: \0"),
    ("DEL in a value", b"X: \x7f"),
    ("ESC in a value", b"X: \x1b[31m"),
    ("a name that is not ASCII", b"X\xc3\xa4: y"),
];

/// Heads that are refused.
const HEADS: &[(&str, &[u8])] = &[
    (
        "TE in HTTP/1.0",
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("bare LF behind the request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    ("bare LF behind a header", b"GET / HTTP/1.1\r\nHost: a\n\r\n"),
    ("bare LF as the end", b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
    ("nothing but bare LFs", b"GET / HTTP/1.1\nHost: a\n\n"),
    ("bare LF in front", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("CR CR LF", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n"),
    ("two empty lines in front", b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a first header that goes on", b"GET / HTTP/1.1\r\n Host: a\r\nHost: a\r\n\r\n"),
    ("no Host", b"GET / HTTP/1.1\r\nX: a\r\n\r\n"),
    ("no header", b"GET / HTTP/1.1\r\n\r\n"),
    ("an empty Host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    ("a Host with user information", b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n"),
    ("a Host with a password", b"GET / HTTP/1.1\r\nHost: a:80@b\r\n\r\n"),
    ("a Host with a path", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    ("a Host with a query", b"GET / HTTP/1.1\r\nHost: a?b\r\n\r\n"),
    ("a Host with a backslash", b"GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n"),
    ("a Host with a space", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    ("a list of Hosts", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    ("a Host with a port that is none", b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n"),
    ("a Host with a port with a sign", b"GET / HTTP/1.1\r\nHost: a:+80\r\n\r\n"),
    ("a Host with a port too many", b"GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n"),
    ("a Host behind a space in the name", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
    ("a Host that is not closed", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
    ("another host in the target", b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("another port in the target", b"GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("user information in the target", b"GET http://x@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a target without Host", b"GET http://a/ HTTP/1.1\r\n\r\n"),
    ("another scheme in the target", b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a name as target", b"GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a host as target", b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("an asterisk as target", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a fragment in the target", b"GET /#x HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a control character in the target", b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("two spaces in the request line", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a tab in the request line", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a space behind the version", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
    ("a space in the target", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a space in front of the method", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("HTTP/0.9", b"GET /\r\n\r\n"),
    ("a version in lower case", b"GET / http/1.1\r\nHost: a\r\n\r\n"),
    ("a version with more digits", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n"),
    ("a method that is no token", b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("TLS", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\n"),
];

/// Chunked bodies that are broken, behind a head that is good.
const BODIES: &[(&str, &[u8])] = &[
    ("no size", b"\r\n\r\n"),
    ("a size that is no number", b"zz\r\nhello\r\n0\r\n\r\n"),
    ("a size with a sign", b"+5\r\nhello\r\n0\r\n\r\n"),
    ("a size with 0x", b"0x5\r\nhello\r\n0\r\n\r\n"),
    ("a size with an underscore", b"0_5\r\nhello\r\n0\r\n\r\n"),
    ("a size beyond 2^64", b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("a size with many zeros", b"000000000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("a space behind the size", b"5 \r\nhello\r\n0\r\n\r\n"),
    ("a space before the size", b" 5\r\nhello\r\n0\r\n\r\n"),
    ("a bare LF behind the size", b"5\nhello\r\n0\r\n\r\n"),
    ("a bare CR behind the size", b"5\rhello\r\n0\r\n\r\n"),
    ("a bare LF in an extension", b"5;a\nhello\r\n0\r\n\r\n"),
    ("a bare CR in an extension", b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
    ("a NUL in an extension", b"5;\0\r\nhello\r\n0\r\n\r\n"),
    ("more data than the size", b"5\r\nhello!\r\n0\r\n\r\n"),
    ("a bare LF behind data", b"5\r\nhello\n0\r\n\r\n"),
    ("a bare CR behind data", b"5\r\nhello\r0\r\n\r\n"),
    ("nothing behind data", b"5\r\nhello0\r\n\r\n"),
    ("a bare LF behind the last size", b"0\n\r\n"),
    ("a bare LF as the end", b"0\r\n\n"),
    ("a trailer that is no header", b"0\r\nx y: z\r\n\r\n"),
    ("a trailer that goes on", b"0\r\nx: y\r\n z\r\n\r\n"),
    ("a trailer with a bare LF", b"0\r\nx: y\n\r\n"),
    ("a trailer that frames", b"0\r\nContent-Length: 5\r\n\r\n"),
    ("a trailer that names a host", b"0\r\nhost: b\r\n\r\n"),
    ("a request in the place of a trailer", b"0\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n"),
];

#[tokio::test]
async fn a_request_that_parsers_read_differently_is_refused_and_the_last_of_its_connection() {
    let behind_a_host = |(what, headers): &(&'static str, &[u8])| {
        let head = [b"POST / HTTP/1.1\r\nHost: a\r\n", *headers, b"\r\n\r\n0\r\n\r\n"].concat();
        (*what, head)
    };
    let whole = HEADS.iter().map(|(what, head)| (*what, head.to_vec()));
    for (what, head) in HEADERS.iter().map(behind_a_host).chain(whole) {
        for step in [1, 7, usize::MAX] {
            let refused = exchange(&[&head[..], GOOD.as_bytes()].concat(), step).await;
            assert_eq!(statuses(&refused), [400], "{what}, {step} at a time: {refused}");
            assert!(refused.contains("E_REQUEST: "), "{what}: {refused}");
            let behind = [GOOD.as_bytes(), &head[..], GOOD.as_bytes()].concat();
            let refused = exchange(&behind, step).await;
            assert_eq!(statuses(&refused), [200, 400], "{what}, {step}, pipelined: {refused}");
        }
    }
}

#[tokio::test]
async fn a_broken_chunk_is_the_fault_of_its_client() {
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (what, body) in BODIES {
        for step in [1, 7, usize::MAX] {
            let request = [GOOD.as_bytes(), head, body, GOOD.as_bytes()].concat();
            let refused = exchange(&request, step).await;
            assert_eq!(statuses(&refused), [200, 400], "{what}, {step} at a time: {refused}");
        }
    }
    let long = format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(10_000));
    let often = format!("{}0\r\n\r\n", "1;extension\r\nx\r\n".repeat(10_000));
    let many = format!("0\r\n{}\r\n", "x: y\r\n".repeat(101));
    let large = format!("0\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    for body in [long, often, many, large] {
        let refused = exchange(&[head, body.as_bytes()].concat(), usize::MAX).await;
        assert_eq!(statuses(&refused), [400], "{refused}");
    }
}

#[tokio::test]
async fn other_refusals_have_their_own_status() {
    for (head, want) in [
        ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
    ] {
        let refused = exchange(head.as_bytes(), usize::MAX).await;
        assert_eq!(statuses(&refused), [want], "{head}");
    }
}

#[tokio::test]
async fn heads_have_64_kib_and_100_headers_at_most() {
    let head = |bytes: usize, end: &str| {
        let start = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: {end}");
        start.replace(end, &"x".repeat(bytes - start.len() - 4 + end.len())) + "\r\n\r\n"
    };
    let with = |count: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{}\r\n",
            "x: y\r\n".repeat(count)
        )
    };
    for (what, head, want) in [
        ("the largest", head(64 << 10, "_"), 200),
        ("one byte more", head((64 << 10) + 1, "_"), 400),
        ("far more", head(1 << 18, "_"), 400),
        ("100 headers", with(98), 200),
        ("101 headers", with(99), 400),
    ] {
        let answer = exchange(head.as_bytes(), 1 << 14).await;
        assert_eq!(statuses(&answer), [want], "{what}: {answer}");
    }
    let endless = "GET /".to_owned() + &"x".repeat(1 << 17);
    assert_eq!(statuses(&exchange(endless.as_bytes(), 1 << 14).await), [400]);
}

#[tokio::test]
async fn good_requests_pass_as_they_are() {
    let close = "GET /end HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for (what, request, want) in [
        (
            "a body",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            "[POST / hello]",
        ),
        (
            "chunks",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n7;a=\"b\"\r\n there\n\r\n0\r\nx-sum: 1\r\n\r\n",
            "[POST / hello there\n]",
        ),
        ("an empty line in front", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "[GET / ]"),
        ("its own host", "GET http://A:80/x HTTP/1.1\r\nHost: a\r\n\r\n", "[GET http://A:80/x ]"),
        ("an address", "GET / HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n", "[GET / ]"),
        ("an underscore", "GET / HTTP/1.1\r\nHost: a_b.c:1\r\n\r\n", "[GET / ]"),
        ("spaces around a value", "GET / HTTP/1.1\r\nHost:   a  \r\nX:\t\ty\t\r\n\r\n", "[GET / ]"),
        ("a value that is not ASCII", "GET /ä HTTP/1.1\r\nHost: a\r\nX: ä\r\n\r\n", "[GET /ä ]"),
        ("all of a server", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "[OPTIONS * ]"),
        (
            "a request for a body",
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\
            Content-Length: 1\r\n\r\nx",
            "[POST / x]",
        ),
    ] {
        for step in [1, 7, usize::MAX] {
            let bytes = [request, request, close].concat();
            let answer = exchange(bytes.as_bytes(), step).await;
            assert_eq!(answer.matches(want).count(), 2, "{what}, {step} at a time: {answer}");
            assert!(answer.ends_with("[GET /end ]"), "{what}: {answer}");
        }
    }
    let old = exchange(b"GET / HTTP/1.0\r\n\r\n", usize::MAX).await;
    assert_eq!(statuses(&old.replace("HTTP/1.0", "HTTP/1.1")), [200], "{old}");
}
