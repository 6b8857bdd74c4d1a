use std::sync::Arc;

use futures_util::{StreamExt, stream::FuturesUnordered};
use spec::{
    ContainerHealth, ContainerPhase, ContainerStatus, TaskPhase, TaskStatus, wire::DesiredTask,
};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use super::{
    adoption::AdoptableTask, container::TaskContainer, converge::Seen, host::Host, order,
    report::ContainerReport,
};
use crate::usage_log::Meter;

pub(super) struct TaskHandle {
    pub reports: Vec<Arc<ContainerReport>>,
    essential: Vec<bool>,
    stop: Arc<watch::Sender<bool>>,
    ended: Option<JoinHandle<()>>,
}

impl TaskHandle {
    /// Starts a task, or takes over what is found of it.
    pub fn start(host: &Arc<Host>, task: DesiredTask, mut found: AdoptableTask) -> Self {
        let task = Arc::new(task);
        let (stop, stopped) = watch::channel(task.stop);
        let stop = Arc::new(stop);
        let reports: Vec<_> =
            task.definition.containers.iter().map(|definition| report(&task, definition)).collect();
        let essential: Vec<_> =
            task.definition.containers.iter().map(|definition| definition.essential).collect();
        let ended = task
            .definition
            .containers
            .iter()
            .all(|c| found.get(&c.name).is_some_and(|found| found.has_ended()));
        if ended {
            for report in &reports {
                if let Some(status) =
                    found.get(report.name()).and_then(|found| found.status.as_ref())
                {
                    report.count_final(status.usage.unwrap_or_default());
                    report.set(&host.changed, |shown| {
                        shown.phase = ContainerPhase::Exited;
                        shown.exit_code = status.exit_code;
                        shown.reason = status.reason.clone();
                        shown.restarts = status.restarts;
                    });
                }
            }
            return Self { reports, essential, stop, ended: None };
        }
        let running = FuturesUnordered::new();
        let ends = Arc::new(order::Ends::of(&task.definition));
        for ((definition, report), essential) in
            task.definition.containers.iter().zip(&reports).zip(&essential)
        {
            let container =
                TaskContainer::new(host.clone(), task.clone(), definition.clone(), report.clone());
            let (found, essential) = (found.remove(&definition.name), *essential);
            let (stopped, ends, reports) = (stopped.clone(), ends.clone(), reports.clone());
            running.push(async move {
                let name = container.definition.name.clone();
                container.run_in_turn(stopped, found, &reports, &ends).await;
                ends.note(&name);
                essential
            });
        }
        let handle = tokio::spawn(together(running, stop.clone(), host.clone()));
        Self { reports, essential, stop, ended: Some(handle) }
    }

    pub fn seen(&self) -> Seen {
        match &self.ended {
            None => Seen::Ended,
            Some(ended) if ended.is_finished() => Seen::Ended,
            Some(_) if *self.stop.borrow() => Seen::Stopping,
            Some(_) => Seen::Alive,
        }
    }

    /// Asks it to end. Its end shows in [`seen`](Self::seen).
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits for its end, until `deadline`.
    pub async fn ended(&mut self, deadline: Instant) {
        if let Some(ended) = &mut self.ended {
            let _ = tokio::time::timeout_at(deadline, ended).await;
        }
    }

    pub fn status(&self) -> TaskStatus {
        let containers: Vec<_> = self.reports.iter().map(|report| report.status()).collect();
        let reason = containers.iter().find_map(|container| {
            Some(format!("container `{}`: {}", container.name, why(container)?))
        });
        let phase = phase(self.seen(), &containers, &self.essential);
        let ready = Some(is_ready(phase, &containers, &self.essential));
        TaskStatus { phase, reason, ready, host: None, containers }
    }
}

/// Whether requests may go to a task: no essential container says otherwise.
fn is_ready(phase: TaskPhase, containers: &[ContainerStatus], essential: &[bool]) -> bool {
    let is_well = |container: &ContainerStatus| match container.health {
        None | Some(ContainerHealth::Healthy) => true,
        Some(ContainerHealth::Starting | ContainerHealth::Unhealthy) => false,
    };
    let mut counting = containers.iter().zip(essential).filter(|(_, essential)| **essential);
    phase == TaskPhase::Running && counting.all(|(container, _)| is_well(container))
}

/// Why a container is where it is, in a sentence, where there is something to say.
fn why(container: &ContainerStatus) -> Option<String> {
    let ends_again = || {
        let code = container.exit_code.filter(|_| container.phase == ContainerPhase::BackOff)?;
        Some(format!("it ended with exit code {code}, and waits to be started again"))
    };
    container.reason.clone().or_else(ends_again)
}

