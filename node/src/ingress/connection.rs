use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, BytesMut};
use net::Duplex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::limits::{RESPONSE_BYTES_AHEAD, RESPONSE_BYTES_FIRST};

/// A connection to a replica, or to the ingress that leads to it.
pub(super) struct Connection {
    stream: Box<dyn Duplex>,
    /// What was read and not taken.
    came: BytesMut,
    /// How much is read at once: more, when so much was there.
    step: usize,
    /// What goes out, from `written` on.
    out: Vec<u8>,
    written: usize,
    /// Whether anything of this request was sent, or anything came for it.
    touched: bool,
    /// Whether it has carried a request before, so that the replica may have closed it meanwhile.
    pub used: bool,
}

impl Connection {
    pub fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            came: BytesMut::new(),
            step: RESPONSE_BYTES_FIRST,
            out: Vec::new(),
            written: 0,
            touched: false,
            used: false,
        }
    }

    pub fn came(&mut self) -> &mut BytesMut {
        &mut self.came
    }

    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Whether nothing of this request was sent.
    pub fn is_untouched(&self) -> bool {
        !self.touched
    }

    /// Whether nothing has come while no request was under way, not even its end.
    pub fn is_alive(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.came.is_empty() && self.poll_read(&mut cx).is_pending()
    }

    /// Whether nothing of a request or a response is left on it.
    pub fn is_at_rest(&self) -> bool {
        self.came.is_empty() && self.out.is_empty()
    }

    /// Ready for the next request: what a large response needed is given back.
    pub fn rest(&mut self) {
        (self.used, self.touched) = (true, false);
        if self.step > RESPONSE_BYTES_FIRST {
            self.came = BytesMut::new();
            self.step = RESPONSE_BYTES_FIRST;
        }
        self.out.shrink_to(RESPONSE_BYTES_FIRST);
    }

    /// Reads what has come, and how much that was.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.came.reserve(self.step);
        let room = self.came.capacity() - self.came.len();
        let read = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.came))?;
        if read == room {
            self.step = (2 * self.step).min(RESPONSE_BYTES_AHEAD);
        }
        Poll::Ready(Ok(read))
    }

    /// Writes all that is to go out.
    pub fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.written < self.out.len() {
            let left = &self.out[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
            self.touched = true;
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.out.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    pub fn upgraded(self) -> Upgraded {
        Upgraded { came: self.came, stream: self.stream }
    }
}

/// A connection that is HTTP no more, with what came behind the response.
pub(super) struct Upgraded {
    came: BytesMut,
    stream: Box<dyn Duplex>,
}

impl AsyncRead for Upgraded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.came.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.came.len().min(buffer.remaining());
        buffer.put_slice(&self.came[..length]);
        self.came.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
