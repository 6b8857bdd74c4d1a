//! How many logins may be tried, counted when they are admitted.
//!
//! A login takes one of each of three budgets: of its name at its address, of its address, and of
//! its name from all addresses together. It gives them back when it succeeds. A login that is being
//! checked counts like one that has failed, so 250 guesses at one time are as many checks as 250
//! one after the other: the first ten. The last budget is not asked at addresses from which the
//! name has logged in before, so that guesses from elsewhere do not lock its owner out.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use net::AddressPrefix;
use tokio::sync::Notify;

use crate::limits::{
    FAILED_LOGINS_OF_ADDRESS_MAX, FAILED_LOGINS_OF_NAME_AT_ADDRESS_MAX, FAILED_LOGINS_OF_NAME_MAX,
    FAILED_LOGINS_TRACKED_MAX, FAILED_LOGINS_WINDOW, KNOWN_ADDRESSES_MAX,
};

#[derive(Default)]
pub(crate) struct LoginBudget {
    counts: Mutex<Counts>,
    /// When a login has ended.
    ended: Notify,
}

#[derive(Default)]
struct Counts {
    attempts: HashMap<Key, Attempts>,
    /// Addresses from which a name has logged in, and when last.
    known: HashMap<(String, AddressPrefix), Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    NameAtAddress(String, AddressPrefix),
    Address(AddressPrefix),
    Name(String),
}

/// Of one key in one window.
#[derive(Debug, Clone, Copy)]
struct Attempts {
    failed: u32,
    pending: u32,
    since: Instant,
}

/// A login that may be checked. It has failed unless it is said to have ended otherwise.
pub(crate) struct Attempt<'a> {
    budget: &'a LoginBudget,
    name: String,
    from: AddressPrefix,
    keys: Vec<Key>,
    failed: bool,
}

enum Admission {
    Admitted(Vec<Key>),
    /// Logins that are being checked have to end first.
    Full,
    RetryAfter(Duration),
}

impl LoginBudget {
    /// Admits a login as `name` from `from`; or says when to come again.
    pub async fn admit(&self, name: &str, from: Option<IpAddr>) -> Result<Attempt<'_>, Duration> {
        let from = AddressPrefix::from(from);
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable(); // from here on, so that no end is missed
            let admission = self.lock().admit(name, from, Instant::now());
            match admission {
                Admission::Admitted(keys) => {
                    let name = name.to_owned();
                    return Ok(Attempt { budget: self, name, from, keys, failed: true });
                }
                Admission::RetryAfter(time) => return Err(time),
                Admission::Full => ended.await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt<'_> {
    /// The password was right.
    pub fn succeeded(mut self) {
        self.failed = false;
        let mut counts = self.budget.lock();
        let known = (self.name.clone(), self.from);
        make_space(&mut counts.known, &known, KNOWN_ADDRESSES_MAX, |_| false, |last| *last);
        counts.known.insert(known, Instant::now());
    }

    /// Nothing was checked.
    pub fn abandoned(mut self) {
        self.failed = false;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut counts = self.budget.lock();
        for key in &self.keys {
            if let Some(attempts) = counts.attempts.get_mut(key) {
                attempts.pending = attempts.pending.saturating_sub(1);
                attempts.failed += u32::from(self.failed);
            }
        }
        drop(counts);
        self.budget.ended.notify_waiters();
    }
}

impl Counts {
    fn admit(&mut self, name: &str, from: AddressPrefix, now: Instant) -> Admission {
        let mut keys = vec![Key::NameAtAddress(name.to_owned(), from), Key::Address(from)];
        if !self.known.contains_key(&(name.to_owned(), from)) {
            keys.push(Key::Name(name.to_owned()));
        }
        let (mut full, mut wait) = (false, None);
        for key in &keys {
            let attempts = self.attempts_of(key, now);
            full |= attempts.failed + attempts.pending >= key.failures_max();
            if attempts.failed >= key.failures_max() {
                let left = FAILED_LOGINS_WINDOW.saturating_sub(now - attempts.since);
                wait = wait.max(Some(left));
            }
        }
        if let Some(wait) = wait {
            return Admission::RetryAfter(wait);
        }
        if full {
            return Admission::Full;
        }
        for key in &keys {
            make_space(
                &mut self.attempts,
                key,
                FAILED_LOGINS_TRACKED_MAX,
                |attempts| attempts.pending > 0,
                |attempts| {
                    let counts = now - attempts.since < FAILED_LOGINS_WINDOW;
                    (counts, attempts.failed, attempts.since)
                },
            );
            let attempts = self.attempts_of(key, now);
            self.attempts
                .insert(key.clone(), Attempts { pending: attempts.pending + 1, ..attempts });
        }
        Admission::Admitted(keys)
    }

