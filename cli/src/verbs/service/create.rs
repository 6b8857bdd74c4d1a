use std::{net::SocketAddr, time::Duration};

use orchestrator::{Client, CreateService};
use spec::{
    ClusterName, DeploymentSettings, IngressSettings, LaunchType, Placement, SchedulingStrategy,
    Service, ServiceName, TaskDefinitionId,
};

use super::{
    converge,
    deploying::DeploymentFlags,
    host,
    ingress::IngressFlags,
    placing::{PlacementFlags, ScalingFlags},
};
use crate::{
    control::Control,
    home::Home,
    output::{line, notice},
    platform::record::Record,
    serve::block_on,
};

/// Keep copies of a task running, and route http://NAME.CLUSTER.DOMAIN to them; returns when
/// the first copy is ready
#[derive(Debug, clap::Args)]
pub struct Create {
    /// Its name, and the first label of its host name
    name: ServiceName,
    /// What to run, as in cats:1
    #[arg(long, value_name = "FAMILY:REVISION")]
    task: TaskDefinitionId,
    /// Where
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,
    /// How many copies [default: 1, or the fewest of --scale]
    #[arg(long)]
    count: Option<u32>,
    /// Keep one copy on each node that fits, instead of a number of copies
    #[arg(long, conflicts_with_all = ["count", "scale"])]
    daemon: bool,
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
    placement: PlacementFlags,
    #[command(flatten)]
    scaling: ScalingFlags,
    #[command(flatten)]
    ingress: IngressFlags,
    #[command(flatten)]
    control: Control,
}

impl Create {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let client = self.control.client(home)?;
        let scaling = self.scaling.applied_to(None)?;
        let fewest = scaling.as_ref().map_or(1, |scaling| scaling.min);
        let count = if self.daemon { 0 } else { self.count.unwrap_or(fewest) };
        let wanted = CreateService {
            deployment: self.deployment.applied_to(DeploymentSettings::default())?,
            scheduling: match self.daemon {
                true => SchedulingStrategy::Daemon,
                false => SchedulingStrategy::Replica,
            },
            placement: self.placement.applied_to(Placement::default())?,
            priority: self.placement.priority,
            scaling,
            ingress: self.ingress.applied_to(IngressSettings::default()),
            ..CreateService::new(self.name, self.task, self.launch_type, count)
        };
        let service = block_on(client.create_service(&self.cluster, &wanted))?;
        let here = (!self.control.is_elsewhere()).then_some(home);
        created(here, &client, &service, (!self.detach).then_some(self.timeout))
    }
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
    let definition = block_on(client.definition(&service.spec.task_definition)).ok();
    let has_port = |is_meant: fn(&spec::PortMapping) -> bool| {
        let containers = definition.iter().flat_map(|made| &made.definition.containers);
        containers.flat_map(|container| &container.ports).any(is_meant)
    };
    // At which address the ingress of another machine is reached, its operator knows.
    let record = here.map(Record::read).transpose()?.flatten();
    let Some(record) = record.filter(|_| has_port(|_| true)) else { return Ok(()) };
    let IngressSettings { hosts, listeners, .. } = &service.spec.ingress;
    let hosts = std::iter::once(host(service)).chain(hosts.iter().map(ToString::to_string));
    let urls = hosts.map(|host| record.url(&host));
    let urls = urls.filter(|_| has_port(|port| port.protocol.is_routed()));
    let ports = listeners.iter().map(|one| {
        let at = SocketAddr::new(record.ingress.ip(), one.port.number);
        format!("{}://{at}", one.port.transport.word())
    });
    let all: Vec<String> = urls.chain(ports).collect();
    if !all.is_empty() {
        notice(format_args!("Reach it at {}", all.join(" and ")));
    }
    Ok(())
}
