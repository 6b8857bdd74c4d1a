//! How the requests of a service go over to another revision in shares, while every replica of
//! both is there: a share is kept for its time, and then comes the next one.

use spec::{Deployment, Timestamp, TrafficShare, wire::RequestCounts};

use super::{
    daemon::{Ordinals, Replicas},
    draft::Draft,
    revisions::Revision,
};
use crate::{
    limits::FAILED_REQUESTS_MIN,
    state::records::{ServiceKey, ServiceRecord, Stored, TaskRecord},
};

/// What there is to see of a deployment whose requests go over in shares.
pub(super) struct Shifting<'s> {
    pub record: &'s ServiceRecord,
    pub deployment: &'s Deployment,
    pub traffic: TrafficShare,
    /// Whether every replica of its revision is ready.
    pub is_ready: bool,
    /// What its replicas were asked so far.
    pub requests: RequestCounts,
    pub now: Timestamp,
}

impl Shifting<'_> {
    /// Why its requests say that it is bad, if they do.
    pub fn failure(&self) -> Option<String> {
        let most = u64::from(self.record.service.spec.deployment.failed_requests_percent_max);
        let (requests, failed) = self.requests_of_share();
        let is_bad = failed >= FAILED_REQUESTS_MIN && failed.saturating_mul(100) > most * requests;
        is_bad.then(|| {
            format!(
                "{failed} of {requests} requests failed with a share of {} %, and {most} % may",
                self.traffic.percent
            )
        })
    }

    /// Requests since it has had this share, and how many of them failed. An ingress that began
    /// anew has counted from zero.
    fn requests_of_share(&self) -> (u64, u64) {
        let RequestCounts { requests, failed_requests, .. } = self.requests;
        match requests.checked_sub(self.traffic.requests) {
            Some(own) => (own, failed_requests.saturating_sub(self.traffic.failed_requests)),
            None => (requests, failed_requests),
        }
    }

    /// The service with the next share, or with its deployment completed, when it is time for that.
    pub fn next(&self) -> Option<ServiceRecord> {
        let settings = self.record.service.spec.deployment;
        let baked = self.now.since(self.traffic.since) >= settings.bake_time(self.traffic.percent);
        (self.is_ready && baked && !self.record.rollout.paused).then(|| {
            let mut next = self.record.clone();
            next.promote(self.requests, self.now);
            next
        })
    }

    /// The same, with a deadline that begins anew: it is for replicas that are not ready.
    pub fn rested(&self) -> Option<ServiceRecord> {
        let deadline = u64::from(self.record.service.spec.deployment.deadline_seconds);
        let since = self.now.since(self.deployment.progressed).as_secs();
        (self.is_ready && since >= deadline.div_ceil(2)).then(|| {
            let mut next = self.record.clone();
            next.progress(self.now);
            next
        })
    }
}

impl<'a> Draft<'a> {
    /// The revision that had the requests before, where they go over in shares.
    pub fn shifted_from(&self, key: &ServiceKey, record: &ServiceRecord) -> Option<Revision<'a>> {
        let (_, before) = record.shift()?;
        self.revision(key, &before.task_definition, before.launch_type)
    }

    /// Whether each replica has a task of the requested revision that is ready.
    pub fn has_all(
        &self,
        record: &ServiceRecord,
        ordinals: &Ordinals,
        replicas: &Replicas<'_>,
    ) -> bool {
        let is_ready = |task: &&&Stored<TaskRecord>| {
            record.is_requested(&task.value) && self.is_ready(&task.value)
        };
        let tasks = |ordinal: u32| replicas.get(&ordinal).into_iter().flatten();
        ordinals.all().all(|ordinal| tasks(ordinal).any(|task| is_ready(&task)))
    }

    /// What the tasks of the newest deployment were asked.
    pub fn requests_of(
        &self,
        record: &ServiceRecord,
        tasks: &[&Stored<TaskRecord>],
    ) -> RequestCounts {
        let own = tasks.iter().map(|task| &task.value).filter(|task| record.is_requested(task));
        self.observed.requests_of_all(own)
    }
}
