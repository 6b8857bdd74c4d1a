use std::sync::{PoisonError, RwLock};

use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::identity::IngressIdentity;

/// What the ingresses of two nodes speak TLS with. There is none before the agent has joined, and
/// another one after each renewal of the certificate.
#[derive(Default)]
pub(super) struct PeerTls(RwLock<Option<(TlsAcceptor, TlsConnector)>>);

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
        match identity.server().and_then(|server| Ok((server.into(), identity.client()?.into()))) {
            Ok(both) => *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(both),
            Err(error) => tracing::warn!(%error, "other nodes and this ingress cannot be reached"),
        }
    }

    pub fn acceptor(&self) -> Option<TlsAcceptor> {
        self.get(|(acceptor, _)| acceptor.clone())
    }

    pub fn connector(&self) -> Option<TlsConnector> {
        self.get(|(_, connector)| connector.clone())
    }

    fn get<T>(&self, part: impl FnOnce(&(TlsAcceptor, TlsConnector)) -> T) -> Option<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(part)
    }
}
