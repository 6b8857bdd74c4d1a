use std::sync::{Arc, PoisonError, RwLock};

use spec::Protocol;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{error::Result, identity::IngressIdentity};

/// What the ingresses of two nodes speak TLS with. There is none before the agent has joined, and
/// another one after each renewal of the certificate.
#[derive(Default)]
pub(super) struct PeerTls(RwLock<Option<Tls>>);

struct Tls {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    /// For connections of HTTP/2.
    connector_http2: TlsConnector,
}

impl PeerTls {
    pub fn of(identity: Option<&IngressIdentity>) -> Self {
        let tls = Self::default();
        if let Some(identity) = identity {
            tls.replace(identity);
        }
        tls
    }

    /// Speaks as `identity` from the next handshake on.
    pub fn replace(&self, identity: &IngressIdentity) {
        match Tls::of(identity) {
            Ok(tls) => *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(tls),
            Err(error) => tracing::warn!(%error, "other nodes and this ingress cannot be reached"),
        }
    }

    pub fn acceptor(&self) -> Option<TlsAcceptor> {
        self.get(|tls| tls.acceptor.clone())
    }

    pub fn connector(&self, protocol: Protocol) -> Option<TlsConnector> {
        self.get(|tls| match protocol {
            Protocol::Http2 => tls.connector_http2.clone(),
            Protocol::Http | Protocol::Tcp | Protocol::Udp => tls.connector.clone(),
        })
    }

    fn get<T>(&self, part: impl FnOnce(&Tls) -> T) -> Option<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(part)
    }
}

impl Tls {
    fn of(identity: &IngressIdentity) -> Result<Self> {
        let mut server = (*identity.server()?).clone();
        server.alpn_protocols = net::tls::WEB.map(<[u8]>::to_vec).into();
        let client = identity.client()?;
        let mut client_http2 = (*client).clone();
        client_http2.alpn_protocols = vec![net::tls::HTTP_2.to_vec()];
        Ok(Self {
            acceptor: Arc::new(server).into(),
            connector: client.into(),
            connector_http2: Arc::new(client_http2).into(),
        })
    }
}
