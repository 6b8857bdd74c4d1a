use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Semaphore;

/// So many of something for each address at one time, so that none takes what others need.
pub(crate) struct Shares {
    each: usize,
    taken: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

impl Shares {
    pub fn new(each: usize) -> Self {
        Self { each, taken: Mutex::default() }
    }

    /// The share of the household of `from`. What is taken of it is kept for as long as its permit.
    pub fn of(&self, from: IpAddr) -> Arc<Semaphore> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|_, share| Arc::strong_count(share) > 1); // nobody of these has or awaits anything
        let share =
            taken.entry(household(from)).or_insert_with(|| Arc::new(Semaphore::new(self.each)));
        Arc::clone(share)
    }
}

/// Whom an address belongs to: of IPv6, everybody is given 2^64 of them.
pub(crate) fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_household_leaves_the_share_of_others() {
        let shares = Shares::new(2);
        let take = |from: &str| shares.of(from.parse().unwrap()).try_acquire_owned().ok();
        let (first, _second) = (take("10.0.0.1").unwrap(), take("::ffff:10.0.0.1").unwrap());
        assert!(take("10.0.0.1").is_none());
        assert!(take("10.0.0.2").is_some());
        let _six = (take("2001:db8::1").unwrap(), take("2001:db8::ffff:1:2:3").unwrap());
        assert!(take("2001:db8::7").is_none());
        assert!(take("2001:db8:0:1::7").is_some());
        drop(first);
        assert!(take("10.0.0.1").is_some());
        assert_eq!(shares.taken.lock().unwrap().len(), 2, "whoever has nothing is forgotten");
    }
}
