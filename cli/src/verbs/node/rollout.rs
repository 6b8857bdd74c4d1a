//! Agents of another version, one node after the other, with a look at what runs in between.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use orchestrator::Client;
use spec::{Node, NodeCondition, NodeGroupName, NodeId, SchedulingStrategy, Service};

use crate::{
    control::Control,
    failure::Advice,
    home::Home,
    output::{line, notice},
    serve::block_on,
};

/// Between two looks: an agent that is started anew is there within seconds.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Bring nodes to another version, one after the other: each once its services are as they were
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Stops at the first node that fails or takes too long, and touches no other. A node that has the
version is left as it is. With --exec a program of yours upgrades the node that MARGAY_NODE names, as in
  margay node rollout --exec ./upgrade.sh        # ssh \"$MARGAY_NODE\" 'dnf -y upgrade margay && systemctl restart margay'
without it this waits until it is done by hand; with --group the machine is replaced by the group's hook."
)]
pub struct Rollout {
    /// Which ones, in this order [default: all that have joined and are of another version]
    #[arg(value_name = "NODE")]
    nodes: Vec<NodeId>,
    /// Replace the machines of this node group: drain, remove, and wait for the next one
    #[arg(long, value_name = "NAME", conflicts_with_all = ["nodes", "exec"])]
    group: Option<NodeGroupName>,
    /// The version that they are to have [default: that of the control plane]
    #[arg(long, value_name = "VERSION")]
    wait_for_version: Option<String>,
    /// Upgrade a node with this program, which finds its name in MARGAY_NODE
    #[arg(long, value_name = "PROGRAM")]
    exec: Option<std::path::PathBuf>,
    /// Also nodes that have the version already
    #[arg(long)]
    all: bool,
    /// Give up after so long at one node
    #[arg(long, value_name = "DURATION", value_parser = spec::parse_duration, default_value = "15m")]
    timeout: Duration,
    #[command(flatten)]
    control: Control,
}

