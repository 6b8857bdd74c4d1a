use clap::Subcommand;
use spec::{ClusterName, MetricName, ServiceName};

use crate::{
    control::Control,
    home::Home,
    output::{Output, ago, now},
    serve::block_on,
};

/// Report numbers of your own that a service scales by, and list them
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Report a number of a service as a whole, as the length of its queue; it holds for 5 minutes
    Put {
        #[command(flatten)]
        service: Named,
        /// As in --target metric:METRIC=NUMBER
        metric: MetricName,
        /// 0 or more
        value: u32,
        #[command(flatten)]
        control: Control,
    },
    /// List what was reported in the last 5 minutes
    #[command(alias = "list")]
    Ls {
        #[command(flatten)]
        service: Named,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        control: Control,
    },
}

/// One service.
#[derive(Debug, clap::Args)]
pub struct Named {
    /// Its name
    name: ServiceName,
    /// Where it is
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,
}

impl Verb {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        match self {
            Self::Put { service: Named { name, cluster }, metric, value, control } => {
                let client = control.client(home)?;
                Ok(block_on(client.put_metric((&cluster, &name), &metric, value))?)
            }
            Self::Ls { service: Named { name, cluster }, output, control } => {
                let client = control.client(home)?;
                let metrics = block_on(client.metrics((&cluster, &name)))?;
                output.records(&metrics, &["METRIC", "VALUE", "REPORTED"], |one| {
                    [one.metric.to_string(), one.value.to_string(), ago(one.at, now())]
                })
            }
        }
    }
}
