use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderValue, Method, StatusCode, header, request::Parts};
use spec::Timestamp;

use super::{
    audited::Audited,
    error::{ApiError, ErrorCode},
    logins::{Login, Logins, from_header, wrong_password},
    rates::RequestRates,
    request_body::RequestBody,
    response::{Response, json},
};
use crate::{
    Action, Error, Repository, Tokens,
    access::{Principal, Refusal, Scopes, Situation, decide, own_repositories},
    limits::{SCOPES_MAX, TOKEN_FORM_BYTES_MAX},
    protocol::Query,
    storage::Metadata,
};

/// Exchanges a password for a token.
pub(super) struct TokenEndpoint {
    pub logins: Logins,
    pub rates: Arc<RequestRates>,
    pub tokens: Tokens,
    pub metadata: Metadata,
    pub lifetime: Duration,
}

impl TokenEndpoint {
    /// A token for the requested scopes, as far as the user has rights to them. Without a password:
    /// an anonymous token, for public repositories.
    ///
    /// # Spec
    /// distribution project, "Token authentication" (`GET`) and "OAuth2 token authentication"
    /// (`POST`).
    pub async fn grant(
        &self,
        head: &Parts,
        query: &Query,
        body: &mut RequestBody,
        from: Option<IpAddr>,
        audited: &mut Audited,
    ) -> Result<Response, ApiError> {
        let form;
        let (parameters, login) = match head.method {
            Method::POST => {
                let bytes = body.all(TOKEN_FORM_BYTES_MAX).await?;
                form = Query::parse(std::str::from_utf8(&bytes).unwrap_or_default());
                (&form, login_from_form(&form)?)
            }
            _ => (query, from_header(&head.headers)?),
        };
        let principal = match login {
            None => Principal::Anonymous,
            Some(login) => {
                audited.login(&login.name);
                self.logins.log_in(&login, from).await?
            }
        };
        audited.of(&principal);
        // By its login: an office has one address.
        self.rates.admit(&principal, from, self.metadata.rules.rates()).await?;
        let principal = self.restrict(principal, parameters).await?;
        let now = SystemTime::now();
        let token = self.tokens.grant(&principal, self.lifetime, now);
        let answer = serde_json::json!({
            "token": token,
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": self.lifetime.as_secs(),
            "issued_at": Timestamp::of(now),
        });
        let mut response = json(StatusCode::OK, &answer);
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }

    /// The part of a user's rights that the scopes request. What the user may not do is left out
    /// silently, as the protocol demands: the registry answers with an error when it is tried.
    async fn restrict(
        &self,
        principal: Principal,
        parameters: &Query,
    ) -> Result<Principal, ApiError> {
        let Principal::User { name, account, holder, .. } = &principal else {
            return Ok(principal);
        };
        let (mut repositories, mut own) = (Vec::new(), false);
        let requested = parameters
            .all("scope")
            .flat_map(|scopes| scopes.split(' '))
            .filter(|scope| !scope.is_empty());
        for (number, scope) in requested.enumerate() {
            // A token for fewer scopes would fail in the middle of a push.
            if number == SCOPES_MAX {
                let message = format!("a token has at most {SCOPES_MAX} scopes");
                return Err(ApiError::bad_request(ErrorCode::Unsupported, message));
            }
            // A resource may contain a `:` (`repository:host:port/name:pull`); no repository of
            // this registry does.
            let Some(("repository", rest)) = scope.split_once(':') else { continue };
            let Some((resource, actions)) = rest.rsplit_once(':') else { continue };
            if resource == own_repositories(name) {
                let mut actions = actions.split(',');
                own |= principal.mounts_own() && actions.any(|one| one == Action::Pull.name());
            } else if let Ok(repository) = resource.parse() {
                let actions = self.allowed(&principal, &repository, actions).await?;
                if !actions.is_empty() {
                    repositories.push((repository, actions));
                }
            }
        }
        let scopes = Scopes::Only { repositories, own };
        let (name, account, holder) = (name.clone(), account.clone(), holder.clone());
        Ok(Principal::User { name, account, holder, scopes })
    }

    async fn allowed(
        &self,
        principal: &Principal,
        repository: &Repository,
        actions: &str,
    ) -> Result<Vec<Action>, Error> {
        let mut actions: Vec<Action> = match actions {
            "*" => vec![Action::Pull, Action::Push, Action::Delete],
            _ => actions.split(',').filter_map(Action::from_name).collect(),
        };
        let allowed = |situation: &Situation<'_>| {
            // A right that is part of another is asked for by the name of the whole.
            actions.retain(|action| {
                let mut parts = action.implied().iter();
                parts.any(|part| decide(principal, part, situation) != Err(Refusal::NoRole))
            });
            actions
        };
        self.metadata.situation(repository, allowed).await
    }
}

fn login_from_form(form: &Query) -> Result<Option<Login>, ApiError> {
    match form.get("grant_type") {
        Some("password") => {
            let (name, password) = (form.get("username"), form.get("password"));
            let (name, password) = name.zip(password).ok_or_else(wrong_password)?;
            Ok(Some(Login { name: name.to_owned(), password: password.to_owned() }))
        }
        // There are no refresh tokens: a client that has a password logs in with it again.
        _ => Err(ApiError::bad_request(
            ErrorCode::Unsupported,
            "the only `grant_type` of this registry is `password`",
        )),
    }
}
