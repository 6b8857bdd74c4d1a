use std::time::SystemTime;

use http::{StatusCode, header, request::Parts};

use super::{
    called::Called,
    error::{ApiError, ErrorCode},
    logins::{Logins, from_header},
    remote::{Administrator, object_of},
};
use crate::{
    Action, Error, Repository, Tokens,
    access::{AUDIENCE, Object, Principal, Refusal, Scopes, Situation, allowed, decide, rights},
    protocol::Query,
    repository::Actions,
    storage::Metadata,
};

/// A request to an endpoint of one repository, once its principal is known. Its body is separate.
pub(super) struct RepositoryRequest {
    pub head: Parts,
    pub query: Query,
    pub principal: Principal,
    pub repository: Repository,
    /// What the principal may do in the repository.
    pub rights: Actions,
}

/// Turns the token of a request into a principal, and a principal's request for a repository into a
/// verdict.
pub(super) struct Authenticator {
    pub tokens: Tokens,
    pub metadata: Metadata,
    pub logins: Logins,
    /// The token endpoint as clients reach it, when it is not `/token` where they called.
    pub realm: Option<String>,
}

const WRONG_PASSWORD: &str = "user or password is wrong";
const REVOKED: &str = "what the token was issued for was removed or changed";

/// Why a token that was shown does not do.
enum TokenFault {
    /// Not valid at all.
    Invalid(&'static str),
    /// Valid, and not for this.
    InsufficientScope,
}

/// What a client has lost while its request went on.
pub(super) enum Lost {
    /// It was removed, or has another password or secret.
    Account,
    Right(Refusal),
}

/// The principal as it is by now; `None` when its account was removed, or has another password or
/// secret.
pub(super) async fn current(
    metadata: &Metadata,
    principal: Principal,
) -> Result<Option<Principal>, Error> {
    Ok(match principal {
        Principal::User { name, account, scopes, .. } => {
            let holder = metadata.holder(&account).await?;
            holder.map(|holder| Principal::User { name, account, holder: Some(holder), scopes })
        }
        Principal::Machine { name, minted, scopes, tenant } => {
            let is_current = metadata.is_machine_current(&name, minted).await?;
            is_current.then_some(Principal::Machine { name, minted, scopes, tenant })
        }
        Principal::Anonymous | Principal::ControlPlane => Some(principal),
    })
}

/// Waits until `principal` may not do `action` in a repository any more.
pub(super) async fn lost(
    metadata: &Metadata,
    principal: &Principal,
    repository: &Repository,
    action: Action,
) -> Lost {
    let mut changes = metadata.access_changes();
    loop {
        changes.mark_unchanged();
        // What cannot be looked up is not lost; the store's failure ends the process.
        if let Ok(Some(lost)) = lost_by_now(metadata, principal, repository, action).await {
            return lost;
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn lost_by_now(
    metadata: &Metadata,
    principal: &Principal,
    repository: &Repository,
    action: Action,
) -> Result<Option<Lost>, Error> {
    let Some(principal) = current(metadata, principal.clone()).await? else {
        return Ok(Some(Lost::Account));
    };
    let has = |situation: &Situation<'_>| rights(&principal, situation).contains(action);
    let refusal = match principal {
        Principal::Anonymous => Refusal::LoginNeeded,
        Principal::User { .. } | Principal::Machine { .. } | Principal::ControlPlane => {
            Refusal::NoRole
        }
    };
    let has = metadata.situation(repository, has).await?;
    Ok((!has).then_some(Lost::Right(refusal)))
}

impl Authenticator {
    /// The principal of the bearer token, or of the password that a client sends in its place;
    /// `None` without either. A token of an account that was
    /// removed, or has another password or secret by now, is not valid.
    pub async fn identify(&self, head: &Parts) -> Result<Option<Principal>, ApiError> {
        let Some(value) = head.headers.get(header::AUTHORIZATION) else { return Ok(None) };
        let invalid = |reason| self.challenge(head, None, Some(TokenFault::Invalid(reason)));
        let token = value.to_str().ok().and_then(|text| text.split_once(' '));
        let token = match token {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token,
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("basic") => {
                let Some(login) = from_header(&head.headers)? else { return Ok(None) };
                let from = head.extensions.get().map(|called: &Called| called.address);
                return match self.logins.log_in(&login, from).await {
                    Ok(principal) => Ok(Some(principal)),
                    // The challenge of this API, which leads to a token.
                    Err(error) if error.status() == StatusCode::UNAUTHORIZED => {
                        Err(invalid(WRONG_PASSWORD))
                    }
                    Err(error) => Err(error),
                };
            }
            _ => return Ok(None),
        };
        let principal = self.tokens.verify(token.trim(), SystemTime::now());
        let principal = principal.map_err(|error| invalid(error.reason()))?;
        match current(&self.metadata, principal).await? {
            Some(principal) => Ok(Some(principal)),
            None => Err(invalid(REVOKED)),
        }
    }

    /// Waits until `principal` may not do `action` any more, and is the answer to its request.
    pub async fn revoked(&self, request: &RepositoryRequest, action: Action) -> ApiError {
        let RepositoryRequest { head, principal, repository, .. } = request;
        match lost(&self.metadata, principal, repository, action).await {
            Lost::Account => self.challenge(head, None, Some(TokenFault::Invalid(REVOKED))),
            Lost::Right(refusal) => self.refused(head, principal, repository, action, refusal),
        }
    }

    /// What a principal may do in a repository, once that is known to be one of `actions`: the only
    /// way to a repository.
    pub async fn authorize(
        &self,
        head: &Parts,
        principal: &Principal,
        repository: &Repository,
        actions: &[Action],
    ) -> Result<Actions, ApiError> {
        let (usual, others) = actions.split_first().expect("each endpoint has an action");
        let decided = self.metadata.situation(repository, |situation: &Situation<'_>| {
            let allowed = allowed(principal, situation);
            if actions.iter().any(|action| allowed.contains(*action)) {
                return Ok(allowed);
            }
            let mut refusals = others.iter().map(|action| decide(principal, *action, situation));
            // A role for one of the others is a reason to ask for another token.
            Err(match decide(principal, *usual, situation) {
                Err(Refusal::NoRole) => refusals
                    .find_map(|refusal| refusal.err().filter(|why| *why != Refusal::NoRole))
                    .unwrap_or(Refusal::NoRole),
                Err(refusal) => refusal,
                Ok(()) => return Ok(allowed),
            })
        });
        let refused = |refusal| self.refused(head, principal, repository, *usual, refusal);
        decided.await?.map_err(refused)
    }

    fn refused(
        &self,
        head: &Parts,
        principal: &Principal,
        repository: &Repository,
        action: Action,
        refusal: Refusal,
    ) -> ApiError {
        let scope = || {
            let actions = match action {
                Action::Pull => "pull",
                Action::Push | Action::TagCreate | Action::TagOverwrite => "pull,push",
                Action::Delete | Action::Administer => "pull,push,delete",
            };
            format!("repository:{repository}:{actions}")
        };
        match refusal {
            Refusal::LoginNeeded => self.challenge(head, Some(&scope()), None),
            Refusal::InsufficientScope => {
                self.challenge(head, Some(&scope()), Some(TokenFault::InsufficientScope))
            }
            Refusal::NoRole => {
                let (name, action) = (principal.name(), action.name());
                ApiError::denied(format!("`{name}` may not {action} `{repository}`"))
            }
            Refusal::ReadOnly => ApiError::read_only(),
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
                let name = principal.name();
                Err(ApiError::denied(format!("`{name}` may not take back tokens of machines")))
            }
        }
    }

    /// On whose behalf an administrative request is made, once it is known that it may be.
    pub fn authorize_administration<'a>(
        &self,
        principal: &'a Principal,
        head: &Parts,
        path: &str,
        query: &Query,
    ) -> Result<Administrator<'a>, ApiError> {
        let object = object_of(&head.method, path, query)?;
        let administrator = Administrator::Client(principal);
        if administrator.may(&object, &self.metadata.policies()) {
            return Ok(administrator);
        }
        Err(match principal {
            Principal::Anonymous => self.login_needed(head),
            Principal::User { scopes: Scopes::Only { .. }, .. } => ApiError::denied(
                "a registry is administered with user and password, not with a token",
            ),
            Principal::User { .. } | Principal::Machine { .. } | Principal::ControlPlane => {
                let what = match &object {
                    Object::Registry | Object::List => "this registry".to_owned(),
                    Object::Account(name) => format!("`{name}`"),
                    Object::Password(name) => format!("the password of `{name}`"),
                    Object::Repositories(pattern) => format!("`{pattern}`"),
                };
                ApiError::denied(format!(
                    "`{}` may not administer {what}: an operator may, and role `admin`",
                    principal.name()
                ))
            }
        })
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
