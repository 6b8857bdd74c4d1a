use anyhow::bail;
use orchestrator::Client;
use spec::{ClusterName, ContainerName, Service, ServiceName, Task, TaskId, TaskPhase};

use crate::failure::Advice;

/// What a name of the platform means.
pub enum Found {
    /// A task, and one of its containers where the name says which.
    Task(Box<Task>, Option<ContainerName>),
    Service(Box<Service>),
}

/// The task or the service that `name` means: TASK, TASK.CONTAINER, TENANT.TASK.CONTAINER as
/// `margay ps` shows it, or SERVICE.
///
/// # Errors
/// When there is none, or more than one.
pub async fn found(
    client: &Client,
    name: &str,
    cluster: Option<&ClusterName>,
) -> anyhow::Result<Found> {
    let parts: Vec<&str> = name.split('.').collect();
    let (task, container) = match parts.as_slice() {
        [task] => (*task, None),
        [task, container] | [_, task, container] => (*task, Some(container.parse()?)),
        _ => bail!(nothing(name)),
    };
    let id = task.parse::<TaskId>()?;
    if cluster.is_none() {
        match client.task(&id).await {
            Ok(task) => return Ok(Found::Task(Box::new(task), container)),
            Err(error) if error.fault().is_some_and(|fault| fault.code == "not-found") => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut services = client.services().await?;
    services.retain(|service| {
        service.name.as_str() == task && cluster.is_none_or(|name| service.cluster == *name)
    });
    match services.len() {
        0 => bail!(nothing(name)),
        1 => Ok(Found::Service(Box::new(services.remove(0)))),
        _ => {
            let clusters: Vec<String> =
                services.iter().map(|service| format!("`{}`", service.cluster)).collect();
            let message = format!("service `{name}` is in {}", clusters.join(" and "));
            bail!(Advice::new(message).hint("say in which: --cluster NAME"))
        }
    }
}

fn nothing(name: &str) -> Advice {
    Advice::new(format!("no task or service is called `{name}`"))
        .hint("see what there is: margay task ls -a; margay service ls; here: margay ps -a")
}

/// The tasks of a service that are there, newest first.
///
/// # Errors
/// Of the control plane.
pub async fn copies(
    client: &Client,
    cluster: &ClusterName,
    name: &ServiceName,
) -> Result<Vec<Task>, orchestrator::Error> {
    let mut tasks = client.tasks().await?;
    tasks.retain(|task| task.spec.service.as_ref() == Some(name) && task.spec.cluster == *cluster);
    tasks.sort_by_key(|task| std::cmp::Reverse(task.created));
    Ok(tasks)
}

impl Found {
    /// The task that a program or a connection goes to: of a service the newest that is ready.
    ///
    /// # Errors
    /// When the service has none.
    pub async fn one(self, client: &Client) -> anyhow::Result<(TaskId, Option<ContainerName>)> {
        let service = match self {
            Self::Task(task, container) => return Ok((task.id, container)),
            Self::Service(service) => service,
        };
        let tasks = copies(client, &service.cluster, &service.name).await?;
        let running = |task: &&Task| task.status.phase == TaskPhase::Running;
        let best = tasks.iter().find(|task| task.status.is_ready());
        match best.or_else(|| tasks.iter().find(running)) {
            Some(task) => Ok((task.id.clone(), None)),
            None => {
                let (name, cluster) = (&service.name, &service.cluster);
                bail!(
                    Advice::new(format!("no copy of service `{name}` runs")).hint(format!(
                        "see why: margay explain service {name} --cluster {cluster}"
                    ))
                )
            }
        }
    }
}
