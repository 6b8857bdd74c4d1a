mod drain; // work that moves away
mod maintenance; // cordon, labels and taints
mod rollout; // another version of their agents

pub use maintenance::label;

use clap::Subcommand;
use node::{Agent, AgentConfig, AtEnd, JoinOptions};
use orchestrator::Client;
use spec::{Node, NodeCondition, NodeId};

use crate::{
    control::{Control, List},
    flags,
    home::Home,
    output::{ago, json, now, size},
    platform::host::{self, ListenOptions, Tuning},
    serve::{self, Child, block_on},
    verbs::{token, word},
};

/// Run this machine's node, join it to a control plane, or manage nodes
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Without a subcommand: run the node that has joined."
)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    running: Running,
}

#[derive(Debug, clap::Args)]
struct Running {
    /// Let tasks run on when it is asked to end, for the next one to adopt: an upgrade
    #[arg(long)]
    leave: bool,
    #[command(flatten)]
    tuning: Tuning,
    #[command(flatten)]
    door: ListenOptions,
    #[command(flatten)]
    child: Child,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Join a control plane with a token, and run the node
    Join {
        /// From `margay node token`, or - to read it from stdin, where no other user sees it
        #[arg(value_name = "TOKEN|-")]
        token: String,
        /// The name that it would like
        #[arg(long)]
        name: Option<NodeId>,
        /// Its failure domain: services spread over zones first
        #[arg(long, default_value = "default")]
        zone: String,
        /// A label that constraints and strategies of services name; may be repeated
        #[arg(long, value_name = "NAME=VALUE", value_parser = maintenance::label)]
        label: Vec<(String, String)>,
        /// Join, and end without running the node
        #[arg(long)]
        no_run: bool,
        #[command(flatten)]
        tuning: Tuning,
        #[command(flatten)]
        door: ListenOptions,
    },
    /// Make a token with which one node may join, once
    Token(token::Wanted),
    /// List nodes
    #[command(alias = "list")]
    Ls(List),
    /// Move the work of nodes elsewhere, and give them none
    Drain(drain::Drain),
    Rollout(rollout::Rollout),
    /// Give nodes no new work; what they have stays
    Cordon {
        /// Which ones
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<NodeId>,
        #[command(flatten)]
        control: Control,
    },
    /// Let nodes that were cordoned have new work again
    Uncordon {
        /// Which ones
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<NodeId>,
        #[command(flatten)]
        control: Control,
    },
    /// Change the labels and taints of a node
    Update(maintenance::Update),
    /// Show all that is known of nodes, as JSON
    Inspect {
        /// Which ones
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<NodeId>,
        #[command(flatten)]
        control: Control,
    },
    /// Forget nodes that are down or drained: their certificates are worth nothing any more
    Rm {
        /// Even if it has work: the node ends its tasks when it hears of that
        #[arg(short, long)]
        force: bool,
        /// Which ones
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<NodeId>,
        #[command(flatten)]
        control: Control,
    },
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        match self.verb {
            Some(verb) => verb.run(home),
            None => self.running.run(home),
        }
    }
}

impl Running {
    /// The agent alone for `margay up`, which has an ingress of its own; else both.
    fn run(self, home: &Home) -> anyhow::Result<()> {
        if !self.child.has_parent() {
            return block_on(host::run(home, &self.door, &self.tuning, self.leave));
        }
        self.child.begin(&[])?;
        serve::keep_agent_capabilities()?;
        self.child.tell_orphans_apart()?;
        let tuning = self.tuning.for_node();
        let config = AgentConfig { tuning, ..AgentConfig::new(home.node().clone()) };
        serve::until_shutdown(|stop| async move {
            let shutdown = async {
                tokio::select! {
                    () = stop => if self.leave { AtEnd::Leave } else { AtEnd::Stop },
                    // A supervisor that was killed has asked for nothing: the next one adopts.
                    () = serve::orphaned() => AtEnd::Leave,
                }
            };
            Agent::open(config)?.serve(shutdown, || ()).await
        })
    }
}

impl Verb {
    fn run(self, home: &Home) -> anyhow::Result<()> {
        match self {
            Self::Join { token, name, zone, label, no_run, tuning, door } => {
                let (labels, tuning) = (label.into_iter().collect(), tuning.for_node());
                let options = JoinOptions { name, zone, labels, tuning, ..JoinOptions::default() };
                let token = if token == "-" { flags::line_of_stdin()? } else { token };
                block_on(host::join_and_run(home, &token.parse()?, options, &door, no_run))
            }
            Self::Token(wanted) => wanted.make(home),
            Self::Ls(list) => list.run(home, Client::nodes, &HEADINGS, row),
            Self::Drain(drain) => drain.run(home),
            Self::Rollout(rollout) => rollout.run(home),
            Self::Cordon { nodes, control } => maintenance::cordon(home, &control, &nodes, true),
            Self::Uncordon { nodes, control } => maintenance::cordon(home, &control, &nodes, false),
            Self::Update(update) => update.run(home),
            Self::Inspect { nodes, control } => {
                let client = control.client(home)?;
                let nodes = nodes.iter().map(|node| block_on(client.node(node)));
                json(&nodes.collect::<Result<Vec<Node>, _>>()?)
            }
            Self::Rm { force, nodes, control } => {
                let client = &control.client(home)?;
                super::ask_for_each(&nodes, |node| async move {
                    match force {
                        true => client.force_remove_node(node).await,
                        false => client.remove_node(node).await,
                    }
                })
            }
        }
    }
}

const HEADINGS: [&str; 9] =
    ["NODE", "STATUS", "ZONE", "TASKS", "CPU", "MEMORY", "NATIVE", "VERSION", "LAST SEEN"];

fn row(node: &Node) -> [String; 9] {
    let capacity = node.spec.capacity;
    [
        node.id.to_string(),
        status(node),
        node.spec.zone.clone(),
        node.tasks.to_string(),
        format!("{:.1}", f64::from(capacity.cpu_millis) / 1000.0),
        size(capacity.memory_bytes),
        if node.spec.runs_native { node.spec.architecture.clone() } else { "no".to_owned() },
        // Versions before the field said nothing.
        if node.spec.version.is_empty() { "?".to_owned() } else { node.spec.version.clone() },
        ago(node.status.last_seen, now()),
    ]
}

/// How it is and what was said of it, and then what is wrong with it.
fn status(node: &Node) -> String {
    let condition = match node.status.condition {
        NodeCondition::Ready if node.draining && node.tasks == 0 => "drained".to_owned(),
        NodeCondition::Ready if node.draining => "draining".to_owned(),
        NodeCondition::Ready if node.cordoned => "cordoned".to_owned(),
        condition => word(&condition),
    };
    let problems = node.problems.iter().map(|problem| problem.kind.to_string());
    std::iter::once(condition).chain(problems).collect::<Vec<_>>().join(",")
}
