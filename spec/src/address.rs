//! Addresses that no tenant reaches by a plain grant: they lead to the host, its neighbours, or its cloud's metadata.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is off limits without a second key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// The machine itself.
    #[error("loopback")]
    Loopback,
    /// The same wire, and with it the metadata service of clouds.
    #[error("link-local")]
    LinkLocal,
    /// Somebody's internal network (RFC 1918, unique local, carrier-grade NAT).
    #[error("private")]
    Private,
    /// Not one host at all.
    #[error("unspecified, multicast, broadcast or reserved")]
    NotAHost,
}

/// Why `address` may not be reached, or `None` when it is an ordinary public host.
///
/// Looks through IPv4 written as IPv6: mapped (`::ffff:a.b.c.d`), compatible (`::a.b.c.d`), NAT64 (`64:ff9b::/96`), 6to4.
pub fn forbidden(address: IpAddr) -> Option<Forbidden> {
    match address {
        IpAddr::V4(v4) => forbidden_v4(v4),
        IpAddr::V6(v6) => match embedded(v6) {
            Some(v4) => forbidden_v4(v4),
            None => forbidden_v6(v6),
        },
    }
}

fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] => v4(high, low),
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None, // `::` and `::1` have meanings of their own
        [0, 0, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => None,
    }
}

fn forbidden_v4(v4: Ipv4Addr) -> Option<Forbidden> {
    match v4.octets() {
        [127, ..] => Some(Forbidden::Loopback),
        [169, 254, ..] => Some(Forbidden::LinkLocal),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Some(Forbidden::Private),
        [0, ..] | [224..=255, ..] | [192, 0, 0, _] | [198, 18 | 19, ..] => Some(Forbidden::NotAHost),
        _ => None,
    }
}

fn forbidden_v6(v6: Ipv6Addr) -> Option<Forbidden> {
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(Forbidden::Loopback),
        [0, 0, 0, 0, 0, 0, 0, 0] => Some(Forbidden::NotAHost),
        [0xfe80..=0xfebf, ..] => Some(Forbidden::LinkLocal),
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Some(Forbidden::Private),
        [0xff00..=0xffff, ..] => Some(Forbidden::NotAHost),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_internal_address_is_forbidden_in_every_spelling() {
        for (text, want) in [
            ("127.0.0.1", Some(Forbidden::Loopback)),
            ("::1", Some(Forbidden::Loopback)),
            ("::ffff:127.0.0.1", Some(Forbidden::Loopback)),
            ("::127.0.0.1", Some(Forbidden::Loopback)),
            ("64:ff9b::7f00:1", Some(Forbidden::Loopback)),
            ("2002:7f00:1::", Some(Forbidden::Loopback)),
            ("0.0.0.0", Some(Forbidden::NotAHost)),
            ("::", Some(Forbidden::NotAHost)),
            ("169.254.169.254", Some(Forbidden::LinkLocal)),
            ("::ffff:169.254.169.254", Some(Forbidden::LinkLocal)),
            ("fd00:ec2::254", Some(Forbidden::Private)),
            ("fe80::1", Some(Forbidden::LinkLocal)),
            ("100.100.100.200", Some(Forbidden::Private)),
            ("10.0.0.1", Some(Forbidden::Private)),
            ("172.31.255.255", Some(Forbidden::Private)),
            ("192.168.1.1", Some(Forbidden::Private)),
            ("224.0.0.1", Some(Forbidden::NotAHost)),
            ("255.255.255.255", Some(Forbidden::NotAHost)),
            ("172.32.0.1", None),
            ("1.1.1.1", None),
            ("2606:4700::1111", None),
        ] {
            assert_eq!(forbidden(text.parse().unwrap()), want, "{text}");
        }
    }
}
