use std::{io, net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use net::{Scheme, Sender, TrustedProxies};
use runtime::AddressRules;
use spec::{Tenant, wire::PeerTrust};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    access_entry::{Entry, Outcome},
    access_log::AccessLog,
    challenge, ejection,
    error::{Form, GatewayError},
    grpc, head,
    hop::{self, HOP, Said},
    limits::{BEYOND_THE_REPLICA, EJECTED_WAIT_MAX, Limits, REPLACEMENT_TIME_MAX, RETRY_EVERY},
    logged_body::{LoggedBody, Pending},
    request_body::{ReplicaClock, RequestBody},
    response_body::{Idle, InFlight, Relayed, ResponseBody},
    routes::{Arrival, Number, Routes, Wanted},
    sticky,
    table::{Replica, Service, Target},
    trace::{REQUEST_ID, RequestIds, Trace},
    tunnelled,
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
    pub ids: RequestIds,
    pub access_log: Option<Arc<AccessLog>>,
}

/// How long a request and its response may take.
#[derive(Debug, Clone, Copy)]
struct Times {
    response: Duration,
    idle: Duration,
}

/// A request without a body, to be sent once more.
struct Again {
    parts: http::request::Parts,
    /// Also after it may have been carried out.
    is_idempotent: bool,
}

impl Again {
    fn request(&self) -> Request<RequestBody> {
        Request::from_parts(self.parts.clone(), RequestBody::none())
    }
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
    /// Counts what became of it as the replica's, and for the access log.
    fn count(&self, replica: &Replica, outcome: &mut Outcome) {
        outcome.ejected += u32::from(replica.is_ejected());
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
    ) -> Response<LoggedBody> {
        let is_client = !matches!(arrival, Arrival::Peer(..));
        let is_believed = !is_client || self.proxies.contains(peer);
        let trace = Trace::of(request.headers(), is_believed, &self.ids);
        let sender = Sender::of(peer, scheme, request.headers(), &self.proxies);
        let (form, is_head) = (Form::of(request.headers()), request.method() == Method::HEAD);
        let log = self.access_log.as_ref().filter(|_| is_client).cloned();
        let mut pending =
            log.map(|log| Box::new(Pending { entry: Entry::of(&request, &sender, &trace), log }));
        let mut unlogged = Outcome::default();
        // Where it is told also when the client goes away and this ends.
        let outcome = match &mut pending {
            Some(pending) => &mut pending.entry.outcome,
            None => &mut unlogged,
        };
        let mut chosen = None;
        if let Arrival::Peer(_, trust) = arrival {
            let name = hop::chosen(request.headers());
            chosen = name.and_then(|name| self.routes.replica_of(trust, name));
        }
        let is_call = grpc::is_call(request.headers());
        let answer = self.forward(request, &sender, arrival, &trace, outcome).await;
        let (mut response, unsent) = match answer {
            Ok(response) => (response, false),
            Err(refusal) => {
                let (code, id) = (refusal.code, trace.id());
                tracing::debug!(code, id, text = refusal.text, "refused");
                outcome.code = Some(code);
                let unsent = refusal.is_unsent();
                let service = outcome.service.as_deref();
                let pages = service.map(|service| &service.settings.errors);
                let own = match pages.and_then(|pages| pages.get(refusal.status.as_u16())) {
                    _ if is_call => grpc::refusal(&refusal),
                    Some(page) => refusal.with_page(page, id),
                    None => refusal.into_response(form, id),
                };
                (own.map(ResponseBody::Own), unsent)
            }
        };
        outcome.status = Some(response.status());
        outcome.is_whole = is_head;
        if is_client {
            response.headers_mut().insert(REQUEST_ID, trace.id.clone());
        } else {
            let ejected = chosen.is_some_and(|replica| replica.is_ejected());
            Said { ejected, unsent }.add_to(response.headers_mut());
        }
        response.map(|body| LoggedBody::new(body, pending))
    }

