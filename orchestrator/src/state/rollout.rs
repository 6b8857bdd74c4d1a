//! The deployments of a service: which is under way, which was the last to be completed, and what
//! happened. Each change is a function of the record and the time.

use spec::{Deployment, DeploymentState, LaunchType, ServiceEvent, TaskDefinitionId, Timestamp};

use super::records::{Rollout, ServiceRecord};
use crate::limits::{DEPLOYMENTS_KEPT_MAX, SERVICE_EVENTS_MAX};

impl Rollout {
    /// The last deployment that was completed and is of another revision than `not`.
    pub fn last_completed(
        &self,
        (definition, launch_type): (&TaskDefinitionId, LaunchType),
    ) -> Option<&Deployment> {
        self.deployments.iter().find(|deployment| {
            deployment.state == DeploymentState::Completed
                && (&deployment.task_definition, deployment.launch_type)
                    != (definition, launch_type)
        })
    }

    fn note(&mut self, message: String, now: Timestamp) {
        self.events.insert(0, ServiceEvent { at: now, message });
        self.events.truncate(SERVICE_EVENTS_MAX);
    }
}

impl ServiceRecord {
    /// The deployment of what is requested, unless none has begun.
    pub fn deployment(&self) -> Option<&Deployment> {
        let spec = &self.service.spec;
        self.rollout.deployments.first().filter(|deployment| {
            deployment.task_definition == spec.task_definition
                && deployment.launch_type == spec.launch_type
        })
    }

    /// A deployment of what is requested begins, in the place of `rolls_back` where that failed.
    pub fn begin(&mut self, rolls_back: Option<u64>, now: Timestamp) {
        let spec = &self.service.spec;
        let last = self.rollout.deployments.first();
        let number = last.map_or(0, |last| last.number) + 1;
        let deployment = Deployment {
            number,
            task_definition: spec.task_definition.clone(),
            launch_type: spec.launch_type,
            rolls_back,
            started: now,
            progressed: now,
            ended: None,
            state: DeploymentState::InProgress,
            reason: None,
            failed_tasks: 0,
        };
        let said = match rolls_back {
            Some(failed) => format!(
                "deployment {number} of `{}` began, to roll back deployment {failed}",
                spec.task_definition
            ),
            None => format!("deployment {number} of `{}` began", spec.task_definition),
        };
        if let Some(last) = self.rollout.deployments.first_mut()
            && last.state == DeploymentState::InProgress
        {
            (last.state, last.ended) = (DeploymentState::Superseded, Some(now));
        }
        self.rollout.deployments.insert(0, deployment);
        self.forget_deployments();
        self.rollout.note(said, now);
    }

    /// The newest ones stay, and the one to go back to.
    fn forget_deployments(&mut self) {
        let spec = &self.service.spec;
        let stable = self.rollout.last_completed((&spec.task_definition, spec.launch_type));
        let stable = stable.map(|stable| stable.number);
        let mut kept = 0;
        self.rollout.deployments.retain(|deployment| {
            kept += 1;
            kept <= DEPLOYMENTS_KEPT_MAX || Some(deployment.number) == stable
        });
    }

    /// Every replica is of the newest deployment, and ready.
    pub fn complete(&mut self, now: Timestamp) {
        let Some(deployment) = self.rollout.deployments.first_mut() else { return };
        (deployment.state, deployment.ended) = (DeploymentState::Completed, Some(now));
        (deployment.reason, deployment.failed_tasks) = (None, 0);
        let said = format!(
            "deployment {} of `{}` completed: every replica is ready",
            deployment.number, deployment.task_definition
        );
        self.rollout.note(said, now);
    }

    /// The newest deployment failed. With `back_to`, that one is requested anew.
    pub fn fail(
        &mut self,
        reason: &str,
        back_to: Option<(TaskDefinitionId, LaunchType)>,
        now: Timestamp,
    ) {
        let Some(deployment) = self.rollout.deployments.first_mut() else { return };
        (deployment.state, deployment.ended) = (DeploymentState::Failed, Some(now));
        deployment.reason = Some(reason.to_owned());
        let number = deployment.number;
        let said =
            format!("deployment {number} of `{}` failed: {reason}", deployment.task_definition);
        self.rollout.note(said, now);
        if let Some((definition, launch_type)) = back_to {
            let service = &mut self.service;
            (service.spec.task_definition, service.spec.launch_type) = (definition, launch_type);
            service.generation += 1;
            self.begin(Some(number), now);
        }
    }

