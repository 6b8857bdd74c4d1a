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
use crate::{
    limits::{HEAD_BYTES_MAX, HTTP2_STREAMS_MAX},
    strict::{HeldHead, HeldHeads},
};

/// The bytes of a connection, on their way to and from h2. It follows where frames begin, and fails
/// when too many of them carry nothing. A header block is passed on when it has come in full: h2
/// makes up to 200 KiB of the beginning of one.
#[derive(Debug)]
pub(super) struct Guard<'a, S> {
    stream: S,
    streams: Arc<Streams>,
    came: Frames,
    heads: &'a HeldHeads,
    /// The beginning of a header block, or of a frame.
    held: HeldHead<'a>,
    /// What was held until now, and is not yet taken, from `passed` on.
    ready: Vec<u8>,
    passed: usize,
    written: Frames,
    budget: Budget,
}

impl<'a, S> Guard<'a, S> {
    pub fn new(stream: S, streams: Arc<Streams>, heads: &'a HeldHeads) -> Self {
        Self {
            stream,
            streams,
            came: Frames::after(PREFACE.len()),
            heads,
            held: HeldHead::new(heads),
            ready: Vec::new(),
            passed: 0,
            written: Frames::after(0),
            budget: Budget::new(Instant::now()),
        }
    }

    /// How many of `bytes`, the next that have come, may be passed on now. The rest is held.
    fn sift(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let passing = self.read(bytes)?;
        if self.held.bytes().is_empty() {
            self.hold(&bytes[passing..])?;
            return Ok(passing);
        }
        if passing == 0 {
            self.hold(bytes)?;
            return Ok(0);
        }
        let mut whole = std::mem::replace(&mut self.held, HeldHead::new(self.heads)).take();
        whole.extend_from_slice(&bytes[..passing]);
        self.ready = whole;
        self.hold(&bytes[passing..])?;
        Ok(0)
    }

    fn hold(&mut self, bytes: &[u8]) -> io::Result<()> {
        let is_short = self.held.bytes().len() + bytes.len() <= HEAD_BYTES_MAX;
        match is_short && self.held.hold(bytes) {
            true => Ok(()),
            false => Err(io::Error::other("an unfinished head is too long, or one too many")),
        }
    }

    fn take_ready(&mut self, buffer: &mut ReadBuf<'_>) {
        let length = buffer.remaining().min(self.ready.len() - self.passed);
        buffer.put_slice(&self.ready[self.passed..self.passed + length]);
        self.passed += length;
        if self.passed == self.ready.len() {
            (self.ready, self.passed) = (Vec::new(), 0);
        }
    }

    /// How many of `bytes` are no beginning of something.
    fn read(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (streams, budget) = (&self.streams, &mut self.budget);
        let now = Instant::now();
        let mut is_enough = true;
        let whole = self.came.read(bytes, |frame| {
            let is_refused = streams.came(&frame, HTTP2_STREAMS_MAX);
            is_enough &= budget.take(&frame, is_refused, now);
        });
        match is_enough {
            true => Ok(whole),
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
                budget.earn_frame();
            }
        });
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.ready.is_empty() {
                this.take_ready(buffer);
                return Poll::Ready(Ok(()));
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
            if buffer.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
            let passing = this.sift(&buffer.filled()[before..])?;
            buffer.set_filled(before + passing);
            if passing > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.streams.activity.wrote(&polled);
        let length = ready!(polled)?;
        self.wrote(&bytes[..length]);
        Poll::Ready(Ok(length))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.streams.activity.wrote(&polled);
        let length = ready!(polled)?;
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
