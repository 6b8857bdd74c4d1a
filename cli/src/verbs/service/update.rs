use std::time::Duration;

use orchestrator::{Client, UpdateService};
use spec::{ClusterName, ServiceName, TaskDefinitionId};

use super::{
    converge,
    deploying::DeploymentFlags,
    ingress::IngressFlags,
    placing::{PlacementFlags, ScalingFlags},
};
use crate::{control::Control, home::Home, output::line, serve::block_on};

/// Change what a service runs, or how many copies; returns when another revision is in service, or
/// was rolled back
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("change")
    .args(["task", "count", "min_healthy", "max_percent", "circuit_breaker", "rollback",
        "deadline", "rollout", "canary", "step", "step_bake", "bake", "max_failed_requests",
        "constraint", "prefer", "strategy", "tolerate", "capacity_provider",
        "rebalance", "priority",
        "scale", "target", "schedule", "scale_out_cooldown", "scale_in_cooldown",
        "no_scaling", "host", "path", "weight", "https", "sticky", "rate_limit",
        "error_page", "no_hosts", "listener", "no_listeners"])
    .required(true).multiple(true)))]
pub struct Update {
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
    placement: PlacementFlags,
    #[command(flatten)]
    scaling: ScalingFlags,
    /// Follow no targets and schedules any more
    #[arg(long, conflicts_with_all = ["scale", "target", "schedule"])]
    no_scaling: bool,
    #[command(flatten)]
    ingress: IngressFlags,
    /// Answer for no host name but its own
    #[arg(long, conflicts_with_all = ["host", "path", "weight"])]
    no_hosts: bool,
    /// Have no port for what is no HTTP any more
    #[arg(long, conflicts_with = "listener")]
    no_listeners: bool,
    #[command(flatten)]
    control: Control,
}

impl Update {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let wait = (self.task.is_some() && !self.detach).then_some(self.timeout);
        let update = UpdateService {
            count: self.count,
            task_definition: self.task,
            priority: self.placement.priority,
            remove_scaling: self.no_scaling,
            ..UpdateService::default()
        };
        let Self { deployment, placement, scaling, ingress, no_hosts, no_listeners, .. } = self;
        let flags = Flags { deployment, placement, scaling, ingress, no_hosts, no_listeners };
        let client = self.control.client(home)?;
        change(&client, &self.cluster, &self.name, update, &flags, wait)
    }
}

/// What may change of a service beside its task and its count.
#[derive(Debug, Default)]
pub struct Flags {
    deployment: DeploymentFlags,
    placement: PlacementFlags,
    scaling: ScalingFlags,
    ingress: IngressFlags,
    no_hosts: bool,
    no_listeners: bool,
}

/// Changes a service, and waits until what it is to run is in service, where that is wanted.
pub fn change(
    client: &Client,
    cluster: &ClusterName,
    name: &ServiceName,
    mut update: UpdateService,
    flags: &Flags,
    wait: Option<Duration>,
) -> anyhow::Result<()> {
    let Flags { deployment, placement, scaling, ingress, no_hosts, no_listeners } = flags;
    let is_routed = ingress.is_given() || *no_hosts || *no_listeners;
    if deployment.is_given() || placement.is_given() || scaling.is_given() || is_routed {
        let before = block_on(client.service(cluster, name))?.spec;
        if deployment.is_given() {
            update.deployment = Some(deployment.applied_to(before.deployment)?);
        }
        if placement.is_given() {
            update.placement = Some(placement.applied_to(before.placement)?);
        }
        if is_routed {
            let mut settings = before.ingress;
            if *no_hosts {
                (settings.hosts, settings.paths, settings.weight) = Default::default();
            }
            if *no_listeners {
                settings.listeners.clear();
            }
            update.ingress = Some(ingress.applied_to(settings));
        }
        update.scaling = scaling.applied_to(before.scaling)?.filter(|_| scaling.is_given());
    }
    let service = block_on(client.update_service(cluster, name, &update))?;
    line(format_args!("{}", service.name));
    match wait {
        Some(time_max) => block_on(converge::deployed(client, &service, time_max)),
        None => Ok(()),
    }
}
