use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{
    Fault, Verdict,
    chunks::{Chunks, Judged},
    head::{Framing, Head},
    held::{HeldHead, HeldHeads},
};
use crate::{
    activity::Activity,
    limits::{LINGER_BYTES_MAX, LINGER_TIME_MAX},
};

/// In the place of a head that is refused: the service is called for it, as for every request in
/// its turn, and the response is the refusal.
const REFUSED: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

/// A stream of requests. A head is passed on when it has come in full and is good; a body as it
/// comes.
#[derive(Debug)]
pub(crate) struct StrictStream<'a, S> {
    stream: S,
    head_bytes_max: usize,
    part: Part,
    /// Heads that were passed on.
    requests: u64,
    heads: &'a HeldHeads,
    /// The beginning of a head.
    held: HeldHead<'a>,
    /// Judged, and not yet taken, from `passed` on.
    ready: Vec<u8>,
    passed: usize,
    verdict: &'a Verdict,
    activity: &'a Activity,
    /// What a broken body ends with, once its good part was taken.
    broken: bool,
    flush_waits: bool,
    linger: Option<(Pin<Box<Sleep>>, usize)>,
}

#[derive(Debug)]
enum Part {
    Head(Head),
    Body(u64),
    Chunks(Chunks),
}

impl Default for Part {
    fn default() -> Self {
        Self::Head(Head::default())
    }
}

impl<'a, S> StrictStream<'a, S> {
    pub fn new(
        stream: S,
        head_bytes_max: usize,
        heads: &'a HeldHeads,
        verdict: &'a Verdict,
        activity: &'a Activity,
    ) -> Self {
        Self {
            stream,
            head_bytes_max,
            part: Part::default(),
            requests: 0,
            heads,
            held: HeldHead::new(heads),
            ready: Vec::new(),
            passed: 0,
            verdict,
            activity,
            broken: false,
            flush_waits: false,
            linger: None,
        }
    }

    /// Goes on with what was read of the stream before.
    pub fn begin_with(&mut self, mut bytes: Vec<u8>) {
        let passing = self.sift(&bytes);
        bytes.truncate(passing);
        bytes.append(&mut self.ready); // the place of a head that was refused
        self.ready = bytes;
        self.note();
    }

    /// Notes how much of the requests was passed on.
    fn note(&self) {
        let is_between = matches!(&self.part, Part::Head(head) if head.is_new());
        let is_within = !is_between || !self.held.bytes().is_empty() || !self.ready.is_empty();
        self.verdict.came(self.requests, is_within);
    }

    /// The stream beneath.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Takes back what was passed on and not used.
    pub fn put_back(&mut self, bytes: &[u8]) {
        self.ready.splice(..self.passed, bytes.iter().copied());
        self.passed = 0;
    }

    /// The stream, and what was read of it and not taken: nothing of that is judged any more.
    pub fn into_parts(mut self) -> (S, Vec<u8>) {
        let mut left = self.ready.split_off(self.passed);
        left.append(&mut self.held.take());
        (self.stream, left)
    }

    /// How many of `bytes`, the next that have come, may be passed on now. The rest is held, or is
    /// never passed on.
    fn sift(&mut self, bytes: &[u8]) -> usize {
        if self.held.bytes().is_empty() {
            let passing = self.judge(bytes);
            self.hold(&bytes[passing..]);
            return passing;
        }
        if !self.hold(bytes) {
            return 0;
        }
        let mut held = std::mem::replace(&mut self.held, HeldHead::new(self.heads));
        let passing = self.judge(held.bytes());
        if passing == 0 && !self.verdict.is_refused() {
            self.held = held;
            return 0;
        }
        let mut held = held.take();
        self.hold(&held[passing..]);
        held.truncate(passing);
        // What was judged comes before a refusal that it may have ended in.
        held.append(&mut self.ready);
        self.ready = held;
        0
    }

