//! Credentials, and the access tokens that their holders get for them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use spec::{CredentialName, ParseError, Tenant, Timestamp};
use store::Txn;
use utoipa::ToSchema;

use super::{
    State,
    issuer::Issuer,
    keys, now,
    records::{Guarded, Stored},
    tokens,
};
use crate::limits::{ACCESS_TOKEN_TIME, CREDENTIAL_TIME_DEFAULT};

/// What the holder of a credential may do. Each scope includes those before it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum CredentialScope {
    /// Show and list the objects of its tenant.
    Read,
    /// And change clusters, task definitions, tasks and services.
    Deploy,
    /// And change secrets, nodes, volumes, join tokens and credentials.
    #[default]
    Manage,
}

impl fmt::Display for CredentialScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Deploy => "deploy",
            Self::Manage => "manage",
        })
    }
}

impl FromStr for CredentialScope {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let scopes = [Self::Read, Self::Deploy, Self::Manage];
        let found = scopes.into_iter().find(|scope| scope.to_string() == text);
        found.ok_or_else(|| ParseError::about(text, "is none of `read`, `deploy` and `manage`"))
    }
}

/// A credential as it is stored: its secret is not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CredentialRecord {
    pub tenant: Tenant,
    pub name: CredentialName,
    pub scope: CredentialScope,
    pub created: Timestamp,
    pub expires: Timestamp,
    /// When it was last exchanged for an access token, to the minute.
    pub last_used: Option<Timestamp>,
    /// Another one after each change of the secret: access tokens name it.
    pub serial: String,
    /// The hash of the secret.
    pub secret: String,
    /// The hash of the secret before it, until the first use of this one: of a credential that was
    /// made before credentials had names, whose holder may have missed the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
}

impl CredentialRecord {
    pub fn is_valid(&self, now: Timestamp) -> bool {
        now < self.expires
    }

    /// This credential with another secret, and a lifetime as long as before. Its access tokens are
    /// worth nothing any more.
    pub fn with_secret(self, secret: &str, now: Timestamp) -> Self {
        let lifetime = self.expires.since(self.created);
        Self {
            created: now,
            expires: Timestamp::from_millis(now.millis() + lifetime.as_millis() as u64),
            serial: new_serial(),
            secret: tokens::hashed(secret),
            replaces: None,
            ..self
        }
    }
}

pub(crate) fn new_serial() -> String {
    tokens::random_hex()[..16].to_owned()
}

/// The name of a credential that was made without one.
pub(crate) fn name_of_unnamed(secret: &str) -> CredentialName {
    let name = format!("unnamed-{}", &tokens::hashed(secret)[..12]);
    name.parse().expect("hex digits behind a word are a name")
}

/// What a client shows with each request: which credential it was issued for, and until when. The
/// signature makes it hold without a record of its own; the credential's record decides whether it
/// still does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccessToken {
    pub tenant: Tenant,
    pub name: CredentialName,
    pub serial: String,
    pub expires: Timestamp,
}

/// Tells access tokens from other texts, for readers of logs and scanners of sources.
const PREFIX: &str = "margay-access";

impl AccessToken {
    /// One for the holder of a credential.
    pub fn of(record: &CredentialRecord, now: Timestamp) -> Self {
        let end = now.millis() + ACCESS_TOKEN_TIME.as_millis() as u64;
        Self {
            tenant: record.tenant.clone(),
            name: record.name.clone(),
            serial: record.serial.clone(),
            expires: Timestamp::from_millis(end).min(record.expires),
        }
    }

    fn signed_text(&self) -> String {
        let Self { tenant, name, serial, expires } = self;
        format!("{PREFIX}.{tenant}.{name}.{serial}.{}", expires.millis())
    }

    pub fn signed(&self, issuer: &Issuer) -> String {
        let text = self.signed_text();
        let tag = issuer.token(&text);
        format!("{text}.{tag}")
    }

