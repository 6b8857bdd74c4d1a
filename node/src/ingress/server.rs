use std::{convert::Infallible, future::pending, net::IpAddr, path::PathBuf, sync::Arc};

use http::Request;
use hyper::{body::Incoming, service::service_fn};
use net::{ConnectionLimits, ConnectionPermit, Connections};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use super::{
    folder::IngressFolder,
    forward::Forwarder,
    limits::{HANDSHAKES_MAX, HANDSHAKES_PER_ADDRESS_MAX, Limits, MAINTENANCE_EVERY},
    peer_limits::PeerLimits,
    peer_tls::PeerTls,
    routes::{Arrival, Routes},
    upstream::Upstream,
};
use crate::identity::IngressIdentity;

/// What the ingress listens on, and where it reads what it serves.
#[derive(Debug)]
pub struct Listeners {
    /// The folder that it shares with the agent.
    pub folder: PathBuf,
    pub clients: TcpListener,
    pub peers: Option<TcpListener>,
    pub limits: Limits,
}

/// Serves until `shutdown`, then lets requests finish.
pub async fn serve(listeners: Listeners, shutdown: impl Future<Output = ()>) {
    let Listeners { folder, clients, peers, limits } = listeners;
    let folder = IngressFolder::at(folder);
    let identity = IngressIdentity::read(&folder.identity_file()).ok().flatten();
    let tls = Arc::new(PeerTls::of(identity.as_ref()));
    let ingress = Arc::new(Ingress {
        forwarder: Forwarder {
            routes: Routes::open(folder.clone()),
            upstream: Arc::new(Upstream::new(tls.clone())),
            limits,
        },
        tls,
        connections: Connections::new(),
        peers: PeerLimits::default(),
    });
    tokio::select! {
        () = shutdown => {}
        never = ingress.accept_clients(&clients) => match never {},
        never = ingress.accept_peers(peers.as_ref()) => match never {},
        () = ingress.forwarder.routes.keep_up() => {}
        () = ingress.maintain(&folder, identity) => {}
    }
    drop((clients, peers));
    ingress.connections.clone().drain(limits.drain_time_max).await;
}

struct Ingress {
    forwarder: Forwarder,
    tls: Arc<PeerTls>,
    connections: Connections,
    peers: PeerLimits,
}

impl Ingress {
    async fn accept_clients(self: &Arc<Self>, listener: &TcpListener) -> Infallible {
        let limits = &self.forwarder.limits;
        let limits =
            ConnectionLimits::new(limits.connections_max, limits.connections_per_address_max);
        let accepted = |stream, client: Option<IpAddr>, permit| {
            let ingress = self.clone();
            async move {
                let Some(client) = client else { return };
                ingress.answer_all(stream, client, &Arrival::Client).await;
                drop(permit);
            }
        };
        self.connections.accept(listener, &limits, accepted).await
    }

    /// Connections of other nodes have limits of their own, which no client takes from. Until a
    /// certificate says which node it is, a connection counts for its address.
    async fn accept_peers(self: &Arc<Self>, listener: Option<&TcpListener>) -> Infallible {
        let Some(listener) = listener else { return pending().await };
        let limits = ConnectionLimits::new(HANDSHAKES_MAX, HANDSHAKES_PER_ADDRESS_MAX);
        let accepted = |stream, sender: Option<IpAddr>, permit| {
            let ingress = self.clone();
            async move {
                let Some(sender) = sender else { return };
                ingress.answer_peer(stream, sender, permit).await;
            }
        };
        self.connections.accept(listener, &limits, accepted).await
    }

    async fn answer_peer(&self, stream: TcpStream, sender: IpAddr, handshake: ConnectionPermit) {
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
        self.answer_all(stream, sender, &Arrival::Peer(node, trust)).await;
        drop(permit);
    }

    async fn answer_all<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        sender: IpAddr,
        arrival: &Arrival,
    ) {
        let service = service_fn(|request: Request<Incoming>| async move {
            Ok::<_, Infallible>(self.forwarder.answer(request, sender, arrival).await)
        });
        self.connections.serve_http(stream, self.forwarder.limits.http(), service).await;
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
