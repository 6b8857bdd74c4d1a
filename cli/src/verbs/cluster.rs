use clap::Subcommand;
use spec::{Cluster, ClusterName};

use crate::{
    control::Control,
    home::Home,
    output::{Output, Table, ago, line, now},
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
    Ls {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        control: Control,
    },
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
    /// Does it through the control plane.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        match self {
            Self::Create { name, control } => {
                let client = control.client(home)?;
                let cluster = block_on(async { Ok(client.create_cluster(&name).await?) })?;
                line(format_args!("{}", cluster.name));
                Ok(())
            }
            Self::Ls { output, control } => {
                let client = control.client(home)?;
                let clusters = block_on(async { Ok(client.clusters().await?) })?;
                output.records(&clusters, table)
            }
            Self::Delete { names, control } => {
                let client = control.client(home)?;
                super::ask_for_each(&names, |name| client.delete_cluster(name))
            }
        }
    }
}

fn table(clusters: &[Cluster]) -> Table {
    let mut table = Table::new(&["NAME", "CREATED"]);
    for cluster in clusters {
        table.row([cluster.name.to_string(), ago(cluster.created, now())]);
    }
    table
}
