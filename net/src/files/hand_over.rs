use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::FileBody;

/// hyper writes a head, or nothing.
const HEAD: u8 = 0;
/// It asks for the first byte of the body: the head is in its buffer.
const ASKED: u8 = 1;
/// And that is empty.
const FLUSHED: u8 = 2;

/// Where one connection is on the way from hyper to the file, which is the body of a response.
#[derive(Default)]
pub(crate) struct HandOver {
    step: AtomicU8,
    file: Mutex<Option<FileBody>>,
}

/// In the place of the file, for hyper: it knows how long it is and never has a byte.
pub(crate) struct Placeholder {
    hand_over: Arc<HandOver>,
    length: u64,
}

/// The connection, which notices when everything that was written has left hyper.
pub(crate) struct FlushNoticed {
    /// Not there while a file is sent.
    pub stream: Option<TcpStream>,
    pub hand_over: Arc<HandOver>,
}

impl HandOver {
    /// Keeps `file` until the head of its response was written.
    pub fn prepare(self: &Arc<Self>, file: FileBody) -> Placeholder {
        let length = file.length();
        self.step.store(HEAD, Ordering::Relaxed);
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Placeholder { hand_over: Arc::clone(self), length }
    }

    /// The file, once the connection is to be taken from hyper.
    pub fn take_file(&self) -> Option<FileBody> {
        let is_flushed = self.step.load(Ordering::Relaxed) == FLUSHED;
        is_flushed.then(|| self.file.lock().unwrap_or_else(PoisonError::into_inner).take())?
    }

    fn advance(&self, from: u8, to: u8) {
        // hyper and this are polled by one task: the order of its own steps is all there is.
        let _ = self.step.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl Body for Placeholder {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.hand_over.advance(HEAD, ASKED);
        Poll::Pending
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

impl FlushNoticed {
    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for FlushNoticed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for FlushNoticed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true // as a socket is
    }

    /// hyper comes here when its buffer is empty.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.hand_over.advance(ASKED, FLUSHED);
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}
