use clap::Subcommand;
use orchestrator::{ChangeRollout, RolloutAction};
use spec::{
    ClusterName, Deployment, DeploymentState, Service, ServiceEvent, ServiceName, Timestamp,
};

use crate::{
    control::Control,
    home::Home,
    output::{Output, ago, line, now},
    serve::block_on,
};

/// Show the deployments of a service, hold them, or bring an earlier revision back
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show how far the newest deployment of a service has come
    Status {
        #[command(flatten)]
        service: Named,
        #[command(flatten)]
        output: Output,
    },
    /// List the last deployments of a service, newest first
    History {
        #[command(flatten)]
        service: Named,
        #[command(flatten)]
        output: Output,
    },
    /// Let no further copy go over to another revision
    Pause {
        #[command(flatten)]
        service: Named,
    },
    /// Go on with a rollout that was paused
    Resume {
        #[command(flatten)]
        service: Named,
    },
    /// Give the newest deployment its next share of the requests now; the last one completes it
    Promote {
        #[command(flatten)]
        service: Named,
    },
    /// Let the newest deployment fail, and bring back the revision before
    Abort {
        #[command(flatten)]
        service: Named,
    },
    /// Bring back the revision of the last completed deployment, or of the one that is named
    Undo {
        #[command(flatten)]
        service: Named,
        /// The number of a deployment, as `rollout history` shows it
        #[arg(long, value_name = "NUMBER")]
        to: Option<u64>,
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
    #[command(flatten)]
    control: Control,
}

impl Verb {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        match self {
            Self::Status { service, output } => {
                let service = service.read(home)?;
                let newest = service.status.deployments.get(..1).unwrap_or_default();
                output.records(newest, &HEADINGS, |deployment| row(&service, deployment))
            }
            Self::History { service, output } => {
                let service = service.read(home)?;
                output.records(&service.status.deployments, &HEADINGS, |deployment| {
                    row(&service, deployment)
                })
            }
            Self::Pause { service } => service.change(home, RolloutAction::Pause, None),
            Self::Resume { service } => service.change(home, RolloutAction::Resume, None),
            Self::Promote { service } => service.change(home, RolloutAction::Promote, None),
            Self::Abort { service } => service.change(home, RolloutAction::Abort, None),
            Self::Undo { service, to } => service.change(home, RolloutAction::Undo, to),
        }
    }
}

impl Named {
    fn read(&self, home: &Home) -> anyhow::Result<Service> {
        let client = self.control.client(home)?;
        block_on(client.service(&self.cluster, &self.name))
    }

    fn change(
        &self,
        home: &Home,
        action: RolloutAction,
        deployment: Option<u64>,
    ) -> anyhow::Result<()> {
        let client = self.control.client(home)?;
        let change = ChangeRollout { action, deployment };
        let service = block_on(client.change_rollout(&self.cluster, &self.name, &change))?;
        line(format_args!("{}", service.name));
        Ok(())
    }

    /// What happened to it, oldest first.
    pub fn events(&self, home: &Home, output: Output) -> anyhow::Result<()> {
        let mut events = self.read(home)?.status.events;
        events.reverse();
        output.records(&events, &["TIME", "EVENT"], |event: &ServiceEvent| {
            [event.at.to_string(), event.message.clone()]
        })
    }
}

const HEADINGS: [&str; 7] =
    ["DEPLOYMENT", "TASK", "STATE", "REQUESTS", "FAILED TASKS", "STARTED", "REASON"];

fn row(service: &Service, deployment: &Deployment) -> [String; 7] {
    let is_newest = service.status.deployments.first() == Some(deployment);
    let state = match (deployment.state, is_newest && service.status.paused) {
        (DeploymentState::InProgress, true) => "paused",
        (state, _) => state.word(),
    };
    let reason = match (&deployment.reason, deployment.rolls_back) {
        (Some(reason), _) => reason.clone(),
        (None, Some(failed)) => format!("rolls back deployment {failed}"),
        (None, None) if is_newest => service.status.reason.clone().unwrap_or_else(dash),
        (None, None) => dash(),
    };
    [
        deployment.number.to_string(),
        deployment.task_definition.to_string(),
        state.to_owned(),
        share(service, deployment, now()),
        deployment.failed_tasks.to_string(),
        ago(deployment.started, now()),
        reason,
    ]
}

/// The share of the requests that a deployment has while they go over, and for how long.
fn share(service: &Service, deployment: &Deployment, now: Timestamp) -> String {
    let is_open = deployment.state == DeploymentState::InProgress;
    let Some(traffic) = deployment.traffic.filter(|_| is_open) else { return dash() };
    let percent = traffic.percent;
    if percent == 0 {
        return "0 % until all copies are ready".to_owned();
    }
    let time = service.spec.deployment.bake_time(percent);
    let left = time.saturating_sub(now.since(traffic.since)).as_secs();
    match service.status.paused {
        true => format!("{percent} %"),
        false => format!("{percent} % for {left} s"),
    }
}

fn dash() -> String {
    "-".to_owned()
}

/// The rollout of a service in a few words.
pub fn state(service: &Service) -> String {
    let deployments = &service.status.deployments;
    let Some(newest) = deployments.first() else { return dash() };
    let failed = newest
        .rolls_back
        .and_then(|number| deployments.iter().find(|deployment| deployment.number == number));
    match (newest.state, failed) {
        (DeploymentState::InProgress, _) if service.status.paused => "paused".to_owned(),
        (_, Some(failed)) => format!("rolled back from {}", failed.task_definition),
        (DeploymentState::InProgress, None) => match newest.traffic {
            Some(share) => {
                format!("in progress to {}, {} %", newest.task_definition, share.percent)
            }
            None => format!("in progress to {}", newest.task_definition),
        },
        (state, None) => state.word().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_is_told_in_a_few_words() {
        let deployment = |number: u64, task: &str, state: &str, rolls_back: Option<u64>| {
            serde_json::json!({
                "number": number, "task_definition": task, "launch_type": "node", "state": state,
                "started": "2026-11-27T10:00:00.000Z", "progressed": "2026-11-27T10:00:00.000Z",
                "rolls_back": rolls_back,
            })
        };
        let first = || deployment(1, "web:1", "completed", None);
        for (deployments, paused, want) in [
            (vec![], false, "-"),
            (vec![first()], false, "completed"),
            (
                vec![deployment(2, "web:2", "in-progress", None), first()],
                false,
                "in progress to web:2",
            ),
            (vec![deployment(2, "web:2", "in-progress", None), first()], true, "paused"),
            (vec![deployment(2, "web:2", "failed", None)], false, "failed"),
            (
                vec![
                    deployment(3, "web:1", "completed", Some(2)),
                    deployment(2, "web:2", "failed", None),
                    first(),
                ],
                false,
                "rolled back from web:2",
            ),
        ] {
            let service = serde_json::from_value(serde_json::json!({
                "name": "web", "cluster": "demo", "created": "2026-11-27T10:00:00.000Z",
                "generation": 1,
                "spec": { "task_definition": "web:1", "count": 1, "launch_type": "node" },
                "status": {
                    "placed": 1, "running": 1, "observed_generation": 1, "paused": paused,
                    "deployments": deployments,
                },
            }));
            assert_eq!(state(&service.unwrap()), want);
        }
    }
}