    /// So many tasks of the newest deployment have failed in a row; `last` says which was the last
    /// and why.
    pub fn count_failures(&mut self, count: u32, last: Option<String>, now: Timestamp) {
        let Some(deployment) = self.rollout.deployments.first_mut() else { return };
        let more = count > deployment.failed_tasks;
        deployment.failed_tasks = count;
        if let Some(last) = last.filter(|_| more) {
            self.rollout.note(last, now);
        }
    }

    /// Its load or its bounds have changed its count.
    pub fn scale(&mut self, count: u32, why: &str, now: Timestamp) {
        let before = std::mem::replace(&mut self.service.spec.count, count);
        self.service.generation += 1;
        self.scaled = Some(now);
        self.rollout.note(format!("scaled from {before} to {count}: {why}"), now);
    }

    /// Its replicas are to be spread anew, until no move is left that does so.
    pub fn begin_rebalancing(&mut self, now: Timestamp) {
        if !std::mem::replace(&mut self.rebalancing, true) {
            self.rollout.note("its replicas are spread anew".to_owned(), now);
        }
    }

    pub fn end_rebalancing(&mut self, now: Timestamp) {
        self.rebalancing = false;
        self.rollout.note("its replicas are spread as evenly as they can be".to_owned(), now);
    }

    /// From now on its deployment stands still, or goes on.
    pub fn pause(&mut self, paused: bool, now: Timestamp) {
        if self.rollout.paused == paused {
            return;
        }
        self.rollout.paused = paused;
        if let Some(deployment) = self.rollout.deployments.first_mut()
            && deployment.state == DeploymentState::InProgress
        {
            deployment.progressed = now; // its deadline does not run meanwhile
        }
        let said = if paused { "the rollout was paused" } else { "the rollout was resumed" };
        self.rollout.note(said.to_owned(), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ServiceRecord {
        serde_json::from_value(serde_json::json!({ "service": {
            "name": "web", "cluster": "main", "created": "2026-11-27T10:00:00.000Z",
            "generation": 1, "status": { "placed": 0, "running": 0, "observed_generation": 1 },
            "spec": { "task_definition": "web:1", "count": 1, "launch_type": "node" },
        } }))
        .unwrap()
    }

    #[test]
    fn the_newest_deployments_are_kept_and_the_one_to_go_back_to() {
        let (mut record, now) = (record(), Timestamp::from_millis(1));
        assert!(record.deployment().is_none(), "a record of an earlier version has none");
        record.begin(None, now);
        record.complete(now);
        for revision in 2..40 {
            record.service.spec.task_definition = format!("web:{revision}").parse().unwrap();
            record.begin(None, now);
        }
        let numbers: Vec<u64> = record.rollout.deployments.iter().map(|one| one.number).collect();
        let mut want: Vec<u64> = (30..40).rev().collect();
        want.push(1);
        assert_eq!(numbers, want);
        let states = record.rollout.deployments.iter().map(|one| one.state.word());
        let mut want = vec!["superseded"; 9];
        want.insert(0, "in-progress");
        want.push("completed");
        assert_eq!(states.collect::<Vec<_>>(), want);
        assert!(record.rollout.events.len() <= SERVICE_EVENTS_MAX);
    }

    #[test]
    fn a_failed_deployment_goes_back_under_a_number_of_its_own() {
        let (mut record, now) = (record(), Timestamp::from_millis(1));
        record.begin(None, now);
        record.complete(now);
        record.service.spec.task_definition = "web:2".parse().unwrap();
        record.begin(None, now);
        record.count_failures(1, Some("task `web-1` failed".to_owned()), now);
        record.count_failures(1, Some("task `web-1` failed".to_owned()), now);
        record.fail("it exits", Some(("web:1".parse().unwrap(), LaunchType::Node)), now);
        assert_eq!(record.service.spec.task_definition.to_string(), "web:1");
        assert_eq!(record.service.generation, 2);
        assert_eq!(record.deployment().unwrap().rolls_back, Some(2));
        let said: Vec<&str> =
            record.rollout.events.iter().rev().map(|event| event.message.as_str()).collect();
        assert_eq!(
            said,
            [
                "deployment 1 of `web:1` began",
                "deployment 1 of `web:1` completed: every replica is ready",
                "deployment 2 of `web:2` began",
                "task `web-1` failed",
                "deployment 2 of `web:2` failed: it exits",
                "deployment 3 of `web:1` began, to roll back deployment 2",
            ]
        );
    }
}
