use std::net::IpAddr;

use http::{HeaderMap, header};
use spec::{CredentialName, NodeId, Tenant};

use super::error::ApiError;
use crate::state::{
    State,
    credentials::{AccessToken, CredentialScope},
    issuer::Issuer,
    keys, now,
    records::NodeRecord,
};

/// What a connection itself says about its client.
#[derive(Debug, Clone)]
pub(crate) enum Peer {
    /// A user that may open the socket.
    Socket,
    /// Over TLS, with the fingerprint of a certificate that the CA signed, or without one.
    Tls { certificate: Option<String>, from: Option<IpAddr> },
}

/// On whose behalf a request is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Principal {
    Unauthenticated,
    /// The holder of a credential, with an access token for it.
    Tenant {
        tenant: Tenant,
        credential: CredentialName,
        scope: CredentialScope,
        /// Of the credential: another one after each change of its secret.
        serial: String,
    },
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
    /// The holder of a credential of this scope or a wider one, for the objects of its tenant; and
    /// the operator, for its own.
    Read,
    Deploy,
    Manage,
    /// The owner of the control plane alone.
    Operator,
    /// A node, by its certificate, for itself.
    Node,
}

impl Principal {
    /// Whether the caller came through the Unix socket.
    pub fn is_on_this_machine(&self) -> bool {
        matches!(self, Self::Operator(_))
    }

    /// A certificate that is not the node's any more, and an unknown token, are unauthenticated.
    pub async fn of(
        state: &State,
        issuer: &Issuer,
        operator: &Tenant,
        peer: &Peer,
        headers: &HeaderMap,
    ) -> Result<Self, store::Error> {
        match peer {
            Peer::Socket => Ok(Self::Operator(operator.clone())),
            Peer::Tls { certificate: Some(fingerprint), .. } => {
                let node = node_of(state, fingerprint).await?;
                let known = |id| Self::Node { id, certificate: fingerprint.clone() };
                Ok(node.map_or(Self::Unauthenticated, known))
            }
            Peer::Tls { certificate: None, .. } => match bearer(headers) {
                Some(token) => Self::of_token(state, issuer, token).await,
                None => Ok(Self::Unauthenticated),
            },
        }
    }

    /// Each request looks at the credential's record, so that one that was removed is refused at
    /// once.
    async fn of_token(state: &State, issuer: &Issuer, token: &str) -> Result<Self, store::Error> {
        let now = now();
        let Some(token) = AccessToken::verify(token, issuer, now) else {
            return Ok(Self::Unauthenticated);
        };
        let record = state.credential_of(&token, now).await?;
        Ok(record.map_or(Self::Unauthenticated, |record| Self::Tenant {
            tenant: record.tenant,
            credential: record.name,
            scope: record.scope,
            serial: record.serial,
        }))
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
    let needed = match access {
        Access::Anyone => return Ok(()),
        Access::Read => Some(CredentialScope::Read),
        Access::Deploy => Some(CredentialScope::Deploy),
        Access::Manage => Some(CredentialScope::Manage),
        Access::Operator | Access::Node => None,
    };
    match (principal, needed) {
        (Principal::Unauthenticated, _) => Err(ApiError::unauthenticated()),
        (Principal::Operator(_), Some(_)) => Ok(()),
        (Principal::Operator(_), None) if access == Access::Operator => Ok(()),
        (Principal::Node { .. }, None) if access == Access::Node => Ok(()),
        (Principal::Tenant { scope, .. }, Some(needed)) if *scope >= needed => Ok(()),
        (Principal::Tenant { credential, scope, .. }, Some(needed)) => Err(ApiError::forbidden()
            .hint(format!(
                "credential `{credential}` has the scope `{scope}`, and this needs `{needed}`"
            ))),
        (Principal::Operator(_) | Principal::Node { .. } | Principal::Tenant { .. }, _) => {
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
