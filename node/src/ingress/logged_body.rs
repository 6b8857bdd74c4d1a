use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{access_entry::Entry, access_log::AccessLog, response_body::ResponseBody};

/// The line of one request, written when nothing of it goes on: also when its client has gone.
pub(super) struct Pending {
    pub entry: Entry,
    pub log: Arc<AccessLog>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.log.write(&self.entry);
    }
}

/// A response, counted for the access log where there is one.
pub(super) struct LoggedBody {
    body: ResponseBody,
    pending: Option<Box<Pending>>,
}

impl LoggedBody {
    pub fn new(body: ResponseBody, pending: Option<Box<Pending>>) -> Self {
        Self { body, pending }
    }
}

impl Body for LoggedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let (Some(pending), Poll::Ready(frame)) = (&mut self.pending, &frame) {
            let outcome = &mut pending.entry.outcome;
            match frame {
                Some(Ok(frame)) => {
                    outcome.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                }
                Some(Err(_)) => {}
                None => outcome.is_whole = true,
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for LoggedBody {
    fn drop(&mut self) {
        if let Some(pending) = &mut self.pending {
            // Not every end is asked for: a length has told it.
            pending.entry.outcome.is_whole |= self.body.is_end_stream();
        }
    }
}
