use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    TrustedProxies,
    activity::Activity,
    eviction::{HeldConnection, HeldConnections},
    limits::{EVICTED_PART, EVICTION_PAUSE, EVICTION_TIME_MAX},
};

/// The unit in which clients are counted. A host is given 2^64 addresses of IPv6, so one address
/// of it says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressPrefix {
    /// This machine, through a Unix socket.
    Local,
    /// One IPv4 address, also when it is written as IPv6.
    V4(Ipv4Addr),
    /// The upper half of an IPv6 address: its /64.
    V6(u64),
}

impl From<IpAddr> for AddressPrefix {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

impl From<Option<IpAddr>> for AddressPrefix {
    fn from(address: Option<IpAddr>) -> Self {
        address.map_or(Self::Local, Self::from)
    }
}

/// A semaphore for each key. A key that holds and awaits nothing takes no memory.
#[derive(Debug)]
pub struct KeyedSemaphore<K> {
    permits: usize,
    keys: Keys<K>,
}

type Keys<K> = Arc<Mutex<HashMap<K, Arc<Semaphore>>>>;

/// One permit of one key, until it is dropped.
#[derive(Debug)]
pub struct KeyedPermit<K: Eq + Hash> {
    _permit: OwnedSemaphorePermit, // given back before its key is looked at
    _key: KeyInUse<K>,
}

/// Forgets the key when this was its last use.
#[derive(Debug)]
struct KeyInUse<K: Eq + Hash> {
    keys: Keys<K>,
    key: K,
}

impl<K: Eq + Hash + Clone> KeyedSemaphore<K> {
    /// With so many `permits` for each key.
    pub fn new(permits: usize) -> Self {
        Self { permits, keys: Keys::default() }
    }

    /// A permit of `key`, or `None` when all of its permits are taken.
    pub fn try_acquire(&self, key: K) -> Option<KeyedPermit<K>> {
        let (semaphore, in_use) = self.of(key);
        Some(KeyedPermit { _permit: semaphore.try_acquire_owned().ok()?, _key: in_use })
    }

    /// A permit of `key`, in the order in which they were asked for.
    pub async fn acquire(&self, key: K) -> KeyedPermit<K> {
        let (semaphore, in_use) = self.of(key);
        let permit = semaphore.acquire_owned().await.expect("it is never closed");
        KeyedPermit { _permit: permit, _key: in_use }
    }

    /// How many keys hold or await a permit.
    pub fn keys(&self) -> usize {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn of(&self, key: K) -> (Arc<Semaphore>, KeyInUse<K>) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Semaphore::new(self.permits));
        let semaphore = keys.entry(key.clone()).or_insert_with(new).clone();
        (semaphore, KeyInUse { keys: self.keys.clone(), key })
    }
}

impl<K: Eq + Hash> Drop for KeyInUse<K> {
    fn drop(&mut self) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        // Permits and waiters of the key hold the semaphore too.
        if keys.get(&self.key).is_some_and(|semaphore| Arc::strong_count(semaphore) == 1) {
            keys.remove(&self.key);
        }
    }
}

/// How many connections of one class there may be, in all and of one key. Classes take nothing
/// from each other. When there are too many, one without a request makes room.
#[derive(Debug)]
pub struct ConnectionLimits<K: Eq + Hash = AddressPrefix> {
    total: Arc<Semaphore>,
    total_max: usize,
    each: KeyedSemaphore<K>,
    held: HeldConnections<K>,
    /// Proxies, whose connections are those of their clients.
    unshared: TrustedProxies,
}

/// The right of one connection to be there, until it is dropped.
#[derive(Debug)]
pub struct ConnectionPermit<K: Eq + Hash = AddressPrefix> {
    _held: Option<HeldConnection<K>>,
    _own: Option<KeyedPermit<K>>,
    _total: OwnedSemaphorePermit,
}

impl<K: Eq + Hash + Clone> ConnectionLimits<K> {
    /// At most `total` connections, and of these `each` of one key.
    pub fn new(total: usize, each: usize) -> Self {
        Self {
            total: Arc::new(Semaphore::new(total)),
            total_max: total,
            each: KeyedSemaphore::new(each),
            held: HeldConnections::default(),
            unshared: TrustedProxies::default(),
        }
    }

    /// The permit of something that is open, and is not closed for another.
    pub fn try_admit(&self, key: impl Into<K>) -> Option<ConnectionPermit<K>> {
        let own = self.each.try_acquire(key.into())?;
        let total = self.total.clone().try_acquire_owned().ok()?;
        Some(ConnectionPermit { _held: None, _own: Some(own), _total: total })
    }

    /// The permit of the connection that this task serves, as one of another class than before. It
    /// takes the place of one without a request when there is no other.
    pub async fn admit_current(&self, key: impl Into<K>) -> Option<ConnectionPermit<K>> {
        let key = key.into();
        let own = self.share(key.clone()).await?;
        let total = self.place().await?;
        Some(self.permit(Some((key, own)), total, Activity::current()))
    }

