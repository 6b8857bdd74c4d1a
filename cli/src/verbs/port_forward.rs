use std::{
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use spec::ClusterName;

use crate::{control::Control, home::Home, remote, serve::block_on};

/// Reach a port of a task, or of a copy of a service, at a port of this machine
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "margay port-forward [OPTIONS] TASK|SERVICE [LOCAL:]PORT",
    after_help = "The connections go through the control plane, to whichever node the task is on, until this command
is interrupted.

Example:
  margay port-forward cats 8080:80"
)]
pub struct Args {
    /// Id of the task, or name of the service
    #[arg(value_name = "TASK|SERVICE")]
    name: String,
    /// A port of a container, and the port here that leads to it; 0 takes a free one
    #[arg(value_name = "[LOCAL:]PORT")]
    ports: Ports,
    /// Listen at this address
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::from(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
    /// Where the service is
    #[arg(long, value_name = "NAME")]
    cluster: Option<ClusterName>,
    #[command(flatten)]
    control: Control,
}

/// `[LOCAL:]PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    local: u16,
    remote: u16,
}

impl FromStr for Ports {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (local, remote) = match text.split_once(':') {
            Some((local, remote)) => (local, remote),
            None => (text, text),
        };
        match (local.parse(), remote.parse()) {
            (Ok(local), Ok(remote @ 1..)) => Ok(Self { local, remote }),
            _ => Err("use PORT or LOCAL:PORT, as in 8080:80"),
        }
    }
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let client = self.control.client(home)?;
        let Ports { local, remote } = self.ports;
        block_on(async {
            let found = remote::found(&client, &self.name, self.cluster.as_ref()).await?;
            let (task, container) = found.one(&client).await?;
            let forwarded = remote::Forwarded { address: self.address, local, remote };
            remote::forward(&client, &task, container.as_ref(), forwarded).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_here_may_be_another_than_there() {
        for (text, want) in [
            ("80", Some((80, 80))),
            ("8080:80", Some((8080, 80))),
            ("0:80", Some((0, 80))),
            ("80:0", None),
            ("0", None),
            ("", None),
            ("80:", None),
            ("1:2:3", None),
            ("http", None),
            ("70000", None),
        ] {
            let ports = text.parse::<Ports>().ok();
            assert_eq!(ports.map(|ports| (ports.local, ports.remote)), want, "{text}");
        }
    }
}