    async fn forward(
        &self,
        request: Request<Incoming>,
        sender: &Sender,
        arrival: &Arrival,
        trace: &Trace,
        outcome: &mut Outcome,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        if let Arrival::Peer(node, trust) = arrival {
            if self.routes.trust_in(node).as_ref() != Some(trust) {
                return Err(GatewayError::removed(node));
            }
            if let Some(replica) = hop::probed(&request) {
                return self.answer_probe(trust, replica).await;
            }
            if let Some(name) = tunnelled::asked(&request) {
                return self.tunnel(trust, name).await;
            }
        }
        if *arrival == Arrival::Client
            && let Some(answer) = challenge::answer(&self.routes, &request)
        {
            return Ok(answer.map(ResponseBody::Own));
        }
        let host = match (arrival, head::host(&request)?) {
            (Arrival::Inside(tenant), name) => self.host_inside(tenant, &name)?,
            (Arrival::Client | Arrival::Peer(..), host) => host,
        };
        let named = match arrival {
            Arrival::Peer(..) => hop::chosen(request.headers()),
            Arrival::Client => sticky::named(request.headers()),
            Arrival::Inside(_) => None,
        };
        let (path, named) = (request.uri().path().to_owned(), named.map(str::to_owned));
        let wanted = Wanted { host: &host, path: &path, arrival, replica: named.as_deref() };
        let mut number = Number::default();
        let service = self.service(wanted, &mut number)?;
        outcome.service = Some(service.clone());
        let (bytes_max, is_stream) = (self.limits.body_bytes_max, service.speaks_http2());
        if request.body().size_hint().lower() > bytes_max && !is_stream {
            return Err(GatewayError::too_large(bytes_max));
        }
        if *arrival == Arrival::Client {
            if service.settings.https && sender.scheme == Scheme::Http {
                return Ok(head::to_https(&request)?.map(ResponseBody::Own));
            }
            check_rate(&service, sender)?;
        }
        let mut parts = head::to_replica(&request, &host, sender, arrival)?;
        trace.set(&mut parts.headers);
        let upgrade = Upgrade::asked(&request, &service)?;
        let body = match is_stream {
            true => RequestBody::stream(request.into_body()),
            false => RequestBody::new(request.into_body(), bytes_max, self.limits.throughput()),
        };
        let again = (body.is_empty() && upgrade.is_none()).then(|| Again {
            is_idempotent: matches!(parts.method, Method::GET | Method::HEAD),
            parts: parts.clone(),
        });
        if let Some(upgrade) = &upgrade {
            upgrade.ask(&mut parts.headers);
        }
        let request = Request::from_parts(parts, body);
        let (mut response, replica) =
            self.try_replicas(wanted, &mut number, request, again, upgrade, outcome).await?;
        let is_new = named.as_deref() != Some(&*replica);
        if service.settings.sticky && is_new && *arrival == Arrival::Client {
            sticky::name(response.headers_mut(), &replica, sender.scheme == Scheme::Https);
        }
        Ok(response)
    }

