use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::hmac;
use serde::{Deserialize, Serialize};
use spec::Tenant;

use super::principal::{Principal, Scopes};
use crate::{
    Action, Error, Repository,
    account::{Account, robot_of},
    key_file,
    limits::{CLOCK_SKEW_SECONDS_MAX, TOKEN_CHARS_MAX, TOKEN_LIFETIME_MAX},
};

/// The name of the key's file in a registry's data folder.
const KEY_FILE: &str = "token.key";
/// The audience of every token. Another registry has another key, so the audience tells formats
/// apart, not registries.
pub(crate) const AUDIENCE: &str = "margay-registry";
/// The holder of a token that takes back those of machines. Names of others begin with their kind.
const CONTROL_PLANE: &str = "control-plane";

/// Makes and checks the registry's tokens: a JSON Web Token in form, signed with HMAC-SHA256.
///
/// A process that can read the key file of the registry's data folder (mode 0600) can mint tokens:
/// the registry itself at its token endpoint, and the control plane, which gives a node a token for
/// exactly the repositories of the tasks placed on it. One key both signs and checks: the registry
/// has nothing that the control plane may not read. The header of a token is fixed and compared as
/// bytes, so no token chooses how it is checked.
#[derive(Clone)]
pub struct Tokens {
    key: Arc<hmac::Key>,
    header: Arc<str>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    aud: String,
    /// `user:NAME`, `user:NAME+ROBOT`, `machine:NAME`, [`CONTROL_PLANE`], or empty for an anonymous
    /// client.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    sub: String,
    /// Of the account of a user.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    serial: String,
    /// For whose tasks a machine has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<Tenant>,
    nbf: u64,
    exp: u64,
    jti: String,
    access: Vec<Access>,
}

/// One entry of a token's scope, as the distribution project writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Access {
    r#type: String,
    name: String,
    actions: Vec<String>,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InvalidToken {
    /// This registry did not sign it.
    Foreign,
    Expired,
    NotYetValid,
}

impl InvalidToken {
    /// The holder learns no more than this.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Foreign => "the token is not one of this registry",
            Self::Expired => "the token has expired",
            Self::NotYetValid => "the token is not valid yet: is a clock wrong?",
        }
    }
}

impl Tokens {
    /// Opens the key in `data_dir`, making it at the first start.
    ///
    /// # Errors
    /// [`Error::File`], and [`Error::InvalidKey`] if the file is not a key or other users may read
    /// it.
    pub fn open(data_dir: &Path) -> Result<Self, Error> {
        Ok(Self::from_key(&key_file::open(&data_dir.join(KEY_FILE))?))
    }

    /// Reads an existing key file, for a process other than the registry.
    ///
    /// # Errors
    /// [`Error::File`], and [`Error::InvalidKey`] if the file is not a key or other users may read
    /// it.
    pub fn load(path: &Path) -> Result<Self, Error> {
        Ok(Self::from_key(&key_file::load(path)?))
    }

