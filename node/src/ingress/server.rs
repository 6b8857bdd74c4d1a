use std::{
    convert::Infallible,
    future::pending,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
};

use http::Request;
use hyper::{body::Incoming, service::service_fn};
use net::{
    ConnectionLimits, ConnectionPermit, Connections, Descriptors, Negotiated, Scheme, Sender,
    TrustedProxies,
    tls::{CertificateFiles, CertificatesByName},
};
use spec::Tenant;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{
    access_log::{AccessLog, AccessLogFiles, AccessLogFormat},
    challenge, counted,
    error::Form,
    folder::IngressFolder,
    forward::Forwarder,
    head, host_certificates,
    inside::read_preface,
    layer4::{ReservedPorts, Streams},
    limits::{
        ACCESS_LOG_END_TIME_MAX, DESCRIPTORS_WANTED, HANDSHAKES_MAX, HANDSHAKES_PER_ADDRESS_MAX,
        INSIDE_CONNECTIONS_MAX, INSIDE_CONNECTIONS_PER_TENANT_MAX, INSIDE_PREFACE_TIME_MAX, Limits,
        MAINTENANCE_EVERY, POOL_CONNECTIONS_MAX, POOL_CONNECTIONS_PER_NODE_MAX,
    },
    peer_limits::PeerLimits,
    peer_tls::PeerTls,
    routes::{Arrival, Routes},
    told::ToldFile,
    trace::RequestIds,
    upstream::Upstream,
    wake::{self, Wake},
};
use crate::identity::IngressIdentity;

/// What the ingress listens on, and where it reads what it serves.
#[derive(Debug)]
pub struct Listeners {
    /// The folder that it shares with the agent.
    pub folder: PathBuf,
    pub clients: TcpListener,
    pub peers: Option<TcpListener>,
    /// For guests of this node.
    pub inside: Option<UnixListener>,
    pub limits: Limits,
    pub told: Option<Told>,
    pub front: Front,
}

/// Where the agent is told what happens here.
#[derive(Debug)]
pub struct Told {
    /// What replicas were asked.
    pub(super) counts: ToldFile,
    /// Which services requests wait for.
    pub(super) waiting: ToldFile,
}

impl Told {
    /// Its files. To be opened while that is allowed.
    pub(super) fn open(folder: &IngressFolder) -> crate::error::Result<Self> {
        Ok(Self { counts: counted::open(folder)?, waiting: wake::open(folder)? })
    }
}

/// How clients reach the ingress: what it speaks with them, and what stands in front of it.
#[derive(Debug, Default)]
pub struct Front {
    /// What clients are shown that call no host with a certificate of its own. With it, those that
    /// do not speak TLS are sent there.
    pub certificate: Option<CertificateFiles>,
    /// Whose word about their clients is taken.
    pub proxies: TrustedProxies,
    /// Whether their connections begin with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Where there is a line for each of their requests, and how it looks.
    pub access_log: Option<(AccessLogFormat, AccessLogFiles)>,
    /// The ports that services may have.
    pub ports: ReservedPorts,
}

