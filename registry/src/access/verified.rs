use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use ring::hmac;

use crate::{
    account::Account,
    limits::{VERIFIED_LOGIN_TIME, VERIFIED_LOGINS_MAX},
};

/// Logins whose password was right a short while ago: a client that sends one with each request
/// costs one check. No password is kept: an entry is found by a code of login and password, with a
/// key that ends with the process.
pub(super) struct VerifiedLogins {
    key: hmac::Key,
    known: Mutex<HashMap<Code, (Account, Instant)>>,
}

type Code = [u8; 32];

impl VerifiedLogins {
    pub fn new() -> Self {
        let secret = disk::random_hex::<32>();
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), known: Mutex::default() }
    }

    /// The account that this password was right for. It may be gone by now, or have another one:
    /// its serial tells.
    pub fn get(&self, login: &str, password: &str, now: Instant) -> Option<Account> {
        let code = self.code(login, password);
        let (account, since) = self.lock().get(&code)?.clone();
        (now.duration_since(since) < VERIFIED_LOGIN_TIME).then_some(account)
    }

    pub fn insert(&self, login: &str, password: &str, account: &Account, now: Instant) {
        let code = self.code(login, password);
        let mut known = self.lock();
        if known.len() >= VERIFIED_LOGINS_MAX {
            known.retain(|_, (_, since)| now.duration_since(*since) < VERIFIED_LOGIN_TIME);
        }
        if known.len() < VERIFIED_LOGINS_MAX {
            known.insert(code, (account.clone(), now));
        }
    }

    fn code(&self, login: &str, password: &str) -> Code {
        // The length keeps `a` and `bc` apart from `ab` and `c`.
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&(login.len() as u64).to_be_bytes());
        context.update(login.as_bytes());
        context.update(password.as_bytes());
        let tag = context.sign();
        tag.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Code, (Account, Instant)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_login_is_known_with_its_password_alone_and_for_a_while() {
        let (verified, now) = (VerifiedLogins::new(), Instant::now());
        let ann = Account { login: "ann".to_owned(), serial: "1".to_owned() };
        verified.insert("ann", "correct horse", &ann, now);
        for (login, password, after, want) in [
            ("ann", "correct horse", Duration::ZERO, true),
            ("ann", "correct horse", VERIFIED_LOGIN_TIME - Duration::from_secs(1), true),
            ("ann", "correct horse", VERIFIED_LOGIN_TIME, false),
            ("ann", "correct hors", Duration::ZERO, false),
            ("annc", "orrect horse", Duration::ZERO, false),
            ("bob", "correct horse", Duration::ZERO, false),
            ("", "", Duration::ZERO, false),
        ] {
            let got = verified.get(login, password, now + after);
            assert_eq!(got.is_some(), want, "{login} {password} {after:?}");
        }
        for n in 0..2 * VERIFIED_LOGINS_MAX {
            verified.insert(&n.to_string(), "x", &ann, now);
        }
        assert_eq!(verified.lock().len(), VERIFIED_LOGINS_MAX);
    }
}
