use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{runtime::Handle, time::timeout};

use crate::limits::{DRAINED_BYTES_MAX, DRAINED_TIME_MAX};

/// The body of a request, whose rest is read when its reader drops it early.
///
/// A server that closes a connection on which bytes are unread resets it, and the client may lose
/// the response with that. Read to its end, the connection stays for the next request (RFC 9112
/// 9.3); beyond a limit it is closed.
#[derive(Debug)]
pub struct DrainedBody(Option<Incoming>);

impl DrainedBody {
    pub fn new(body: Incoming) -> Self {
        Self(Some(body))
    }
}

impl Body for DrainedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for DrainedBody {
    fn drop(&mut self) {
        let Some(body) = self.0.take().filter(|body| !body.is_end_stream()) else { return };
        let is_small = body.size_hint().lower() <= DRAINED_BYTES_MAX;
        if let (true, Ok(runtime)) = (is_small, Handle::try_current()) {
            runtime.spawn(timeout(DRAINED_TIME_MAX, drain(body)));
        }
    }
}

/// Reads to the end, or to the limit.
async fn drain(mut body: Incoming) {
    let mut left = DRAINED_BYTES_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len) as u64;
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use http_body_util::Full;
    use hyper::{server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    /// A connection to a server that reads no body.
    fn connect() -> DuplexStream {
        let (client, server) = tokio::io::duplex(64);
        let answer = service_fn(|request: Request<Incoming>| async move {
            drop(DrainedBody::new(request.into_body()));
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"done"))))
        });
        tokio::spawn(async move {
            let _ = http1::Builder::new().serve_connection(TokioIo::new(server), answer).await;
        });
        client
    }

    async fn answer(client: &mut DuplexStream) -> std::io::Result<String> {
        let mut text = Vec::new();
        while !text.ends_with(b"done") {
            let mut piece = [0; 256];
            match client.read(&mut piece).await? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                count => text.extend_from_slice(&piece[..count]),
            }
        }
        Ok(String::from_utf8(text).expect("text"))
    }

    #[tokio::test]
    async fn a_body_that_is_not_read_leaves_the_connection_to_the_next_request() {
        let mut client = connect();
        for round in 0..50 {
            let body = "x".repeat(10_000);
            let head =
                format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
            client.write_all(head.as_bytes()).await.unwrap();
            client.write_all(body.as_bytes()).await.unwrap();
            let text = answer(&mut client).await.unwrap();
            assert!(text.starts_with("HTTP/1.1 200"), "round {round}: {text}");
            let head = "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
            client.write_all(head.as_bytes()).await.unwrap();
            for _ in 0..20 {
                client.write_all(b"3\r\nabc\r\n").await.unwrap();
            }
            client.write_all(b"0\r\n\r\n").await.unwrap();
            let text = answer(&mut client).await.unwrap();
            assert!(text.starts_with("HTTP/1.1 200"), "round {round}: {text}");
        }
    }

    #[tokio::test]
    async fn a_body_beyond_the_limits_ends_its_connection() {
        let mut large = connect();
        let head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999999\r\n\r\n";
        large.write_all(head.as_bytes()).await.unwrap();
        answer(&mut large).await.unwrap();
        assert_eq!(large.read(&mut [0; 8]).await.unwrap(), 0, "it is closed");

        let mut slow = connect();
        let head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n";
        slow.write_all(head.as_bytes()).await.unwrap();
        answer(&mut slow).await.unwrap();
        assert_eq!(slow.read(&mut [0; 8]).await.unwrap(), 0, "it is closed when its time is over");
    }
}
