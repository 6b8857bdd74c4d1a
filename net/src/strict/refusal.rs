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
    FileBody, Tunnel,
    activity::{Activity, AnsweringBody},
    files::{HandOver, Placeholder},
};

/// What the service answers, or what is answered in its place.
pub(crate) type Answered<B> = Either<AnsweringBody<B>, Either<Full<Bytes>, Placeholder>>;

/// Calls `service` for each request of one connection in its turn. It is not called for what was
/// refused, and a request whose body turns out to be broken ends with the refusal.
pub(crate) struct StrictService<'a, H> {
    service: &'a H,
    verdict: &'a Verdict,
    activity: &'a Arc<Activity>,
    requests: AtomicU64,
    /// Of a response that was the last one.
    tunnel: Mutex<Option<Tunnel>>,
    /// Where files go that are bodies, on a connection that takes them.
    files: Option<Arc<HandOver>>,
}

impl<'a, H, B> StrictService<'a, H>
where
    H: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes> + Unpin,
{
    pub fn new(service: &'a H, verdict: &'a Verdict, activity: &'a Arc<Activity>) -> Self {
        let (requests, tunnel) = (AtomicU64::new(0), Mutex::default());
        Self { service, verdict, activity, requests, tunnel, files: None }
    }

    pub fn with_files(self, files: Arc<HandOver>) -> Self {
        Self { files: Some(files), ..self }
    }

    /// How many requests were taken.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
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

    /// With what stands for its file, where its body is one.
    fn with_file(&self, mut response: Response<B>) -> Response<Answered<B>> {
        match (response.extensions_mut().remove::<FileBody>(), &self.files) {
            (Some(file), Some(files)) => {
                self.activity.answer(); // until it was sent
                let placeholder = files.prepare(file);
                response.map(|_| Either::Right(Either::Right(placeholder)))
            }
            _ => response.map(|body| Either::Left(AnsweringBody::new(body, self.activity.clone()))),
        }
    }

    pub async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Answered<B>>, Infallible> {
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
                self.with_file(response)
            }),
        })
        .await
    }
}

impl Fault {
    /// The refusal of a request whose connection ends with it.
    fn into_last_response<B>(self) -> Response<Answered<B>> {
        let mut response = self.refusal();
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response.map(|text| Either::Right(Either::Left(text)))
    }

    pub fn into_response<B>(self) -> Response<Either<B, Full<Bytes>>> {
        self.refusal().map(Either::Right)
    }

    fn refusal(self) -> Response<Full<Bytes>> {
        tracing::debug!(status = self.status.as_u16(), why = self.text, "refused a request");
        let text = format!("E_REQUEST: {}\n", self.text);
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}
