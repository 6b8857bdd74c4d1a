use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use hyper::body::Incoming;
use net::{Scheme, Sender, TrustedProxies};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    ejection,
    error::GatewayError,
    grpc, head,
    limits::{BEYOND_THE_REPLICA, EJECTED_WAIT_MAX, Limits, REPLACEMENT_TIME_MAX, RETRY_EVERY},
    request_body::{ReplicaClock, RequestBody},
    response_body::{Idle, InFlight, Relayed, ResponseBody},
    routes::{Arrival, Number, Routes, Wanted},
    sticky,
    table::{Replica, Service, Target},
    upgrade::Upgrade,
    upstream::{Lease, Upstream},
};

/// Everything that answers requests.
pub(super) struct Forwarder {
    pub routes: Routes,
    pub upstream: Arc<Upstream>,
    pub limits: Limits,
    /// Whose word about their clients is taken.
    pub proxies: TrustedProxies,
}

/// How long a request and its response may take.
#[derive(Debug, Clone, Copy)]
struct Times {
    response: Duration,
    idle: Duration,
}

/// How far an attempt with one replica got.
enum Attempt {
    Answered(Response<Incoming>, Lease),
    /// Nothing was sent: the request is whole.
    NotSent(Request<RequestBody>, String),
    /// Something was sent, and no response came.
    Lost(String),
    /// The replica was ejected, and another one may be asked instead.
    Ejected,
    /// The replica was ejected and has not come back, and the request may not be sent twice.
    StoppedAnswering,
    TooSlow,
}

impl Attempt {
    /// Counts what became of it as the replica's.
    fn count(&self, replica: &Replica) {
        match self {
            Self::Answered(response, _) => replica.counts.answered(response.status()),
            Self::NotSent(..) => {}
            Self::Lost(_) | Self::Ejected | Self::StoppedAnswering | Self::TooSlow => {
                replica.counts.lost();
            }
        }
    }
}

impl Forwarder {
    /// Answers one request that came over a connection of `peer`, whatever happens.
    pub async fn answer(
        &self,
        request: Request<Incoming>,
        peer: IpAddr,
        scheme: Scheme,
        arrival: &Arrival,
    ) -> Response<ResponseBody> {
        let is_call = grpc::is_call(request.headers());
        match self.forward(request, peer, scheme, arrival).await {
            Ok(response) => response,
            Err(refusal) => {
                tracing::debug!(code = refusal.code, text = refusal.text, "refused");
                let response = match is_call {
                    true => grpc::refusal(&refusal),
                    false => refusal.into_response(),
                };
                response.map(ResponseBody::Own)
            }
        }
    }

    async fn forward(
        &self,
        request: Request<Incoming>,
        peer: IpAddr,
        scheme: Scheme,
        arrival: &Arrival,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        if let Arrival::Peer(node, trust) = arrival
            && self.routes.trust_in(node).as_ref() != Some(trust)
        {
            return Err(GatewayError::removed(node));
        }
        let host = head::host(&request)?;
        let named = match arrival {
            Arrival::Peer(..) => head::hop(request.headers()),
            Arrival::Client => sticky::named(request.headers()),
        };
        let (path, named) = (request.uri().path().to_owned(), named.map(str::to_owned));
        let wanted = Wanted { host: &host, path: &path, arrival, replica: named.as_deref() };
        let mut number = Number::default();
        let service = self.service(wanted, &mut number)?;
        let (bytes_max, is_stream) = (self.limits.body_bytes_max, service.speaks_http2());
        if request.body().size_hint().lower() > bytes_max && !is_stream {
            return Err(GatewayError::too_large(bytes_max));
        }
        let sender = Sender::of(peer, scheme, request.headers(), &self.proxies);
        if *arrival == Arrival::Client {
            if service.settings.https && sender.scheme == Scheme::Http {
                return Ok(head::to_https(&request)?.map(ResponseBody::Own));
            }
            check_rate(&service, &sender)?;
        }
        let mut parts = head::to_replica(&request, &host, &sender, arrival)?;
        let upgrade = Upgrade::asked(&request, &service)?;
        let body = match is_stream {
            true => RequestBody::stream(request.into_body()),
            false => RequestBody::new(request.into_body(), bytes_max, self.limits.throughput()),
        };
        let is_safe = body.is_empty() && matches!(parts.method, Method::GET | Method::HEAD);
        let again = (is_safe && upgrade.is_none()).then(|| parts.clone());
        if let Some(upgrade) = &upgrade {
            upgrade.ask(&mut parts.headers);
        }
        let request = Request::from_parts(parts, body);
        let (mut response, replica) =
            self.try_replicas(wanted, &mut number, request, again, upgrade).await?;
        let is_new = named.as_deref() != Some(&*replica);
        if service.settings.sticky && is_new && *arrival == Arrival::Client {
            sticky::name(response.headers_mut(), &replica, sender.scheme == Scheme::Https);
        }
        Ok(response)
    }