impl Rollout {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let client = self.control.client(home)?;
        block_on(self.roll(&client))
    }

    async fn roll(&self, client: &Client) -> anyhow::Result<()> {
        let version = match &self.wait_for_version {
            Some(version) => version.clone(),
            None => client.health().await?.version,
        };
        let nodes = self.chosen(client, &version).await?;
        if nodes.is_empty() {
            notice(format_args!("every node has version {version}"));
        }
        for (index, node) in nodes.iter().enumerate() {
            let healthy = self.gate(client).await?;
            notice(format_args!("{node}: {} of {}", index + 1, nodes.len()));
            let upgraded = match &self.group {
                Some(group) => self.replace(client, group, node, &version).await,
                None => self.upgrade(client, node, &version).await,
            };
            let done = match upgraded {
                Ok(()) => self.until_healthy(client, &healthy).await,
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                let left = nodes.len() - index - 1;
                let advice =
                    Advice::new(format!("the rollout stopped at node `{node}`: {error:#}"));
                bail!(advice.hint(format!(
                    "mend that node and run it again; {left} more were not touched: margay node \
                     ls; margay explain node {node}"
                )));
            }
            line(format_args!("{node}"));
        }
        Ok(())
    }

    async fn chosen(&self, client: &Client, version: &str) -> anyhow::Result<Vec<NodeId>> {
        let known = client.nodes().await?;
        for id in &self.nodes {
            ensure!(
                known.iter().any(|node| node.id == *id),
                Advice::new(format!("there is no node `{id}`"))
                    .hint("see what there is: margay node ls")
            );
        }
        let of_group: Option<Vec<NodeId>> = match &self.group {
            Some(group) => {
                let machines = client.node_group(group).await?.machines;
                Some(machines.into_iter().map(|machine| machine.node).collect())
            }
            None => None,
        };
        let is_meant = |node: &Node| match &of_group {
            Some(machines) => machines.contains(&node.id),
            None => self.nodes.is_empty() || self.nodes.contains(&node.id),
        };
        let is_due = |node: &Node| self.all || node.spec.version != version;
        let chosen = known.iter().filter(|node| is_meant(node) && is_due(node));
        let mut chosen: Vec<NodeId> = chosen.map(|node| node.id.clone()).collect();
        chosen.sort_by_key(|id| self.nodes.iter().position(|named| named == id));
        Ok(chosen)
    }

    /// Every node that is to be there is, before the next one is touched; and the services that
    /// have all of their copies.
    async fn gate(&self, client: &Client) -> anyhow::Result<Vec<Service>> {
        let silent = |node: &&Node| node.status.condition != NodeCondition::Ready;
        if let Some(node) = client.nodes().await?.iter().find(silent) {
            bail!(Advice::new(format!("node `{}` is not ready", node.id)).hint(format!(
                "a rollout begins, and goes on, while all are: margay explain node {}, or \
                     margay node rm {}",
                node.id, node.id
            )));
        }
        let mut services = client.services().await?;
        services.retain(is_whole);
        Ok(services)
    }

    /// In place: its tasks run on, or move, as its operator has it.
    async fn upgrade(&self, client: &Client, node: &NodeId, version: &str) -> anyhow::Result<()> {
        if let Some(program) = &self.exec {
            let mut command = tokio::process::Command::new(program);
            command.env("MARGAY_NODE", node.as_str()).stdin(std::process::Stdio::null());
            let ran = tokio::time::timeout(self.timeout, command.kill_on_drop(true).status()).await;
            let path = program.display();
            match ran {
                Err(_) => bail!("`{path}` has not ended within {:?}", self.timeout),
                Ok(Err(error)) => bail!("`{path}` cannot be run: {error}"),
                Ok(Ok(status)) => ensure!(status.success(), "`{path}` ended with {status}"),
            }
        } else {
            notice(format_args!("{node}: waiting until it is upgraded to {version}"));
        }
        self.until(&format!("it is ready and of version {version}"), async || {
            let found = client.node(node).await?;
            let is_ready = found.status.condition == NodeCondition::Ready;
            Ok((is_ready && found.spec.version == version).then_some(()))
        })
        .await
    }

    /// Another machine in its place, which its group asks for once this one is gone.
    async fn replace(
        &self,
        client: &Client,
        group: &NodeGroupName,
        node: &NodeId,
        version: &str,
    ) -> anyhow::Result<()> {
        let before = client.nodes().await?;
        client.drain_node_within(node, self.timeout.as_secs()).await?;
        // The group may remove a node without tasks by itself.
        self.until("its tasks have moved", async || match client.node(node).await {
            Ok(node) => Ok((node.tasks == 0).then_some(())),
            Err(error) if is_gone(&error) => Ok(Some(())),
            Err(error) => Err(error.into()),
        })
        .await?;
        match client.remove_node(node).await {
            Err(error) if !is_gone(&error) => return Err(error.into()),
            _ => {}
        }
        let next = self
            .until("the next machine of its group has joined", async || {
                let machines = client.node_group(group).await?.machines;
                let is_gone = !machines.iter().any(|machine| machine.node == *node);
                let is_new = |found: &Node| {
                    !before.iter().any(|known| known.id == found.id)
                        && machines.iter().any(|machine| machine.node == found.id)
                        && found.status.condition == NodeCondition::Ready
                };
                let nodes = client.nodes().await?;
                Ok(nodes.into_iter().find(is_new).filter(|_| is_gone))
            })
            .await?;
        ensure!(
            next.spec.version == version,
            "its hook has added `{}` of version {}, and not of {version}",
            next.id,
            next.spec.version
        );
        Ok(())
    }

    /// Until the services that had all of their copies have them again.
    async fn until_healthy(&self, client: &Client, before: &[Service]) -> anyhow::Result<()> {
        self.until("its services have all of their copies again", async || {
            let services = client.services().await?;
            let is_same = |a: &Service, b: &Service| (&a.cluster, &a.name) == (&b.cluster, &b.name);
            let is_back = |was: &Service| {
                let mut now = services.iter().filter(|now| is_same(now, was));
                now.all(is_whole) // one that was deleted meanwhile is not missed
            };
            Ok(before.iter().all(is_back).then_some(()))
        })
        .await
    }

    async fn until<T>(
        &self,
        what: &str,
        look: impl AsyncFn() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let began = Instant::now();
        loop {
            // The control plane may be away for a moment, and is asked again.
            let failed = match look().await {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => None,
                Err(error) => Some(error),
            };
            if began.elapsed() >= self.timeout {
                let why = failed.map_or(String::new(), |error| format!(" ({error:#})"));
                bail!("waited {:?} until {what}{why}", self.timeout);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn is_gone(error: &orchestrator::Error) -> bool {
    error.fault().is_some_and(|fault| fault.code == "not-found")
}

/// Whether it has as many ready copies as it should.
fn is_whole(service: &Service) -> bool {
    let count = match service.spec.scheduling {
        SchedulingStrategy::Replica => service.spec.count,
        SchedulingStrategy::Daemon => 0,
    };
    service.status.ready >= service.status.desired.unwrap_or(count)
}
