use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at one time: nobody waits for what one address has taken, and no node for what
/// everybody has.
pub(super) struct Seats {
    outside: Arc<Semaphore>,
    peers: Arc<Semaphore>,
    of_one_max: usize,
    counts: Counts,
}

type Counts = Arc<Mutex<BTreeMap<IpAddr, usize>>>;

/// A connection's right to be there, until it is dropped.
pub(super) struct Seat {
    _permit: OwnedSemaphorePermit,
    _counted: Option<Counted>,
}

struct Counted {
    counts: Counts,
    sender: IpAddr,
}

/// From other nodes, each of which keeps some connections for each replica here.
const PEERS_MAX: usize = 4096;

impl Seats {
    /// `max` in all from outside, and of these `of_one_max` from one address.
    pub fn new(max: usize, of_one_max: usize) -> Self {
        let of = |max| Arc::new(Semaphore::new(max));
        Self { outside: of(max), peers: of(PEERS_MAX), of_one_max, counts: Counts::default() }
    }

    /// For the next connection from outside, as soon as there is one.
    pub async fn outside(&self) -> OwnedSemaphorePermit {
        self.outside.clone().acquire_owned().await.expect("it is never closed")
    }

    /// The same for one from another node.
    pub async fn peer(&self) -> OwnedSemaphorePermit {
        self.peers.clone().acquire_owned().await.expect("it is never closed")
    }

    /// Now that it is known where it comes from; nothing when too many from outside come from
    /// there.
    pub fn sit(&self, permit: OwnedSemaphorePermit, sender: Option<IpAddr>) -> Option<Seat> {
        let counted = match sender {
            Some(sender) => Some(self.count(one(sender))?),
            None => None,
        };
        Some(Seat { _permit: permit, _counted: counted })
    }

    fn count(&self, sender: IpAddr) -> Option<Counted> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(sender).or_default();
        if *count >= self.of_one_max {
            return None;
        }
        *count += 1;
        Some(Counted { counts: self.counts.clone(), sender })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.sender) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.sender);
            }
        }
    }
}

/// Whom an address (canonical: no IPv4 one written as IPv6) stands for: in IPv6 everybody has 2^64
/// of them, which share their first half.
fn one(sender: IpAddr) -> IpAddr {
    match sender {
        IpAddr::V4(_) => sender,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_address_takes_its_part_and_leaves_nothing_behind() {
        let seats = Seats::new(10, 3);
        let sit =
            async |sender: &str| seats.sit(seats.outside().await, Some(sender.parse().unwrap()));
        let mut held = Vec::new();
        for (sender, want) in [
            ("10.0.0.1", true),
            ("10.0.0.1", true),
            ("10.0.0.1", true),
            ("10.0.0.1", false),
            ("10.0.0.2", true),
            ("2001:db8::1", true),
            ("2001:db8::2", true),
            ("2001:db8:0:0:ffff::", true),
            ("2001:db8::3", false),
            ("2001:db8:0:1::", true),
        ] {
            let seat = sit(sender).await;
            assert_eq!(seat.is_some(), want, "{sender}");
            held.extend(seat);
        }
        assert_eq!(
            seats.outside.available_permits(),
            10 - held.len(),
            "who is sent away takes none"
        );
        held.clear();
        assert!(seats.counts.lock().unwrap().is_empty());
        // However many there are from outside, another node gets in.
        let _all = seats.outside.clone().acquire_many_owned(10).await.unwrap();
        assert!(seats.sit(seats.peer().await, None).is_some());
    }
}
