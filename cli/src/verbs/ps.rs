use node::tasks;
use serde::Serialize;

use crate::{
    home::Home,
    output::{Output, ago, line, now},
    verbs::inspect::Summary,
};

/// List tasks
#[derive(Debug, clap::Args)]
#[command(
    visible_alias = "ls",
    after_help = "Reads the folders of the tasks: no server has to run."
)]
pub struct Args {
    /// Show ended ones as well
    #[arg(short, long)]
    all: bool,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Show images and commands in full length
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    summary: Summary,
    state: &'static str,
}

impl Args {
    /// Prints the tasks of this home, newest first as Docker does.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let mut rows = Vec::new();
        for folder in tasks::list(home.node())?.into_iter().rev() {
            let state = folder.state()?;
            if self.all || state.is_alive() {
                rows.push((folder, state));
            }
        }
        if self.quiet {
            rows.iter().for_each(|(folder, _)| line(format_args!("{}", folder.record().id)));
            return Ok(());
        }
        let rows = rows.iter().map(|(folder, state)| {
            anyhow::Ok(Row { summary: Summary::of(folder, *state)?, state: state.word() })
        });
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        let headings = ["TASK ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAME"];
        self.output.records(&rows, &headings, |Row { summary, .. }| {
            [
                summary.id.clone(),
                self.cut(&summary.image, 40),
                self.cut(&summary.command.join(" "), 24),
                ago(summary.created, now()),
                summary.status.clone(),
                summary.ports.iter().map(port).collect::<Vec<_>>().join(", "),
                summary.name.clone(),
            ]
        })
    }

    fn cut(&self, text: &str, chars_max: usize) -> String {
        match text.char_indices().nth(chars_max) {
            Some(_) if !self.no_trunc => text.chars().take(chars_max - 1).chain(['…']).collect(),
            _ => text.to_owned(),
        }
    }
}

/// As Docker writes it: `8080->80`.
fn port(port: &spec::PublishedPort) -> String {
    match port.host_port {
        Some(host_port) => format!("{host_port}->{}", port.container_port),
        None => port.container_port.to_string(),
    }
}
