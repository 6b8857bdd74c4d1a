use std::time::SystemTime;

use http::{StatusCode, header, request::Parts};

use super::{
    called::Called,
    error::{ApiError, ErrorCode},
};
use crate::{
    Action, Repository, Tokens,
    access::{AUDIENCE, Access, Principal, Verdict, authorize},
    protocol::Query,
    storage::Metadata,
};

/// A request to an endpoint of one repository, once its principal is known. Its body is separate.
pub(super) struct RepositoryRequest {
    pub head: Parts,
    pub query: Query,
    pub principal: Principal,
    pub repository: Repository,
}

/// Turns the token of a request into a principal, and a principal's request for a repository into a
/// verdict.
pub(super) struct Authenticator {
    pub tokens: Tokens,
    pub metadata: Metadata,
    /// The token endpoint as clients reach it, when it is not `/token` where they called.
    pub realm: Option<String>,
}

const REVOKED: &str = "what the token was issued for was removed or changed";

/// Why a token that was shown does not do.
enum TokenFault {
    /// Not valid at all.
    Invalid(&'static str),
    /// Valid, and not for this.
    InsufficientScope,
}

impl Authenticator {
    /// The principal of the bearer token; `None` without one. A token of an account that was
    /// removed, or has another password or secret by now, is not valid.
    pub async fn identify(&self, head: &Parts) -> Result<Option<Principal>, ApiError> {
        let Some(value) = head.headers.get(header::AUTHORIZATION) else { return Ok(None) };
        let token = value.to_str().ok().and_then(|text| text.split_once(' '));
        let Some((_, token)) = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        else {
            // A password is only checked at the token endpoint: a check costs 20 ms, too much for
            // each request.
            return Ok(None);
        };
        let invalid = |reason| self.challenge(head, None, Some(TokenFault::Invalid(reason)));
        let principal = self.tokens.verify(token.trim(), SystemTime::now());
        let principal = principal.map_err(|error| invalid(error.reason()))?;
        match &principal {
            Principal::User { account, .. } if !self.metadata.is_current(account).await? => {
                Err(invalid(REVOKED))
            }
            Principal::Machine { name, minted, .. }
                if !self.metadata.is_machine_current(name, *minted).await? =>
            {
                Err(invalid(REVOKED))
            }
            _ => Ok(Some(principal)),
        }
    }

    /// Waits until `principal` is worth nothing any more, and is the answer to its request.
    pub async fn revoked(&self, principal: &Principal, head: &Parts) -> ApiError {
        match principal {
            Principal::User { account, .. } => {
                self.metadata.revoked(account).await;
                self.challenge(head, None, Some(TokenFault::Invalid(REVOKED)))
            }
            Principal::Machine { name, minted, .. } => {
                self.metadata.machine_revoked(name, *minted).await;
                self.challenge(head, None, Some(TokenFault::Invalid(REVOKED)))
            }
            Principal::Anonymous | Principal::ControlPlane => std::future::pending().await,
        }
    }

    /// Whether the principal of `request` may do `action` in its repository: the only way to a
    /// repository.
    pub async fn authorize(
        &self,
        request: &RepositoryRequest,
        action: Action,
    ) -> Result<(), ApiError> {
        let RepositoryRequest { repository, principal, .. } = request;
        let access = Access::of(&self.metadata, repository).await?;
        match authorize(principal, repository, access, action) {
            Verdict::Allowed => Ok(()),
            Verdict::Challenge => {
                let actions = match action {
                    Action::Pull => "pull",
                    Action::Push => "pull,push",
                    Action::Delete => "pull,push,delete",
                };
                let scope = format!("repository:{repository}:{actions}");
                let fault = match principal {
                    Principal::Anonymous => None,
                    _ => Some(TokenFault::InsufficientScope),
                };
                Err(self.challenge(&request.head, Some(&scope), fault))
            }
            Verdict::Denied => {
                let (name, action) = (principal.name(), action.name());
                let message = format!("`{name}` may not {action} `{repository}`");
                Err(ApiError::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message))
            }
        }
    }

    /// Whether `principal` may take back the tokens of machines.
    pub fn authorize_revocation(
        &self,
        principal: &Principal,
        head: &Parts,
    ) -> Result<(), ApiError> {
        match principal {
            Principal::ControlPlane => Ok(()),
            Principal::Anonymous => Err(self.login_needed(head)),
            Principal::User { .. } | Principal::Machine { .. } => {
                let message =
                    format!("`{}` may not take back tokens of machines", principal.name());
                Err(ApiError::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message))
            }
        }
    }

    /// The challenge for a request to the registry as a whole.
    pub fn login_needed(&self, head: &Parts) -> ApiError {
        self.challenge(head, None, None)
    }

    /// A 401 that names the token endpoint and the scope to request there.
    fn challenge(&self, head: &Parts, scope: Option<&str>, fault: Option<TokenFault>) -> ApiError {
        let called = || head.extensions.get().map_or_else(String::new, Called::realm);
        let realm = self.realm.clone().unwrap_or_else(called);
        let mut challenge = format!(r#"Bearer realm="{realm}",service="{AUDIENCE}""#);
        if let Some(scope) = scope {
            challenge.push_str(&format!(r#",scope="{scope}""#));
        }
        let (code, message) = match fault {
            None => ("", "a login is needed"),
            Some(TokenFault::Invalid(reason)) => (r#",error="invalid_token""#, reason),
            Some(TokenFault::InsufficientScope) => {
                (r#",error="insufficient_scope""#, "the scope of the token does not include this")
            }
        };
        challenge.push_str(code);
        ApiError::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message)
            .header(header::WWW_AUTHENTICATE, challenge)
    }
}
