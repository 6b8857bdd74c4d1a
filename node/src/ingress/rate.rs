use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use net::AddressPrefix;
use spec::RateLimit;

use super::limits::RATE_CLIENTS_MAX;

/// How many requests each client of one service may make: a bucket that fills with time.
#[derive(Debug)]
pub(super) struct RateLimiter {
    limit: RateLimit,
    clients: Mutex<Clients>,
}

#[derive(Debug, Default)]
struct Clients {
    /// When the bucket of each client is full again.
    full_at: HashMap<AddressPrefix, Instant>,
    /// When those that are full were last forgotten.
    swept: Option<Instant>,
}

impl Clients {
    /// Whether there is place for one more.
    fn has_place(&mut self, now: Instant) -> bool {
        let is_due = self.swept.is_none_or(|swept| now >= swept + SWEEP_EVERY);
        if self.full_at.len() >= RATE_CLIENTS_MAX && is_due {
            self.full_at.retain(|_, at| *at > now);
            self.swept = Some(now);
        }
        self.full_at.len() < RATE_CLIENTS_MAX
    }
}

/// So that many clients at once do not cost a look at all of them for each request.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

impl RateLimiter {
    pub fn new(limit: RateLimit) -> Self {
        Self { limit, clients: Mutex::default() }
    }

    pub fn limit(&self) -> RateLimit {
        self.limit
    }

    /// Takes one request of `client`, or says after how long it may come again.
    pub fn take(&self, client: IpAddr, now: Instant) -> Result<(), Duration> {
        let each = Duration::from_secs(1) / self.limit.requests_per_second.max(1);
        let most = each.saturating_mul(self.limit.burst().max(1));
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client = AddressPrefix::from(client);
        if !clients.full_at.contains_key(&client) && !clients.has_place(now) {
            return Ok(()); // more clients at once than any limit of one of them is for
        }
        let at = clients.full_at.entry(client).or_insert(now);
        let next = (*at).max(now) + each;
        match next.saturating_duration_since(now).checked_sub(most) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                *at = next;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_its_burst_and_then_its_rate_and_others_have_theirs() {
        let limit = RateLimit { requests_per_second: 10, burst: Some(5) };
        let limiter = RateLimiter::new(limit);
        let (one, other) = (IpAddr::from([1, 1, 1, 1]), IpAddr::from([2, 2, 2, 2]));
        let start = Instant::now();
        let taken = (0..20).filter(|_| limiter.take(one, start).is_ok()).count();
        assert_eq!(taken, 5);
        let wait = limiter.take(one, start).unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        assert!(limiter.take(other, start).is_ok());
        let later = start + Duration::from_secs(1);
        let taken = (0..20).filter(|_| limiter.take(one, later).is_ok()).count();
        assert_eq!(taken, 5, "no more than the burst, however long it was idle");
        let mut now = later;
        let over_time = (0..1000).filter(|_| {
            now += Duration::from_millis(10);
            limiter.take(one, now).is_ok()
        });
        assert_eq!(over_time.count(), 100, "ten seconds at ten a second");
    }

    #[test]
    fn what_is_kept_of_clients_is_bounded() {
        let limiter = RateLimiter::new(RateLimit { requests_per_second: 1, burst: None });
        let start = Instant::now();
        for number in 0..2 * RATE_CLIENTS_MAX as u32 {
            assert!(limiter.take(IpAddr::from(number.to_be_bytes()), start).is_ok());
        }
        assert!(limiter.clients.lock().unwrap().full_at.len() <= RATE_CLIENTS_MAX);
        let later = start + Duration::from_secs(10);
        assert!(limiter.take(IpAddr::from([255, 1, 1, 1]), later).is_ok());
        assert_eq!(limiter.clients.lock().unwrap().full_at.len(), 1);
    }
}