    /// The token that `text` is, when `issuer` signed it and it holds at `now`.
    pub fn verify(text: &str, issuer: &Issuer, now: Timestamp) -> Option<Self> {
        let (signed, tag) = text.rsplit_once('.')?;
        if !issuer.verify(signed, tag) {
            return None;
        }
        let mut parts = signed.strip_prefix(PREFIX)?.strip_prefix('.')?.split('.');
        let mut next = || parts.next();
        let token = Self {
            tenant: next()?.parse().ok()?,
            name: next()?.parse().ok()?,
            serial: next()?.to_owned(),
            expires: Timestamp::from_millis(next()?.parse().ok()?),
        };
        (now < token.expires).then_some(token)
    }
}

impl State {
    pub async fn credential(
        &self,
        tenant: &Tenant,
        name: &CredentialName,
    ) -> Result<Option<Stored<CredentialRecord>>, store::Error> {
        self.get(keys::credential(tenant, name)).await
    }

    /// The valid credential that an access token was issued for.
    pub async fn credential_of(
        &self,
        token: &AccessToken,
        now: Timestamp,
    ) -> Result<Option<CredentialRecord>, store::Error> {
        let record = self.credential(&token.tenant, &token.name).await?.map(|stored| stored.value);
        Ok(record.filter(|record| record.serial == token.serial && record.is_valid(now)))
    }

    /// Gives credentials of earlier releases, which were a tenant and a token for ever, a name, a
    /// scope and an end.
    pub async fn name_credentials(&self) -> Result<(), store::Error> {
        #[derive(Deserialize)]
        struct Unnamed {
            tenant: Tenant,
        }
        let found = self.range(store::Query::prefix(keys::UNNAMED_CREDENTIALS)).await?;
        for kv in &found.kvs {
            let Some(hash) = kv.key.strip_prefix(keys::UNNAMED_CREDENTIALS) else { continue };
            let Stored { value: Unnamed { tenant }, mod_rev, .. } = Stored::of(kv)?;
            let Some(name) = hash.get(..12).and_then(|id| format!("unnamed-{id}").parse().ok())
            else {
                continue;
            };
            let now = now();
            let record = CredentialRecord {
                tenant,
                name,
                scope: CredentialScope::Manage,
                created: now,
                expires: Timestamp::from_millis(
                    now.millis() + CREDENTIAL_TIME_DEFAULT.as_millis() as u64,
                ),
                last_used: None,
                serial: new_serial(),
                secret: hash.to_owned(),
                replaces: None,
            };
            let key = keys::credential(&record.tenant, &record.name);
            let txn = Txn::new().create(key, &record).remove(kv.key.to_string(), mod_rev);
            self.commit(txn).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_token_is_what_its_issuer_signed_until_it_expires() {
        let folder = tempfile::tempdir().unwrap();
        let issuer = Issuer::open(folder.path()).unwrap();
        let at = Timestamp::from_millis;
        let record = CredentialRecord {
            tenant: "acme".parse().unwrap(),
            name: "ci".parse().unwrap(),
            scope: CredentialScope::Read,
            created: at(0),
            expires: at(3_600_000),
            last_used: None,
            serial: new_serial(),
            secret: String::new(),
            replaces: None,
        };
        let token = AccessToken::of(&record, at(1_000));
        assert_eq!(token.expires, at(901_000), "fifteen minutes");
        assert_eq!(AccessToken::of(&record, at(3_599_000)).expires, record.expires);
        let text = token.signed(&issuer);
        assert_eq!(AccessToken::verify(&text, &issuer, at(900_999)), Some(token.clone()));
        assert_eq!(AccessToken::verify(&text, &issuer, at(901_000)), None, "it has expired");
        for forged in [
            text.replace("acme", "evil"),
            text.replace(".901000.", ".999000."),
            text[..text.len() - 1].to_owned(),
            format!("{}é", &text[..text.len() - 2]),
            text.rsplit_once('.').unwrap().0.to_owned(),
            issuer.token("join x"),
            "....".to_owned(),
            String::new(),
        ] {
            assert_eq!(AccessToken::verify(&forged, &issuer, at(2_000)), None, "{forged}");
        }
        let other = tempfile::tempdir().unwrap();
        let other = Issuer::open(other.path()).unwrap();
        assert_eq!(AccessToken::verify(&text, &other, at(2_000)), None, "another control plane");
    }
}