    fn from_key(bytes: &[u8]) -> Self {
        let id = spec::Digest::of(bytes).short();
        let header =
            BASE64_URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}","typ":"JWT"}}"#));
        Self { key: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, bytes)), header: header.into() }
    }

    /// A token that allows `access` for `lifetime`, at most an hour.
    ///
    /// `subject` names the holder in the log: `node-7f3a`.
    pub fn mint(
        &self,
        subject: &str,
        access: &[(Repository, Vec<Action>)],
        lifetime: Duration,
    ) -> String {
        self.mint_within(subject, None, access, lifetime)
    }

    /// The same within the rights that `tenant` has as a user of the registry, when it is used.
    pub fn mint_for(
        &self,
        subject: &str,
        tenant: &Tenant,
        access: &[(Repository, Vec<Action>)],
        lifetime: Duration,
    ) -> String {
        self.mint_within(subject, Some(tenant.clone()), access, lifetime)
    }

    fn mint_within(
        &self,
        subject: &str,
        tenant: Option<Tenant>,
        access: &[(Repository, Vec<Action>)],
        lifetime: Duration,
    ) -> String {
        let scopes = Scopes::Only { repositories: access.to_vec(), own: false };
        let (now, name) = (SystemTime::now(), subject.to_owned());
        let machine = Principal::Machine { name, minted: seconds(now), scopes, tenant };
        self.grant(&machine, lifetime, now)
    }

    /// A token with which [`Client::revoke_machine`](crate::Client::revoke_machine) takes back
    /// those of machines, for `lifetime`, at most an hour.
    pub fn mint_for_revocation(&self, lifetime: Duration) -> String {
        self.grant(&Principal::ControlPlane, lifetime, SystemTime::now())
    }

    pub(crate) fn grant(
        &self,
        principal: &Principal,
        lifetime: Duration,
        now: SystemTime,
    ) -> String {
        let (sub, access) = match principal {
            Principal::Anonymous => (String::new(), Vec::new()),
            Principal::User { name, account, scopes, .. } => {
                (format!("user:{}", account.login), scopes.entries(Some(name)))
            }
            Principal::Machine { name, scopes, .. } => {
                (format!("machine:{name}"), scopes.entries(None))
            }
            Principal::ControlPlane => (CONTROL_PLANE.to_owned(), Vec::new()),
        };
        let serial = match principal {
            Principal::User { account, .. } => account.serial.clone(),
            Principal::Anonymous | Principal::Machine { .. } | Principal::ControlPlane => {
                String::new()
            }
        };
        let tenant = match principal {
            Principal::Machine { tenant, .. } => tenant.clone(),
            Principal::Anonymous | Principal::User { .. } | Principal::ControlPlane => None,
        };
        let now = seconds(now);
        let claims = Claims {
            aud: AUDIENCE.to_owned(),
            sub,
            serial,
            tenant,
            nbf: now,
            exp: now + lifetime.min(TOKEN_LIFETIME_MAX).as_secs(),
            jti: disk::random_hex::<16>(),
            access,
        };
        let claims = serde_json::to_vec(&claims).expect("claims are text and numbers");
        let signed = format!("{}.{}", self.header, BASE64_URL_SAFE_NO_PAD.encode(claims));
        let tag = hmac::sign(&self.key, signed.as_bytes());
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag))
    }

    /// The holder of `token`, if this registry signed it and it is valid `now`.
    pub(crate) fn verify(&self, token: &str, now: SystemTime) -> Result<Principal, InvalidToken> {
        if token.len() > TOKEN_CHARS_MAX {
            return Err(InvalidToken::Foreign);
        }
        let (signed, tag) = token.rsplit_once('.').ok_or(InvalidToken::Foreign)?;
        let (header, claims) = signed.split_once('.').ok_or(InvalidToken::Foreign)?;
        let tag = BASE64_URL_SAFE_NO_PAD.decode(tag).map_err(|_| InvalidToken::Foreign)?;
        if header != &*self.header || hmac::verify(&self.key, signed.as_bytes(), &tag).is_err() {
            return Err(InvalidToken::Foreign);
        }
        let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).map_err(|_| InvalidToken::Foreign)?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| InvalidToken::Foreign)?;
        let now = seconds(now);
        match claims.aud == AUDIENCE {
            false => Err(InvalidToken::Foreign),
            true if now >= claims.exp => Err(InvalidToken::Expired),
            true if now + CLOCK_SKEW_SECONDS_MAX < claims.nbf => Err(InvalidToken::NotYetValid),
            true => claims.principal().ok_or(InvalidToken::Foreign),
        }
    }
}

impl Claims {
    fn principal(self) -> Option<Principal> {
        match self.sub.split_once(':') {
            None if self.sub.is_empty() => Some(Principal::Anonymous),
            None if self.sub == CONTROL_PLANE => Some(Principal::ControlPlane),
            Some(("user", login)) => {
                let name: Tenant = match robot_of(login) {
                    Some((user, _)) => user,
                    None => login.parse().ok()?,
                };
                let account = Account { login: login.to_owned(), serial: self.serial };
                let scopes = scopes(self.access, Some(&name))?;
                Some(Principal::User { name, account, holder: None, scopes })
            }
            Some(("machine", name)) => Some(Principal::Machine {
                name: name.to_owned(),
                minted: self.nbf,
                scopes: scopes(self.access, None)?,
                tenant: self.tenant,
            }),
            _ => None,
        }
    }
}

/// The scopes of a token; `None` if an entry has an unknown type or action.
fn scopes(entries: Vec<Access>, user: Option<&Tenant>) -> Option<Scopes> {
    let (mut repositories, mut own) = (Vec::new(), false);
    for Access { r#type, name, actions } in entries {
        if r#type != "repository" {
            return None;
        }
        let actions =
            actions.iter().map(|name| Action::from_name(name)).collect::<Option<Vec<_>>>()?;
        match user.filter(|user| own_repositories(user) == name) {
            Some(_) => own |= actions.contains(&Action::Pull),
            None => repositories.push((name.parse().ok()?, actions)),
        }
    }
    Some(Scopes::Only { repositories, own })
}

