use crate::{
    control::Control, home::Home, output::Output, remote, serve::block_on, verbs::logs::Shown,
};
use spec::{ClusterName, ServiceName};

/// Show the requests that clients made of a service, of the access logs of all ingresses
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each line says when a request came, of which client, what it asked for and how it was answered, with
its id, which the copy got as X-Request-Id. The operator of the nodes has the log kept with
`--access-log json`.

Examples:
  margay service access-log shop --cluster main --since 1h --grep ' 50'
  margay service access-log shop --cluster main -f --output json"
)]
pub struct AccessLog {
    /// Its name
    name: ServiceName,
    /// Where it is
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,
    #[command(flatten)]
    shown: Shown,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    control: Control,
}

impl AccessLog {
    pub fn run(&self, home: &Home) -> anyhow::Result<()> {
        let (client, query) = (self.control.client(home)?, self.shown.query()?);
        let service = (&self.cluster, &self.name);
        block_on(remote::requests(&client, service, &query, self.output.is_json()))
    }
}