    /// What is counted for a key; failures of an earlier window are not.
    fn attempts_of(&self, key: &Key, now: Instant) -> Attempts {
        match self.attempts.get(key) {
            Some(attempts) if now - attempts.since < FAILED_LOGINS_WINDOW => *attempts,
            Some(attempts) => Attempts { failed: 0, since: now, pending: attempts.pending },
            None => Attempts { failed: 0, since: now, pending: 0 },
        }
    }
}

impl Key {
    fn failures_max(&self) -> u32 {
        match self {
            Self::NameAtAddress(..) => FAILED_LOGINS_OF_NAME_AT_ADDRESS_MAX,
            Self::Address(_) => FAILED_LOGINS_OF_ADDRESS_MAX,
            Self::Name(_) => FAILED_LOGINS_OF_NAME_MAX,
        }
    }
}

/// Forgets the entry of `map` that says least, when there is no space for `key`.
fn make_space<K: Hash + Eq + Clone, V, O: Ord>(
    map: &mut HashMap<K, V>,
    key: &K,
    entries_max: usize,
    is_in_use: impl Fn(&V) -> bool,
    weight: impl Fn(&V) -> O,
) {
    if map.len() < entries_max || map.contains_key(key) {
        return;
    }
    let free = map.iter().filter(|(_, value)| !is_in_use(value));
    if let Some(lightest) = free.min_by_key(|(_, value)| weight(value)).map(|(key, _)| key.clone())
    {
        map.remove(&lightest);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, Ipv6Addr},
        time::Duration,
    };

    use futures_util::future::join_all;
    use tokio::time::sleep;

    use super::*;

    fn ipv4(n: u32) -> Option<IpAddr> {
        Some(Ipv4Addr::from_bits(0x0a00_0000 + n).into())
    }

    async fn fail(budget: &LoginBudget, name: &str, from: Option<IpAddr>) -> bool {
        budget.admit(name, from).await.is_ok() // dropped at once: it has failed
    }

    #[tokio::test]
    async fn guesses_at_one_time_are_counted_when_they_are_admitted() {
        let budget = LoginBudget::default();
        let guesses = (0..250).map(|_| async {
            match budget.admit("ann", ipv4(1)).await {
                Ok(_attempt) => {
                    sleep(Duration::from_millis(20)).await;
                    true
                }
                Err(wait) => {
                    assert!(!wait.is_zero() && wait <= FAILED_LOGINS_WINDOW);
                    false
                }
            }
        });
        let checked = join_all(guesses).await.into_iter().filter(|checked| *checked).count();
        assert_eq!(checked, 10);
        // Logins at one time with the right password all have their turn.
        let logins = (0..250).map(|_| async {
            let attempt = budget.admit("bob", ipv4(2)).await.ok().unwrap();
            sleep(Duration::from_millis(20)).await;
            attempt.succeeded();
        });
        join_all(logins).await;
    }

    #[tokio::test]
    async fn an_address_is_an_ipv6_network_and_has_a_budget_over_all_names() {
        let budget = LoginBudget::default();
        let ipv6 = |host: u128| Some(IpAddr::from(Ipv6Addr::from_bits((0x2001_0db8 << 96) + host)));
        let mut admitted = 0;
        for n in 0..200 {
            admitted += u32::from(fail(&budget, &format!("user-{n}"), ipv6(n)).await);
        }
        assert_eq!(admitted, FAILED_LOGINS_OF_ADDRESS_MAX);
        assert!(!fail(&budget, "fresh", ipv6(7)).await, "an unknown name is treated alike");
        assert!(fail(&budget, "fresh", ipv4(1)).await, "and another address is not");
    }

    #[tokio::test]
    async fn guesses_from_elsewhere_do_not_lock_an_owner_out() {
        let budget = LoginBudget::default();
        budget.admit("ann", ipv4(0)).await.ok().unwrap().succeeded();
        let mut admitted = 0;
        for n in 1..200 {
            admitted += u32::from(fail(&budget, "ann", ipv4(n)).await);
        }
        assert_eq!(admitted, FAILED_LOGINS_OF_NAME_MAX, "many addresses are one guesser");
        for _ in 0..FAILED_LOGINS_OF_NAME_AT_ADDRESS_MAX {
            assert!(fail(&budget, "ann", ipv4(0)).await, "where she has logged in before");
        }
        assert!(!fail(&budget, "ann", ipv4(0)).await, "but no more often than others");
    }

    #[tokio::test]
    async fn what_is_counted_has_an_end_and_forgets_what_says_least() {
        let budget = LoginBudget::default();
        for _ in 0..10 {
            assert!(fail(&budget, "ann", ipv4(0)).await);
        }
        // Each adds four budgets. Far more would take longer than the window on a busy machine.
        for n in 0..FAILED_LOGINS_TRACKED_MAX as u32 / 3 {
            fail(&budget, "eve", ipv4(1 + n)).await;
            fail(&budget, &format!("u{n}"), ipv4(1 + n)).await;
        }
        assert!(budget.lock().attempts.len() <= FAILED_LOGINS_TRACKED_MAX);
        assert!(!fail(&budget, "ann", ipv4(0)).await, "a used up budget is not forgotten");
    }
}
