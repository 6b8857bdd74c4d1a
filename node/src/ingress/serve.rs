use std::{convert::Infallible, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    body::Pace,
    folder::IngressFolder,
    forward::Forwarder,
    patient::Patient,
    routes::{Arrival, Routes},
    seats::Seats,
    upstream::Upstream,
};
use crate::tls::Identity;

/// What the ingress listens on, and where it reads what it serves.
#[derive(Debug)]
pub struct Door {
    /// The folder that it shares with the agent.
    pub folder: PathBuf,
    /// For everybody.
    pub listener: TcpListener,
    /// For the ingresses of other nodes.
    pub peers: Option<TcpListener>,
    /// How much and how long.
    pub limits: Limits,
}

/// How much and how long.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections from outside at one time; more wait in the listener's queue. Ten thousand idle
    /// ones hold some 60 MB.
    pub connections_max: usize,
    /// Of these, from one address; more are closed. Many, for a proxy in front brings everybody
    /// from one.
    pub connections_of_one_max: usize,
    /// From the first byte of a request (or the end of the one before) to the end of its head.
    pub head_time_max: Duration,
    /// How far a body may be behind, and how long a client may take no byte of an answer.
    pub stall_time_max: Duration,
    /// The slowest body, in bytes a second.
    pub body_bytes_per_second_min: u64,
    /// The largest body.
    pub body_bytes_max: u64,
    /// From the last of a request to the head of its answer, or to the next piece that is taken of
    /// its body: more than a worker gives a request.
    pub answer_time_max: Duration,
    /// What runs when we are asked to end may go on for so long.
    pub drain_time_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            connections_of_one_max: 2_500,
            head_time_max: Duration::from_secs(10),
            stall_time_max: Duration::from_secs(10),
            body_bytes_per_second_min: 1024,
            body_bytes_max: 64 << 20,
            answer_time_max: Duration::from_secs(65),
            drain_time_max: Duration::from_secs(10),
        }
    }
}

impl Limits {
    pub(super) fn pace(&self) -> Pace {
        Pace { grace: self.stall_time_max, bytes_per_second: self.body_bytes_per_second_min }
    }
}

/// A handshake is two messages each way.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
/// A request line and its headers: more than browsers and curl ever send.
const HEAD_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 100;
/// Between two looks at the identity and the kept connections.
const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(5);

/// Serves until `shutdown`, then lets what runs come to its end.
pub async fn serve(door: Door, shutdown: impl Future<Output = ()>) {
    let folder = IngressFolder::at(door.folder);
    let identity = Identity::read(&folder.identity_file()).ok().flatten();
    let app = Arc::new(App {
        forwarder: Forwarder {
            routes: Routes::open(folder.clone()),
            upstream: Arc::new(Upstream::new(identity.as_ref())),
            limits: door.limits,
        },
        peers: std::sync::RwLock::new(acceptor(identity.as_ref())),
        seats: Seats::new(door.limits.connections_max, door.limits.connections_of_one_max),
        tasks: TaskTracker::new(),
        closing: CancellationToken::new(),
    });
    tokio::select! {
        () = shutdown => {}
        () = app.accept(&door.listener, Side::Outside) => {}
        () = app.accept_peers(door.peers.as_ref()) => {}
        () = app.forwarder.routes.keep_up() => {}
        () = app.keep_house(&folder, identity) => {}
    }
    app.closing.cancel();
    app.tasks.close();
    let _ = timeout(door.limits.drain_time_max, app.tasks.wait()).await;
}

struct App {
    forwarder: Forwarder,
    peers: std::sync::RwLock<Option<TlsAcceptor>>,
    seats: Seats,
    tasks: TaskTracker,
    closing: CancellationToken,
}

/// Which of the two listeners.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Outside,
    Peers,
}

fn acceptor(identity: Option<&Identity>) -> Option<TlsAcceptor> {
    match identity?.server() {
        Ok(config) => Some(config.into()),
        Err(error) => {
            tracing::warn!(%error, "other nodes cannot reach this ingress");
            None
        }
    }
}

impl App {
    async fn accept_peers(self: &Arc<Self>, listener: Option<&TcpListener>) {
        match listener {
            Some(listener) => self.accept(listener, Side::Peers).await,
            None => std::future::pending().await,
        }
    }

    /// Takes connections as seats allow. Never ends: an accept that fails is the kernel's shortage,
    /// not ours.
    async fn accept(self: &Arc<Self>, listener: &TcpListener, from: Side) {
        loop {
            let permit = match from {
                Side::Outside => self.seats.outside().await,
                Side::Peers => self.seats.peer().await,
            };
            let (stream, sender) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let sender = sender.ip().to_canonical();
            let Some(seat) = self.seats.sit(permit, (from == Side::Outside).then_some(sender))
            else {
                tracing::debug!(%sender, "sent away: it has enough connections");
                continue;
            };
            let app = self.clone();
            self.tasks.spawn(async move {
                app.admit(stream, sender, from).await;
                drop(seat);
            });
        }
    }

    async fn admit(&self, stream: TcpStream, sender: IpAddr, from: Side) {
        let _ = stream.set_nodelay(true);
        match from {
            Side::Outside => self.talk(stream, sender, &Arrival::Outside).await,
            Side::Peers => {
                let acceptor = self.peers.read().unwrap_or_else(|e| e.into_inner()).clone();
                let Some(acceptor) = acceptor else { return };
                match timeout(HANDSHAKE_TIME_MAX, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                        match shown
                            .and_then(|certificate| self.forwarder.routes.node_of(certificate))
                        {
                            Some(node) => self.talk(stream, sender, &Arrival::Peer(node)).await,
                            None => {
                                tracing::warn!(%sender, "a node that is not one of the platform was sent away")
                            }
                        }
                    }
                    Ok(Err(error)) => tracing::debug!(%error, %sender, "a handshake failed"),
                    Err(_) => tracing::debug!(%sender, "a handshake took too long"),
                }
            }
        }
    }

    /// Answers the requests of one connection.
    async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        sender: IpAddr,
        arrival: &Arrival,
    ) {
        let limits = &self.forwarder.limits;
        let service = service_fn(|request: Request<Incoming>| async move {
            Ok::<_, Infallible>(self.forwarder.answer(request, sender, arrival).await)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_time_max)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(Patient::new(stream, limits.stall_time_max)), service);
        tokio::pin!(connection);
        let outcome = tokio::select! {
            outcome = &mut connection => outcome,
            () = self.closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, %sender, "a connection ended early");
        }
    }

    /// Takes up a renewed certificate, and lets go of connections that nobody uses.
    async fn keep_house(&self, folder: &IngressFolder, mut identity: Option<Identity>) {
        loop {
            tokio::time::sleep(match identity {
                Some(_) => HOUSEKEEPING_EVERY,
                None => HOUSEKEEPING_EVERY / 20, // the agent is joining right now
            })
            .await;
            self.forwarder.upstream.sweep();
            let Ok(Some(found)) = Identity::read(&folder.identity_file()) else { continue };
            if identity.as_ref() != Some(&found) {
                *self.peers.write().unwrap_or_else(|e| e.into_inner()) = acceptor(Some(&found));
                self.forwarder.upstream.speak_as(&found);
                identity = Some(found);
            }
        }
    }
}
