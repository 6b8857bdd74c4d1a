use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// What every header of version 2 begins with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, on behalf of another.
const PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// A header of the PROXY protocol, version 2, for a connection from `client` to `server`.
pub(super) fn proxy_header(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let (from, to) = (client.ip().to_canonical(), server.ip().to_canonical());
    let (family, addresses) = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (TCP4, [from.octets(), to.octets()].concat()),
        _ => (TCP6, [in_ipv6(from).octets(), in_ipv6(to).octets()].concat()),
    };
    let ports = [client.port().to_be_bytes(), server.port().to_be_bytes()].concat();
    let rest = [addresses, ports].concat();
    let length = u16::try_from(rest.len()).expect("36 bytes at most").to_be_bytes();
    [SIGNATURE, &[PROXY, family], &length, &rest].concat()
}

fn in_ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_client_is_read_back_by_our_own_reader() {
        for (client, server, want) in [
            ("1.2.3.4:555", "10.0.0.1:20000", "1.2.3.4"),
            ("[::ffff:1.2.3.4]:555", "[::ffff:10.0.0.1]:20000", "1.2.3.4"),
            ("[2001:db8::1]:555", "[::1]:20000", "2001:db8::1"),
            ("1.2.3.4:555", "[::1]:20000", "1.2.3.4"),
        ] {
            let header = proxy_header(client.parse().unwrap(), server.parse().unwrap());
            let bytes = [&header[..], b"rest"].concat();
            let mut stream = &bytes[..];
            let read = net::read_proxy_header(&mut stream).await.unwrap().unwrap();
            assert_eq!((read.to_string().as_str(), stream), (want, &b"rest"[..]), "{client}");
        }
    }
}
