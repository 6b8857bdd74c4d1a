mod converge; // waiting for copies to be ready
mod access_log; // the requests of clients
mod create; // a service, from flags
mod update; // what changes of one
mod deploying; // the settings of deployments
mod ingress; // host names and rules for requests
mod listening; // ports for what is no HTTP
mod placing; // where its copies go, and how many there are
mod rollout; // its deployments
mod metric; // numbers that it scales by

use clap::Subcommand;
use orchestrator::{Client, UpdateService};
use spec::{ClusterName, SchedulingStrategy, Service, ServiceName, Task};

use update::{Flags, change};

use crate::{
    control::Control,
    home::Home,
    output::{Output, ago, json, now},
    remote,
    serve::block_on,
    verbs::task,
};

/// Create, list, change and delete services: copies of a task that are kept running
#[derive(Debug, Subcommand)]
pub enum Verb {
    Create(create::Create),
    /// List services
    #[command(alias = "list")]
    Ls {
        /// Only those of this cluster
        #[arg(long, value_name = "NAME")]
        cluster: Option<ClusterName>,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        control: Control,
    },
    /// List the tasks of services, ended ones too
    Ps {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<ServiceName>,
        /// Where they are
        #[arg(long, value_name = "NAME")]
        cluster: ClusterName,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        control: Control,
    },
    /// Show all that is known of services, as JSON
    Inspect {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<ServiceName>,
        /// Where they are
        #[arg(long, value_name = "NAME")]
        cluster: ClusterName,
        #[command(flatten)]
        control: Control,
    },
    /// Show what the copies of a service wrote, on whichever node
    Logs {
        /// Its name
        name: ServiceName,
        /// Where it is
        #[arg(long, value_name = "NAME")]
        cluster: ClusterName,
        #[command(flatten)]
        shown: super::logs::Shown,
        /// Show when each line was written
        #[arg(short, long)]
        timestamps: bool,
        #[command(flatten)]
        control: Control,
    },
    AccessLog(access_log::AccessLog),
    /// Show the deployments of a service, hold them, or bring an earlier revision back
    #[command(subcommand)]
    Rollout(rollout::Verb),
    /// Show what happened to a service last: deployments, failed tasks, and why
    Events {
        #[command(flatten)]
        service: rollout::Named,
        #[command(flatten)]
        output: Output,
    },
    /// Report numbers of your own that a service scales by, and list them
    #[command(subcommand)]
    Metric(metric::Verb),
    Update(update::Update),
    /// Spread the copies of services anew, one at a time, as after a node has come back
    Rebalance {
        /// Their names; all services of the cluster where left out
        #[arg(value_name = "NAME")]
        names: Vec<ServiceName>,
        /// Where they are
        #[arg(long, value_name = "NAME")]
        cluster: ClusterName,
        #[command(flatten)]
        control: Control,
    },
    /// Change how many copies a service keeps
    Scale {
        /// Its name
        name: ServiceName,
        /// So many
        count: u32,
        /// Where it is
        #[arg(long, value_name = "NAME")]
        cluster: ClusterName,
        #[command(flatten)]
        control: Control,
    },
    /// Delete services; their tasks are stopped
    #[command(visible_alias = "rm")]
    Delete {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<ServiceName>,
        /// Where they are
        #[arg(long, value_name = "NAME")]
        cluster: ClusterName,
        #[command(flatten)]
        control: Control,
    },
}

