use clap::Subcommand;
use orchestrator::Client;
use spec::ClusterName;

use crate::{
    control::{Control, List},
    home::Home,
    output::{ago, line, now},
    serve::block_on,
};

/// Create, list and delete clusters
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a cluster: a group of services under one name
    Create {
        /// Its name, and the second label of its services' host names
        name: ClusterName,
        #[command(flatten)]
        control: Control,
    },
    /// List clusters
    #[command(alias = "list")]
    Ls(List),
    /// Delete clusters that have no services and no tasks
    #[command(visible_alias = "rm")]
    Delete {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<ClusterName>,
        #[command(flatten)]
        control: Control,
    },
}

impl Verb {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        match self {
            Self::Create { name, control } => {
                let cluster = block_on(control.client(home)?.create_cluster(&name))?;
                line(format_args!("{}", cluster.name));
                Ok(())
            }
            Self::Ls(list) => list.run(home, Client::clusters, &["NAME", "CREATED"], |cluster| {
                [cluster.name.to_string(), ago(cluster.created, now())]
            }),
            Self::Delete { names, control } => {
                let client = control.client(home)?;
                super::ask_for_each(&names, |name| client.delete_cluster(name))
            }
        }
    }
}
