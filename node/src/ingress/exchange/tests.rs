use std::{future::poll_fn, sync::Arc, time::Duration};

use http::{Request, request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::timeout,
};

use super::{body::Framing, *};
use crate::ingress::limits::{INTERIM_RESPONSES_MAX, RESPONSE_HEAD_BYTES_MAX};

const SOON: Duration = Duration::from_secs(10);

fn head(method: &str) -> request::Parts {
    let request = Request::builder().method(method).uri("/a?b=c").header("host", "cats");
    request.body(()).unwrap().into_parts().0
}

fn connection() -> (Connection, DuplexStream) {
    let (near, far) = duplex(1 << 20);
    (Connection::new(near), far)
}

/// What comes of a response in pieces of `size`, after which the replica closes the connection or
/// not: status, body and trailers, or the error.
async fn answered(
    method: &str,
    response: &[u8],
    size: usize,
    closes: bool,
) -> (Result<String, String>, bool) {
    let (near, mut far) = connection();
    let pool = Arc::new(Pool::default());
    let response = response.to_vec();
    let replica = tokio::spawn(async move {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(far.read_u8().await.unwrap());
        }
        for piece in response.chunks(size) {
            let _ = far.write_all(piece).await; // it may have had enough
            tokio::task::yield_now().await;
        }
        (request, if closes { None } else { Some(far) })
    });
    let text = async {
        let begun = Exchange::begin(pool.clone(), near, &head(method), RequestBody::none());
        let mut exchange = begun.map_err(Failed::why)?;
        let parts = poll_fn(|cx| exchange.poll_answer(cx)).await.map_err(Failed::why)?;
        let mut text = format!("{}:", parts.status.as_u16());
        while !exchange.is_end() {
            let Some(frame) = poll_fn(|cx| exchange.poll_frame(cx)).await else { break };
            let frame = frame.map_err(|error| error.to_string())?;
            match frame.into_data() {
                Ok(data) => text.push_str(std::str::from_utf8(&data).unwrap()),
                Err(frame) => text.push_str(&format!("{:?}", frame.into_trailers().unwrap())),
            }
        }
        exchange.finish();
        Ok(text)
    };
    let text = timeout(SOON, text).await.expect("it ends");
    let (request, _far) = replica.await.unwrap();
    assert!(request.starts_with(format!("{method} /a?b=c HTTP/1.1\r\nhost: cats\r\n").as_bytes()));
    (text, pool.take().is_some())
}

#[tokio::test]
async fn a_response_is_read_however_its_bytes_come() {
    const SIZED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    for (method, response, want, is_kept) in [
        ("GET", SIZED, "200:hello", true),
        ("GET", "HTTP/1.1 200 \r\ncontent-length: 3, 3\r\n\r\nabc", "200:abc", true),
        ("GET", "HTTP/1.1 200 OK\ncontent-length: 1\n\nx", "200:x", true),
        ("POST", "HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", "404:", true),
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", "200:", true),
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", "304:", true),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", "204:", true),
        (
            "GET",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n\
             HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nab",
            "201:ab",
            true,
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n\
             5;a=b\r\nhello\r\n00A \r\n, 9 bytes!\r\n0\r\n\r\n",
            "200:hello, 9 bytes!",
            true,
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nsum: 7\r\n\r\n",
            "200:x{\"sum\": \"7\"}",
            true,
        ),
        ("GET", "HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx", "200:x", false),
        (
            "GET",
            "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\nx",
            "200:x",
            true,
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 0\r\n\r\n",
            "200:",
            false,
        ),
        ("GET", "HTTP/1.1 200 OK\r\n\r\nto the end", "200:to the end", false),
        ("GET", "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n", "101:", false),
    ] {
        for size in [1, 7, response.len()] {
            let closes = want.ends_with("to the end");
            let (text, kept) = answered(method, response.as_bytes(), size, closes).await;
            assert_eq!(text.as_deref(), Ok(want), "{method} {response:?} by {size}");
            assert_eq!(kept, is_kept, "{method} {response:?} by {size}");
        }
    }
    let (text, kept) = answered("GET", format!("{SIZED}!").as_bytes(), 100, false).await;
    assert_eq!((text.as_deref(), kept), (Ok("200:hello"), false), "more than the response says");
}

#[tokio::test]
async fn a_response_that_is_none_is_an_error() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(INTERIM_RESPONSES_MAX + 1);
    let long = format!("HTTP/1.1 200 OK\r\nx: {}", "a".repeat(RESPONSE_HEAD_BYTES_MAX));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101));
    for (response, want) in [
        ("", "closed the connection before a response"),
        ("HTTP/1.1 200 OK\r\ncontent-le", "closed the connection before a response"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello", "within a response"),
        ("SSH-2.0-OpenSSH\r\n\r\n", "invalid"),
        ("HTTP/1.1 200 OK\r\n a: b\r\n\r\n", "invalid header name"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", "no length"),
        ("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "no length"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n", "no length"),
        ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "has no Transfer-Encoding"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "no number"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nxy\r\n", "longer than it says"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\nx\r\n", "malformed"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n", "within a response"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n: x\r\n\r\n", "trailers"),
        (&interim, "too many responses"),
        (&long, "too large"),
        (&many, "too many headers"),
    ] {
        let (text, kept) = answered("GET", response.as_bytes(), 4096, true).await;
        let shown = &response[..response.len().min(80)];
        let text = text.expect_err(shown);
        assert!(text.contains(want), "{shown:?}: {text}");
        assert!(!kept, "{shown:?}");
    }
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_sends_nothing() {
    let (mut near, far) = connection();
    near.used = true;
    drop(far);
    let pool = Arc::new(Pool::default());
    let begun = Exchange::begin(pool.clone(), near, &head("POST"), RequestBody::none());
    assert!(matches!(begun, Err(Failed::Unsent(..))));
    let (near, far) = connection();
    let (other, _held) = connection();
    pool.keep(near);
    pool.keep(other);
    drop(far);
    pool.close_idle();
    assert!(pool.take().is_some_and(|mut connection| connection.is_alive()));
    assert!(pool.take().is_none(), "what the replica has closed is closed here");
}

#[test]
fn a_body_follows_as_its_head_says_or_in_chunks() {
    for (mut framing, pieces, want) in [
        (
            Framing::Chunked,
            &["hello", "", "0123456789abcdef"][..],
            "5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n",
        ),
        (Framing::Chunked, &[], "0\r\n\r\n"),
        (Framing::Length(7), &["hello", ", "], "hello, "),
    ] {
        let mut out = Vec::new();
        for piece in pieces {
            framing.write(piece.as_bytes(), &mut out).unwrap();
        }
        framing.end(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }
    assert!(Framing::Length(3).write(b"four", &mut Vec::new()).is_err());
    assert!(Framing::Length(3).end(&mut Vec::new()).is_err());
}
