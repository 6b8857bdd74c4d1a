//! Work that moves away: of a node, of several, of a whole zone.

use std::time::Duration;

use anyhow::ensure;
use orchestrator::{Client, UpdateNode};
use spec::{Node, NodeId};

use crate::{
    control::Control,
    failure::Advice,
    home::Home,
    output::{line, notice},
    serve::block_on,
    verbs,
};

/// What moves, and for how long it may take.
#[derive(Debug, clap::Args)]
pub struct Drain {
    /// Which ones
    #[arg(required_unless_present = "zone", value_name = "NODE")]
    nodes: Vec<NodeId>,
    /// Every node of this zone
    #[arg(long, conflicts_with = "nodes")]
    zone: Option<String>,
    /// Let them have work again
    #[arg(long)]
    undo: bool,
    /// Stop after so long what is still on them, also what has no other place
    #[arg(long, value_name = "DURATION", value_parser = spec::parse_duration,
        conflicts_with = "undo")]
    deadline: Option<Duration>,
    #[command(flatten)]
    control: Control,
}

impl Drain {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let client = &self.control.client(home)?;
        let nodes = match &self.zone {
            Some(zone) => nodes_of(client, zone)?,
            None => self.nodes.clone(),
        };
        // Together: nothing moves from one of them to another that is next.
        let closed = match nodes.len() > 1 && !self.undo {
            true => cordon(client, &nodes)?,
            false => Vec::new(),
        };
        let drained = verbs::each(&nodes, |id| self.drain(client, id));
        let opened = verbs::each(&closed, |id| set_cordon(client, id, false));
        drained.and(opened)?;
        if self.undo {
            notice(format_args!(
                "services come back when they are asked to: margay service rebalance --cluster \
                 CLUSTER"
            ));
        }
        Ok(())
    }

    fn drain(&self, client: &Client, id: &NodeId) -> anyhow::Result<()> {
        let node = block_on(async {
            match self.deadline {
                Some(time) => client.drain_node_within(id, time.as_secs()).await,
                None => client.drain_node(id, !self.undo).await,
            }
        })?;
        line(format_args!("{}", node.id));
        if !self.undo {
            tell_what_stays(client, &node);
        }
        Ok(())
    }
}

fn nodes_of(client: &Client, zone: &str) -> anyhow::Result<Vec<NodeId>> {
    let known = block_on(client.nodes())?;
    let its = known.iter().filter(|node| node.spec.zone == zone);
    let nodes: Vec<NodeId> = its.map(|node| node.id.clone()).collect();
    ensure!(
        !nodes.is_empty(),
        Advice::new(format!("there is no node in zone `{zone}`"))
            .hint("see which zones there are: margay node ls")
    );
    Ok(nodes)
}

/// Returns those that were not cordoned before.
fn cordon(client: &Client, nodes: &[NodeId]) -> anyhow::Result<Vec<NodeId>> {
    let mut closed = Vec::new();
    for id in nodes {
        if !block_on(client.node(id))?.cordoned {
            set_cordon(client, id, true)?;
            closed.push(id.clone());
        }
    }
    Ok(closed)
}

fn set_cordon(client: &Client, id: &NodeId, cordoned: bool) -> anyhow::Result<()> {
    let update = UpdateNode { cordoned: Some(cordoned), ..UpdateNode::default() };
    block_on(client.update_node(id, &update)).map(drop)
}

/// Volumes do not move, and what mounts one of them follows it nowhere.
fn tell_what_stays(client: &Client, Node { id: node, drain_deadline, .. }: &Node) {
    // It is drained; what can be said about that is no reason to fail.
    let volumes = block_on(client.volumes()).unwrap_or_default();
    let until = drain_deadline.map_or(String::new(), |at| format!(" until {at}"));
    for volume in volumes.iter().filter(|volume| volume.node == *node) {
        notice(format_args!(
            "volume `{}` stays on node `{node}`, and so do the tasks that mount it{until}: margay \
             service ls says which wait",
            volume.name
        ));
    }
}
