//! How many requests a client may send: by its login, or by its address when it has none.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::header;
use net::AddressPrefix;

use super::error::ApiError;
use crate::{
    access::Principal,
    limits::{RATE_BURST_TIME, RATE_CLIENTS_MAX, RATE_DELAY_MAX},
    protocol::RateLimits,
};

/// When the requests that each client has sent would be over at the rate that it may have.
#[derive(Default)]
pub(super) struct RequestRates(Mutex<HashMap<Key, Instant>>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Login(String),
    Address(AddressPrefix),
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admission {
    /// It is served after this time.
    After(Duration),
    /// It is refused, and can come again after this time.
    Refused(Duration),
}

impl RequestRates {
    /// Waits until a client may send one more request, if that is soon.
    pub async fn admit(
        &self,
        principal: &Principal,
        address: Option<IpAddr>,
        limits: RateLimits,
    ) -> Result<(), ApiError> {
        let (key, rate) = match principal {
            // The platform's own: how much it pulls is decided by what runs on it.
            Principal::Machine { .. } | Principal::ControlPlane => return Ok(()),
            Principal::User { account, .. } => (Key::Login(account.login.clone()), limits.login),
            Principal::Anonymous => (Key::Address(AddressPrefix::from(address)), limits.address),
        };
        let Some(rate) = rate else { return Ok(()) };
        match self.admission(key, rate.get(), Instant::now()) {
            Admission::After(time) if time.is_zero() => Ok(()),
            Admission::After(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            Admission::Refused(time) => {
                let seconds = time.as_secs() + 1;
                let message = format!(
                    "too many requests: {rate} each second are allowed; come again in {seconds} s"
                );
                Err(ApiError::too_many_requests(message)
                    .header(header::RETRY_AFTER, seconds.to_string()))
            }
        }
    }

    fn admission(&self, key: Key, rate: u32, now: Instant) -> Admission {
        let mut over = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if over.len() >= RATE_CLIENTS_MAX && !over.contains_key(&key) {
            over.retain(|_, until| *until > now);
            // As many clients as that at one time are not told apart.
            if over.len() >= RATE_CLIENTS_MAX {
                return Admission::Refused(RATE_BURST_TIME);
            }
        }
        let until = over.get(&key).copied().unwrap_or(now).max(now);
        let ahead = until - now;
        let delay = ahead.saturating_sub(RATE_BURST_TIME);
        if delay > RATE_DELAY_MAX {
            return Admission::Refused(delay - RATE_DELAY_MAX);
        }
        over.insert(key, until + Duration::from_secs(1) / rate);
        Admission::After(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_is_too_fast_is_slowed_down_then_refused_and_goes_on_later() {
        let (rates, start) = (RequestRates::default(), Instant::now());
        let (ann, bob) = (Key::Login("ann".to_owned()), Key::Login("bob".to_owned()));
        let rate = 10;
        let mut outcomes = [0; 3];
        for _ in 0..500 {
            outcomes[match rates.admission(ann.clone(), rate, start) {
                Admission::After(time) if time.is_zero() => 0,
                Admission::After(_) => 1,
                Admission::Refused(time) => {
                    assert!(time <= Duration::from_secs(1), "{time:?}");
                    2
                }
            }] += 1;
        }
        let burst = RATE_BURST_TIME.as_secs() as usize * 10;
        let delayed = RATE_DELAY_MAX.as_secs() as usize * 10;
        assert_eq!(outcomes[..2], [burst + 1, delayed]);
        assert_eq!(rates.admission(bob, rate, start), Admission::After(Duration::ZERO));
        let later = start + RATE_BURST_TIME + RATE_DELAY_MAX;
        assert_eq!(rates.admission(ann, rate, later), Admission::After(Duration::ZERO));
    }

    #[test]
    fn clients_that_are_counted_have_a_limit_and_idle_ones_make_room() {
        let (rates, start) = (RequestRates::default(), Instant::now());
        let key = |n: usize| Key::Login(n.to_string());
        for n in 0..RATE_CLIENTS_MAX {
            assert_eq!(rates.admission(key(n), 1, start), Admission::After(Duration::ZERO));
        }
        let more = key(RATE_CLIENTS_MAX);
        assert_eq!(rates.admission(more.clone(), 1, start), Admission::Refused(RATE_BURST_TIME));
        let later = start + Duration::from_secs(2);
        assert_eq!(rates.admission(more, 1, later), Admission::After(Duration::ZERO));
        assert_eq!(rates.0.lock().unwrap().len(), 1);
    }
}
