use http::{HeaderMap, header};
use spec::{NodeId, Tenant};

use crate::{
    app::App,
    error::Refusal,
    keys,
    records::{CredentialRecord, NodeRecord},
    routes::Access,
    secret,
};

/// Who is at the other end of a connection, as far as the connection itself can tell.
#[derive(Debug, Clone)]
pub(crate) enum Peer {
    /// Whoever may open the socket.
    Socket,
    /// Over TLS, with the fingerprint of a certificate that our CA signed, or without one.
    Tls { certificate: Option<String> },
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Principal {
    Nobody,
    /// The holder of a credential.
    Tenant(Tenant),
    /// The owner of the control plane: of its own tenant, and it may let others in.
    Operator(Tenant),
    /// A node, by the certificate that it has.
    Node {
        id: NodeId,
        certificate: String,
    },
}

impl App {
    /// Who asks. A certificate that is not the node's any more, and a token that nobody minted, are
    /// nobody.
    pub async fn principal(&self, peer: &Peer, headers: &HeaderMap) -> Result<Principal, Refusal> {
        match peer {
            Peer::Socket => Ok(Principal::Operator(self.tenant.clone())),
            Peer::Tls { certificate: Some(fingerprint) } => self.node_of(fingerprint).await,
            Peer::Tls { certificate: None } => match bearer(headers) {
                Some(token) => self.tenant_of(token).await,
                None => Ok(Principal::Nobody),
            },
        }
    }

    /// The node at the other end, if it is one.
    pub async fn node_at(&self, peer: &Peer) -> Option<NodeId> {
        match self.principal(peer, &HeaderMap::new()).await {
            Ok(Principal::Node { id, .. }) => Some(id),
            Ok(Principal::Nobody | Principal::Tenant(_) | Principal::Operator(_)) | Err(_) => None,
        }
    }

    async fn node_of(&self, fingerprint: &str) -> Result<Principal, Refusal> {
        let Some(id) = self.get::<NodeId>(keys::certificate(fingerprint)).await? else {
            return Ok(Principal::Nobody);
        };
        let node = self.get::<NodeRecord>(keys::node(&id.value)).await?;
        let good = node
            .is_some_and(|node| node.value.certificates.iter().any(|known| known == fingerprint));
        Ok(match good {
            true => Principal::Node { id: id.value, certificate: fingerprint.to_owned() },
            false => Principal::Nobody,
        })
    }

    async fn tenant_of(&self, token: &str) -> Result<Principal, Refusal> {
        let record = self.get::<CredentialRecord>(keys::credential(&secret::hashed(token))).await?;
        Ok(record.map_or(Principal::Nobody, |record| Principal::Tenant(record.value.tenant)))
    }
}

/// The one place that says who may do what. What it lets through then sees only the keys of its own
/// tenant or node.
pub(crate) fn authorize(principal: &Principal, access: Access) -> Result<(), Refusal> {
    match (access, principal) {
        (Access::Anyone, _)
        | (Access::Tenant, Principal::Tenant(_) | Principal::Operator(_))
        | (Access::Operator, Principal::Operator(_))
        | (Access::Node, Principal::Node { .. }) => Ok(()),
        (Access::Tenant | Access::Operator | Access::Node, Principal::Nobody) => {
            Err(Refusal::unauthenticated())
        }
        (Access::Tenant, Principal::Node { .. })
        | (Access::Operator, Principal::Tenant(_) | Principal::Node { .. })
        | (Access::Node, Principal::Tenant(_) | Principal::Operator(_)) => {
            Err(Refusal::forbidden())
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
        .filter(|token| (1..=512).contains(&token.len()))
}