impl Verb {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        match self {
            Self::Create(create) => create.run(home),
            Self::Ps { names, cluster, output, control } => {
                let client = control.client(home)?;
                let mut tasks = Vec::new();
                for name in &names {
                    tasks.extend(block_on(tasks_of(&client, &cluster, name))?);
                }
                output.records(&tasks, &task::HEADINGS, task::row)
            }
            Self::Inspect { names, cluster, control } => {
                let client = control.client(home)?;
                let services = names.iter().map(|name| block_on(client.service(&cluster, name)));
                let services: Vec<Service> = services.collect::<Result<_, _>>()?;
                json(&services)
            }
            Self::Logs { name, cluster, shown, timestamps, control } => {
                let format = remote::Format::Lines;
                let how = remote::Shown { timestamps, labels: true, format };
                show_logs(&control.client(home)?, (&cluster, &name), &shown.query()?, how)
            }
            Self::AccessLog(requests) => requests.run(home),
            Self::Ls { cluster, output, control } => {
                let client = control.client(home)?;
                let mut services = block_on(async {
                    if let Some(name) = &cluster {
                        client.cluster(name).await?;
                    }
                    client.services().await
                })?;
                services
                    .retain(|service| cluster.as_ref().is_none_or(|name| service.cluster == *name));
                output.records(&services, &HEADINGS, row)
            }
            Self::Rollout(verb) => verb.run(home),
            Self::Metric(verb) => verb.run(home),
            Self::Events { service, output } => service.events(home, output),
            Self::Update(update) => update.run(home),
            Self::Rebalance { names, cluster, control } => {
                rebalance(&control.client(home)?, &cluster, names)
            }
            Self::Scale { name, count, cluster, control } => {
                let update = UpdateService { count: Some(count), ..UpdateService::default() };
                let same = Flags::default();
                change(&control.client(home)?, &cluster, &name, update, &same, None)
            }
            Self::Delete { names, cluster, control } => {
                let client = control.client(home)?;
                super::ask_for_each(&names, |name| client.delete_service(&cluster, name))
            }
        }
    }
}

fn show_logs(
    client: &Client,
    (cluster, name): (&ClusterName, &ServiceName),
    query: &spec::LogQuery,
    how: remote::Shown,
) -> anyhow::Result<()> {
    block_on(async {
        let service = Box::new(client.service(cluster, name).await?);
        remote::show(client, remote::Found::Service(service), query, how).await
    })
}

/// Asks services to spread anew; their events say how far they are.
fn rebalance(
    client: &Client,
    cluster: &ClusterName,
    names: Vec<ServiceName>,
) -> anyhow::Result<()> {
    let names = match names.is_empty() {
        false => names,
        true => block_on(async {
            client.cluster(cluster).await?;
            let of = |service: &Service| {
                service.cluster == *cluster
                    && service.spec.scheduling == SchedulingStrategy::Replica
            };
            let services = client.services().await?;
            anyhow::Ok(services.into_iter().filter(of).map(|service| service.name).collect())
        })?,
    };
    super::ask_for_each(&names, |name| client.rebalance(cluster, name))
}

/// The tasks of a service, newest first; an error when there is no such service.
async fn tasks_of(
    client: &Client,
    cluster: &ClusterName,
    name: &ServiceName,
) -> anyhow::Result<Vec<Task>> {
    client.service(cluster, name).await?;
    Ok(remote::copies(client, cluster, name).await?)
}

/// The host name that the ingress knows a service by. A control plane that does not say so is older
/// than tenants' names.
pub fn host(service: &Service) -> String {
    let older = || format!("{}.{}.{}", service.name, service.cluster, crate::platform::DOMAIN);
    service.status.host.clone().unwrap_or_else(older)
}

const HEADINGS: [&str; 8] =
    ["NAME", "CLUSTER", "TASK", "READY", "ROLLOUT", "CREATED", "HOST", "STATUS"];

fn row(service: &Service) -> [String; 8] {
    let serving = service.status.serving.iter().map(ToString::to_string).collect::<Vec<_>>();
    [
        service.name.to_string(),
        service.cluster.to_string(),
        match serving.is_empty() {
            true => service.spec.task_definition.to_string(),
            false => serving.join(","),
        },
        format!(
            "{}/{}",
            service.status.ready,
            service.status.desired.unwrap_or(service.spec.count)
        ),
        rollout::state(service),
        ago(service.created, now()),
        std::iter::once(host(service))
            .chain(service.spec.ingress.hosts.iter().map(ToString::to_string))
            .chain(service.spec.ingress.listeners.iter().map(|one| one.port.to_string()))
            .collect::<Vec<_>>()
            .join(","),
        service.status.reason.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}
