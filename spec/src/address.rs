//! Addresses that no tenant reaches by a plain grant: they lead to the host, its neighbours, or its
//! cloud's metadata.

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
    /// An internal network (RFC 1918, unique local, carrier-grade NAT).
    #[error("private")]
    Private,
    /// Not one host at all.
    #[error("unspecified, multicast, broadcast or reserved")]
    NotAHost,
}

/// Why `address` may not be reached, or `None` when it is an ordinary public host.
///
/// Of IPv6 only `2000::/3`, where all public hosts are, is open, without its parts that are no
/// hosts. Looks through IPv4 written as IPv6: mapped (`::ffff:a.b.c.d`), compatible (`::a.b.c.d`),
/// translated (`::ffff:0:a.b.c.d`), NAT64 (`64:ff9b::/96`), 6to4 and ISATAP (`…:5efe:a.b.c.d`).
/// Teredo, which hides two addresses, is closed.
pub fn forbidden(address: IpAddr) -> Option<Forbidden> {
    match address {
        IpAddr::V4(v4) => forbidden_v4(v4),
        IpAddr::V6(v6) => embedded(v6).and_then(forbidden_v4).or_else(|| forbidden_v6(v6)),
    }
}

fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 =
        |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None, // `::` and `::1` have meanings of their own
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] => v4(high, low),
        [0, 0, 0, 0, 0xffff, 0, high, low] => v4(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => v4(high, low),
        _ => None,
    }
}

fn forbidden_v4(v4: Ipv4Addr) -> Option<Forbidden> {
    match v4.octets() {
        [127, ..] => Some(Forbidden::Loopback),
        [169, 254, ..] => Some(Forbidden::LinkLocal),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => {
            Some(Forbidden::Private)
        }
        [0, ..] | [224..=255, ..] | [192, 0, 0, _] | [198, 18 | 19, ..] => {
            Some(Forbidden::NotAHost)
        }
        // Documentation, and the relays of 6to4.
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [192, 88, 99, _] => {
            Some(Forbidden::NotAHost)
        }
        _ => None,
    }
}

fn forbidden_v6(v6: Ipv6Addr) -> Option<Forbidden> {
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(Forbidden::Loopback),
        // What stands for an IPv4 host, which was looked at.
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => None,
        [0xfe80..=0xfebf, ..] => Some(Forbidden::LinkLocal),
        // The last one is NAT64 of a network's own.
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] | [0x64, 0xff9b, 1, ..] => {
            Some(Forbidden::Private)
        }
        // Protocols (Teredo among them) and documentation.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Some(Forbidden::NotAHost),
        [0x2000..=0x3fff, ..] => None,
        _ => Some(Forbidden::NotAHost),
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
            ("::ffff:0:127.0.0.1", Some(Forbidden::Loopback)),
            ("::ffff:0:8.8.8.8", Some(Forbidden::NotAHost)),
            ("2606:4700::5efe:10.0.0.1", Some(Forbidden::Private)),
            ("2606:4700::200:5efe:169.254.169.254", Some(Forbidden::LinkLocal)),
            ("fe80::5efe:1.1.1.1", Some(Forbidden::LinkLocal)),
            ("64:ff9b:1::a00:1", Some(Forbidden::Private)),
            ("64:ff9b:2::1", Some(Forbidden::NotAHost)),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", Some(Forbidden::NotAHost)),
            ("2001:db8::1", Some(Forbidden::NotAHost)),
            ("3fff:fff::1", Some(Forbidden::NotAHost)),
            ("100::1", Some(Forbidden::NotAHost)),
            ("5f00::1", Some(Forbidden::NotAHost)),
            ("4000::1", Some(Forbidden::NotAHost)),
            ("ff02::1", Some(Forbidden::NotAHost)),
            ("192.0.2.1", Some(Forbidden::NotAHost)),
            ("198.51.100.1", Some(Forbidden::NotAHost)),
            ("203.0.113.1", Some(Forbidden::NotAHost)),
            ("192.88.99.1", Some(Forbidden::NotAHost)),
            ("64:ff9b::1.1.1.1", None),
            ("::ffff:1.1.1.1", None),
            ("2002:101:101::1", None),
            ("2001:4860:4860::8888", None),
            ("3fff:1000::1", None),
            ("172.32.0.1", None),
            ("1.1.1.1", None),
            ("2606:4700::1111", None),
        ] {
            assert_eq!(forbidden(text.parse().unwrap()), want, "{text}");
        }
    }
}
