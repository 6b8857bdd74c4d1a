use std::{
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header, response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use net::DrainedBody;
use tokio::time::Instant;
use wasmtime_wasi_http::{Error, WasiBody};

use super::{container::Fault, meter::Meter};
use crate::usage::add;

/// A response's body on its way out, counted.
pub(super) struct ResponseBody {
    content: Content,
    meter: Arc<Meter>,
}

enum Content {
    /// Complete: it leaves in one piece, with its length.
    Whole { data: Option<Bytes>, trailers: Option<HeaderMap> },
    /// As the guest writes it, with the run's fault: a guest that breaks drops its end of the body
    /// as if the body were complete.
    Stream(WasiBody, Arc<OnceLock<Fault>>, Arc<Progress>),
}

/// When the last piece of a response was taken from its guest.
#[derive(Debug)]
pub(super) struct Progress(Mutex<Instant>);

impl Progress {
    pub fn begins() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Instant::now())))
    }

    pub fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn made(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

impl ResponseBody {
    pub fn whole(data: Bytes, trailers: Option<HeaderMap>, meter: Arc<Meter>) -> Self {
        let data = (!data.is_empty()).then_some(data);
        Self { content: Content::Whole { data, trailers }, meter }
    }

    pub fn stream(
        body: WasiBody,
        fault: Arc<OnceLock<Fault>>,
        progress: Arc<Progress>,
        meter: Arc<Meter>,
    ) -> Self {
        Self { content: Content::Stream(body, fault, progress), meter }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let mut frame = match &mut this.content {
            Content::Whole { data, trailers } => {
                let frame =
                    data.take().map(Frame::data).or_else(|| trailers.take().map(Frame::trailers));
                Poll::Ready(frame.map(Ok))
            }
            Content::Stream(body, fault, progress) => match Pin::new(body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    progress.made();
                    Poll::Ready(Some(Ok(frame)))
                }
                Poll::Ready(None) if fault.get().is_some() => {
                    Poll::Ready(Some(Err(Error::HttpResponseIncomplete)))
                }
                frame => frame,
            },
        };
        if let Poll::Ready(Some(Ok(frame))) = &mut frame {
            match (frame.data_ref().map(Bytes::len), frame.trailers_mut()) {
                (Some(length), _) => add(&this.meter.page.bytes_out, length as u64),
                (None, Some(trailers)) => net::remove_own(trailers),
                (None, None) => {}
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole { data, trailers } => data.is_none() && trailers.is_none(),
            // Whether that is its end, or the guest's, shows when it is polled.
            Content::Stream(..) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole { data, trailers: None } => {
                SizeHint::with_exact(data.as_ref().map_or(0, Bytes::len) as u64)
            }
            Content::Whole { .. } => SizeHint::default(),
            Content::Stream(body, ..) => body.size_hint(),
        }
    }
}

/// The frames of a body whose writer is done. `None` when it is not complete, which is its writer's
/// fault.
pub(super) fn collected(mut body: WasiBody) -> Result<Option<(Bytes, Option<HeaderMap>)>, Error> {
    let (mut first, mut more, mut trailers) = (Bytes::new(), BytesMut::new(), None);
    loop {
        match body.frame().now_or_never() {
            None => return Ok(None),
            Some(None) => {
                let data = if more.is_empty() { first } else { more.freeze() };
                return Ok(Some((data, trailers)));
            }
            Some(Some(frame)) => match frame?.into_data() {
                Ok(data) if first.is_empty() => first = data,
                Ok(data) => {
                    if more.is_empty() {
                        more.extend_from_slice(&first);
                    }
                    more.extend_from_slice(&data);
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
        }
    }
}

/// A request's body on its way in, counted and bounded.
pub(super) struct RequestBody {
    body: DrainedBody,
    left: u64,
    max: u64,
    meter: Arc<Meter>,
}

impl RequestBody {
    pub fn new(body: Incoming, max: u64, meter: Arc<Meter>) -> Self {
        Self { body: DrainedBody::new(body), left: max, max, meter }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut polled = Pin::new(&mut self.body).poll_frame(cx).map_err(Error::from);
        let Poll::Ready(Some(Ok(frame))) = &mut polled else { return polled };
        if let Some(trailers) = frame.trailers_mut() {
            net::remove_claims(trailers);
        }
        if let Some(data) = frame.data_ref() {
            add(&self.meter.page.bytes_in, data.len() as u64);
            match self.left.checked_sub(data.len() as u64) {
                Some(left) => self.left = left,
                None => return Poll::Ready(Some(Err(Error::HttpRequestBodySize(Some(self.max))))),
            }
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

/// The head of a guest's response as it leaves: with a status that ends a request, and without what
/// only margay says.
pub(super) fn judged(mut head: response::Parts) -> Result<response::Parts, Fault> {
    match head.status.as_u16() {
        200..=599 => {
            net::remove_own(&mut head.headers);
            Ok(head)
        }
        status => Err(Fault::Status(status)),
    }
}

/// The response when the guest gives none: a code and a sentence. Details are in the log.
pub(super) fn fault_response(fault: &Fault, meter: Arc<Meter>) -> Response<ResponseBody> {
    let status = match fault {
        Fault::Cpu(_) | Fault::Wall(_) | Fault::Idle(_) => StatusCode::GATEWAY_TIMEOUT,
        Fault::Memory(_) | Fault::Handles(_) | Fault::Busy => StatusCode::SERVICE_UNAVAILABLE,
        Fault::Trap(_) | Fault::NoAnswer | Fault::Status(_) => StatusCode::BAD_GATEWAY,
    };
    let sentence = match fault {
        Fault::Trap(_) => "the app broke while it answered".to_owned(),
        other => format!("the app gave no answer: {other}"),
    };
    error_response(status, fault.code(), &sentence, meter)
}

pub(super) fn error_response(
    status: StatusCode,
    code: &'static str,
    sentence: &str,
    meter: Arc<Meter>,
) -> Response<ResponseBody> {
    let mut response =
        Response::new(ResponseBody::whole(format!("{code}: {sentence}\n").into(), None, meter));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert("margay-error", HeaderValue::from_static(code));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_answers_with_a_final_status_and_not_in_the_name_of_margay() {
        for (status, want) in [
            (200, true),
            (204, true),
            (404, true),
            (599, true),
            (100, false),
            (101, false),
            (199, false),
            (600, false),
            (999, false),
        ] {
            let head = Response::builder().status(status).header("server", "guest");
            let head = head.header("margay-error", "E_CPU").header("X_Margay_Hop", "n1");
            match judged(head.body(()).unwrap().into_parts().0) {
                Ok(head) => assert!(want && head.headers.len() == 1, "{status}: {head:?}"),
                Err(fault) => assert!(!want && fault == Fault::Status(status), "{status}"),
            }
        }
    }
}
