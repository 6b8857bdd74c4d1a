use std::{collections::BTreeMap, time::Duration};

use clap::Subcommand;
use orchestrator::{Client, MachineState, NodeGroup, NodeGroupSpec, UpdateNodeGroup};
use spec::{NodeGroupName, ServiceEvent, Taint};

use super::node::label;
use crate::{
    control::{Control, List},
    home::Home,
    output::{Output, ago, json, line, now},
    platform::hooks,
    serve::block_on,
    verbs::word,
};

/// Create, list, change and delete node groups: nodes that a program of yours adds and removes
#[derive(Debug, Subcommand)]
pub enum Verb {
    Create(Create),
    /// List node groups
    #[command(alias = "list")]
    Ls(List),
    /// Show all that is known of node groups, as JSON
    Inspect {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<NodeGroupName>,
        #[command(flatten)]
        control: Control,
    },
    /// Show what happened to a node group last: machines, and why
    Events {
        /// Its name
        name: NodeGroupName,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        control: Control,
    },
    Update(Update),
    /// Delete node groups that have no machines
    #[command(alias = "delete")]
    Rm {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<NodeGroupName>,
        #[command(flatten)]
        control: Control,
    },
}

/// Create a node group
#[derive(Debug, clap::Args)]
pub struct Create {
    /// Its name, which its nodes have as the label node-group
    name: NodeGroupName,
    /// Never have fewer nodes
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    min: u32,
    /// Never have more nodes
    #[arg(long, value_name = "NUMBER")]
    max: u32,
    /// Begin with so many [default: the least]
    #[arg(long, value_name = "NUMBER")]
    desired: Option<u32>,
    /// Add and remove machines with this program in MARGAY_HOME/hooks
    #[arg(long, value_name = "exec:FILE")]
    hook: String,
    /// Give its nodes a label, which constraints and strategies of services name; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Give its nodes a taint, which keeps tasks away that do not tolerate it; may be repeated
    #[arg(long, value_name = "KEY[=VALUE]:NoSchedule|NoExecute")]
    taint: Vec<Taint>,
    /// Let its nodes take work of the shared pool as well
    #[arg(long)]
    pool: bool,
    #[command(flatten)]
    times: Times,
    #[command(flatten)]
    control: Control,
}

/// What is rarely said.
#[derive(Debug, clap::Args)]
struct Times {
    /// Add nodes for tasks that find none, and remove those without tasks [default: true]
    #[arg(long, value_name = "true|false")]
    managed_scaling: Option<bool>,
    /// Remove a node that has had no tasks for so long [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = spec::parse_duration)]
    scale_in_after: Option<Duration>,
    /// Give a machine back that has not joined by then, and end a hook that takes longer [default:
    /// 10m]
    #[arg(long, value_name = "DURATION", value_parser = spec::parse_duration)]
    join_time: Option<Duration>,
}

/// Change a node group
#[derive(Debug, clap::Args)]
pub struct Update {
    /// Its name
    name: NodeGroupName,
    /// Never have fewer nodes
    #[arg(long, value_name = "NUMBER")]
    min: Option<u32>,
    /// Never have more nodes
    #[arg(long, value_name = "NUMBER")]
    max: Option<u32>,
    /// Have so many, until tasks ask for others
    #[arg(long, value_name = "NUMBER")]
    desired: Option<u32>,
    /// Add and remove machines with this program in MARGAY_HOME/hooks
    #[arg(long, value_name = "exec:FILE")]
    hook: Option<String>,
    #[command(flatten)]
    times: Times,
    #[command(flatten)]
    control: Control,
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

impl Create {
    fn run(self, home: &Home) -> anyhow::Result<()> {
        hooks::program(home, &self.hook)?;
        let spec = NodeGroupSpec {
            min: self.min,
            max: self.max,
            desired: self.desired.unwrap_or(self.min),
            hook: self.hook,
            labels: self.label.into_iter().collect::<BTreeMap<_, _>>(),
            taints: self.taint,
            pool: self.pool,
            managed_scaling: self.times.managed_scaling.unwrap_or(true),
            scale_in_seconds: self.times.scale_in_after.map_or(600, seconds),
            join_seconds: self.times.join_time.map_or(600, seconds),
        };
        let client = self.control.client(home)?;
        let made = block_on(client.create_node_group(&self.name, spec))?;
        line(format_args!("{}", made.name));
        Ok(())
    }
}

impl Update {
    fn run(self, home: &Home) -> anyhow::Result<()> {
        self.hook.as_ref().map_or(Ok(()), |hook| hooks::program(home, hook).map(drop))?;
        let update = UpdateNodeGroup {
            min: self.min,
            max: self.max,
            desired: self.desired,
            hook: self.hook,
            managed_scaling: self.times.managed_scaling,
            scale_in_seconds: self.times.scale_in_after.map(seconds),
            join_seconds: self.times.join_time.map(seconds),
        };
        let client = self.control.client(home)?;
        let group = block_on(client.update_node_group(&self.name, &update))?;
        line(format_args!("{}", group.name));
        Ok(())
    }
}

impl Verb {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        match self {
            Self::Create(create) => create.run(home),
            Self::Ls(list) => list.run(home, Client::node_groups, &HEADINGS, row),
            Self::Inspect { names, control } => {
                let client = control.client(home)?;
                let groups = names.iter().map(|name| block_on(client.node_group(name)));
                json(&groups.collect::<Result<Vec<NodeGroup>, _>>()?)
            }
            Self::Events { name, output, control } => {
                let mut events = block_on(control.client(home)?.node_group(&name))?.events;
                events.reverse();
                output.records(&events, &["TIME", "EVENT"], |event: &ServiceEvent| {
                    [event.at.to_string(), event.message.clone()]
                })
            }
            Self::Update(update) => update.run(home),
            Self::Rm { names, control } => {
                let client = control.client(home)?;
                super::ask_for_each(&names, |name| client.delete_node_group(name))
            }
        }
    }
}

const HEADINGS: [&str; 7] = ["NAME", "READY", "MIN", "MAX", "HOOK", "CREATED", "STATUS"];

fn row(group: &NodeGroup) -> [String; 7] {
    let ready = group.machines.iter().filter(|machine| machine.state == MachineState::Ready);
    let spec = &group.spec;
    [
        group.name.to_string(),
        format!("{}/{}", ready.count(), spec.desired),
        spec.min.to_string(),
        spec.max.to_string(),
        spec.hook.clone(),
        ago(group.created, now()),
        status(group),
    ]
}

/// Machines that are on their way, and else what failed last.
fn status(group: &NodeGroup) -> String {
    let moving = group.machines.iter().filter(|machine| machine.state != MachineState::Ready);
    let moving: Vec<String> =
        moving.map(|machine| format!("{} {}", machine.node, word(&machine.state))).collect();
    match (moving.is_empty(), group.failures, group.events.first()) {
        (false, ..) => moving.join(", "),
        (true, 1.., Some(last)) => last.message.clone(),
        (true, ..) => "-".to_owned(),
    }
}
