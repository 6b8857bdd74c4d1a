//! Waiting until a service has its first ready copy, or another revision is in service.

use std::time::{Duration, Instant};

use anyhow::bail;
use orchestrator::Client;
use spec::{
    ContainerPhase, ContainerStatus, DeploymentState, SchedulingStrategy, Service, Task, TaskPhase,
};

use crate::{failure::Advice, output::notice};

/// Between two looks: a Wasm service is up after some 100 ms.
const POLL_EVERY: Duration = Duration::from_millis(200);
/// A service that no node can take by then is told of: nodes report within seconds.
const PLACING_TIME_MAX: Duration = Duration::from_secs(10);
/// A container that failed as often fails again.
const RESTARTS_MAX: u32 = 2;

/// How far a service has come.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Progress {
    Ready,
    /// What it is doing.
    Waiting(String),
    /// Why it will not be ready by waiting.
    Stuck(String),
}

/// `tasks` are those of the service, and `waited` is how long it has been looked at.
fn progress(service: &Service, tasks: &[Task], waited: Duration) -> Progress {
    let status = &service.status;
    let none = match service.spec.scheduling {
        SchedulingStrategy::Replica => service.spec.count == 0,
        SchedulingStrategy::Daemon => status.desired == Some(0),
    };
    if none || status.observed_generation >= service.generation && status.ready > 0 {
        return Progress::Ready;
    }
    if let Some(newest) = status.deployments.first()
        && newest.state == DeploymentState::Failed
    {
        return Progress::Stuck(newest.reason.clone().unwrap_or_else(|| "it failed".to_owned()));
    }
    let live = || tasks.iter().filter(|task| task.status.phase != TaskPhase::Stopped);
    let containers = || live().flat_map(|task| &task.status.containers);
    if let Some(failing) = containers().find(|container| is_failing(container)) {
        return Progress::Stuck(told(failing));
    }
    let reason = status.reason.clone();
    match (reason, live().next()) {
        (Some(reason), None) if waited >= PLACING_TIME_MAX => Progress::Stuck(reason),
        (Some(reason), _) => Progress::Waiting(reason),
        (None, None) => Progress::Waiting("waiting for a node".to_owned()),
        (None, Some(task)) => Progress::Waiting(match &task.status.reason {
            Some(reason) => reason.clone(),
            None => task.status.containers.first().map_or("starting".to_owned(), told),
        }),
    }
}

fn is_failing(container: &ContainerStatus) -> bool {
    container.phase == ContainerPhase::BackOff && container.restarts >= RESTARTS_MAX
}

fn told(container: &ContainerStatus) -> String {
    let name = &container.name;
    let phase = match container.phase {
        ContainerPhase::Pulling => "waits for its image to be pulled and prepared".to_owned(),
        ContainerPhase::Running => "runs, and is not ready yet".to_owned(),
        ContainerPhase::BackOff => format!("ended, and is started again ({})", container.restarts),
        ContainerPhase::Exited => "ended".to_owned(),
    };
    match &container.reason {
        Some(reason) => format!("container `{name}` {phase}: {reason}"),
        None => format!("container `{name}` {phase}"),
    }
}