    /// The service that has a request, also when it was created just now.
    fn service(
        &self,
        wanted: Wanted<'_>,
        number: &mut Number,
    ) -> Result<Arc<Service>, GatewayError> {
        self.routes.service(wanted, number).or_else(|_| {
            self.routes.refresh();
            self.routes.service(wanted, number)
        })
    }

    fn times_of(&self, service: &Service) -> Times {
        let seconds = |given: Option<u32>, usual: Duration| match given {
            Some(seconds) => Duration::from_secs(seconds.into()) + BEYOND_THE_REPLICA,
            None => usual,
        };
        let settings = &service.settings;
        Times {
            response: seconds(settings.request_seconds_max, self.limits.response_time_max),
            idle: seconds(settings.idle_seconds_max, self.limits.idle_time_max),
        }
    }

    /// Tries the replicas of a service until one answers, and says which one did. `again` is the
    /// head of a request that may be sent twice.
    async fn try_replicas(
        &self,
        wanted: Wanted<'_>,
        number: &mut Number,
        mut request: Request<RequestBody>,
        again: Option<http::request::Parts>,
        upgrade: Option<Upgrade>,
    ) -> Result<(Response<ResponseBody>, Arc<str>), GatewayError> {
        let deadline = Instant::now() + REPLACEMENT_TIME_MAX;
        let host = wanted.host;
        let mut why;
        loop {
            let service = self.service(wanted, number)?;
            let times = self.times_of(&service);
            let replicas = self.routes.candidates(&service, wanted, number);
            let replicas = replicas.ok_or_else(|| GatewayError::no_route(host))?;
            why = match wanted.arrival {
                Arrival::Client => GatewayError::starting(host),
                Arrival::Peer(..) => GatewayError::no_replica(host),
            };
            for (index, replica) in replicas.iter().enumerate() {
                let in_flight = InFlight::with(&replica.in_flight);
                let stream = service.speaks_http2().then(|| request.body().clock());
                // Only for another one that may do better, and where nothing is done twice.
                let mut rest = replicas[index + 1..].iter();
                let may_leave = again.is_some() && rest.any(|other| !other.answering.is_ejected());
                let attempt = self.attempt(replica, times, request, may_leave).await;
                attempt.count(replica);
                match attempt {
                    Attempt::Answered(response, lease) => {
                        replica.answering.answered();
                        let stream = (times.idle, stream);
                        let response = pass_on(response, lease, in_flight, stream, upgrade).await?;
                        return Ok((response, replica.name.clone()));
                    }
                    Attempt::TooSlow => return Err(GatewayError::too_slow(host)),
                    Attempt::StoppedAnswering => {
                        return Err(GatewayError::stopped_answering(host));
                    }
                    Attempt::NotSent(whole, error) => {
                        tracing::debug!(host, target = ?replica.target, error, "not reached");
                        request = whole;
                        why = GatewayError::no_replica(host);
                    }
                    // The body of a GET is empty, and an empty one is as good as another.
                    Attempt::Ejected => {
                        why = GatewayError::no_replica(host);
                        match &again {
                            Some(parts) => request = again_with(parts),
                            None => return Err(why),
                        }
                    }
                    Attempt::Lost(error) => {
                        tracing::debug!(host, target = ?replica.target, error, "lost");
                        why = GatewayError::lost(host);
                        match &again {
                            Some(parts) if Instant::now() < deadline => request = again_with(parts),
                            _ => return Err(why),
                        }
                    }
                }
            }
            if Instant::now() >= deadline {
                return Err(why);
            }
            sleep(RETRY_EVERY).await;
            self.routes.refresh();
        }
    }

