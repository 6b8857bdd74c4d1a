use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

use crate::limits::{HANDSHAKE_TIME_MAX, PROXY_V1_BYTES_MAX, PROXY_V2_BYTES_MAX};

const V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Reads what a proxy sends in front of a connection that it passes on (PROXY protocol, version 1
/// or 2), and not a byte more: the address of the client, or none for a connection of the proxy
/// itself.
///
/// To be called for connections of trusted proxies alone.
///
/// # Errors
/// When there is none within the time of a handshake, or it is malformed.
pub async fn read_proxy_header(stream: impl AsyncRead + Unpin) -> io::Result<Option<IpAddr>> {
    read_within(stream, HANDSHAKE_TIME_MAX).await
}

async fn read_within(
    stream: impl AsyncRead + Unpin,
    time_max: Duration,
) -> io::Result<Option<IpAddr>> {
    match timeout(time_max, read(stream)).await {
        Ok(read) => read,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no PROXY header in time")),
    }
}

async fn read(mut stream: impl AsyncRead + Unpin) -> io::Result<Option<IpAddr>> {
    let mut start = [0; 12];
    stream.read_exact(&mut start).await?;
    if start == *V2 {
        let mut head = [0; 4];
        stream.read_exact(&mut head).await?;
        let [command, family, high, low] = head;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > PROXY_V2_BYTES_MAX {
            return Err(malformed());
        }
        let mut rest = vec![0; length];
        stream.read_exact(&mut rest).await?;
        return version_2(command, family, &rest);
    }
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() == PROXY_V1_BYTES_MAX || !line.starts_with(b"PROXY ") {
            return Err(malformed());
        }
        line.push(stream.read_u8().await?);
    }
    version_1(&line[..line.len() - 2])
}

fn version_1(line: &[u8]) -> io::Result<Option<IpAddr>> {
    let text = std::str::from_utf8(line).map_err(|_| malformed())?;
    let words: Vec<&str> = text.split(' ').collect();
    match words[..] {
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", family @ ("TCP4" | "TCP6"), source, target, source_port, target_port] => {
            let address = |text: &str| text.parse::<IpAddr>().map_err(|_| malformed());
            let (source, target) = (address(source)?, address(target)?);
            let is_family = |address: IpAddr| address.is_ipv4() == (family == "TCP4");
            let is_port = |text: &str| text.parse::<u16>().is_ok();
            match is_family(source)
                && is_family(target)
                && is_port(source_port)
                && is_port(target_port)
            {
                true => Ok(Some(source.to_canonical())),
                false => Err(malformed()),
            }
        }
        _ => Err(malformed()),
    }
}

fn version_2(command: u8, family: u8, rest: &[u8]) -> io::Result<Option<IpAddr>> {
    match (command, family, rest) {
        (0x20, ..) => Ok(None), // LOCAL: a health check
        (0x21, 0x11, [a, b, c, d, _, _, _, _, _, _, _, _, ..]) => {
            Ok(Some(Ipv4Addr::new(*a, *b, *c, *d).into()))
        }
        (0x21, 0x21, _) if rest.len() >= 36 => {
            let source: [u8; 16] = rest[..16].try_into().expect("these are sixteen");
            Ok(Some(IpAddr::from(Ipv6Addr::from(source)).to_canonical()))
        }
        (0x21, 0x00 | 0x31, _) => Ok(None), // unspecified, or a Unix socket
        _ => Err(malformed()),
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the PROXY header is malformed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, length: u16, rest: &[u8]) -> Vec<u8> {
        [&V2[..], &[command, family], &length.to_be_bytes(), rest].concat()
    }

    #[tokio::test]
    async fn a_header_of_either_version_names_the_client_and_nothing_behind_it_is_read() {
        let four = [1, 2, 3, 4, 10, 0, 0, 1, 0, 80, 1, 187];
        let six = [[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]; 2].concat();
        let six = [&six[..], &[0, 80, 1, 187]].concat();
        for (header, want) in [
            (b"PROXY TCP4 1.2.3.4 10.0.0.1 555 443\r\n".to_vec(), Some("1.2.3.4")),
            (b"PROXY TCP6 2001:db8::1 ::1 555 443\r\n".to_vec(), Some("2001:db8::1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (v2(0x21, 0x11, 12, &four), Some("1.2.3.4")),
            (v2(0x21, 0x11, 15, &[&four[..], &[4, 0, 0]].concat()), Some("1.2.3.4")),
            (v2(0x21, 0x21, 36, &six), Some("2001:db8::1")),
            (v2(0x20, 0x00, 0, &[]), None),
            (v2(0x21, 0x00, 0, &[]), None),
        ] {
            let bytes = [&header[..], b"GET /"].concat();
            let mut stream = &bytes[..];
            let address = read_proxy_header(&mut stream).await.unwrap();
            assert_eq!(address.map(|address| address.to_string()).as_deref(), want);
            assert_eq!(stream, b"GET /", "{}", header.escape_ascii());
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        for header in [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 10.0.0.1 555\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 ::1 555 443\r\n".to_vec(),
            b"PROXY TCP4 1.2.3 10.0.0.1 555 443\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4 10.0.0.1 555 70000\r\n".to_vec(),
            b"PROXY TCP5 1.2.3.4 10.0.0.1 555 443\r\n".to_vec(),
            [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat(),
            v2(0x31, 0x11, 12, &[0; 12]),
            v2(0x21, 0x11, 11, &[0; 11]),
            v2(0x21, 0x21, 12, &[0; 12]),
            v2(0x21, 0x12, 12, &[0; 12]),
            v2(0x21, 0x11, u16::MAX, &[0; 65535]),
            v2(0x21, 0x11, 12, &[0; 3]),
            b"PROXY".to_vec(),
        ] {
            assert!(read_proxy_header(&header[..]).await.is_err(), "{}", header.escape_ascii());
        }
        let (silent, _held) = tokio::io::duplex(1);
        let error = read_within(silent, Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
