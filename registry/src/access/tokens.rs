use std::{
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::hmac;
use serde::{Deserialize, Serialize};
use spec::Tenant;

use super::authorize::{Principal, Scopes};
use crate::{Action, Error, Repository};

/// Where the key lies in a registry's data folder.
const KEY_FILE: &str = "token.key";
const KEY_BYTES: usize = 32;
/// The audience of every token. A registry elsewhere has another key, so this tells formats apart,
/// not places.
pub(crate) const AUDIENCE: &str = "margay-registry";
/// A token is for one push or pull, not for a career.
const LIFETIME_MAX: Duration = Duration::from_secs(3600);
/// Clocks of two parts of one platform differ by less.
const SKEW_SECONDS: u64 = 30;
/// No token of ours is longer: it has room for all that one is asked for, and a header of ours for
/// four of it.
const TOKEN_CHARS_MAX: usize = 16 << 10;

/// Makes and checks the registry's tokens: a JSON Web Token in form, signed with HMAC-SHA256.
///
/// Whoever can read the key file of the registry's data folder (mode 0600) can mint: the registry
/// itself at its token endpoint, and the control plane, which gives a node a token for exactly the
/// repositories of the tasks placed on it. One key both signs and checks because both happen in one
/// house. The header of a token is fixed and compared as bytes, so no token chooses how it is
/// checked.
#[derive(Clone)]
pub struct Tokens {
    key: Arc<hmac::Key>,
    header: Arc<str>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    aud: String,
    /// `user:NAME`, `machine:NAME`, or nothing at all for a nobody.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    sub: String,
    nbf: u64,
    exp: u64,
    jti: String,
    access: Vec<Access>,
}

/// One line of a token's reach, as the distribution project writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Access {
    r#type: String,
    name: String,
    actions: Vec<String>,
}

/// Why a token is not taken. The holder learns no more than this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("the token is not one of this registry")]
    Foreign,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet: is a clock wrong?")]
    Early,
}

impl Tokens {
    /// Opens the key in `data_dir`, making it at the first start.
    ///
    /// # Errors
    /// [`Error::File`], and [`Error::Key`] if the file is none of ours or others may read it.
    pub fn open(data_dir: &Path) -> Result<Self, Error> {
        let path = data_dir.join(KEY_FILE);
        match Self::load(&path) {
            Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                create_key(&path).map_err(|source| Error::File {
                    action: "make",
                    path: path.clone(),
                    source,
                })?;
                Self::load(&path)
            }
            other => other,
        }
    }

    /// Reads a key file that exists, as somebody other than the registry does.
    ///
    /// # Errors
    /// [`Error::File`], and [`Error::Key`] if the file is none of ours or others may read it.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::File { action: "read", path: path.to_owned(), source };
        let file = fs::File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.mode() & 0o077 != 0 {
            return Err(Error::Key { path: path.to_owned() });
        }
        let mut bytes = Vec::new();
        file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() != KEY_BYTES {
            return Err(Error::Key { path: path.to_owned() });
        }
        Ok(Self::from_key(&bytes))
    }

    fn from_key(bytes: &[u8]) -> Self {
        let id = spec::Digest::of(bytes).short();
        let header =
            BASE64_URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}","typ":"JWT"}}"#));
        Self { key: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, bytes)), header: header.into() }
    }

    /// A token for a part of the platform: whoever shows it may do `access` for `lifetime` (at most
    /// an hour).
    ///
    /// `subject` is for the log: `node-7f3a`.
    pub fn mint(
        &self,
        subject: &str,
        access: &[(Repository, Vec<Action>)],
        lifetime: Duration,
    ) -> String {
        let scopes = Scopes::Only { repositories: access.to_vec(), own: false };
        self.sign(format!("machine:{subject}"), scopes.lines(None), lifetime, SystemTime::now())
    }

    pub(crate) fn grant(
        &self,
        principal: &Principal,
        lifetime: Duration,
        now: SystemTime,
    ) -> String {
        match principal {
            Principal::Nobody => self.sign(String::new(), Vec::new(), lifetime, now),
            Principal::User { name, scopes } => {
                self.sign(format!("user:{name}"), scopes.lines(Some(name)), lifetime, now)
            }
            Principal::Machine { name, scopes } => {
                self.sign(format!("machine:{name}"), scopes.lines(None), lifetime, now)
            }
        }
    }

    fn sign(
        &self,
        sub: String,
        access: Vec<Access>,
        lifetime: Duration,
        now: SystemTime,
    ) -> String {
        let now = seconds(now);
        let claims = Claims {
            aud: AUDIENCE.to_owned(),
            sub,
            nbf: now,
            exp: now + lifetime.min(LIFETIME_MAX).as_secs(),
            jti: random_name(),
            access,
        };
        let claims = serde_json::to_vec(&claims).expect("claims are text and numbers");
        let signed = format!("{}.{}", self.header, BASE64_URL_SAFE_NO_PAD.encode(claims));
        let tag = hmac::sign(&self.key, signed.as_bytes());
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag))
    }

    /// Who holds `token`, if it is one of ours and its time is now.
    pub(crate) fn verify(&self, token: &str, now: SystemTime) -> Result<Principal, Invalid> {
        if token.len() > TOKEN_CHARS_MAX {
            return Err(Invalid::Foreign);
        }
        let (signed, tag) = token.rsplit_once('.').ok_or(Invalid::Foreign)?;
        let (header, claims) = signed.split_once('.').ok_or(Invalid::Foreign)?;
        let tag = BASE64_URL_SAFE_NO_PAD.decode(tag).map_err(|_| Invalid::Foreign)?;
        if header != &*self.header || hmac::verify(&self.key, signed.as_bytes(), &tag).is_err() {
            return Err(Invalid::Foreign);
        }
        let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).map_err(|_| Invalid::Foreign)?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| Invalid::Foreign)?;
        let now = seconds(now);
        match claims.aud == AUDIENCE {
            false => Err(Invalid::Foreign),
            true if now >= claims.exp => Err(Invalid::Expired),
            true if now + SKEW_SECONDS < claims.nbf => Err(Invalid::Early),
            true => claims.principal().ok_or(Invalid::Foreign),
        }
    }
}