    /// `may_leave` says that another replica is there, and that the request may be sent twice.
    async fn attempt(
        &self,
        replica: &Replica,
        times: Times,
        mut request: Request<RequestBody>,
        may_leave: bool,
    ) -> Attempt {
        if let Target::Peer { .. } = &replica.target {
            let hop = HeaderValue::from_str(&replica.name);
            request.headers_mut().insert(head::HOP, hop.expect("a name is hex digits"));
        }
        let addresses = self.routes.addresses();
        let mut lease = match self.upstream.lease(replica, &addresses).await {
            Ok(lease) => lease,
            Err(error) => return Attempt::NotSent(request, error.to_string()),
        };
        loop {
            let clock = request.body().clock();
            let ejected = async {
                loop {
                    ejection::ejected(replica, &self.upstream, &addresses).await;
                    if may_leave {
                        return Attempt::Ejected;
                    }
                    sleep(EJECTED_WAIT_MAX).await;
                    if replica.answering.is_ejected() {
                        return Attempt::StoppedAnswering;
                    }
                }
            };
            let answer = tokio::select! {
                biased;
                answer = wait(&clock, times.response, lease.send(request)) => answer,
                end = ejected => {
                    lease.cut();
                    return end;
                }
            };
            match answer {
                None => {
                    lease.cut();
                    return Attempt::TooSlow;
                }
                Some(Ok(response)) => return Attempt::Answered(response, lease),
                Some(Err(mut failed)) => match failed.take_message() {
                    // An idle connection that the replica had closed: a new one tells whether it is
                    // still there.
                    Some(whole) if lease.used => {
                        match self.upstream.fresh(replica, &addresses).await {
                            Ok(fresh) => (lease, request) = (fresh, whole),
                            Err(error) => return Attempt::NotSent(whole, error.to_string()),
                        }
                    }
                    Some(whole) => return Attempt::NotSent(whole, failed.into_error().to_string()),
                    None => return Attempt::Lost(crate::error::chain(&failed.into_error())),
                },
            }
        }
    }
}

/// The response, or `None` when the replica took too long. Time in which the client sends does not
/// count; the throughput of the body bounds it.
async fn wait<T>(
    clock: &ReplicaClock,
    time_max: Duration,
    response: impl Future<Output = T>,
) -> Option<T> {
    tokio::pin!(response);
    clock.start();
    loop {
        let deadline = clock.started().unwrap_or_else(Instant::now) + time_max;
        match timeout_at(deadline, &mut response).await {
            Ok(response) => return Some(response),
            Err(_) if clock.started().is_some_and(|at| at + time_max <= deadline) => return None,
            Err(_) => {}
        }
    }
}

fn check_rate(service: &Service, sender: &Sender) -> Result<(), GatewayError> {
    let Some(limiter) = &service.limiter else { return Ok(()) };
    limiter.take(sender.address, std::time::Instant::now()).map_err(|after| {
        let each = limiter.limit().requests_per_second;
        GatewayError::too_many(format!("a client may make {each} requests a second here"), after)
    })
}

/// A response on its way back, or the connection that the replica has agreed to upgrade.
async fn pass_on(
    response: Response<Incoming>,
    lease: Lease,
    in_flight: InFlight,
    (idle, stream): (Duration, Option<ReplicaClock>),
    upgrade: Option<Upgrade>,
) -> Result<Response<ResponseBody>, GatewayError> {
    match upgrade.filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS) {
        Some(upgrade) => upgrade.switched(response, in_flight, idle).await,
        None => relay(response, lease, in_flight, Idle::new(idle, stream)),
    }
}

/// The same request once more.
fn again_with(parts: &http::request::Parts) -> Request<RequestBody> {
    Request::from_parts(parts.clone(), RequestBody::none())
}

fn relay(
    response: Response<Incoming>,
    lease: Lease,
    in_flight: InFlight,
    idle: Idle,
) -> Result<Response<ResponseBody>, GatewayError> {
    let (mut parts, body) = response.into_parts();
    let closes = parts
        .headers
        .get(header::CONNECTION)
        .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"close"));
    head::to_client(&mut parts)?;
    let lease = match body.is_end_stream() {
        _ if closes => None,
        true => {
            lease.give_back();
            None
        }
        false => Some(lease),
    };
    let body = ResponseBody::Relayed(Relayed { body, lease, _in_flight: in_flight, idle });
    Ok(Response::from_parts(parts, body))
}
