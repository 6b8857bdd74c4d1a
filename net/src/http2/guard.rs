use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    budget::Budget,
    frames::{Frames, PREFACE},
    streams::Streams,
};
use crate::limits::HTTP2_STREAMS_MAX;

/// The bytes of a connection, on their way to and from h2. It follows where frames begin, and fails
/// when too many of them carry nothing.
#[derive(Debug)]
pub(super) struct Guard<S> {
    stream: S,
    streams: Arc<Streams>,
    came: Frames,
    written: Frames,
    budget: Budget,
}

impl<S> Guard<S> {
    pub fn new(stream: S, streams: Arc<Streams>) -> Self {
        let (came, written) = (Frames::after(PREFACE.len()), Frames::after(0));
        Self { stream, streams, came, written, budget: Budget::new(Instant::now()) }
    }

    fn read(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (streams, budget) = (&self.streams, &mut self.budget);
        let now = Instant::now();
        let mut is_enough = true;
        self.came.read(bytes, |frame| {
            let is_refused = streams.came(&frame, HTTP2_STREAMS_MAX);
            is_enough &= budget.take(&frame, is_refused, now);
        });
        match is_enough {
            true => Ok(()),
            false => {
                let text = "too many frames that carry nothing";
                Err(io::Error::new(io::ErrorKind::InvalidData, text))
            }
        }
    }

    fn wrote(&mut self, bytes: &[u8]) {
        let (streams, budget) = (&self.streams, &mut self.budget);
        self.written.read(bytes, |frame| {
            if streams.wrote(&frame) {
                budget.earn_response();
            }
        });
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let length = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.wrote(&bytes[..length]);
        Poll::Ready(Ok(length))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?;
        let mut left = length;
        for slice in slices {
            let taken = left.min(slice.len());
            self.wrote(&slice[..taken]);
            left -= taken;
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
