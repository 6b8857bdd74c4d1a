mod denial; // what a task was denied, and the lines that would grant it

use clap::Subcommand;
use spec::{ClusterName, Explanation, NodeId, ServiceName, TaskId};

use crate::{control::Control, home::Home, output::Output, serve::block_on};

/// Say why something is as it is, and what would change it
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Why a service has the copies that it has
    Service {
        /// Its name
        name: ServiceName,
        /// Where it is
        #[arg(long, value_name = "NAME")]
        cluster: ClusterName,
        #[command(flatten)]
        how: How,
    },
    /// Why a task waits, runs or has ended
    Task {
        /// Its id
        task: TaskId,
        #[command(flatten)]
        how: How,
    },
    /// Why a node takes the tasks that it takes
    Node {
        /// Its name
        node: NodeId,
        #[command(flatten)]
        how: How,
    },
    /// Why a host name is answered as it is
    Route {
        /// As in cats.allthecats.localhost
        host: String,
        #[command(flatten)]
        how: How,
    },
    /// What a task was denied, and the lines that would grant it
    Denial {
        /// Its id
        task: TaskId,
        #[command(flatten)]
        how: How,
    },
}

/// Options of every kind.
#[derive(Debug, clap::Args)]
pub struct How {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    control: Control,
}

impl Verb {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let (what, how) = match self {
            Self::Service { name, cluster, how } => {
                (format!("clusters/{cluster}/services/{name}"), how)
            }
            Self::Task { task, how } => (format!("tasks/{task}"), how),
            Self::Node { node, how } => (format!("nodes/{node}"), how),
            Self::Route { host, how } => (format!("routes/{}", host_of(&host)), how),
            Self::Denial { task, how } => {
                let client = how.control.client(home)?;
                let explanation = block_on(denial::explain(&client, &task))?;
                return how.output.report(&explanation, words);
            }
        };
        let client = how.control.client(home)?;
        let explanation = block_on(client.explain(&what))?;
        how.output.report(&explanation, words)
    }
}

/// The host name in what may be a URL.
fn host_of(text: &str) -> String {
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    let host = text.split(['/', '?', '#']).next().unwrap_or_default();
    host.split(':').next().unwrap_or_default().to_ascii_lowercase()
}

/// Two lines for each cause.
fn words(explanation: &Explanation) -> Vec<String> {
    let Explanation { subject, state, causes } = explanation;
    let mut lines = vec![format!("{subject}: {state}")];
    for cause in causes {
        lines.push(format!("  because {}", cause.why));
        lines.extend(cause.change.as_ref().map(|change| format!("    to change it: {change}")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_taken_out_of_a_url() {
        for (text, want) in [
            ("cats.main.localhost", "cats.main.localhost"),
            ("http://Cats.main.localhost:8080/page?a=b", "cats.main.localhost"),
            ("cats.main.localhost:80", "cats.main.localhost"),
        ] {
            assert_eq!(host_of(text), want);
        }
    }
}