    /// The host that a guest means, also when its first replica is ready just now: the agent, which
    /// sent the guest here, knows it before its file was looked at again.
    fn host_inside(&self, tenant: &Tenant, name: &str) -> Result<String, GatewayError> {
        self.routes.host_inside(tenant, name).or_else(|_| {
            self.routes.refresh();
            self.routes.host_inside(tenant, name)
        })
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

    /// Tells another ingress whether a replica here answers.
    async fn answer_probe(
        &self,
        trust: &PeerTrust,
        replica: &str,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        let replica = self.routes.replica_of(trust, replica);
        let replica = replica.ok_or_else(|| GatewayError::bad("the request has no Host header"))?;
        let addresses = self.routes.addresses();
        let answers = ejection::answers(&replica, &self.upstream, &addresses).await;
        let mut response = Response::new(ResponseBody::Own(Full::default()));
        *response.status_mut() = if answers { StatusCode::NO_CONTENT } else { hop::SILENT };
        Ok(response)
    }

    /// Leads another ingress to a replica here that speaks no HTTP.
    async fn tunnel(
        &self,
        trust: &PeerTrust,
        name: &str,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        let replica = self.routes.replica_of(trust, name).or_else(|| {
            self.routes.refresh();
            self.routes.replica_of(trust, name)
        });
        let replica = replica.ok_or_else(|| GatewayError::no_replica(name))?;
        let answer = tunnelled::answer(&replica).await;
        let answer = answer.map_err(|_| GatewayError::no_replica(name))?;
        Ok(answer.map(ResponseBody::Own))
    }

    /// Tries the replicas of a service until one answers, and says which one did.
    async fn try_replicas(
        &self,
        wanted: Wanted<'_>,
        number: &mut Number,
        mut request: Request<RequestBody>,
        again: Option<Again>,
        upgrade: Option<Upgrade>,
        outcome: &mut Outcome,
    ) -> Result<(Response<ResponseBody>, Arc<str>), GatewayError> {
        let deadline = Instant::now() + REPLACEMENT_TIME_MAX;
        let host = wanted.host;
        let twice = again.as_ref().filter(|again| again.is_idempotent);
        let mut why;
        loop {
            let service = self.service(wanted, number)?;
            let times = self.times_of(&service);
            let replicas = self.routes.candidates(&service, wanted, number)?;
            why = no_copy(wanted);
            for (index, replica) in replicas.iter().enumerate() {
                if replica.is_ejected() && replicas.iter().any(|other| !other.is_ejected()) {
                    continue; // since another was tried
                }
                let in_flight = InFlight::with(&replica.in_flight);
                outcome.asks(replica);
                let stream = (times.idle, service.speaks_http2().then(|| request.body().clock()));
                // Only for another one that may do better, and where nothing is done twice.
                let mut rest = replicas[index + 1..].iter();
                let may_leave = twice.is_some() && rest.any(|other| !other.is_ejected());
                let attempt = self.attempt(replica, times, request, may_leave).await;
                attempt.count(replica, outcome);
                match attempt {
                    Attempt::Answered(response, lease) => {
                        let said = self.hear(replica, &response, outcome);
                        if said.unsent
                            && let Some(again) = &again
                        {
                            lease.cut();
                            (request, why) = (again.request(), GatewayError::no_replica(host));
                            continue;
                        }
                        let response = pass_on(response, lease, in_flight, stream, upgrade).await?;
                        return Ok((response, replica.name.clone()));
                    }
                    Attempt::TooSlow => return Err(GatewayError::too_slow(host)),
                    Attempt::StoppedAnswering => return Err(GatewayError::stopped(host)),
                    Attempt::NotSent(whole, error) => {
                        tracing::debug!(host, target = ?replica.target, error, "not reached");
                        request = whole;
                        why = GatewayError::no_replica(host);
                    }
                    // The body of a GET is empty, and an empty one is as good as another.
                    Attempt::Ejected => {
                        why = GatewayError::no_replica(host);
                        request = twice.ok_or_else(|| why.clone())?.request();
                    }
                    Attempt::Lost(error) => {
                        tracing::debug!(host, target = ?replica.target, error, "lost");
                        why = GatewayError::lost(host);
                        let twice = twice.filter(|_| Instant::now() < deadline);
                        request = twice.ok_or_else(|| why.clone())?.request();
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

    /// Takes up that `replica` has answered, or what the ingress that leads to it says instead.
    fn hear(
        &self,
        replica: &Replica,
        response: &Response<Incoming>,
        outcome: &mut Outcome,
    ) -> Said {
        outcome.head_after = Some(outcome.began.elapsed());
        if replica.ingress.is_none() {
            replica.answered();
            return Said::default();
        }
        let said = Said::of(response.headers());
        replica.ingress_answered();
        match said {
            Said { ejected: true, .. } => {
                ejection::eject(replica, &self.upstream, &self.routes.addresses());
            }
            Said { unsent: true, .. } => {}
            Said { .. } => replica.answered(),
        }
        said
    }

    /// A connection to `replica`, unless it turns out not to answer while that is made.
    async fn lease(&self, replica: &Replica, addresses: &AddressRules) -> io::Result<Lease> {
        let lease = self.upstream.lease(replica, addresses);
        if replica.is_ejected() {
            return lease.await; // there is no better one
        }
        tokio::select! {
            biased;
            lease = lease => lease,
            () = ejection::ejected(replica, &self.upstream, addresses) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer"))
            }
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
            request.headers_mut().insert(HOP, hop.expect("a name is hex digits"));
        }
        let addresses = self.routes.addresses();
        let mut lease = match self.lease(replica, &addresses).await {
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
                    if replica.is_ejected() {
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

/// Why there is no replica to ask.
fn no_copy(wanted: Wanted<'_>) -> GatewayError {
    match wanted.arrival {
        Arrival::Client | Arrival::Inside(_) => GatewayError::starting(wanted.host),
        Arrival::Peer(..) => GatewayError::no_replica(wanted.host),
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
