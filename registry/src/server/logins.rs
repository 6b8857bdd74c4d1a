use std::{net::IpAddr, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, StatusCode, header};
use spec::Tenant;

use super::error::{ApiError, ErrorCode};
use crate::{
    access::{LoginOutcome, Passwords, Principal, Scopes},
    storage::Metadata,
};

/// Turns names and passwords into principals.
#[derive(Clone)]
pub(super) struct Logins {
    pub passwords: Arc<Passwords>,
    pub metadata: Metadata,
}

/// A name and a password, as a client has sent them.
pub(super) struct Login {
    pub name: String,
    pub password: String,
}

impl Logins {
    /// The principal of a login of a client at `from`, with all the rights of its account.
    pub async fn log_in(&self, login: &Login, from: Option<IpAddr>) -> Result<Principal, ApiError> {
        let Login { name, password } = login;
        match self.passwords.check(name, password, from).await? {
            LoginOutcome::Accepted(account) => {
                let user = name.split_once('+').map_or(&**name, |(user, _)| user);
                let name = user.parse::<Tenant>().map_err(|_| wrong_password())?;
                let holder = self.metadata.holder(&account).await?;
                Ok(Principal::User { name, account, holder, scopes: Scopes::All })
            }
            LoginOutcome::Rejected => Err(wrong_password()),
            LoginOutcome::RetryAfter(time) => Err(ApiError::too_many_requests(
                "too many wrong passwords, or too many logins at once: wait a minute",
            )
            .header(header::RETRY_AFTER, (time.as_secs() + 1).to_string())),
        }
    }
}

pub(super) fn wrong_password() -> ApiError {
    let message = "user or password is wrong";
    ApiError::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message)
        .header(header::WWW_AUTHENTICATE, r#"Basic realm="margay registry""#)
}

/// The login of a request with Basic authentication; `None` without an `Authorization`.
pub(super) fn from_header(headers: &HeaderMap) -> Result<Option<Login>, ApiError> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let text = value.to_str().ok().and_then(|text| text.split_once(' '));
    let (_, encoded) = text
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .ok_or_else(wrong_password)?;
    let decoded =
        BASE64_STANDARD.decode(encoded.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let (name, password) =
        decoded.as_deref().and_then(|text| text.split_once(':')).ok_or_else(wrong_password)?;
    Ok(Some(Login { name: name.to_owned(), password: password.to_owned() }))
}
