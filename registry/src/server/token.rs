use std::time::SystemTime;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, Method, StatusCode, header, request::Parts};
use spec::{Tenant, Timestamp};

use super::{
    From,
    app::App,
    query::Query,
    reply::{Refusal, Reply, json},
    request_body::RequestBody,
};
use crate::{
    Action, Repository,
    access::{Login, Principal, Scopes, Verdict, authorize, own_of},
};

/// A form with user, password and scopes.
const FORM_BYTES_MAX: usize = 16 << 10;
/// A push names two or three repositories, and one that takes blobs from others some more. With the
/// longest of names, a token for so many still fits.
const SCOPES_MAX: usize = 32;

impl App {
    /// A token for a password, as far as was asked for and no further than its owner may go.
    /// Without a password: for a nobody, who may read what is public.
    ///
    /// # Spec
    /// distribution project, "Token authentication" (`GET`) and "OAuth2 token authentication"
    /// (`POST`).
    pub(super) async fn token(
        &self,
        head: &Parts,
        query: &Query,
        body: &mut RequestBody,
        from: From,
    ) -> Result<Reply, Refusal> {
        let form;
        let (parameters, login) = match head.method {
            Method::POST => {
                let bytes = body.all(FORM_BYTES_MAX).await?;
                form = Query::parse(std::str::from_utf8(&bytes).unwrap_or_default());
                (&form, from_form(&form)?)
            }
            _ => (query, from_header(&head.headers)?),
        };
        let principal = match login {
            None => Principal::Nobody,
            Some((name, password)) => self.log_in(&name, &password, from).await?,
        };
        let principal = self.cut(principal, parameters).await?;
        let now = SystemTime::now();
        let token = self.tokens.grant(&principal, self.limits.token_time, now);
        let answer = serde_json::json!({
            "token": token,
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": self.limits.token_time.as_secs(),
            "issued_at": Timestamp::of(now),
        });
        let mut reply = json(StatusCode::OK, &answer);
        reply
            .headers_mut()
            .insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
        Ok(reply)
    }

    async fn log_in(&self, name: &str, password: &str, from: From) -> Result<Principal, Refusal> {
        match self.passwords.check(&self.metadata, name, password, from).await? {
            Login::Right => {
                let name = name.parse::<Tenant>().map_err(|_| wrong_password())?;
                Ok(Principal::User { name, scopes: Scopes::All })
            }
            Login::Wrong => Err(wrong_password()),
            Login::Wait(time) => {
                let message = "too many wrong passwords, or too many logins at once: wait a minute";
                Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", message)
                    .with(header::RETRY_AFTER, &(time.as_secs() + 1).to_string()))
            }
        }
    }

    /// The part of a user's rights that the scopes ask for. What they may not do is left out
    /// without a word, as the protocol has it: the registry says so when they try.
    async fn cut(&self, principal: Principal, parameters: &Query) -> Result<Principal, Refusal> {
        let Principal::User { name, .. } = &principal else { return Ok(principal) };
        let (mut repositories, mut own) = (Vec::new(), false);
        let asked = parameters
            .all("scope")
            .flat_map(|scopes| scopes.split(' '))
            .filter(|scope| !scope.is_empty());
        for (number, scope) in asked.enumerate() {
            // Less than was asked for would only be found out in the middle of a push.
            if number == SCOPES_MAX {
                return Err(Refusal::bad(
                    "UNSUPPORTED",
                    format!("a token is for at most {SCOPES_MAX} scopes"),
                ));
            }
            // A resource may have one `:` of its own (`repository:host:port/name:pull`); ours have
            // none.
            let Some(("repository", rest)) = scope.split_once(':') else { continue };
            let Some((resource, actions)) = rest.rsplit_once(':') else { continue };
            if resource == own_of(name) {
                own |= actions.split(',').any(|action| action == Action::Pull.name());
                continue;
            }
            let Ok(repository) = resource.parse::<Repository>() else { continue };
            let public = self.is_public(&repository).await?;
            let may = |action: &Action| {
                authorize(&principal, &repository, public, *action) == Verdict::Allowed
            };
            let actions: Vec<_> = wanted(actions).into_iter().filter(may).collect();
            if !actions.is_empty() {
                repositories.push((repository, actions));
            }
        }
        Ok(Principal::User { name: name.clone(), scopes: Scopes::Only { repositories, own } })
    }
}

fn wanted(actions: &str) -> Vec<Action> {
    match actions {
        "*" => vec![Action::Pull, Action::Push, Action::Delete],
        _ => actions.split(',').filter_map(Action::from_name).collect(),
    }
}

fn wrong_password() -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "user or password is wrong")
        .with(header::WWW_AUTHENTICATE, r#"Basic realm="margay registry""#)
}

fn from_header(headers: &HeaderMap) -> Result<Option<(String, String)>, Refusal> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let text = value.to_str().ok().and_then(|text| text.split_once(' '));
    let encoded = text
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .ok_or_else(wrong_password)?
        .1;
    let decoded =
        BASE64_STANDARD.decode(encoded.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let (name, password) =
        decoded.as_deref().and_then(|text| text.split_once(':')).ok_or_else(wrong_password)?;
    Ok(Some((name.to_owned(), password.to_owned())))
}

fn from_form(form: &Query) -> Result<Option<(String, String)>, Refusal> {
    match form.get("grant_type") {
        Some("password") => {
            let (name, password) = (form.get("username"), form.get("password"));
            let pair = name.zip(password).ok_or_else(wrong_password)?;
            Ok(Some((pair.0.to_owned(), pair.1.to_owned())))
        }
        // There are no refresh tokens: a client that has a password asks with it again.
        _ => Err(Refusal::bad("UNSUPPORTED", "the only `grant_type` here is `password`")),
    }
}
