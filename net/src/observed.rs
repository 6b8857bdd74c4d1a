use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// What is told of a body while it is sent. It is dropped with it, also when its client has gone.
pub trait BodyObserver: Unpin {
    fn sent(&mut self, bytes: u64);

    /// All of it was taken, perhaps more than once.
    fn ended(&mut self) {}
}

impl<O: BodyObserver> BodyObserver for Option<Box<O>> {
    fn sent(&mut self, bytes: u64) {
        self.iter_mut().for_each(|observer| observer.sent(bytes));
    }

    fn ended(&mut self) {
        self.iter_mut().for_each(|observer| observer.ended());
    }
}

/// The body of a response, counted while it is sent.
pub struct ObservedBody<B: Body, O: BodyObserver> {
    body: B,
    observer: O,
}

impl<B: Body, O: BodyObserver> ObservedBody<B, O> {
    pub fn new(body: B, observer: O) -> Self {
        Self { body, observer }
    }
}

impl<B: Body<Data = Bytes> + Unpin, O: BodyObserver> Body for ObservedBody<B, O> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.observer.sent(frame.data_ref().map_or(0, |data| data.len() as u64));
            }
            Poll::Ready(None) => self.observer.ended(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: Body, O: BodyObserver> Drop for ObservedBody<B, O> {
    fn drop(&mut self) {
        // Not every end is asked for: a length has told it.
        if self.body.is_end_stream() {
            self.observer.ended();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http_body_util::{BodyExt, Full};

    use super::*;

    #[derive(Default, Clone)]
    struct Seen(Arc<Mutex<(u64, bool)>>);

    impl BodyObserver for Seen {
        fn sent(&mut self, bytes: u64) {
            self.0.lock().unwrap().0 += bytes;
        }

        fn ended(&mut self) {
            self.0.lock().unwrap().1 = true;
        }
    }

    /// So many bytes, one by one.
    struct Pieces(u8);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            let Some(left) = self.0.checked_sub(1) else { return Poll::Ready(None) };
            self.0 = left;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"a")))))
        }
    }

    #[tokio::test]
    async fn a_body_that_is_not_taken_whole_has_no_end() {
        for (frames, want) in [(0, (0, false)), (1, (4, true))] {
            let seen = Seen::default();
            let mut body = ObservedBody::new(Full::from("four"), Some(Box::new(seen.clone())));
            for _ in 0..frames {
                body.frame().await.expect("it has one").unwrap();
            }
            drop(body);
            assert_eq!(*seen.0.lock().unwrap(), want, "{frames} frames of a known length");
        }
        for (frames, want) in [(1, (1, false)), (2, (2, false)), (3, (2, true))] {
            let seen = Seen::default();
            let mut body = ObservedBody::new(Pieces(2), seen.clone());
            for _ in 0..frames {
                body.frame().await;
            }
            drop(body);
            assert_eq!(*seen.0.lock().unwrap(), want, "{frames} frames of an unknown one");
        }
    }
}
