//! What is seen and what was used, on its way to the control plane.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use spec::{
    NodeProblem, UsageBatch,
    wire::{self, DesiredSet, NodeReport, ReportedTask, RequestCounts, UsageTaken},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    control::RETRY_AFTER,
    converge::TaskKey,
    limits::{GATHER_FOR, MEASURE_EVERY, REPORT_EVERY, WAITING_LOOK_EVERY},
    problems::Problems,
    process::Agent,
};
use crate::{
    error::{Error, Result, chain},
    ingress::{counted_requests, waiting_requests},
    tasks::now,
};

impl Agent {
    /// Says what is seen: at every change, and every few seconds.
    pub(super) async fn report(&self, sets: watch::Receiver<Option<Arc<DesiredSet>>>) {
        let mut control = self.control();
        let mut seq = 0;
        let mut said = Refusals::default();
        let mut problems = Problems::of_kernel(self.spec.runs_native);
        loop {
            seq += 1;
            let revision = sets.borrow().as_ref().map_or(0, |set| set.revision);
            let outdated = self.host.outdated.load(Ordering::Relaxed);
            let found = problems.look(self.host.home.root(), outdated);
            let report = self.node_report(seq, revision, found);
            let sent = match &control {
                Ok(control) => {
                    control.post::<serde::de::IgnoredAny>("/v1/node/report", &report).await
                }
                Err(error) => Err(Error::Identity(chain(error))),
            };
            if let Err(error) = sent {
                said.tell(&error);
                sleep(RETRY_AFTER).await;
                control = self.control();
                continue;
            }
            let next = Instant::now() + REPORT_EVERY;
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.host.changed.notified() => sleep(GATHER_FOR).await,
            }
        }
    }

    fn node_report(&self, seq: u64, revision: i64, problems: Vec<NodeProblem>) -> NodeReport {
        // A file of a few kilobytes of this machine, in memory as a rule.
        let counted = counted_requests(&self.host.ingress).unwrap_or_default();
        let counted = counted.into_iter().map(|(tenant, task, counts)| ((tenant, task), counts));
        let counted: BTreeMap<TaskKey, RequestCounts> = counted.collect();
        let tasks = self.tasks();
        let tasks = tasks.iter().map(|(key, task)| ReportedTask {
            tenant: key.0.clone(),
            id: key.1.clone(),
            status: task.status(),
            requests: counted.get(key).copied(),
        });
        NodeReport {
            version: wire::VERSION,
            boot: self.boot.clone(),
            seq,
            revision,
            spec: self.spec.clone(),
            tasks: tasks.collect(),
            time: Some(now()),
            problems,
            waiting: self.host.waiting(),
        }
    }

    /// Looks which services requests at the ingress wait for, where there are any to wait for.
    pub(super) async fn keep_waiting(&self) {
        loop {
            sleep(WAITING_LOOK_EVERY).await;
            if !self.host.services.wakes_any() {
                self.host.set_waiting(Vec::new());
                continue;
            }
            // A few hundred bytes of this machine, in memory as a rule.
            if let Some(waiting) = waiting_requests(&self.host.ingress) {
                self.host.set_waiting(waiting);
            }
        }
    }

    /// Reads every counter, and hands what was used to the ledger.
    pub(super) async fn bill(&self) {
        loop {
            sleep(MEASURE_EVERY).await;
            self.measure().await;
            if let Err(error) = self.upload().await {
                tracing::debug!(error = chain(&error), "usage stays here for now");
            }
        }
    }

    pub(super) async fn measure(&self) {
        let reports: Vec<_> = self.tasks().values().flat_map(|task| task.reports.clone()).collect();
        let read = move || {
            reports
                .into_iter()
                .filter_map(|report| report.read().map(|usage| (report, usage)))
                .collect()
        };
        if let Ok(readings) = tokio::task::spawn_blocking(read).await {
            self.host.measure(readings).await;
        }
    }

    pub(super) async fn upload(&self) -> Result<()> {
        let control = self.control()?;
        loop {
            let node = self.identity.node.clone();
            let Some(batch): Option<UsageBatch> =
                self.host.with_usage(move |log| log.batch(&node)).await?
            else {
                return Ok(());
            };
            let first = batch.records.first().map_or(0, |record| record.seq);
            let taken: UsageTaken = match control.post("/v1/node/usage", &batch).await {
                // It has less than it once acknowledged, as after a restored backup. The log still
                // holds all of it.
                Err(Error::Refused(fault)) if fault.code == "usage-gap" && first > 1 => {
                    tracing::warn!(
                        boot = batch.boot,
                        fault.message,
                        "the ledger misses usage: sent again from its start"
                    );
                    self.host.with_usage(move |log| log.rewind(&batch.boot)).await?;
                    continue;
                }
                answer => answer?,
            };
            self.host.with_usage(move |log| log.acknowledge(&batch.boot, taken.seq)).await?;
            if taken.seq < first {
                return Ok(()); // it takes nothing right now
            }
        }
    }
}

/// Says once what keeps a control plane from understanding this agent.
#[derive(Debug, Default)]
struct Refusals(bool);

impl Refusals {
    fn tell(&mut self, error: &Error) {
        let is_refused = matches!(error, Error::Refused(fault) if fault.code == "invalid");
        match is_refused && !std::mem::replace(&mut self.0, true) {
            true => tracing::warn!(
                error = chain(error),
                version = env!("CARGO_PKG_VERSION"),
                "the control plane does not take the reports of this node: is it of an earlier \
                 version? it is upgraded before its nodes"
            ),
            false => tracing::debug!(error = chain(error), "a report was not taken"),
        }
    }
}
