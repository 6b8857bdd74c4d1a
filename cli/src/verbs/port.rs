use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::ensure;
use node::tasks;
use spec::{Port, PublishedPort};

use crate::{failure::Advice, home::Home, output::line};

/// List the published ports of a task, or where one of them is reached
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name or id of the task
    task: String,
    /// A port of the task
    #[arg(value_name = "PORT[/tcp|/udp]")]
    port: Option<Port>,
}

impl Args {
    /// One line for each address, as Docker prints them.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let task = tasks::find(home.node(), &self.task)?;
        let seen = task.status()?.filter(|_| task.state().is_ok_and(tasks::State::is_alive));
        let ports = seen.map(|seen| seen.ports).unwrap_or_default();
        let wanted = |port: &&PublishedPort| self.port.is_none_or(|p| p == port.port());
        let mut found = false;
        for port in ports.iter().filter(wanted) {
            for address in addresses(port) {
                found = true;
                match self.port {
                    Some(_) => line(format_args!("{address}")),
                    None => line(format_args!("{} -> {address}", port.port())),
                }
            }
        }
        if let Some(port) = self.port {
            let name = &task.record().name;
            ensure!(
                found,
                Advice::new(format!("port `{port}` of `{name}` is not published"))
                    .hint(format!("see its ports: margay port {name}"))
            );
        }
        Ok(())
    }
}

/// Where a port is reached on the host; without an address in both families.
fn addresses(port: &PublishedPort) -> Vec<SocketAddr> {
    let everywhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let addresses = port.address.map_or(everywhere.to_vec(), |address| vec![address]);
    let at = |host_port| addresses.iter().map(move |address| SocketAddr::new(*address, host_port));
    port.host_port.map(|host_port| at(host_port).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_reached_at_its_address_or_in_both_families() {
        for (address, host_port, want) in [
            (None, Some(8080), "0.0.0.0:8080 [::]:8080"),
            (Some("127.0.0.1"), Some(8080), "127.0.0.1:8080"),
            (Some("::1"), Some(8080), "[::1]:8080"),
            (None, None, ""),
        ] {
            let address = address.map(|address| address.parse().unwrap());
            let transport = spec::Transport::Tcp;
            let port = PublishedPort { container_port: 80, address, host_port, transport };
            let shown: Vec<_> = addresses(&port).iter().map(ToString::to_string).collect();
            assert_eq!(shown.join(" "), want);
        }
    }
}
