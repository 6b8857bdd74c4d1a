mod converge; // waiting for copies to be ready
mod deploying; // the settings of deployments
mod rollout; // its deployments

use std::time::Duration;

use clap::Subcommand;
use orchestrator::{Client, CreateService, UpdateService};
use spec::{
    ClusterName, DeploymentSettings, LaunchType, Service, ServiceName, Task, TaskDefinitionId,
};

use deploying::DeploymentFlags;

use crate::{
    control::Control,
    home::Home,
    output::{Output, ago, json, line, notice, now},
    platform::record::Record,
    remote,
    serve::block_on,
    verbs::task,
};

/// Create, list, change and delete services: copies of a task that are kept running
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Keep copies of a task running, and route http://NAME.CLUSTER.localhost to them; returns when
    /// the first copy is ready
    Create {
        /// Its name, and the first label of its host name
        name: ServiceName,
        /// What to run, as in cats:1
        #[arg(long, value_name = "FAMILY:REVISION")]
        task: TaskDefinitionId,
        /// Where
        #[arg(long, value_name = "NAME")]
        cluster: ClusterName,
        /// How many copies
        #[arg(long, default_value_t = 1)]
        count: u32,
        /// On nodes of your own, or on the shared pool
        #[arg(long, value_name = "node|pool", default_value = "node")]
        launch_type: LaunchType,
        /// Do not wait until a copy is ready
        #[arg(short, long)]
        detach: bool,
        /// Wait no longer than this for the first ready copy
        #[arg(long, value_name = "DURATION", default_value = "2m",
            value_parser = spec::parse_duration, conflicts_with = "detach")]
        timeout: Duration,
        #[command(flatten)]
        deployment: DeploymentFlags,
        #[command(flatten)]
        control: Control,
    },
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
        #[command(flatten)]
        control: Control,
    },
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
    /// Change what a service runs, or how many copies; returns when another revision is in service,
    /// or was rolled back
    #[command(group(clap::ArgGroup::new("change")
        .args(["task", "count", "min_healthy", "max_percent", "circuit_breaker", "rollback",
            "deadline"])
        .required(true).multiple(true)))]
    Update {
        /// Its name
        name: ServiceName,
        /// Where it is
        #[arg(long, value_name = "NAME")]
        cluster: ClusterName,
        /// Run this from now on
        #[arg(long, value_name = "FAMILY:REVISION")]
        task: Option<TaskDefinitionId>,
        /// Keep so many copies
        #[arg(long)]
        count: Option<u32>,
        /// Do not wait until the revision is in service
        #[arg(short, long)]
        detach: bool,
        /// Wait no longer than this; the deployment goes on
        #[arg(long, value_name = "DURATION", default_value = "15m",
            value_parser = spec::parse_duration, conflicts_with = "detach")]
        timeout: Duration,
        #[command(flatten)]
        deployment: DeploymentFlags,
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
            Self::Create {
                name,
                task,
                cluster,
                count,
                launch_type,
                detach,
                timeout,
                deployment,
                control,
            } => {
                let client = control.client(home)?;
                let deployment = deployment.applied_to(DeploymentSettings::default());
                let wanted =
                    CreateService { name, task_definition: task, count, launch_type, deployment };
                let service = block_on(client.create_service(&cluster, &wanted))?;
                let here = (!control.is_elsewhere()).then_some(home);
                created(here, &client, &service, (!detach).then_some(timeout))
            }
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
            Self::Logs { name, cluster, shown, control } => {
                show_logs(&control.client(home)?, &cluster, &name, &shown)
            }
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
            Self::Events { service, output } => service.events(home, output),
            Self::Update { name, cluster, task, count, detach, timeout, deployment, control } => {
                let wait = (task.is_some() && !detach).then_some(timeout);
                let update =
                    UpdateService { count, task_definition: task, ..UpdateService::default() };
                change(&control.client(home)?, &cluster, &name, update, &deployment, wait)
            }
            Self::Scale { name, count, cluster, control } => {
                let update = UpdateService { count: Some(count), ..UpdateService::default() };
                let same = DeploymentFlags::default();
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
    cluster: &ClusterName,
    name: &ServiceName,
    shown: &super::logs::Shown,
) -> anyhow::Result<()> {
    let query = shown.query()?;
    let how = remote::Shown { timestamps: shown.timestamps, labels: true };
    block_on(async {
        let service = Box::new(client.service(cluster, name).await?);
        remote::show(client, remote::Found::Service(service), &query, how).await
    })
}

/// Says that a service is there, waits for its first copy unless that is not wanted, and says where
/// it is reached on the platform of `here`.
fn created(
    here: Option<&Home>,
    client: &Client,
    service: &Service,
    time_max: Option<Duration>,
) -> anyhow::Result<()> {
    line(format_args!("{}", service.name));
    if let Some(time_max) = time_max {
        block_on(converge::wait(client, service, time_max))?;
    }
    // It is made; what can be said about it is no reason to fail.
    let is_reached = block_on(client.definition(&service.spec.task_definition))
        .is_ok_and(|made| made.definition.containers.iter().any(|c| !c.ports.is_empty()));
    // At which address the ingress of another machine is reached, its operator knows.
    let record = here.map(Record::read).transpose()?.flatten();
    if let Some(record) = record.filter(|_| is_reached) {
        notice(format_args!("Reach it at {}", record.url(&host(service))));
    }
    Ok(())
}

/// Changes a service, and waits until what it is to run is in service, where that is wanted.
fn change(
    client: &Client,
    cluster: &ClusterName,
    name: &ServiceName,
    mut update: UpdateService,
    deployment: &DeploymentFlags,
    wait: Option<Duration>,
) -> anyhow::Result<()> {
    if deployment.is_given() {
        let service = block_on(client.service(cluster, name))?;
        update.deployment = Some(deployment.applied_to(service.spec.deployment));
    }
    let service = block_on(client.update_service(cluster, name, &update))?;
    line(format_args!("{}", service.name));
    match wait {
        Some(time_max) => block_on(converge::deployed(client, &service, time_max)),
        None => Ok(()),
    }
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
        format!("{}/{}", service.status.ready, service.spec.count),
        rollout::state(service),
        ago(service.created, now()),
        host(service),
        service.status.reason.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}
