use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use crate::limits::OWN_ADDRESSES_AGE_MAX;

/// The addresses of this machine's interfaces, whatever network they are in: a name that resolves
/// to the node's own public address leads to its services as surely as loopback does.
#[derive(Debug, Clone, Default)]
pub(super) struct OwnAddresses(Arc<Mutex<Option<Known>>>);

#[derive(Debug)]
struct Known {
    addresses: HashSet<IpAddr>,
    /// `None` is for ever.
    until: Option<Instant>,
}

impl OwnAddresses {
    pub fn contains(&self, address: IpAddr) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let fresh = known.take().filter(|known| known.until.is_none_or(|until| now < until));
        let fresh = fresh.unwrap_or_else(|| Known {
            addresses: read(),
            until: Some(now + OWN_ADDRESSES_AGE_MAX),
        });
        known.insert(fresh).addresses.contains(&address)
    }

    #[cfg(test)]
    pub fn fixed(addresses: &[&str]) -> Self {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Self(Arc::new(Mutex::new(Some(Known { addresses, until: None }))))
    }
}

/// As the kernel's tables have them. Where there is no `/proc`, a look at both ends of the
/// connection has to do.
fn read() -> HashSet<IpAddr> {
    let table = |path| std::fs::read_to_string(path).unwrap_or_default();
    let v4 = local_v4(&table("/proc/self/net/fib_trie")).map(IpAddr::V4).collect::<Vec<_>>();
    v4.into_iter().chain(local_v6(&table("/proc/self/net/if_inet6")).map(IpAddr::V6)).collect()
}

/// Each address of the routing trie that is followed by `/32 host LOCAL`.
fn local_v4(trie: &str) -> impl Iterator<Item = Ipv4Addr> {
    let mut above = None;
    trie.lines().filter_map(move |line| {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            above = address.parse().ok();
        }
        above.filter(|_| line == "/32 host LOCAL")
    })
}

/// The first column: 32 hex digits.
fn local_v6(table: &str) -> impl Iterator<Item = Ipv6Addr> {
    table
        .lines()
        .filter_map(|line| u128::from_str_radix(line.split(' ').next()?, 16).ok())
        .map(Ipv6Addr::from_bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIE: &str = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     |-- 203.0.113.0
        /24 link UNICAST
Local:
  +-- 0.0.0.0/0 2 0 2
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 203.0.113.7
        /32 host LOCAL
     |-- 203.0.113.255
        /32 link BROADCAST
";

    #[test]
    fn the_kernels_tables_are_read() {
        let v4: Vec<_> = local_v4(TRIE).map(|address| address.to_string()).collect();
        assert_eq!(v4, ["127.0.0.1", "203.0.113.7"]);
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     20010db8000000000000000000000007 02 40 00 80     eth0\n";
        let v6: Vec<_> = local_v6(table).map(|address| address.to_string()).collect();
        assert_eq!(v6, ["::1", "2001:db8::7"]);
        assert_eq!((local_v4("x\n|-- y\n").count(), local_v6("zz 1\n\n").count()), (0, 0));
    }

    #[test]
    fn this_machine_knows_itself() {
        assert!(OwnAddresses::default().contains("127.0.0.1".parse().unwrap()));
        assert!(!OwnAddresses::default().contains("1.1.1.1".parse().unwrap()));
    }
}
