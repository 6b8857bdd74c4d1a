use std::{borrow::Cow, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, request};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use net::{Scheme, Sender, TrustedProxies};
use spec::Tenant;
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    access_entry::{Entry, Outcome},
    access_log::AccessLog,
    challenge, ejection,
    error::{Form, GatewayError, GivenUp},
    exchange::Failed,
    grpc, head,
    hop::{self, HOP, Said},
    limits::{
        BEYOND_THE_REPLICA, EJECTED_WAIT_MAX, Limits, REPLACEMENT_TIME_MAX, RETRY_EVERY,
        WATCHED_AFTER,
    },
    logged_body::{LoggedBody, Pending},
    request_body::{BodyCopy, ReplicaClock, RequestBody},
    response_body::{Idle, InFlight, Relayed, ResponseBody},
    routes::{Arrival, Number, Routes, Wanted},
    sticky,
    table::{Replica, Service, Target},
    trace::{REQUEST_ID, RequestIds, Trace},
    tunnelled,
    upgrade::Upgrade,
    upstream::{Asked, Lease, ReplicaAnswer, ReplicaBody, Upstream},
    wake::Wake,
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
    pub wake: Wake,
}

/// How long a request and its response may take.
#[derive(Debug, Clone, Copy)]
struct Times {
    response: Duration,
    idle: Duration,
}

/// What a request is for.
struct Aim {
    host: String,
    path: String,
    /// The replica that the client stays with, or that another ingress has chosen.
    named: Option<String>,
}

impl Aim {
    fn wanted<'a>(&'a self, arrival: &'a Arrival) -> Wanted<'a> {
        Wanted { host: &self.host, path: &self.path, arrival, replica: self.named.as_deref() }
    }
}

/// What is sent to one replica after the other, until one answers.
struct Sent {
    aim: Aim,
    number: Number,
    service: Arc<Service>,
    head: request::Parts,
    body: RequestBody,
    /// Of the body that was sent last, where that was to another ingress.
    copy: Option<BodyCopy>,
    upgrade: Option<Upgrade>,
    /// It has no body, so that it can be sent once more…
    is_bare: bool,
    /// …also after it may have been carried out.
    is_idempotent: bool,
    /// Whether the client is to stay with its replica, and whether it has come by HTTPS.
    stays: Option<bool>,
}

impl Sent {
    /// Whether it is whole again, or still, though it was sent to another ingress.
    fn is_whole(&mut self) -> bool {
        let copied = self.copy.take().and_then(|copy| copy.body());
        let is_copied = copied.map(|body| self.body = body).is_some();
        self.is_bare || is_copied
    }

    /// Whether it can be sent again, though it may have been carried out.
    fn is_repeatable(&self) -> bool {
        self.is_bare && self.is_idempotent
    }
}

/// What a request turns out to be, before anything is waited for.
enum Prepared {
    Send(Box<Sent>),
    /// The ingress itself has the response.
    Answered(Response<Full<Bytes>>),
    /// The question of another ingress about a replica.
    Probe(Arc<Replica>),
    /// Its wish for the bytes of one that speaks no HTTP.
    Tunnel(Arc<Replica>),
}

/// How far an attempt with one replica got.
enum Attempt {
    Answered(Response<ReplicaBody>),
    /// Nothing was sent: the request is whole.
    NotSent(String),
    /// Something was sent, and no response came.
    Lost(String),
    GivenUp(GivenUp),
}

impl Attempt {
    /// Counts what became of it as the replica's, and for the access log.
    fn count(&self, replica: &Replica, outcome: &mut Outcome) {
        outcome.ejected += u32::from(replica.is_ejected());
        match self {
            Self::Answered(response) => replica.counts.answered(response.status()),
            Self::NotSent(_) => {}
            Self::Lost(_) | Self::GivenUp(_) => replica.counts.lost(),
        }
    }
}

