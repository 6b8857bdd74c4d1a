use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::streams::Alive;
use crate::limits::HTTP2_PIECE_BYTES_MAX;

/// The body of a response, in pieces of which h2 holds no more than one for each stream.
pub(super) struct StreamBody<B> {
    body: Pin<Box<B>>,
    /// What is left of a larger piece.
    rest: Bytes,
    alive: Alive,
}

impl<B> StreamBody<B> {
    pub fn new(body: B, alive: Alive) -> Self {
        Self { body: Box::pin(body), rest: Bytes::new(), alive }
    }
}

impl<B: Body<Data = Bytes>> Body for StreamBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.alive.taken();
        if self.rest.is_empty() {
            let Some(frame) = ready!(self.body.as_mut().poll_frame(cx)).transpose()? else {
                return Poll::Ready(None);
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        self.alive.handed_over();
        let length = self.rest.len().min(HTTP2_PIECE_BYTES_MAX);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, mut hint) = (self.rest.len() as u64, self.body.size_hint());
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}
