//! The deployments of a service: which is under way, which was the last to be completed, and what
//! happened. Each change is a function of the record and the time.

use spec::{
    Deployment, DeploymentState, HostName, LaunchType, SchedulingStrategy, ServiceEvent,
    TaskDefinitionId, Timestamp, TrafficShare, wire::RequestCounts,
};

use super::records::{Rollout, ServiceRecord, TaskRecord};
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

    /// The deployment that is in service: the last that was completed.
    fn in_service(&self) -> Option<&Deployment> {
        let is_completed = |one: &&Deployment| one.state == DeploymentState::Completed;
        self.deployments.iter().find(is_completed)
    }

    /// The one that another one takes the place of.
    fn before(&self, deployment: &Deployment) -> Option<&Deployment> {
        let number = deployment.replaces?;
        self.deployments.iter().find(|one| one.number == number)
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

    /// Whether a task is of the revision that is requested.
    pub fn is_requested(&self, task: &TaskRecord) -> bool {
        let spec = &self.service.spec;
        let hosts = task.slot.map_or(spec.launch_type, |slot| spec.launch_type_of(slot.ordinal));
        let task = &task.task.spec;
        task.task_definition == spec.task_definition && task.launch_type == hosts
    }

    /// The share of the newest deployment and the one that has the rest, while requests go over
    /// from one to the other in shares. A failed one that is not rolled back stays as it is.
    pub fn shift(&self) -> Option<(TrafficShare, &Deployment)> {
        let deployment = self.deployment()?;
        let is_open = match deployment.state {
            DeploymentState::InProgress | DeploymentState::Failed => true,
            DeploymentState::Completed | DeploymentState::Superseded => false,
        };
        let traffic = deployment.traffic.filter(|_| is_open)?;
        Some((traffic, self.rollout.before(deployment)?))
    }

    /// The percentage of the requests for tasks of the requested revision, where not all tasks are
    /// alike. Those of a deployment that was given up have none from the moment on in which it is.
    pub fn newest_percent(&self) -> Option<u32> {
        if let Some((traffic, _)) = self.shift() {
            return Some(traffic.percent);
        }
        let mut deployments = self.rollout.deployments.iter();
        let newest = deployments.next()?;
        let gave_up = deployments.next().is_some_and(|before| before.traffic.is_some());
        let is_open = newest.state == DeploymentState::InProgress && newest.traffic.is_none();
        (is_open && gave_up).then_some(100)
    }

    /// Its tenant has the domain of `host` no more.
    pub fn lose_host(&mut self, host: &HostName, now: Timestamp) {
        self.service.spec.ingress.hosts.retain(|own| own != host);
        self.service.generation += 1;
        self.rollout.note(format!("host `{host}` was taken away with its domain"), now);
    }

    /// A deployment of what is requested begins, in the place of `rolls_back` where that failed.
    pub fn begin(&mut self, rolls_back: Option<u64>, now: Timestamp) {
        let spec = &self.service.spec;
        let last = self.rollout.deployments.first();
        let number = last.map_or(0, |last| last.number) + 1;
        let in_service = self.rollout.in_service();
        let is_another = in_service.is_some_and(|before| {
            (&before.task_definition, before.launch_type)
                != (&spec.task_definition, spec.launch_type)
        });
        let in_shares = !spec.deployment.strategy.is_rolling()
            && spec.scheduling == SchedulingStrategy::Replica
            && (is_another && spec.count > 0 && rolls_back.is_none());
        let none = TrafficShare { percent: 0, since: now, requests: 0, failed_requests: 0 };
        let deployment = Deployment {
            number,
            task_definition: spec.task_definition.clone(),
            launch_type: spec.launch_type,
            rolls_back,
            replaces: in_service.map(|before| before.number),
            traffic: in_shares.then_some(none),
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
        let replaces = self.rollout.deployments.first().and_then(|newest| newest.replaces);
        let mut kept = 0;
        self.rollout.deployments.retain(|deployment| {
            kept += 1;
            kept <= DEPLOYMENTS_KEPT_MAX || [stable, replaces].contains(&Some(deployment.number))
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

    /// The newest deployment has its next share of the requests, or is completed where it had all
    /// of them. `requests` are those that its tasks had until now.
    pub fn promote(&mut self, requests: RequestCounts, now: Timestamp) {
        let settings = self.service.spec.deployment;
        let Some(deployment) = self.rollout.deployments.first_mut() else { return };
        let Some(before) = deployment.traffic else { return };
        if before.percent >= 100 {
            return self.complete(now);
        }
        let percent = settings.share_after(before.percent);
        let RequestCounts { requests, failed_requests, .. } = requests;
        deployment.traffic = Some(TrafficShare { percent, since: now, requests, failed_requests });
        deployment.progressed = now;
        let (number, id) = (deployment.number, &deployment.task_definition);
        let mut said = format!("deployment {number} of `{id}` has {percent} % of the requests");
        if before.percent > 0 {
            let had = requests.saturating_sub(before.requests);
            let failed = failed_requests.saturating_sub(before.failed_requests);
            said += &format!("; at {} % {failed} of {had} failed", before.percent);
        }
        self.rollout.note(said, now);
    }

    /// The deadline of the newest deployment begins anew.
    pub fn progress(&mut self, now: Timestamp) {
        if let Some(deployment) = self.rollout.deployments.first_mut() {
            deployment.progressed = now;
        }
    }

    /// What the newest deployment goes back to when it is given up: the one that it takes the place
    /// of, or the last that was completed.
    pub fn way_back(&self) -> Option<&Deployment> {
        let spec = &self.service.spec;
        let is_another = |one: &&Deployment| {
            (&one.task_definition, one.launch_type) != (&spec.task_definition, spec.launch_type)
        };
        let before = self.deployment().and_then(|newest| self.rollout.before(newest));
        let last = || self.rollout.last_completed((&spec.task_definition, spec.launch_type));
        before.filter(is_another).or_else(last)
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

    /// A service of web:1 that goes over to web:2 as `strategy` says.
    fn shifting(strategy: &str) -> ServiceRecord {
        let (mut record, now) = (record(), Timestamp::from_millis(1));
        record.service.spec.deployment.strategy = strategy.parse().unwrap();
        record.begin(None, now);
        record.complete(now);
        record.service.spec.task_definition = "web:2".parse().unwrap();
        record.begin(None, now);
        record
    }

    #[test]
    fn a_deployment_has_one_share_after_the_other_and_says_what_it_did_with_it() {
        let (mut record, now) = (shifting("canary"), Timestamp::from_millis(2));
        assert_eq!(record.newest_percent(), Some(0));
        assert_eq!(record.shift().unwrap().1.number, 1);
        record.promote(RequestCounts::default(), now);
        assert_eq!(record.newest_percent(), Some(5));
        let counts = RequestCounts { requests: 40, failed_requests: 1, in_flight_ms: 0 };
        record.promote(counts, now);
        assert_eq!(record.newest_percent(), Some(100));
        let said = &record.rollout.events[0].message;
        assert_eq!(
            said,
            "deployment 2 of `web:2` has 100 % of the requests; at 5 % 1 of 40 failed"
        );
        record.promote(counts, now);
        assert_eq!(record.deployment().unwrap().state, DeploymentState::Completed);
        assert_eq!(record.newest_percent(), None);
    }

    #[test]
    fn one_that_is_given_up_has_no_request_from_then_on() {
        let back = ("web:1".parse().unwrap(), LaunchType::Node);
        let now = Timestamp::from_millis(2);
        let mut failed = shifting("blue-green");
        failed.promote(RequestCounts::default(), now);
        assert_eq!(failed.way_back().unwrap().task_definition.to_string(), "web:1");
        failed.fail("it exits", Some(back), now);
        assert_eq!((failed.newest_percent(), failed.shift().is_some()), (Some(100), false));
        // Another one takes its place: the revision in service has everything until that has a
        // share.
        let mut third = shifting("linear");
        third.promote(RequestCounts::default(), now);
        third.service.spec.task_definition = "web:3".parse().unwrap();
        third.begin(None, now);
        assert_eq!((third.newest_percent(), third.shift().unwrap().1.number), (Some(0), 1));
        // And so it is when the revision in service is asked for again.
        third.service.spec.task_definition = "web:1".parse().unwrap();
        third.begin(None, now);
        assert_eq!((third.newest_percent(), third.shift().is_some()), (Some(100), false));
        let mut rolling = shifting("rolling");
        assert_eq!((rolling.newest_percent(), rolling.shift().is_some()), (None, false));
        rolling.promote(RequestCounts::default(), now);
        assert_eq!(rolling.deployment().unwrap().state, DeploymentState::InProgress);
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