impl Forwarder {
    /// Answers one request that came over a connection of `peer`, whatever happens.
    pub async fn answer(
        &self,
        request: Request<Incoming>,
        peer: &Sender,
        arrival: &Arrival,
    ) -> Response<LoggedBody> {
        let is_client = !matches!(arrival, Arrival::Peer(..));
        let is_proxy = self.proxies.contains(peer.address);
        let trace = Trace::of(request.headers(), !is_client || is_proxy, &self.ids);
        let named = || Sender::of(peer.address, peer.scheme, request.headers(), &self.proxies);
        let sender = if is_proxy { Cow::Owned(named()) } else { Cow::Borrowed(peer) };
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
        let answer = match self.prepare(request, &sender, arrival, &trace, outcome) {
            Ok(Prepared::Send(mut sent)) => self.try_replicas(&mut sent, arrival, outcome).await,
            Ok(Prepared::Answered(own)) => Ok(own.map(ResponseBody::Own)),
            Ok(Prepared::Probe(replica)) => Ok(Box::pin(self.answer_probe(&replica)).await),
            Ok(Prepared::Tunnel(replica)) => Box::pin(tunnel(&replica)).await,
            Err(refusal) => Err(refusal),
        };
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

    /// Decides what becomes of a request.
    fn prepare(
        &self,
        request: Request<Incoming>,
        sender: &Sender,
        arrival: &Arrival,
        trace: &Trace,
        outcome: &mut Outcome,
    ) -> Result<Prepared, GatewayError> {
        if let Arrival::Peer(node, trust) = arrival {
            if self.routes.trust_in(node).as_ref() != Some(trust) {
                return Err(GatewayError::removed(node));
            }
            if let Some(replica) = hop::probed(&request) {
                let replica = self.routes.replica_of(trust, replica);
                let no_host = || GatewayError::bad("the request has no Host header");
                return replica.map(Prepared::Probe).ok_or_else(no_host);
            }
            if let Some(name) = tunnelled::asked(&request) {
                let replica = self.routes.replica_of(trust, name).or_else(|| {
                    self.routes.refresh();
                    self.routes.replica_of(trust, name)
                });
                return replica.map(Prepared::Tunnel).ok_or_else(|| GatewayError::no_replica(name));
            }
        }
        let is_client = *arrival == Arrival::Client;
        if is_client && let Some(answer) = challenge::answer(&self.routes, &request) {
            return Ok(Prepared::Answered(answer));
        }
        let aim = self.aim(&request, arrival)?;
        let mut number = Number::default();
        let service = self.service(aim.wanted(arrival), &mut number)?;
        outcome.service = Some(service.clone());
        let (bytes_max, is_stream) = (self.limits.body_bytes_max, service.speaks_http2());
        if request.body().size_hint().lower() > bytes_max && !is_stream {
            return Err(GatewayError::too_large(bytes_max));
        }
        if is_client {
            if service.settings.https && sender.scheme == Scheme::Http {
                return Ok(Prepared::Answered(head::to_https(&request)?));
            }
            service.check_rate(sender.address)?;
        }
        let (mut head, body) = request.into_parts();
        let upgrade = Upgrade::asked(&head, &body, &service)?;
        head::to_replica(&mut head, &aim.host, sender, arrival)?;
        trace.set(&mut head.headers);
        if let Some(upgrade) = &upgrade {
            upgrade.ask(&mut head.headers);
        }
        let body = match is_stream {
            true => RequestBody::stream(body),
            false => RequestBody::new(body, bytes_max, self.limits.throughput()),
        };
        let is_sticky = service.settings.sticky && is_client;
        Ok(Prepared::Send(Box::new(Sent {
            aim,
            number,
            service,
            is_bare: body.is_empty() && upgrade.is_none(),
            is_idempotent: matches!(head.method, Method::GET | Method::HEAD),
            stays: is_sticky.then_some(sender.scheme == Scheme::Https),
            head,
            body,
            copy: None,
            upgrade,
        })))
    }

    fn aim(&self, request: &Request<Incoming>, arrival: &Arrival) -> Result<Aim, GatewayError> {
        let host = match (arrival, head::host(request)?) {
            (Arrival::Inside(tenant), name) => self.host_inside(tenant, &name)?,
            (Arrival::Client | Arrival::Peer(..), host) => host,
        };
        let named = match arrival {
            Arrival::Peer(..) => hop::chosen(request.headers()),
            Arrival::Client => sticky::named(request.headers()),
            Arrival::Inside(_) => None,
        };
        let path = request.uri().path().to_owned();
        Ok(Aim { host, path, named: named.map(str::to_owned) })
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
    async fn answer_probe(&self, replica: &Replica) -> Response<ResponseBody> {
        let addresses = self.routes.addresses();
        let answers = ejection::answers(replica, &self.upstream, &addresses).await;
        let mut response = Response::new(ResponseBody::Own(Full::default()));
        *response.status_mut() = if answers { StatusCode::NO_CONTENT } else { hop::SILENT };
        response
    }

    /// Tries the replicas of a service until one answers.
    async fn try_replicas(
        &self,
        sent: &mut Sent,
        arrival: &Arrival,
        outcome: &mut Outcome,
    ) -> Result<Response<ResponseBody>, GatewayError> {
        let mut deadline = Instant::now() + REPLACEMENT_TIME_MAX;
        let mut why;
        loop {
            let times = self.times_of(&sent.service);
            if sent.service.is_asleep() && !arrival.is_peer() {
                Box::pin(self.wake(sent, arrival, times.response)).await?;
                deadline = Instant::now() + REPLACEMENT_TIME_MAX;
            }
            let wanted = sent.aim.wanted(arrival);
            let replicas = self.routes.candidates(&sent.service, wanted, &mut sent.number)?;
            why = no_copy(wanted);
            for (index, replica) in replicas.iter().enumerate() {
                if replica.is_ejected() && replicas.iter().any(|other| !other.is_ejected()) {
                    continue; // since another was tried
                }
                let in_flight = InFlight::with(&replica.in_flight);
                outcome.asks(replica);
                let stream = sent.body.clock().filter(|_| sent.service.speaks_http2());
                // Only for another one that may do better, and where nothing is done twice.
                let mut rest = replicas[index + 1..].iter();
                let may_leave = sent.is_repeatable() && rest.any(|other| !other.is_ejected());
                let waiting = Waiting { time_max: times.response, may_leave };
                let attempt = self.attempt(replica, sent, waiting).await;
                attempt.count(replica, outcome);
                let host = &*sent.aim.host;
                match attempt {
                    Attempt::Answered(response) => {
                        let said = self.hear(replica, &response, outcome);
                        if said.unsent && sent.is_whole() {
                            why = GatewayError::no_replica(&sent.aim.host);
                            continue;
                        }
                        let upgrade = sent.upgrade.take();
                        let mut response =
                            pass_on(response, in_flight, (times.idle, stream), upgrade)?;
                        let is_new = sent.aim.named.as_deref() != Some(&*replica.name);
                        if let Some(is_https) = sent.stays.filter(|_| is_new) {
                            sticky::name(response.headers_mut(), &replica.name, is_https);
                        }
                        return Ok(response);
                    }
                    Attempt::NotSent(error) => {
                        tracing::debug!(host, target = ?replica.target, error, "not reached");
                        why = GatewayError::no_replica(host);
                    }
                    Attempt::GivenUp(GivenUp::Ejected) => why = GatewayError::no_replica(host),
                    Attempt::GivenUp(given_up) => return Err(given_up.refusal(host)),
                    Attempt::Lost(error) => {
                        tracing::debug!(host, target = ?replica.target, error, "lost");
                        why = GatewayError::lost(host);
                        if !sent.is_repeatable() || Instant::now() >= deadline {
                            return Err(why);
                        }
                    }
                }
            }
            if Instant::now() >= deadline || arrival.is_peer() && sent.body.is_small() {
                return Err(why);
            }
            sleep(RETRY_EVERY).await;
            self.routes.refresh();
            sent.service = self.service(sent.aim.wanted(arrival), &mut sent.number)?;
        }
    }

    /// Waits for the first replica of a service that has none until a request comes.
    async fn wake(
        &self,
        sent: &mut Sent,
        arrival: &Arrival,
        time_max: Duration,
    ) -> Result<(), GatewayError> {
        let find = || self.routes.service(sent.aim.wanted(arrival), &mut sent.number);
        sent.service = self.wake.ready(&sent.service, time_max, find).await?;
        Ok(())
    }

    /// Takes up that `replica` has answered, or what the ingress that leads to it says instead.
    fn hear(
        &self,
        replica: &Replica,
        response: &Response<ReplicaBody>,
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

    /// A connection to `replica` that is not there yet, unless it turns out not to answer while
    /// that is made.
    async fn lease(&self, replica: &Replica) -> io::Result<Lease> {
        let addresses = self.routes.addresses();
        let lease = self.upstream.lease(replica, &addresses);
        if replica.is_ejected() {
            return lease.await; // there is no better one
        }
        tokio::select! {
            biased;
            lease = lease => lease,
            () = ejection::ejected(replica, Instant::now(), &self.upstream, &addresses) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer"))
            }
        }
    }

    /// Sends a request to one replica. What most do not need is apart from it: a large future is
    /// moved often.
    async fn attempt(&self, replica: &Replica, sent: &mut Sent, waiting: Waiting) -> Attempt {
        match &replica.target {
            Target::Local(_) => sent.head.headers.remove(HOP),
            Target::Peer { .. } => {
                sent.copy = sent.body.copied();
                let hop = HeaderValue::from_str(&replica.name);
                sent.head.headers.insert(HOP, hop.expect("a name is hex digits"))
            }
        };
        let mut lease = match self.upstream.kept(replica) {
            Some(lease) => lease,
            None => match Box::pin(self.lease(replica)).await {
                Ok(lease) => lease,
                Err(error) => return Attempt::NotSent(error.to_string()),
            },
        };
        loop {
            let (used, clock, began) = (lease.used(), sent.body.clock(), Instant::now());
            clock.as_ref().inspect(|clock| clock.start());
            // One without a body is as good as another.
            let body = std::mem::replace(&mut sent.body, RequestBody::none());
            let answer = match lease.ask(&sent.head, body) {
                Err(failed) => Err(failed),
                Ok(mut asked) => match timeout_at(began + WATCHED_AFTER, &mut asked).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        let watched = self.watched(replica, asked, clock, began, waiting);
                        match Box::pin(watched).await {
                            Ok(answer) => answer,
                            Err(given_up) => return Attempt::GivenUp(given_up),
                        }
                    }
                },
            };
            let (whole, error) = match answer {
                Ok(response) => return Attempt::Answered(response),
                Err(Failed::Lost(error)) => return Attempt::Lost(error),
                Err(Failed::Unsent(whole, error)) => (whole, error),
            };
            sent.body = whole;
            if !used {
                return Attempt::NotSent(error);
            }
            // An idle connection that the replica had closed: a new one tells whether it is still
            // there.
            let addresses = self.routes.addresses();
            lease = match Box::pin(self.upstream.fresh(replica, &addresses)).await {
                Ok(fresh) => fresh,
                Err(error) => return Attempt::NotSent(error.to_string()),
            };
        }
    }

