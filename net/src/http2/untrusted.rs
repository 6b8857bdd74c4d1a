use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    budget::Budget,
    frames::{DATA, Frames, HEADERS, PREFACE},
};

/// The bytes of a connection to a server of HTTP/2 that is not trusted, as one of a tenant. It
/// fails when too many frames of the server carry nothing: no client would have asked for them, and
/// all others of this process would wait for them.
#[derive(Debug)]
pub struct UntrustedServer<S> {
    stream: S,
    came: Frames,
    written: Frames,
    budget: Budget,
}

impl<S> UntrustedServer<S> {
    /// A connection over which nothing was sent yet.
    pub fn new(stream: S) -> Self {
        let (came, written) = (Frames::after(0), Frames::after(PREFACE.len()));
        Self { stream, came, written, budget: Budget::new(Instant::now()) }
    }

    fn read(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (budget, now, mut is_enough) = (&mut self.budget, Instant::now(), true);
        self.came.read(bytes, |frame| is_enough &= budget.take_of_server(&frame, now));
        match is_enough {
            true => Ok(()),
            false => {
                let text = "the server sends too many frames that carry nothing";
                Err(io::Error::new(io::ErrorKind::InvalidData, text))
            }
        }
    }

    fn wrote(&mut self, bytes: &[u8]) {
        let budget = &mut self.budget;
        self.written.read(bytes, |frame| {
            if matches!(frame.kind, DATA | HEADERS) {
                budget.earn_frame();
            }
        });
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for UntrustedServer<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        Poll::Ready(self.read(&buffer.filled()[before..]))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for UntrustedServer<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let length = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.wrote(&bytes[..length]);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http::Request;
    use http_body_util::{BodyExt, Full};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::timeout,
    };

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// Asks the server at the other end, and returns the response with its body.
    async fn ask(stream: DuplexStream) -> hyper::Result<Bytes> {
        let io = TokioIo::new(UntrustedServer::new(stream));
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        let request = Request::get("http://a.example/").body(Full::<Bytes>::default()).unwrap();
        Ok(sender.send_request(request).await?.into_body().collect().await?.to_bytes())
    }

    #[tokio::test]
    async fn a_server_that_floods_loses_its_connection_and_one_that_streams_does_not() {
        // `:status` 103, and 200.
        let early = frame(1, 4, 1, &[0x08, 3, b'1', b'0', b'3']);
        let head = frame(1, 4, 1, &[0x88]);
        let (ping, settings) = (frame(6, 0, 0, &[0; 8]), frame(4, 0, 0, &[]));
        let window = frame(8, 0, 0, &[0, 0, 0, 1]);
        for (name, first, flood, is_good) in [
            ("ping", &[][..], ping, false),
            ("settings", &[], settings, false),
            ("window", &[], window, false),
            ("early hints", &[], early, false),
            ("empty data", &head, frame(0, 0, 1, &[]), false),
            ("data", &head, frame(0, 0, 1, b"x"), true),
        ] {
            let (client, mut server) = duplex(1 << 16);
            let asked = tokio::spawn(ask(client));
            server.write_all(&frame(4, 0, 0, &[])).await.unwrap();
            let (mut frames, mut is_asked) = (Frames::after(PREFACE.len()), false);
            while !is_asked {
                let mut space = [0; 4096];
                let read = server.read(&mut space).await.unwrap();
                frames.read(&space[..read], |frame| is_asked |= frame.kind == HEADERS);
            }
            let (mut read, mut write) = tokio::io::split(server);
            tokio::spawn(
                async move { while matches!(read.read(&mut [0; 4096]).await, Ok(1..)) {} },
            );
            write.write_all(first).await.unwrap();
            let mut sent = 0;
            while sent < 50_000 && write.write_all(&flood).await.is_ok() {
                sent += 1;
            }
            let _ = write.write_all(&frame(0, 1, 1, &[])).await;
            let asked = timeout(Duration::from_secs(10), asked).await.expect(name).unwrap();
            match is_good {
                true => assert_eq!(asked.expect(name).len(), 50_000),
                false => assert!(asked.is_err() && sent < 12_000, "{name}: {sent}"),
            }
        }
    }
}
