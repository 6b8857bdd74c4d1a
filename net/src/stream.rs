//! Bodies that are written while they are sent, and frames in both directions over one request.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame as BodyFrame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use spec::{Frame, Frames};
use tokio::sync::mpsc;

use crate::limits::STREAM_FRAMES_AHEAD;

/// A body of the frames that its [`FrameSender`] is given. It ends with that.
#[derive(Debug)]
pub struct FrameBody(mpsc::Receiver<Bytes>);

/// The other end of a [`FrameBody`]: it waits while the peer reads more slowly than frames come.
#[derive(Debug, Clone)]
pub struct FrameSender(mpsc::Sender<Bytes>);

/// A body, and what to write into it.
pub fn frame_body() -> (FrameSender, FrameBody) {
    let (sender, receiver) = mpsc::channel(STREAM_FRAMES_AHEAD);
    (FrameSender(sender), FrameBody(receiver))
}

/// The body is not read any more: its peer is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the other end of the stream is gone")]
pub struct Gone;

impl FrameSender {
    /// Sends a frame, when there is room for it.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn send(&self, frame: &Frame) -> Result<(), Gone> {
        self.send_whole(frame.encode()).await
    }

    /// Sends the bytes of a whole frame.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn send_whole(&self, bytes: Vec<u8>) -> Result<(), Gone> {
        self.0.send(bytes.into()).await.map_err(|_| Gone)
    }

    /// As [`send`](Self::send), from a thread that may wait.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn send_blocking(&self, frame: &Frame) -> Result<(), Gone> {
        self.0.blocking_send(frame.encode().into()).map_err(|_| Gone)
    }

    /// Sends the bytes of whole frames, from a thread that may wait.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn send_whole_blocking(&self, bytes: Vec<u8>) -> Result<(), Gone> {
        self.0.blocking_send(bytes.into()).map_err(|_| Gone)
    }

    /// Sends a frame that may be left out when there is no room for it now.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn offer(&self, frame: &Frame) -> Result<(), Gone> {
        match self.0.try_send(frame.encode().into()) {
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Gone),
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => Ok(()),
        }
    }

    /// Whether the peer is gone.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Waits until the peer is gone.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

impl Body for FrameBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(BodyFrame::data(bytes))))
    }
}

/// Reads frames from a body.
#[derive(Debug)]
pub struct FrameReader {
    body: Incoming,
    frames: Frames,
}

impl FrameReader {
    pub fn new(body: Incoming) -> Self {
        Self { body, frames: Frames::default() }
    }

    /// The bytes of the next frame; nothing at the end of the body. What was read stays when this
    /// is dropped before it is ready.
    ///
    /// # Errors
    /// When the body breaks off or is none of frames.
    pub async fn next_whole(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let whole = self.frames.next_whole();
            if let Some(whole) = whole.map_err(invalid)? {
                return Ok(Some(whole));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    let frame = frame.map_err(io::Error::other)?;
                    if let Some(data) = frame.data_ref() {
                        self.frames.push(data);
                    }
                }
            }
        }
    }

    /// The bytes of the next frame, if it has come already.
    ///
    /// # Errors
    /// When it is none.
    pub fn whole_at_once(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.frames.next_whole().map_err(invalid)
    }

    /// The next frame; nothing at the end of the body.
    ///
    /// # Errors
    /// As [`next_whole`](Self::next_whole), and for a frame that is not known here.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        match self.next_whole().await? {
            Some(whole) => Frame::decode(&whole).map(Some).map_err(invalid),
            None => Ok(None),
        }
    }
}

fn invalid(error: spec::ParseError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