    /// What a request comes to that has waited for a while, since `began`.
    async fn watched(
        &self,
        replica: &Replica,
        asked: Asked,
        clock: Option<ReplicaClock>,
        began: Instant,
        waiting: Waiting,
    ) -> Result<ReplicaAnswer, GivenUp> {
        let Waiting { time_max, may_leave } = waiting;
        tokio::select! {
            biased;
            answer = wait(clock.as_ref(), began + time_max, time_max, asked) => {
                answer.ok_or(GivenUp::TooSlow)
            }
            end = self.ejected(replica, began, may_leave) => Err(end),
        }
    }

    /// Ready when a request that waits since `began` is to wait no longer, as its replica is left
    /// out.
    async fn ejected(&self, replica: &Replica, began: Instant, may_leave: bool) -> GivenUp {
        let addresses = self.routes.addresses();
        loop {
            ejection::ejected(replica, began, &self.upstream, &addresses).await;
            if may_leave {
                return GivenUp::Ejected;
            }
            sleep(EJECTED_WAIT_MAX).await;
            if replica.is_ejected() {
                return GivenUp::StoppedAnswering;
            }
        }
    }
}

/// How long a request waits for one replica.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    time_max: Duration,
    /// Another replica is there, and the request may be sent twice.
    may_leave: bool,
}

