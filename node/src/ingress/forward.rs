use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, Response, header};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    answer::Refusal,
    body::{Busy, Inbound, Outbound, Relayed, Turn},
    head,
    routes::{Arrival, Replica, Routes, Target},
    serve::Limits,
    upstream::{Lease, Upstream},
};

/// A replica that was killed is back within this, so a request that can wait does.
const REPLACEMENT_TIME_MAX: Duration = Duration::from_secs(1);
/// Between two looks at the routes while nobody can be reached.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Everything that answers requests.
pub(super) struct Forwarder {
    pub routes: Routes,
    pub upstream: Arc<Upstream>,
    pub limits: Limits,
}

/// How far an attempt with one replica got.
enum Attempt {
    Answered(Response<Incoming>, Lease),
    /// Nothing was sent: the request is whole.
    NotSent(Request<Inbound>, String),
    /// Something was sent, and no answer came.
    Lost(String),
    TooSlow,
}

impl Forwarder {
    /// Answers one request, whatever happens.
    pub async fn answer(
        &self,
        request: Request<Incoming>,
        sender: IpAddr,
        arrival: &Arrival,
    ) -> Response<Outbound> {
        match self.forward(request, sender, arrival).await {
            Ok(response) => response,
            Err(refusal) => {
                tracing::debug!(code = refusal.code, text = refusal.text, "refused");
                refusal.into_response().map(Outbound::Ours)
            }
        }
    }

    async fn forward(
        &self,
        request: Request<Incoming>,
        sender: IpAddr,
        arrival: &Arrival,
    ) -> Result<Response<Outbound>, Refusal> {
        if let Arrival::Peer(node) = arrival
            && !self.routes.knows(node)
        {
            return Err(Refusal::removed(node));
        }
        let host = head::host(&request)?;
        let bytes_max = self.limits.body_bytes_max;
        if request.body().size_hint().lower() > bytes_max {
            return Err(Refusal::too_large(bytes_max));
        }
        let mut parts = head::onward(&request, &host, sender, arrival)?;
        let body = Inbound::new(request.into_body(), bytes_max, self.limits.pace());
        if !body.is_empty() && !parts.headers.contains_key(header::CONTENT_LENGTH) {
            // Said aloud, because a GET is sent without its body otherwise.
            parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let again = (body.is_empty() && matches!(parts.method, Method::GET | Method::HEAD))
            .then(|| parts.clone());
        self.try_replicas(&host, arrival, Request::from_parts(parts, body), again).await
    }

    /// Tries the replicas of `host` until one answers. `again` is the head of a request that may be
    /// sent twice.
    async fn try_replicas(
        &self,
        host: &str,
        arrival: &Arrival,
        request: Request<Inbound>,
        again: Option<http::request::Parts>,
    ) -> Result<Response<Outbound>, Refusal> {
        let deadline = Instant::now() + REPLACEMENT_TIME_MAX;
        let mut request = request;
        let mut why;
        loop {
            let replicas =
                self.routes.candidates(host, arrival).ok_or_else(|| Refusal::no_route(host))?;
            why = Refusal::no_replica(host, "there is none");
            for replica in replicas {
                let busy = Busy::with(&replica.in_flight);
                match self.attempt(&replica, request).await {
                    Attempt::Answered(response, lease) => return Ok(relay(response, lease, busy)),
                    Attempt::TooSlow => return Err(Refusal::too_slow(host)),
                    Attempt::NotSent(whole, error) => {
                        request = whole;
                        why = Refusal::no_replica(host, &error);
                    }
                    Attempt::Lost(error) => {
                        why = Refusal::lost(host, &error);
                        // The body of a GET is empty, and an empty one is as good as another.
                        match &again {
                            Some(parts) if Instant::now() < deadline => {
                                request = Request::from_parts(parts.clone(), Inbound::none());
                            }
                            _ => return Err(why),
                        }
                    }
                }
            }
            if Instant::now() >= deadline {
                return Err(why);
            }
            sleep(LOOK_EVERY).await;
            self.routes.refresh();
        }
    }

    async fn attempt(&self, replica: &Replica, mut request: Request<Inbound>) -> Attempt {
        if let Target::There { node, .. } = &replica.target {
            let hop =
                HeaderValue::from_str(node.as_str()).unwrap_or(HeaderValue::from_static("node"));
            request.headers_mut().insert(head::HOP, hop);
        }
        let mut lease = match self.upstream.lease(&replica.target).await {
            Ok(lease) => lease,
            Err(error) => return Attempt::NotSent(request, error.to_string()),
        };
        loop {
            let turn = request.body().turn();
            match self.wait(&turn, lease.sender.try_send_request(request)).await {
                None => {
                    lease.cut();
                    return Attempt::TooSlow;
                }
                Some(Ok(response)) => return Attempt::Answered(response, lease),
                Some(Err(mut failed)) => match failed.take_message() {
                    // A kept connection that the other side had closed: a new one tells whether it
                    // is still there.
                    Some(whole) if lease.used => match self.upstream.fresh(&replica.target).await {
                        Ok(fresh) => (lease, request) = (fresh, whole),
                        Err(error) => return Attempt::NotSent(whole, error.to_string()),
                    },
                    Some(whole) => return Attempt::NotSent(whole, failed.into_error().to_string()),
                    None => return Attempt::Lost(crate::error::chain(&failed.into_error())),
                },
            }
        }
    }

    /// The answer, or `None` when the replica has had its turn for too long. A client that sends
    /// for long takes nothing of that time; the pace of the body bounds it.
    async fn wait<T>(&self, turn: &Turn, answer: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(answer);
        turn.give_to_replica();
        loop {
            let deadline =
                turn.replica_since().unwrap_or_else(Instant::now) + self.limits.answer_time_max;
            match timeout_at(deadline, &mut answer).await {
                Ok(answer) => return Some(answer),
                Err(_)
                    if turn
                        .replica_since()
                        .is_some_and(|since| since + self.limits.answer_time_max <= deadline) =>
                {
                    return None;
                }
                Err(_) => {}
            }
        }
    }
}

fn relay(response: Response<Incoming>, lease: Lease, busy: Busy) -> Response<Outbound> {
    let (mut parts, body) = response.into_parts();
    let closes = parts
        .headers
        .get(header::CONNECTION)
        .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"close"));
    head::back(&mut parts);
    let lease = match body.is_end_stream() {
        _ if closes => None,
        true => {
            lease.give_back();
            None
        }
        false => Some(lease),
    };
    Response::from_parts(parts, Outbound::Relayed(Relayed { body, lease, _busy: busy }))
}