/// Runs all containers of a task: when an essential one has ended, the others are stopped.
async fn together(
    mut running: FuturesUnordered<impl Future<Output = bool>>,
    stop: Arc<watch::Sender<bool>>,
    host: Arc<Host>,
) {
    while let Some(essential) = running.next().await {
        if essential {
            stop.send_replace(true);
        }
    }
    host.ended.notify_one();
    host.changed.notify_one();
}

/// Where a task is in its life, from where its containers are.
fn phase(seen: Seen, containers: &[ContainerStatus], essential: &[bool]) -> TaskPhase {
    match seen {
        Seen::Ended => TaskPhase::Stopped,
        Seen::Stopping => TaskPhase::Stopping,
        Seen::Alive => {
            let mut counting =
                containers.iter().zip(essential).filter(|(_, essential)| **essential).peekable();
            let running = match counting.peek() {
                Some(_) => {
                    counting.all(|(container, _)| container.phase == ContainerPhase::Running)
                }
                None => {
                    containers.iter().any(|container| container.phase == ContainerPhase::Running)
                }
            };
            if running { TaskPhase::Running } else { TaskPhase::Starting }
        }
    }
}

fn report(task: &DesiredTask, definition: &spec::ContainerDefinition) -> Arc<ContainerReport> {
    ContainerReport::new(Meter {
        tenant: task.tenant.clone(),
        task: task.id.clone(),
        container: definition.name.clone(),
        image: definition.digest.unwrap_or_else(|| spec::Digest::of(definition.image.as_bytes())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::{Digest, Usage};

    #[test]
    fn a_task_is_where_its_essential_containers_are() {
        let container = |phase| ContainerStatus {
            name: "c".parse().unwrap(),
            image: Digest::of(b""),
            phase,
            exit_code: None,
            reason: None,
            health: None,
            idle: false,
            restarts: 0,
            ports: Vec::new(),
            usage: Usage::default(),
        };
        use ContainerPhase::{BackOff, Exited, Pulling, Running};
        for (seen, phases, essential, want) in [
            (Seen::Alive, &[Pulling][..], &[true][..], TaskPhase::Starting),
            (Seen::Alive, &[Running], &[true], TaskPhase::Running),
            (Seen::Alive, &[BackOff], &[true], TaskPhase::Starting),
            (Seen::Alive, &[Running, Exited], &[true, false], TaskPhase::Running),
            (Seen::Alive, &[Running, Pulling], &[true, true], TaskPhase::Starting),
            (Seen::Alive, &[Running, Exited], &[false, false], TaskPhase::Running),
            (Seen::Stopping, &[Running], &[true], TaskPhase::Stopping),
            (Seen::Ended, &[Exited], &[true], TaskPhase::Stopped),
        ] {
            let containers: Vec<_> = phases.iter().map(|phase| container(*phase)).collect();
            assert_eq!(phase(seen, &containers, essential), want, "{seen:?} {phases:?}");
        }
    }

    #[test]
    fn a_task_is_ready_when_its_essential_containers_are_well() {
        use ContainerHealth::{Healthy, Starting, Unhealthy};
        for (phase, health, essential, want) in [
            (TaskPhase::Running, &[None][..], &[true][..], true),
            (TaskPhase::Running, &[Some(Healthy)], &[true], true),
            (TaskPhase::Running, &[Some(Starting)], &[true], false),
            (TaskPhase::Running, &[Some(Unhealthy)], &[true], false),
            (TaskPhase::Running, &[Some(Healthy), Some(Unhealthy)], &[true, false], true),
            (TaskPhase::Running, &[Some(Healthy), Some(Unhealthy)], &[true, true], false),
            (TaskPhase::Starting, &[Some(Healthy)], &[true], false),
            (TaskPhase::Stopping, &[Some(Healthy)], &[true], false),
        ] {
            let container = |health: &Option<ContainerHealth>| ContainerStatus {
                name: "c".parse().unwrap(),
                image: Digest::of(b""),
                phase: ContainerPhase::Running,
                exit_code: None,
                reason: None,
                health: *health,
                idle: false,
                restarts: 0,
                ports: Vec::new(),
                usage: Usage::default(),
            };
            let containers: Vec<_> = health.iter().map(container).collect();
            assert_eq!(is_ready(phase, &containers, essential), want, "{phase:?} {health:?}");
        }
    }
}
