use std::net::IpAddr;

use serde_json::{Map, Value, json};
use spec::PublishedPort;

/// As Docker writes them: `127.0.0.1:8080->80/tcp`. A port without an address of its own is open on
/// both families.
pub fn cell(ports: &[PublishedPort]) -> String {
    let cells = ports.iter().map(|port| match port.host_port {
        None => inside(port),
        Some(host_port) => {
            let hosts = hosts(port).into_iter();
            let texts = hosts.map(|host| format!("{host}:{host_port}->{}", inside(port)));
            texts.collect::<Vec<_>>().join(", ")
        }
    });
    cells.collect::<Vec<_>>().join(", ")
}

/// `NetworkSettings.Ports` of `inspect`.
pub fn bindings(ports: &[PublishedPort]) -> Value {
    let mut all = Map::new();
    for port in ports {
        let entry = all.entry(inside(port)).or_insert(Value::Null);
        let Some(host_port) = port.host_port else { continue };
        let mut hosts: Vec<Value> = hosts(port)
            .into_iter()
            .map(|host| {
                let host = host.trim_matches(['[', ']']);
                json!({"HostIp": host, "HostPort": host_port.to_string()})
            })
            .collect();
        match entry {
            Value::Array(list) => list.append(&mut hosts),
            other => *other = Value::Array(hosts),
        }
    }
    Value::Object(all)
}

/// The port that the task listens on, with its protocol.
pub fn inside(port: &PublishedPort) -> String {
    port.port().to_string()
}

fn hosts(port: &PublishedPort) -> Vec<String> {
    match port.address {
        Some(address @ IpAddr::V4(_)) => vec![address.to_string()],
        Some(address @ IpAddr::V6(_)) => vec![format!("[{address}]")],
        None => vec!["0.0.0.0".to_owned(), "[::]".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use spec::Transport;

    use super::*;

    #[test]
    fn a_port_shows_its_address() {
        let port = |container_port, host_port| PublishedPort {
            container_port,
            address: None,
            host_port,
            transport: Transport::Tcp,
        };
        let ports = [port(80, Some(8080)), port(90, None)];
        let udp = PublishedPort { transport: Transport::Udp, ..port(53, Some(5353)) };
        assert_eq!(cell(&[udp]), "0.0.0.0:5353->53/udp, [::]:5353->53/udp");
        assert_eq!(cell(&ports), "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 90/tcp");
        for (address, want) in
            [("127.0.0.1", "127.0.0.1:8080->80/tcp"), ("::1", "[::1]:8080->80/tcp")]
        {
            let address = Some(address.parse().unwrap());
            assert_eq!(cell(&[PublishedPort { address, ..ports[0] }]), want);
        }
        assert_eq!(
            bindings(&ports).to_string(),
            r#"{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"},{"HostIp":"::","HostPort":"8080"}],"90/tcp":null}"#
        );
    }
}
