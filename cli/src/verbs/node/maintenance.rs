//! What an operator says of a node: cordoned or not, labels and taints.

use orchestrator::UpdateNode;
use spec::{NodeId, Taint};

use crate::{control::Control, home::Home, output::line, serve::block_on};

/// What changes of a node.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("change")
    .args(["label_add", "label_rm", "taint_add", "taint_rm"])
    .required(true).multiple(true)))]
pub struct Update {
    /// Which one
    node: NodeId,
    /// Give it a label, which constraints and strategies of services name; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    label_add: Vec<(String, String)>,
    /// Take back a label that was given so; may be repeated
    #[arg(long, value_name = "NAME")]
    label_rm: Vec<String>,
    /// Keep tasks away that do not tolerate it, and with NoExecute move those that are there; may
    /// be repeated
    #[arg(long, value_name = "KEY[=VALUE]:NoSchedule|NoExecute")]
    taint_add: Vec<Taint>,
    /// Take back the taints with this key; may be repeated
    #[arg(long, value_name = "KEY")]
    taint_rm: Vec<String>,
    #[command(flatten)]
    control: Control,
}

/// A label as flags have it; one without a value is `true`.
pub fn label(text: &str) -> Result<(String, String), spec::ParseError> {
    let (name, value) = text.split_once('=').unwrap_or((text, "true"));
    spec::check_label(name, value)?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Update {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let update = UpdateNode {
            cordoned: None,
            labels: self.label_add.into_iter().collect(),
            remove_labels: self.label_rm,
            taints: self.taint_add,
            remove_taints: self.taint_rm,
        };
        let client = self.control.client(home)?;
        let node = block_on(client.update_node(&self.node, &update))?;
        line(format_args!("{}", node.id));
        Ok(())
    }
}

/// Lets a node take no new task, or lets it take some again.
pub fn cordon(
    home: &Home,
    control: &Control,
    nodes: &[NodeId],
    cordoned: bool,
) -> anyhow::Result<()> {
    let client = &control.client(home)?;
    let update = &UpdateNode { cordoned: Some(cordoned), ..UpdateNode::default() };
    crate::verbs::ask_for_each(nodes, |node| client.update_node(node, update))
}