/// Leads another ingress to a replica here that speaks no HTTP.
async fn tunnel(replica: &Replica) -> Result<Response<ResponseBody>, GatewayError> {
    let answer = tunnelled::answer(replica).await;
    let answer = answer.map_err(|_| GatewayError::no_replica(&replica.name))?;
    Ok(answer.map(ResponseBody::Own))
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
    clock: Option<&ReplicaClock>,
    deadline: Instant,
    time_max: Duration,
    mut response: impl Future<Output = T> + Unpin,
) -> Option<T> {
    let Some(clock) = clock else { return timeout_at(deadline, response).await.ok() };
    loop {
        let deadline = clock.started().unwrap_or_else(Instant::now) + time_max;
        match timeout_at(deadline, &mut response).await {
            Ok(response) => return Some(response),
            Err(_) if clock.started().is_some_and(|at| at + time_max <= deadline) => return None,
            Err(_) => {}
        }
    }
}

/// A response on its way back, or the connection that the replica has agreed to upgrade.
fn pass_on(
    response: Response<ReplicaBody>,
    in_flight: InFlight,
    (idle, stream): (Duration, Option<ReplicaClock>),
    upgrade: Option<Upgrade>,
) -> Result<Response<ResponseBody>, GatewayError> {
    if let Some(upgrade) = upgrade.filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS)
    {
        return upgrade.switched(response, in_flight, idle);
    }
    let (mut parts, body) = response.into_parts();
    head::to_client(&mut parts)?;
    let body = Relayed::new(body, in_flight, Idle::new(idle, stream));
    Ok(Response::from_parts(parts, ResponseBody::Relayed(body)))
}