    /// Keeps `bytes` until the rest of their head is there. False when nothing more is read.
    fn hold(&mut self, bytes: &[u8]) -> bool {
        if self.verdict.is_refused() {
            return false;
        }
        let is_held = self.held.hold(bytes);
        if !is_held {
            self.verdict.refuse(self.requests + 1, Fault::BUSY);
            self.ready.extend_from_slice(REFUSED);
            self.held.take();
        }
        is_held
    }

    /// How many of `bytes` are good: whole heads, and bodies as far as they go.
    fn judge(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            match &mut self.part {
                Part::Head(head) => match head.read(&bytes[at..], self.head_bytes_max) {
                    Ok(None) => break,
                    Ok(Some((length, framing))) => {
                        at += length;
                        self.requests += 1;
                        self.part = match framing {
                            Framing::None | Framing::Length(0) => Part::default(),
                            Framing::Length(length) => Part::Body(length),
                            Framing::Chunked => Part::Chunks(Chunks::default()),
                        };
                    }
                    Err(fault) => {
                        self.verdict.refuse(self.requests + 1, fault);
                        self.ready.extend_from_slice(REFUSED);
                        break;
                    }
                },
                Part::Body(left) => {
                    let taken = (*left).min((bytes.len() - at) as u64);
                    at += taken as usize; // no more than there is
                    *left -= taken;
                    if *left == 0 {
                        self.part = Part::default();
                    }
                }
                Part::Chunks(chunks) => match chunks.read(&bytes[at..]) {
                    Judged::Whole => at = bytes.len(),
                    Judged::End(length) => {
                        at += length;
                        self.part = Part::default();
                    }
                    Judged::Broken(length, fault) => {
                        at += length;
                        self.verdict.refuse(self.requests, fault);
                        self.broken = true;
                        break;
                    }
                },
            }
        }
        at
    }

    fn take_ready(&mut self, buffer: &mut ReadBuf<'_>) {
        let length = buffer.remaining().min(self.ready.len() - self.passed);
        buffer.put_slice(&self.ready[self.passed..self.passed + length]);
        self.passed += length;
        if self.passed == self.ready.len() {
            (self.ready, self.passed) = (Vec::new(), 0);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StrictStream<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.ready.is_empty() {
                this.take_ready(buffer);
                this.note();
                return Poll::Ready(Ok(()));
            }
            if this.broken {
                let error = io::Error::new(io::ErrorKind::InvalidData, "the body is malformed");
                return Poll::Ready(Err(error));
            }
            if this.verdict.is_refused() {
                return Poll::Pending; // the refusal is written, which nothing waits for
            }
            let before = buffer.filled().len();
            let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(cx, buffer) else {
                if !matches!(this.part, Part::Head(_)) {
                    this.activity.wait_for_body();
                }
                return Poll::Pending;
            };
            read?;
            if !matches!(this.part, Part::Head(_)) {
                this.activity.moved(buffer.filled().len() - before);
            }
            if buffer.filled().len() == before {
                return Poll::Ready(Ok(())); // the end; a head that is not complete is no request
            }
            let passing = this.sift(&buffer.filled()[before..]);
            this.note();
            buffer.set_filled(before + passing);
            if passing > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> StrictStream<'_, S> {
    /// Reads what a refused client is still sending, for a while: a socket that is closed with
    /// bytes unread resets the connection, and the client may lose the response.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (deadline, left) =
            self.linger.get_or_insert_with(|| (Box::pin(sleep(LINGER_TIME_MAX)), LINGER_BYTES_MAX));
        let mut space = [0; 4096];
        while *left > 0 && deadline.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut space);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    *left = left.saturating_sub(buffer.filled().len());
                }
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for StrictStream<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.activity.wrote(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.activity.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        if polled.is_pending() {
            self.activity.wait(); // TLS has taken what its client has not
        } else if self.flush_waits {
            self.activity.moved(0);
        }
        self.flush_waits = polled.is_pending();
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        if !self.verdict.is_refused() {
            return Poll::Ready(Ok(()));
        }
        self.poll_linger(cx)
    }
}
