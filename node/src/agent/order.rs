//! In which order the containers of a task start and end.

use std::sync::Arc;

use spec::{
    ContainerDefinition, ContainerDependency, ContainerHealth, ContainerName, ContainerPhase,
    ContainerStatus, DependencyCondition, TaskDefinition,
};
use tokio::sync::watch;

use super::report::ContainerReport;

/// How far a container has come towards what another one waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Met {
    Yes,
    NotYet,
    /// Why it never will.
    Never(String),
}

/// Whether another container waits for its end: then it runs once, whatever the task does.
pub(super) fn runs_once(task: &TaskDefinition, container: &ContainerName) -> bool {
    let mut all = task.containers.iter().flat_map(|one| &one.depends_on);
    all.any(|on| on.container == *container && on.condition.waits_for_end())
}

fn met(condition: DependencyCondition, status: &ContainerStatus) -> Met {
    let name = &status.name;
    let has_ended = status.phase == ContainerPhase::Exited;
    let never = |why: String| Met::Never(format!("container `{name}` {why}"));
    let ended = || match (status.exit_code, &status.reason) {
        (_, Some(reason)) => format!("ended: {reason}"),
        (Some(code), None) => format!("ended with exit code {code}"),
        (None, None) => "ended".to_owned(),
    };
    match condition {
        DependencyCondition::Start => match status.phase {
            ContainerPhase::Running => Met::Yes,
            ContainerPhase::Exited if status.exit_code.is_some() => Met::Yes,
            ContainerPhase::Exited => never(ended()),
            ContainerPhase::Pulling | ContainerPhase::BackOff => Met::NotYet,
        },
        DependencyCondition::Complete if has_ended => Met::Yes,
        DependencyCondition::Success if has_ended && status.exit_code == Some(0) => Met::Yes,
        DependencyCondition::Success | DependencyCondition::Healthy if has_ended => never(ended()),
        DependencyCondition::Complete | DependencyCondition::Success => Met::NotYet,
        // One that is not asked is as well as it can be known to be.
        DependencyCondition::Healthy => match (status.phase, status.health) {
            (ContainerPhase::Running, None | Some(ContainerHealth::Healthy)) => Met::Yes,
            _ => Met::NotYet,
        },
    }
}

/// Waits until the containers that `container` depends on have come as far as they must, and shows
/// meanwhile which one it waits for.
///
/// # Errors
/// Why that will never be.
pub(super) async fn wait(
    container: &ContainerDefinition,
    reports: &[Arc<ContainerReport>],
    show: impl Fn(Option<String>),
) -> Result<(), String> {
    for ContainerDependency { container: name, condition } in &container.depends_on {
        let Some(report) = reports.iter().find(|report| report.name() == name) else { continue };
        loop {
            // Before the look, so that what changes during it is seen.
            let moved = report.moved();
            match met(*condition, &report.status()) {
                Met::Yes => break,
                Met::Never(why) => {
                    return Err(format!("{why}, and it depends on that (`{}`)", condition.word()));
                }
                Met::NotYet => {
                    show(Some(format!("waits for container `{name}` (`{}`)", condition.word())));
                }
            }
            moved.await;
        }
    }
    show(None);
    Ok(())
}

/// The ends of all containers of a task, as each is told of them.
pub(super) struct Ends(Vec<(ContainerName, Vec<ContainerName>, watch::Sender<bool>)>);

impl Ends {
    pub fn of(task: &TaskDefinition) -> Self {
        let of = |container: &ContainerDefinition| {
            let on = container.depends_on.iter().map(|on| on.container.clone()).collect();
            (container.name.clone(), on, watch::Sender::new(false))
        };
        Self(task.containers.iter().map(of).collect())
    }

    pub fn note(&self, container: &ContainerName) {
        if let Some((.., ended)) = self.0.iter().find(|(name, ..)| name == container) {
            ended.send_replace(true);
        }
    }

    /// Waits until the task is to end, and all containers that depend on this one have.
    pub async fn stop_of(&self, container: &ContainerName, mut stop: watch::Receiver<bool>) {
        if stop.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await; // nothing can ask any more
        }
        for (_, on, ended) in &self.0 {
            if on.contains(container) {
                let _ = ended.subscribe().wait_for(|ended| *ended).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use spec::{Digest, Usage};

    use super::*;

    fn status(phase: ContainerPhase, exit_code: Option<i32>) -> ContainerStatus {
        ContainerStatus {
            name: "db".parse().unwrap(),
            image: Digest::of(b""),
            phase,
            exit_code,
            reason: None,
            health: None,
            idle: false,
            restarts: 0,
            ports: Vec::new(),
            usage: Usage::default(),
        }
    }

    #[test]
    fn a_dependency_is_met_where_its_container_has_come_far_enough() {
        use ContainerPhase::{BackOff, Exited, Pulling, Running};
        use DependencyCondition::{Complete, Healthy, Start, Success};
        let never = |text: &str| Met::Never(format!("container `db` {text}"));
        for (condition, phase, code, health, want) in [
            (Start, Pulling, None, None, Met::NotYet),
            (Start, Running, None, None, Met::Yes),
            (Start, Exited, Some(1), None, Met::Yes),
            (Start, Exited, None, None, never("ended")),
            (Start, BackOff, Some(1), None, Met::NotYet),
            (Complete, Running, None, None, Met::NotYet),
            (Complete, Exited, Some(1), None, Met::Yes),
            (Success, Running, None, None, Met::NotYet),
            (Success, Exited, Some(0), None, Met::Yes),
            (Success, Exited, Some(3), None, never("ended with exit code 3")),
            (Healthy, Running, None, None, Met::Yes),
            (Healthy, Running, None, Some(ContainerHealth::Starting), Met::NotYet),
            (Healthy, Running, None, Some(ContainerHealth::Unhealthy), Met::NotYet),
            (Healthy, Running, None, Some(ContainerHealth::Healthy), Met::Yes),
            (Healthy, Exited, Some(0), None, never("ended with exit code 0")),
        ] {
            let status = ContainerStatus { health, ..status(phase, code) };
            assert_eq!(met(condition, &status), want, "{condition:?} {status:?}");
        }
    }

    #[tokio::test]
    async fn a_container_ends_after_those_that_depend_on_it() {
        let task: TaskDefinition = serde_json::from_value(serde_json::json!({
            "family": "web", "containers": [
                { "name": "db", "image": "db" },
                { "name": "app", "image": "app", "depends_on": [{ "container": "db" }] },
            ],
        }))
        .unwrap();
        let (ends, stop) = (Ends::of(&task), watch::Sender::new(false));
        let (db, app) = ("db".parse().unwrap(), "app".parse().unwrap());
        let now = std::time::Duration::from_millis(20);
        stop.send_replace(true);
        let stopped = |name| tokio::time::timeout(now, ends.stop_of(name, stop.subscribe()));
        assert!(stopped(&app).await.is_ok());
        assert!(stopped(&db).await.is_err(), "`app` has not ended");
        ends.note(&app);
        assert!(stopped(&db).await.is_ok());
        assert!(!runs_once(&task, &db));
    }
}