    fn permit(
        &self,
        own: Option<(K, KeyedPermit<K>)>,
        total: OwnedSemaphorePermit,
        activity: Arc<Activity>,
    ) -> ConnectionPermit<K> {
        let (key, own) = own.unzip();
        let held = self.held.hold(key, activity);
        ConnectionPermit { _held: Some(held), _own: own, _total: total }
    }

    /// A permit of `key`, also in the place of one of its own.
    async fn share(&self, key: K) -> Option<KeyedPermit<K>> {
        if let Some(own) = self.each.try_acquire(key.clone()) {
            return Some(own);
        }
        if !self.held.evict_of(&key) {
            return None;
        }
        timeout(EVICTION_TIME_MAX, self.each.acquire(key)).await.ok()
    }

    /// A permit of the class, also in the place of another.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = self.total.clone().try_acquire_owned() {
            return Some(place);
        }
        if self.held.evict((self.total_max / EVICTED_PART).max(1)) == 0 {
            return None;
        }
        self.next_place(EVICTION_TIME_MAX).await
    }

    async fn next_place(&self, time_max: Duration) -> Option<OwnedSemaphorePermit> {
        let place = timeout(time_max, self.total.clone().acquire_owned()).await.ok()?;
        Some(place.expect("it is never closed"))
    }

    /// How many connections more there may be.
    pub fn available(&self) -> usize {
        self.total.available_permits()
    }
}

impl ConnectionLimits {
    /// At most `total` connections, from wherever.
    pub fn in_all(total: usize) -> Self {
        Self::new(total, total)
    }

    /// The same, without a share for each address of `proxies`.
    #[must_use]
    pub fn without_share_of(self, proxies: TrustedProxies) -> Self {
        Self { unshared: proxies, ..self }
    }

    /// The permit of a connection from an address, which `activity` tells about. `None` when the
    /// address has all of its own, and needs them: a client that was closed comes again. While all
    /// connections are needed, it waits until one is not, and more wait in the listener's queue.
    pub(crate) async fn admit_from(
        &self,
        from: Option<IpAddr>,
        activity: &Arc<Activity>,
    ) -> Option<ConnectionPermit> {
        let own = match from.is_some_and(|from| self.unshared.contains(from)) {
            true => None,
            false => Some((from.into(), self.share(from.into()).await?)),
        };
        loop {
            if let Some(place) = self.place().await {
                return Some(self.permit(own, place, activity.clone()));
            }
            if let Some(place) = self.next_place(EVICTION_PAUSE).await {
                return Some(self.permit(own, place, activity.clone()));
            }
        }
    }

    /// The permit of a request, which is not closed for another.
    pub(crate) fn try_admit_from(&self, from: IpAddr) -> Option<ConnectionPermit> {
        match self.unshared.contains(from) {
            true => {
                let total = self.total.clone().try_acquire_owned().ok()?;
                Some(ConnectionPermit { _held: None, _own: None, _total: total })
            }
            false => self.try_admit(from),
        }
    }

    /// The share of the client that a proxy names, beside the permit of the proxy's connection.
    pub fn share_of(&self, client: IpAddr) -> Option<KeyedPermit<AddressPrefix>> {
        self.each.try_acquire(client.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_prefix_is_an_ipv4_address_or_the_64_bits_of_a_network() {
        let prefix = |text: &str| AddressPrefix::from(text.parse::<IpAddr>().unwrap());
        for (one, other, same) in [
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("2001:db8::1", "2001:db8::ffff:1:2:3", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            assert_eq!(prefix(one) == prefix(other), same, "{one} and {other}");
        }
    }

    #[tokio::test]
    async fn one_address_prefix_takes_its_part_and_leaves_nothing_behind() {
        let limits: ConnectionLimits = ConnectionLimits::new(10, 3);
        let mut held = Vec::new();
        for (from, want) in [
            ("10.0.0.1", true),
            ("10.0.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("10.0.0.1", false),
            ("10.0.0.2", true),
            ("2001:db8::1", true),
            ("2001:db8::2", true),
            ("2001:db8:0:0:ffff::", true),
            ("2001:db8::3", false),
            ("2001:db8:0:1::", true),
        ] {
            let from: IpAddr = from.parse().unwrap();
            let permit = limits.try_admit(from);
            assert_eq!(permit.is_some(), want, "{from}");
            held.extend(permit);
        }
        assert_eq!(limits.available(), 10 - held.len(), "a refused connection takes no permit");
        held.clear();
        assert_eq!((limits.available(), limits.each.keys()), (10, 0));
    }

    #[tokio::test]
    async fn a_permit_of_a_key_goes_to_the_next_waiter_and_a_cancelled_one_leaves_nothing() {
        let semaphore = KeyedSemaphore::new(1);
        let first = semaphore.try_acquire("a").unwrap();
        assert!(semaphore.try_acquire("a").is_none() && semaphore.try_acquire("b").is_some());
        let mut waiting = Box::pin(semaphore.acquire("a"));
        let mut cancelled = Box::pin(semaphore.acquire("a"));
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("the only permit is taken"),
            _ = &mut cancelled => panic!("the only permit is taken"),
            () = std::future::ready(()) => {}
        }
        drop(first);
        let second = waiting.await;
        drop((second, cancelled));
        assert_eq!(semaphore.keys(), 0);
    }
}