impl Claims {
    fn principal(self) -> Option<Principal> {
        match self.sub.split_once(':') {
            None if self.sub.is_empty() => Some(Principal::Nobody),
            Some(("user", name)) => {
                let name: Tenant = name.parse().ok()?;
                let scopes = scopes(self.access, Some(&name))?;
                Some(Principal::User { name, scopes })
            }
            Some(("machine", name)) => Some(Principal::Machine {
                name: name.to_owned(),
                scopes: scopes(self.access, None)?,
            }),
            _ => None,
        }
    }
}

/// What the lines of a token reach, if we know all of their words.
fn scopes(lines: Vec<Access>, user: Option<&Tenant>) -> Option<Scopes> {
    let (mut repositories, mut own) = (Vec::new(), false);
    for Access { r#type, name, actions } in lines {
        if r#type != "repository" {
            return None;
        }
        let actions =
            actions.iter().map(|name| Action::from_name(name)).collect::<Option<Vec<_>>>()?;
        match user.filter(|user| own_of(user) == name) {
            Some(_) => own |= actions.contains(&Action::Pull),
            None => repositories.push((name.parse().ok()?, actions)),
        }
    }
    Some(Scopes::Only { repositories, own })
}

/// How a token calls all repositories of `user`.
pub(crate) fn own_of(user: &Tenant) -> String {
    format!("{user}/*")
}

impl Scopes {
    /// A password reaches far; a token never further than was asked for.
    fn lines(&self, user: Option<&Tenant>) -> Vec<Access> {
        let line = |name: String, actions: &[Action]| Access {
            r#type: "repository".to_owned(),
            name,
            actions: actions.iter().map(|action| action.name().to_owned()).collect(),
        };
        match self {
            Self::All => Vec::new(),
            Self::Only { repositories, own } => repositories
                .iter()
                .map(|(name, actions)| line(name.to_string(), actions))
                .chain(user.filter(|_| *own).map(|user| line(own_of(user), &[Action::Pull])))
                .collect(),
        }
    }
}

/// Two processes that start at once end with one key.
fn create_key(path: &Path) -> io::Result<()> {
    let mut bytes = [0; KEY_BYTES];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    disk::create(path, &bytes)
}

/// 128 random bits as hex digits: a name that nobody guesses.
pub(crate) fn random_name() -> String {
    disk::random_hex::<16>()
}

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
    use super::*;

    fn some() -> (Tokens, Principal) {
        let repositories = vec![("ann/cats".parse().unwrap(), vec![Action::Pull, Action::Push])];
        let scopes = Scopes::Only { repositories, own: true };
        (Tokens::from_key(&[7; 32]), Principal::User { name: "ann".parse().unwrap(), scopes })
    }

    #[test]
    fn a_token_says_who_and_what_until_it_expires() {
        let (tokens, ann) = some();
        let now = SystemTime::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let token = tokens.grant(&ann, Duration::from_secs(300), now);
        assert_eq!(tokens.verify(&token, after(299)), Ok(ann.clone()));
        assert_eq!(tokens.verify(&token, after(301)), Err(Invalid::Expired));
        assert_eq!(tokens.verify(&token, now - Duration::from_secs(60)), Err(Invalid::Early));
        let nobody = tokens.grant(&Principal::Nobody, Duration::from_secs(300), now);
        assert_eq!(tokens.verify(&nobody, now), Ok(Principal::Nobody));
        assert!(format!("{tokens:?}").len() < 20);
    }

    #[test]
    fn a_token_of_another_making_is_refused() {
        let (tokens, ann) = some();
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
                Err(Invalid::Foreign),
                "{}",
                &bad[..bad.len().min(80)]
            );
        }
    }

    #[test]
    fn the_key_is_made_once_and_only_its_owner_reads_it() {
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
        assert!(matches!(Tokens::open(dir.path()), Err(Error::Key { .. })));
    }
}