/// Returns once the first copy is ready, and tells on the way what it waits for.
///
/// # Errors
/// Why it is not up: at `time_max`, or as soon as waiting does not help.
pub async fn wait(client: &Client, service: &Service, time_max: Duration) -> anyhow::Result<()> {
    let (began, mut before) = (Instant::now(), String::new());
    let (name, cluster) = (&service.name, &service.cluster);
    loop {
        let service = client.service(cluster, name).await?;
        let mut tasks = client.tasks().await?;
        tasks.retain(|task| {
            task.spec.service.as_ref() == Some(name) && task.spec.cluster == *cluster
        });
        let stuck = match progress(&service, &tasks, began.elapsed()) {
            Progress::Ready => return Ok(()),
            Progress::Stuck(why) => Some(why),
            Progress::Waiting(what) => {
                if what != before {
                    notice(format_args!("{name}: {what}"));
                    before.clone_from(&what);
                }
                (began.elapsed() >= time_max).then_some(what)
            }
        };
        if let Some(why) = stuck {
            bail!(
                Advice::new(format!("service `{name}` was created and has no ready copy: {why}"))
                    .hint(format!(
                        "it goes on trying: margay service ps {name} --cluster {cluster}; margay \
                         service logs {name} --cluster {cluster}"
                    ))
            );
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// How far the deployment of this number has come.
fn rolled_out(service: &Service, number: u64, tasks: &[Task]) -> Progress {
    let status = &service.status;
    let mut known = status.deployments.iter();
    let Some(deployment) = known.find(|deployment| deployment.number == number) else {
        return Progress::Stuck("it is not known any more".to_owned());
    };
    let newest = status.deployments.first().map_or(number, |newest| newest.number);
    match deployment.state {
        DeploymentState::Completed => Progress::Ready,
        DeploymentState::Superseded => Progress::Stuck(format!("deployment {newest} began")),
        DeploymentState::Failed => {
            Progress::Stuck(deployment.reason.clone().unwrap_or_else(|| "it failed".to_owned()))
        }
        DeploymentState::InProgress if status.paused => Progress::Waiting(format!(
            "the rollout is paused: margay service rollout resume {} --cluster {}",
            service.name, service.cluster
        )),
        DeploymentState::InProgress => {
            let own = || {
                let of = |task: &&Task| task.spec.task_definition == deployment.task_definition;
                tasks.iter().filter(of).filter(|task| !task.spec.stop)
            };
            let ready = own().filter(|task| task.status.is_ready()).count();
            let desired = status.desired.unwrap_or(service.spec.count) as usize;
            let why = own().find_map(|task| task.status.reason.as_ref());
            let why = why.or(status.reason.as_ref()).filter(|_| ready < desired);
            let (id, count) = (&deployment.task_definition, desired);
            let share = deployment.traffic.map(|share| share.percent).filter(|share| *share > 0);
            Progress::Waiting(match why {
                None if share.is_some() => {
                    let percent = share.unwrap_or_default();
                    format!("{ready} of {count} copies of `{id}` have {percent} % of the requests")
                }
                Some(why) => format!("{ready} of {count} copies of `{id}` are ready: {why}"),
                None => format!("{ready} of {count} copies of `{id}` are ready"),
            })
        }
    }
}

/// Returns once the newest deployment of `service` is completed, and tells on the way how far it
/// has come.
///
/// # Errors
/// Why it failed, or how far it was at `time_max`.
pub async fn deployed(
    client: &Client,
    service: &Service,
    time_max: Duration,
) -> anyhow::Result<()> {
    let (began, mut before) = (Instant::now(), String::new());
    let (name, cluster) = (&service.name, &service.cluster);
    let Some(number) = service.status.deployments.first().map(|newest| newest.number) else {
        return Ok(()); // an older control plane has no deployments
    };
    loop {
        let tasks = super::tasks_of(client, cluster, name).await?;
        let service = client.service(cluster, name).await?;
        let what = match rolled_out(&service, number, &tasks) {
            Progress::Ready => return Ok(()),
            Progress::Stuck(why) => bail!(failed(&service, number, &why)),
            Progress::Waiting(what) => what,
        };
        if began.elapsed() >= time_max {
            bail!(
                Advice::new(format!("deployment {number} of service `{name}` goes on: {what}"))
                    .hint(format!("margay service rollout status {name} --cluster {cluster}"))
            );
        }
        if what != before {
            notice(format_args!("{name}: {what}"));
            before = what;
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// A deployment that did not come into service, and what serves instead.
fn failed(service: &Service, number: u64, why: &str) -> Advice {
    let (name, cluster) = (&service.name, &service.cluster);
    let newest = service.status.deployments.first();
    let back = newest.filter(|newest| newest.rolls_back == Some(number));
    let said = match back {
        Some(back) => format!(
            "deployment {number} of service `{name}` failed and was rolled back to `{}`: {why}",
            back.task_definition
        ),
        None => format!("deployment {number} of service `{name}` did not come into service: {why}"),
    };
    Advice::new(said).hint(format!(
        "margay service events {name} --cluster {cluster}; margay service logs {name} --cluster \
         {cluster}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(ready: u32, reason: Option<&str>) -> Service {
        let text = serde_json::json!({
            "name": "web", "cluster": "demo", "created": "2026-11-27T10:00:00.000Z", "generation": 1,
            "spec": { "task_definition": "web:1", "count": 1, "launch_type": "node" },
            "status": {
                "placed": 1, "running": 1, "ready": ready, "reason": reason,
                "observed_generation": 1,
            },
        });
        serde_json::from_value(text).unwrap()
    }

    fn task(container: &str, reason: Option<&str>, restarts: u32) -> Task {
        let text = serde_json::json!({
            "id": "web-1", "created": "2026-11-27T10:00:00.000Z",
            "spec": {
                "cluster": "demo", "task_definition": "web:1", "launch_type": "node",
                "service": "web", "node": "node-1", "stop": false,
            },
            "status": { "phase": "starting", "containers": [{
                "name": "app", "image": format!("sha256:{}", "0".repeat(64)), "phase": container,
                "reason": reason, "restarts": restarts, "usage": spec::Usage::default(),
            }] },
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_service_is_ready_waits_or_is_stuck() {
        let waiting = |text: &str| Progress::Waiting(text.to_owned());
        let stuck = |text: &str| Progress::Stuck(text.to_owned());
        for (service, tasks, seconds, want) in [
            (service(1, None), vec![], 0, Progress::Ready),
            (service(0, None), vec![], 0, waiting("waiting for a node")),
            (service(0, Some("no node fits")), vec![], 9, waiting("no node fits")),
            (service(0, Some("no node fits")), vec![], 10, stuck("no node fits")),
            (
                service(0, None),
                vec![task("pulling", None, 0)],
                60,
                waiting("container `app` waits for its image to be pulled and prepared"),
            ),
            (
                service(0, None),
                vec![task("back-off", Some("it trapped"), 1)],
                0,
                waiting("container `app` ended, and is started again (1): it trapped"),
            ),
            (
                service(0, None),
                vec![task("back-off", Some("it trapped"), 2)],
                0,
                stuck("container `app` ended, and is started again (2): it trapped"),
            ),
        ] {
            assert_eq!(progress(&service, &tasks, Duration::from_secs(seconds)), want);
        }
    }
}
