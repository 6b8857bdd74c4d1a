use http::{HeaderMap, header};
use spec::{NodeId, Tenant};

use super::error::ApiError;
use crate::state::{
    State, keys,
    records::{CredentialRecord, NodeRecord},
    tokens,
};

/// What a connection itself says about its client.
#[derive(Debug, Clone)]
pub(crate) enum Peer {
    /// A user that may open the socket.
    Socket,
    /// Over TLS, with the fingerprint of a certificate that the CA signed, or without one.
    Tls { certificate: Option<String> },
}

/// On whose behalf a request is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Principal {
    Unauthenticated,
    /// The holder of a credential.
    Tenant(Tenant),
    /// The owner of the control plane: of its own tenant, and it may create credentials.
    Operator(Tenant),
    /// A node, by the certificate that it has.
    Node {
        id: NodeId,
        certificate: String,
    },
}

/// Which principals may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Every client. The join of a node is here: its secret is in its body.
    Anyone,
    /// The holder of a credential, for the objects of its tenant; and the operator, for its own.
    Tenant,
    /// The owner of the control plane alone.
    Operator,
    /// A node, by its certificate, for itself.
    Node,
}

impl Principal {
    /// A certificate that is not the node's any more, and an unknown token, are unauthenticated.
    pub async fn of(
        state: &State,
        operator: &Tenant,
        peer: &Peer,
        headers: &HeaderMap,
    ) -> Result<Self, store::Error> {
        match peer {
            Peer::Socket => Ok(Self::Operator(operator.clone())),
            Peer::Tls { certificate: Some(fingerprint) } => {
                let node = node_of(state, fingerprint).await?;
                let known = |id| Self::Node { id, certificate: fingerprint.clone() };
                Ok(node.map_or(Self::Unauthenticated, known))
            }
            Peer::Tls { certificate: None } => match bearer(headers) {
                Some(token) => Self::of_token(state, token).await,
                None => Ok(Self::Unauthenticated),
            },
        }
    }

    async fn of_token(state: &State, token: &str) -> Result<Self, store::Error> {
        let key = keys::credential(&tokens::hashed(token));
        let record = state.get::<CredentialRecord>(key).await?;
        Ok(record.map_or(Self::Unauthenticated, |record| Self::Tenant(record.value.tenant)))
    }
}

/// The node whose valid certificate has this fingerprint.
pub(crate) async fn node_of(
    state: &State,
    fingerprint: &str,
) -> Result<Option<NodeId>, store::Error> {
    let Some(id) = state.get::<NodeId>(keys::certificate(fingerprint)).await? else {
        return Ok(None);
    };
    let node = state.get::<NodeRecord>(keys::node(&id.value)).await?;
    let is_valid =
        node.is_some_and(|node| node.value.certificates.iter().any(|c| c == fingerprint));
    Ok(is_valid.then_some(id.value))
}

/// The one place that decides which principal may use which route. A request that it lets through
/// sees only the keys of its own tenant or node.
pub(crate) fn authorize(principal: &Principal, access: Access) -> Result<(), ApiError> {
    match (access, principal) {
        (Access::Anyone, _)
        | (Access::Tenant, Principal::Tenant(_) | Principal::Operator(_))
        | (Access::Operator, Principal::Operator(_))
        | (Access::Node, Principal::Node { .. }) => Ok(()),
        (Access::Tenant | Access::Operator | Access::Node, Principal::Unauthenticated) => {
            Err(ApiError::unauthenticated())
        }
        (Access::Tenant, Principal::Node { .. })
        | (Access::Operator, Principal::Tenant(_) | Principal::Node { .. })
        | (Access::Node, Principal::Tenant(_) | Principal::Operator(_)) => {
            Err(ApiError::forbidden())
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