/// Serves until `shutdown`, then lets requests finish.
pub async fn serve(listeners: Listeners, shutdown: impl Future<Output = ()>) {
    let Listeners { folder, clients, peers, inside, limits, told, front } = listeners;
    let (counts, waiting) = told.map(|told| (told.counts, told.waiting)).unzip();
    let Front { certificate, proxies, proxy_protocol, access_log, ports } = front;
    let share = |limit| Descriptors::allowed().share(limit, DESCRIPTORS_WANTED);
    let of_clients = || {
        let each = share(limits.connections_per_address_max);
        ConnectionLimits::new(share(limits.connections_max), each).without_share_of(proxies.clone())
    };
    let certificates = CertificatesByName::new(certificate.as_ref());
    let folder = IngressFolder::at(folder);
    let identity = IngressIdentity::read(&folder.identity_file()).ok().flatten();
    let tls = Arc::new(PeerTls::of(identity.as_ref()));
    let (access_log, writing) = started(access_log).unzip();
    let ingress = Arc::new(Ingress {
        forwarder: Arc::new(Forwarder {
            routes: Routes::open(folder.clone()),
            upstream: Arc::new(Upstream::new(tls.clone())),
            limits,
            proxies: proxies.clone(),
            ids: RequestIds::new(),
            access_log,
            wake: Wake::default(),
        }),
        tls,
        acceptor: certificates.server().into(),
        redirects: certificates.has_default(),
        proxy_protocol,
        clients: of_clients(),
        requests: Arc::new(of_clients()),
        peer_requests: Arc::new(ConnectionLimits::new(
            share(POOL_CONNECTIONS_MAX),
            share(POOL_CONNECTIONS_PER_NODE_MAX),
        )),
        connections: Connections::new(),
        peers: PeerLimits::within(Descriptors::allowed()),
    });
    let connections = ingress.connections.clone();
    let streams = Streams::new(ports, ingress.forwarder.clone(), connections, share);
    let renewals = async {
        match &certificate {
            Some(certificate) => certificate.keep_up().await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = shutdown => {}
        never = ingress.accept_clients(&clients) => match never {},
        never = ingress.accept_peers(peers.as_ref()) => match never {},
        never = ingress.accept_inside(inside.as_ref()) => match never {},
        never = streams.keep_up() => match never {},
        () = ingress.forwarder.routes.keep_up() => {}
        () = counted::keep(&ingress.forwarder.routes, counts) => {}
        () = ingress.forwarder.wake.keep_told(waiting) => {}
        () = ingress.maintain(&folder, identity) => {}
        () = host_certificates::keep_up(&folder, &ingress.forwarder.routes, &certificates) => {}
        never = renewals => match never {},
    }
    drop((clients, peers, inside, streams));
    ingress.connections.clone().drain(limits.drain_time_max).await;
    drop(ingress);
    if let Some(writing) = writing {
        // The last lines, unless the disk hangs.
        let written = tokio::task::spawn_blocking(|| writing.join());
        let _ = timeout(ACCESS_LOG_END_TIME_MAX, written).await;
    }
}

fn started(
    log: Option<(AccessLogFormat, AccessLogFiles)>,
) -> Option<(Arc<AccessLog>, JoinHandle<()>)> {
    let (format, files) = log?;
    match AccessLog::start(format, files) {
        Ok((log, writing)) => Some((Arc::new(log), writing)),
        Err(error) => {
            tracing::warn!(%error, "there is no access log: its thread cannot be started");
            None
        }
    }
}

struct Ingress {
    forwarder: Arc<Forwarder>,
    tls: Arc<PeerTls>,
    /// For clients that speak TLS.
    acceptor: TlsAcceptor,
    /// Whether those that do not are sent there, whatever they ask for.
    redirects: bool,
    proxy_protocol: bool,
    clients: ConnectionLimits,
    /// Requests of clients that have many of them on one connection: as many as of clients that
    /// have one on each.
    requests: Arc<ConnectionLimits>,
    /// The same of other nodes.
    peer_requests: Arc<ConnectionLimits>,
    connections: Connections,
    peers: PeerLimits,
}

impl Ingress {
    async fn accept_clients(self: &Arc<Self>, listener: &TcpListener) -> Infallible {
        let accepted = |stream, client: Option<IpAddr>, permit| {
            let ingress = self.clone();
            async move {
                let Some(client) = client else { return };
                ingress.answer_client(stream, client).await;
                drop(permit);
            }
        };
        self.connections.accept(listener, &self.clients, accepted).await
    }

    async fn answer_client(self: &Arc<Self>, mut stream: TcpStream, peer: IpAddr) {
        let (mut client, mut share) = (peer, None);
        if self.proxy_protocol && self.forwarder.proxies.contains(peer) {
            match net::read_proxy_header(&mut stream).await {
                Ok(None) => {}
                Ok(Some(address)) => {
                    share = self.clients.share_of(address);
                    if share.is_none() {
                        tracing::debug!(%address, "closed: its address has enough connections");
                        return;
                    }
                    client = address;
                }
                Err(error) => {
                    tracing::debug!(%peer, %error, "closed: its proxy did not name a client");
                    return;
                }
            }
        }
        let first_time_max = self.forwarder.limits.head_time_max;
        match self.connections.negotiate(&self.acceptor, stream, first_time_max).await {
            Some(Negotiated::Tls(stream)) if net::tls::speaks_http2(&stream) => {
                self.answer_http2(stream, client, Scheme::Https, Arrival::Client).await;
            }
            Some(Negotiated::Tls(stream)) => {
                self.answer_all(stream, client, Scheme::Https, &Arrival::Client).await;
            }
            Some(Negotiated::Plain(stream)) if self.redirects => self.redirect_all(stream).await,
            Some(Negotiated::Plain(stream)) => self.answer_plain(stream, client).await,
            None => {}
        }
        drop(share);
    }

    async fn answer_plain(self: &Arc<Self>, stream: TcpStream, client: IpAddr) {
        let is_http2 = net::is_http2(&stream, self.forwarder.limits.head_time_max);
        match self.connections.closing().run_until_cancelled(is_http2).await.flatten() {
            Some(true) => self.answer_http2(stream, client, Scheme::Http, Arrival::Client).await,
            Some(false) => self.answer_all(stream, client, Scheme::Http, &Arrival::Client).await,
            None => {}
        }
    }

    /// Sends clients that speak plain HTTP to the same URL with TLS.
    async fn redirect_all(&self, stream: TcpStream) {
        let service = service_fn(|request: Request<Incoming>| async move {
            if let Some(answer) = challenge::answer(&self.forwarder.routes, &request) {
                return Ok::<_, Infallible>(answer);
            }
            let response = head::to_https(&request)
                .unwrap_or_else(|refusal| refusal.into_response(Form::of(request.headers()), ""));
            Ok(response)
        });
        self.connections.serve_http(stream, self.forwarder.limits.http(), service).await;
    }

    /// Connections of other nodes have limits of their own, which no client takes from. Until a
    /// certificate says which node it is, a connection counts for its address.
    async fn accept_peers(self: &Arc<Self>, listener: Option<&TcpListener>) -> Infallible {
        let Some(listener) = listener else { return pending().await };
        let share = |limit| Descriptors::allowed().share(limit, DESCRIPTORS_WANTED);
        let limits =
            ConnectionLimits::new(share(HANDSHAKES_MAX), share(HANDSHAKES_PER_ADDRESS_MAX));
        let accepted = |stream, sender: Option<IpAddr>, permit| {
            let ingress = self.clone();
            async move {
                let Some(sender) = sender else { return };
                ingress.answer_peer(stream, sender, permit).await;
            }
        };
        self.connections.accept(listener, &limits, accepted).await
    }

    async fn answer_peer(
        self: &Arc<Self>,
        stream: TcpStream,
        sender: IpAddr,
        handshake: ConnectionPermit,
    ) {
        let Some(acceptor) = self.tls.acceptor() else { return };
        let Some(stream) = self.connections.handshake(&acceptor, stream).await else { return };
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let peer = certificate.and_then(|certificate| self.forwarder.routes.peer_of(certificate));
        let Some((node, trust)) = peer else {
            return tracing::warn!(%sender, "closed: not the ingress of a node of this platform");
        };
        let Some(permit) = self.peers.admit(&node, &trust) else {
            return tracing::warn!(%node, "closed: its ingress has enough connections");
        };
        drop(handshake);
        let arrival = Arrival::Peer(node, trust);
        match net::tls::speaks_http2(&stream) {
            true => self.answer_http2(stream, sender, Scheme::Https, arrival).await,
            false => self.answer_all(stream, sender, Scheme::Https, &arrival).await,
        }
        drop(permit);
    }

    /// Connections of guests of this node, by its agent, which has checked their grants.
    async fn accept_inside(self: &Arc<Self>, listener: Option<&UnixListener>) -> Infallible {
        let Some(listener) = listener else { return pending().await };
        let share = |limit| Descriptors::allowed().share(limit, DESCRIPTORS_WANTED);
        let all = share(INSIDE_CONNECTIONS_MAX);
        let limits = ConnectionLimits::new(all, all);
        let tenants = Arc::new(ConnectionLimits::<Tenant>::new(
            all,
            share(INSIDE_CONNECTIONS_PER_TENANT_MAX),
        ));
        let accepted = |mut stream: UnixStream, _, permit| {
            let (ingress, tenants) = (self.clone(), tenants.clone());
            async move {
                match timeout(INSIDE_PREFACE_TIME_MAX, read_preface(&mut stream)).await {
                    Ok(Ok(tenant)) => {
                        let Some(_share) = tenants.try_admit(tenant.clone()) else {
                            return tracing::debug!(%tenant, "closed: it has enough connections");
                        };
                        // It has no address, and least of all one of a proxy that is believed.
                        let (none, arrival) = (Ipv4Addr::UNSPECIFIED, Arrival::Inside(tenant));
                        ingress.answer_all(stream, none.into(), Scheme::Http, &arrival).await;
                    }
                    Ok(Err(error)) => tracing::warn!(%error, "closed a connection from inside"),
                    Err(_) => tracing::warn!("closed a connection from inside that said nothing"),
                }
                drop(permit);
            }
        };
        self.connections.accept(listener, &limits, accepted).await
    }

    async fn answer_all<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        sender: IpAddr,
        scheme: Scheme,
        arrival: &Arrival,
    ) {
        let sender = Sender::direct(sender, scheme);
        let service = service_fn(|request: Request<Incoming>| {
            // Apart from the connection, which has nothing of it until there is a request.
            let answer = Box::pin(self.forwarder.answer(request, &sender, arrival));
            async move { Ok::<_, Infallible>(answer.await) }
        });
        self.connections.serve_http(stream, self.forwarder.limits.http(), service).await;
    }

    /// The same for a client that speaks HTTP/2. Each of its requests is forwarded on its own.
    async fn answer_http2<S: AsyncRead + AsyncWrite + Unpin>(
        self: &Arc<Self>,
        stream: S,
        client: IpAddr,
        scheme: Scheme,
        arrival: Arrival,
    ) {
        let requests = match arrival {
            Arrival::Client | Arrival::Inside(_) => self.requests.clone(),
            Arrival::Peer(..) => self.peer_requests.clone(),
        };
        let known = Arc::new((self.clone(), Sender::direct(client, scheme), arrival));
        let service = service_fn(move |request: Request<Incoming>| {
            let known = known.clone();
            async move {
                let (ingress, sender, arrival) = &*known;
                Ok::<_, Infallible>(ingress.forwarder.answer(request, sender, arrival).await)
            }
        });
        let limits = self.forwarder.limits.http2();
        // Apart from the connection: those of HTTP/1.1 need no room for it.
        Box::pin(self.connections.serve_http2(stream, client, limits, requests, service)).await;
    }

    /// Takes up a renewed certificate, and closes connections that were idle for long.
    async fn maintain(&self, folder: &IngressFolder, mut identity: Option<IngressIdentity>) {
        loop {
            sleep(match identity {
                Some(_) => MAINTENANCE_EVERY,
                None => MAINTENANCE_EVERY / 20, // the agent is joining right now
            })
            .await;
            self.forwarder.upstream.close_idle();
            self.forwarder.routes.close_idle();
            let Ok(Some(current)) = IngressIdentity::read(&folder.identity_file()) else {
                continue;
            };
            if identity.as_ref() != Some(&current) {
                self.tls.replace(&current);
                identity = Some(current);
            }
        }
    }
}
