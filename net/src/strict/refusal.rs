use std::{
    convert::Infallible,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::Body;
use http_body_util::{Either, Full};
use hyper::{body::Incoming, service::Service};

use super::{Fault, Verdict};
use crate::{
    Tunnel,
    activity::{Activity, AnsweringBody},
};

/// Calls `service` for each request of one connection in its turn. It is not called for what was
/// refused, and a request whose body turns out to be broken ends with the refusal.
pub(crate) struct StrictService<'a, H> {
    service: &'a H,
    verdict: &'a Verdict,
    activity: &'a Arc<Activity>,
    requests: AtomicU64,
    /// Of a response that was the last one.
    tunnel: Mutex<Option<Tunnel>>,
}

impl<'a, H, B> StrictService<'a, H>
where
    H: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes> + Unpin,
{
    pub fn new(service: &'a H, verdict: &'a Verdict, activity: &'a Arc<Activity>) -> Self {
        let (requests, tunnel) = (AtomicU64::new(0), Mutex::default());
        Self { service, verdict, activity, requests, tunnel }
    }

    /// Where the connection goes on when it is HTTP no more. Nowhere when it was refused.
    pub fn take_tunnel(&self) -> Option<Tunnel> {
        let tunnel = self.tunnel.lock().unwrap_or_else(PoisonError::into_inner).take();
        tunnel.filter(|_| !self.verdict.is_refused())
    }

    fn keep_tunnel(&self, response: &mut Response<B>) {
        if let Some(tunnel) = response.extensions_mut().remove::<Tunnel>() {
            *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
        }
    }

    pub async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Either<AnsweringBody<B>, Full<Bytes>>>, Infallible> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(fault) = self.verdict.fault_of(number) {
            return Ok(fault.into_last_response());
        }
        self.activity.ask();
        let mut response = pin!(self.service.call(request));
        poll_fn(|cx| match self.verdict.fault_of(number) {
            // The body is read by the task that polls this, so it is seen at once.
            Some(fault) => Poll::Ready(Ok(fault.into_last_response())),
            None => response.as_mut().poll(cx).map_ok(|mut response| {
                self.keep_tunnel(&mut response);
                response.map(|body| Either::Left(AnsweringBody::new(body, self.activity.clone())))
            }),
        })
        .await
    }
}

impl Fault {
    /// The refusal of a request whose connection ends with it.
    fn into_last_response<B>(self) -> Response<Either<B, Full<Bytes>>> {
        let mut response = self.into_response();
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }

    pub fn into_response<B>(self) -> Response<Either<B, Full<Bytes>>> {
        tracing::debug!(status = self.status.as_u16(), why = self.text, "refused a request");
        let text = format!("E_REQUEST: {}\n", self.text);
        let mut response = Response::new(Either::Right(Full::from(text)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}
