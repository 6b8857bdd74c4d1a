use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri, header};
use serde::Deserialize;

use super::{
    challenge::Challenge,
    options::Auth,
    origin::Origin,
    session::{Session, printable},
    transport::{USER_AGENT, body},
};
use crate::{
    Error, ProtocolFault,
    access::AUDIENCE,
    limits::{ANSWER_BYTES_MAX, TOKEN_LIFETIME_MAX, TOKEN_SECONDS_DEFAULT},
    protocol::encode_query,
};

#[derive(Deserialize)]
struct TokenResponse {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Session<'_> {
    /// Answers the challenge of a 401, so that the credential is known.
    pub async fn authenticate(&self, headers: &HeaderMap, subject: &str) -> Result<(), Error> {
        match (Challenge::of(headers), self.auth()) {
            (_, Auth::Token(_)) | (Some(Challenge::Basic), Auth::Anonymous) => {
                Err(self.login_needed(subject))
            }
            (Some(Challenge::Basic), Auth::Password { user, password }) => {
                let lifetime = Duration::from_secs(TOKEN_SECONDS_DEFAULT);
                self.context.credentials.insert(self.key(), basic(&user, &password), lifetime);
                Ok(())
            }
            (Some(Challenge::Bearer { realm, service }), auth) => {
                self.fetch_token(&realm, service, &auth, subject).await
            }
            (None, _) => Err(self.fault(ProtocolFault::UnknownChallenge)),
        }
    }

    /// Sends the password with each request, where there is one: no token has all its rights.
    pub fn send_password(&self) {
        if let Auth::Password { user, password } = self.auth() {
            let credential = basic(&user, &password);
            self.context.credentials.insert(self.key(), credential, TOKEN_LIFETIME_MAX);
        }
    }

    async fn fetch_token(
        &self,
        realm: &str,
        service: Option<String>,
        auth: &Auth,
        subject: &str,
    ) -> Result<(), Error> {
        let (origin, path) = self.token_endpoint(realm, service.as_deref(), auth)?;
        let request = || {
            let mut builder = Request::builder().uri(&path).header(header::USER_AGENT, USER_AGENT);
            if let Auth::Password { user, password } = auth {
                builder = builder.header(header::AUTHORIZATION, basic(user, password));
            }
            builder.body(body(Bytes::new())).map_err(|_| self.not_sendable("token address"))
        };
        let response = self.send_at_its_rate(&origin, "the token", request).await?;
        match (response.status(), auth) {
            (StatusCode::OK, _) => {}
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Auth::Password { user, .. }) => {
                let (registry, user) = (self.registry.clone(), user.clone());
                return Err(Error::WrongPassword { registry, user });
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
                return Err(self.login_needed(subject));
            }
            _ => return Err(self.error("the login", response).await),
        }
        let transport = &self.context.transport;
        let bytes =
            transport.receive(&origin, "the token", response).read_all(ANSWER_BYTES_MAX).await?;
        let response: TokenResponse = serde_json::from_slice(&bytes)
            .map_err(|source| self.fault(ProtocolFault::Json { what: "token response", source }))?;
        let token = response.token.or(response.access_token);
        let token = token.ok_or_else(|| self.fault(ProtocolFault::NoToken))?;
        let seconds = response
            .expires_in
            .unwrap_or(TOKEN_SECONDS_DEFAULT)
            .clamp(TOKEN_SECONDS_DEFAULT, TOKEN_LIFETIME_MAX.as_secs());
        // Renewed a little early, so that it does not expire on the way to the registry.
        let lifetime = Duration::from_secs(seconds * 9 / 10);
        self.context.credentials.insert(self.key(), format!("Bearer {token}"), lifetime);
        Ok(())
    }

    /// Where a token for the scopes of this session is requested.
    fn token_endpoint(
        &self,
        realm: &str,
        service: Option<&str>,
        auth: &Auth,
    ) -> Result<(Origin, String), Error> {
        let (origin, mut path) = self.check_realm(realm, auth)?;
        let own = self.own_repositories_scope(service, auth);
        let scopes = self.scopes.iter().chain(&own).map(|scope| ("scope", scope.as_str()));
        for (name, value) in service.map(|service| ("service", service)).into_iter().chain(scopes) {
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str(&format!("{name}={}", encode_query(value)));
        }
        Ok((origin, path))
    }

    /// At a registry of this kind, a push may mount blobs from all repositories of its user.
    fn own_repositories_scope(&self, service: Option<&str>, auth: &Auth) -> Option<String> {
        let pushes = self.scopes.iter().any(|scope| scope.ends_with("push"));
        match auth {
            Auth::Password { user, .. } if pushes && service == Some(AUDIENCE) => {
                Some(format!("repository:{user}/*:pull"))
            }
            _ => None,
        }
    }

    /// Credentials go to the registry's own host, or over TLS to a realm that the user listed: a
    /// registry must not be able to send them elsewhere.
    fn check_realm(&self, realm: &str, auth: &Auth) -> Result<(Origin, String), Error> {
        let foreign =
            || Error::ForeignRealm { registry: self.registry.clone(), realm: printable(realm) };
        let uri: Uri = realm.parse().map_err(|_| foreign())?;
        let origin = Origin::of_uri(&uri).ok_or_else(foreign)?;
        let same_host = origin.host == self.origin.host && (origin.secure || !self.origin.secure);
        let listed = origin.secure && self.context.options.realms.contains(&origin.host);
        let without_credentials = origin.secure && matches!(auth, Auth::Anonymous);
        if !(same_host || listed || without_credentials) {
            return Err(foreign());
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok((origin, path.to_owned()))
    }

    fn login_needed(&self, subject: &str) -> Error {
        Error::LoginNeeded { registry: self.registry.clone(), subject: subject.to_owned() }
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}