/// The name that stands for all repositories of `user` in the scope of a token.
pub(crate) fn own_repositories(user: &Tenant) -> String {
    format!("{user}/*")
}

impl Scopes {
    /// [`Scopes::All`] is what a password proves and is in no token.
    fn entries(&self, user: Option<&Tenant>) -> Vec<Access> {
        let entry = |name: String, actions: &[Action]| Access {
            r#type: "repository".to_owned(),
            name,
            actions: actions.iter().map(|action| action.name().to_owned()).collect(),
        };
        match self {
            Self::All => Vec::new(),
            Self::Only { repositories, own } => repositories
                .iter()
                .map(|(name, actions)| entry(name.to_string(), actions))
                .chain(
                    user.filter(|_| *own)
                        .map(|user| entry(own_repositories(user), &[Action::Pull])),
                )
                .collect(),
        }
    }
}

/// Two concurrent starts end with one key.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use super::*;

    fn tokens_and_user() -> (Tokens, Principal) {
        let repositories = vec![("ann/cats".parse().unwrap(), vec![Action::Pull, Action::Push])];
        let scopes = Scopes::Only { repositories, own: true };
        let name: Tenant = "ann".parse().unwrap();
        let account = Account::of_user(&name, "1");
        let ann = Principal::User { name, account, holder: None, scopes };
        (Tokens::from_key(&[7; 32]), ann)
    }

    #[test]
    fn a_token_proves_its_principal_until_it_expires() {
        let (tokens, ann) = tokens_and_user();
        let now = SystemTime::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let token = tokens.grant(&ann, Duration::from_secs(300), now);
        assert_eq!(tokens.verify(&token, after(299)), Ok(ann.clone()));
        assert_eq!(tokens.verify(&token, after(301)), Err(InvalidToken::Expired));
        assert_eq!(
            tokens.verify(&token, now - Duration::from_secs(60)),
            Err(InvalidToken::NotYetValid)
        );
        let anonymous = tokens.grant(&Principal::Anonymous, Duration::from_secs(300), now);
        assert_eq!(tokens.verify(&anonymous, now), Ok(Principal::Anonymous));
        assert!(format!("{tokens:?}").len() < 20);
    }

    #[test]
    fn a_token_that_this_registry_did_not_sign_is_rejected() {
        let (tokens, ann) = tokens_and_user();
        let now = SystemTime::now();
        let token = tokens.grant(&ann, Duration::from_secs(300), now);
        let [header, claims, tag]: [&str; 3] =
            token.split('.').collect::<Vec<_>>().try_into().unwrap();
        let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let none = encode(r#"{"alg":"none"}"#);
        let jwk = encode(r#"{"alg":"HS256","typ":"JWT","jwk":{"kty":"oct","k":"AAAA"}}"#);
        let wider = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap())
            .unwrap()
            .replace("ann", "bob");
        let other = Tokens::from_key(&[8; 32]).grant(&ann, Duration::from_secs(300), now);
        for bad in [
            String::new(),
            "..".to_owned(),
            format!("{header}.{claims}"),
            format!("{header}.{claims}."),
            format!("{none}.{claims}."),
            format!("{none}.{claims}.{tag}"),
            format!("{jwk}.{claims}.{tag}"),
            format!("{header}.{}.{tag}", encode(&wider)),
            format!("{token}.{tag}"),
            format!("{token}="),
            "a".repeat(1 << 20),
            other,
        ] {
            assert_eq!(
                tokens.verify(&bad, now),
                Err(InvalidToken::Foreign),
                "{}",
                &bad[..bad.len().min(80)]
            );
        }
    }

    #[test]
    fn the_key_is_created_once_and_readable_by_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (Tokens::open(dir.path()).unwrap(), Tokens::open(dir.path()).unwrap());
        let token = one.mint(
            "node-1",
            &[("ann/cats".parse().unwrap(), vec![Action::Pull])],
            Duration::from_secs(60),
        );
        assert!(matches!(two.verify(&token, SystemTime::now()), Ok(Principal::Machine { .. })));
        let path = dir.path().join(KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        assert!(matches!(Tokens::open(dir.path()), Err(Error::InvalidKey { .. })));
    }

    #[test]
    fn a_key_that_is_a_link_or_a_pipe_is_neither_followed_nor_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
        assert!(matches!(Tokens::load(&path), Err(Error::File { .. })));
        fs::remove_file(&path).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        Tokens::open(elsewhere.path()).unwrap();
        std::os::unix::fs::symlink(elsewhere.path().join(KEY_FILE), &path).unwrap();
        assert!(matches!(Tokens::load(&path), Err(Error::File { .. })));
    }
}
