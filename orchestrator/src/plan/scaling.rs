//! Counts that follow load and the clock: Kubernetes' formula, with the cool-downs of ECS.

use std::{collections::BTreeMap, time::Duration};

use spec::{DeploymentState, MetricName, Scaling, ScalingMetric, SchedulingStrategy, Timestamp};

use super::reserved;
use crate::state::{
    model::Model,
    own_metrics::OwnMetrics,
    records::{ServiceKey, ServiceRecord},
    reports::NodeReports,
};

/// What the ready replicas of a service do on average. What was not measured yet is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Replicas that were measured.
    pub replicas: u32,
    /// Percent of the processor time that is reserved.
    pub cpu_percent: u64,
    /// Percent of the memory that is reserved.
    pub memory_percent: u64,
    /// Requests answered in a thousand seconds.
    pub requests_per_1000_s: u64,
    /// Thousandths of a request under way at one time.
    pub in_flight_millis: u64,
    /// What clients report of all replicas together.
    pub own: BTreeMap<MetricName, u32>,
    /// Since any replica had a request.
    pub quiet_for: Duration,
    /// Requests that wait for the first replica, and when they were last told of.
    pub waiting: Option<(u32, Timestamp)>,
}

impl Load {
    /// In the unit of a target, times a thousand. Nothing where it was not measured.
    fn of(&self, metric: &ScalingMetric, count: u32) -> Option<u64> {
        let measured = |value: u64| (self.replicas > 0 && count > 0).then_some(value);
        match metric {
            ScalingMetric::Cpu => measured(self.cpu_percent.saturating_mul(1000)),
            ScalingMetric::Memory => measured(self.memory_percent.saturating_mul(1000)),
            ScalingMetric::Requests => measured(self.requests_per_1000_s),
            ScalingMetric::Concurrency => measured(self.in_flight_millis),
            // Also of a service without a replica.
            ScalingMetric::Own(name) => {
                let reported = u64::from(*self.own.get(name)?);
                Some(reported.saturating_mul(1000) / u64::from(count.max(1)))
            }
        }
    }
}

/// Of every service that scales by it.
pub(super) fn loads(
    model: &Model,
    reports: &NodeReports,
    metrics: &OwnMetrics,
) -> BTreeMap<ServiceKey, Load> {
    let mut loads = measured(model, reports);
    for (key, stored) in &model.services {
        let scaling = stored.value.service.spec.scaling.as_ref();
        if scaling.is_some_and(|scaling| scaling.own_metrics().next().is_some()) {
            let own = metrics.of(key).into_iter().map(|(name, metric)| (name, metric.value));
            loads.entry(key.clone()).or_default().own = own.collect();
        }
    }
    for (key, waiting) in reports.waiting() {
        loads.entry(key).or_default().waiting = Some(waiting);
    }
    loads
}

fn measured(model: &Model, reports: &NodeReports) -> BTreeMap<ServiceKey, Load> {
    let scales = |key: &ServiceKey| {
        let service = model.services.get(key)?;
        let scaling = service.value.service.spec.scaling.as_ref()?;
        (!scaling.targets.is_empty()).then_some(())
    };
    let mut sums: BTreeMap<ServiceKey, (u32, [u64; 6])> = BTreeMap::new();
    let mut quiet: BTreeMap<ServiceKey, Duration> = BTreeMap::new();
    for record in model.tasks.values().map(|stored| &stored.value) {
        let Some(key) = record.service_key().filter(|_| record.is_routable()) else { continue };
        let Some(node) = scales(&key).and(record.task.spec.node.as_ref()) else { continue };
        // A replica of which nothing is known yet may have requests.
        let quiet_for = reports.quiet_for(node, &record.key()).unwrap_or_default();
        let least = quiet.entry(key.clone()).or_insert(quiet_for);
        *least = quiet_for.min(*least);
        let rate = reports.rate(node, &record.key());
        let Some((rate, definition)) = rate.zip(model.definition_of(record)) else { continue };
        let (cpu, memory) = reserved(definition);
        let sum = sums.entry(key).or_default();
        sum.0 += 1;
        let requests = (rate.requests_per_1000_s, rate.in_flight_millis);
        let seen = [rate.cpu_millis, cpu, rate.memory_bytes, memory, requests.0, requests.1];
        sum.1.iter_mut().zip(seen).for_each(|(sum, seen)| *sum = sum.saturating_add(seen));
    }
    let percent = |part: u64, whole: u64| part.saturating_mul(100) / whole.max(1);
    let load = |(key, (replicas, sums)): (ServiceKey, (u32, [u64; 6]))| {
        let [cpu_used, cpu, memory_used, memory, requests, in_flight] = sums;
        let each = |sum: u64| sum / u64::from(replicas);
        let (requests_per_1000_s, in_flight_millis) = (each(requests), each(in_flight));
        let (cpu_percent, memory_percent) = (percent(cpu_used, cpu), percent(memory_used, memory));
        let load = Load {
            replicas,
            cpu_percent,
            memory_percent,
            requests_per_1000_s,
            in_flight_millis,
            quiet_for: quiet.get(&key).copied().unwrap_or_default(),
            ..Load::default()
        };
        (key, load)
    };
    sums.into_iter().map(load).collect()
}

/// A load within a tenth of its target asks for nothing, as with Kubernetes: counts do not
/// oscillate.
const TOLERANCE_PERCENT: u64 = 10;
/// One step at most doubles a count that is larger than this: a burst is measured again before more
/// follow.
const DOUBLED_FROM: u64 = 4;
/// The same for requests that wait for the first replica: more are measured once it answers.
const WOKEN_MAX: u32 = 4;

/// The service with another count, where its bounds or its load ask for one.
pub(super) fn after(
    record: &ServiceRecord,
    load: Option<&Load>,
    now: Timestamp,
) -> Option<ServiceRecord> {
    let spec = &record.service.spec;
    let scaling = spec.scaling.as_ref()?;
    if spec.scheduling == SchedulingStrategy::Daemon {
        return None;
    }
    let (min, max) = scaling.bounds(now);
    let bounded = spec.count.clamp(min, max);
    if bounded != spec.count {
        let mut next = record.clone();
        next.scale(bounded, &format!("its bounds are {min}..{max}"), now);
        return Some(next);
    }
    let load = load?;
    if let Some((requests, woken)) = woken(record, scaling, load).filter(|_| max > 0) {
        let mut next = record.clone();
        next.scale(woken.clamp(1, max), &format!("{requests} requests wait for a replica"), now);
        return Some(next);
    }
    let (wanted, why) = wanted(record, load)?;
    let wanted = wanted.clamp(min, max);
    let since = record.scaled.map(|at| now.since(at));
    let rests = |cooldown| since.is_none_or(|since| since >= cooldown);
    let newest = record.deployment().map(|deployment| deployment.state);
    let is_allowed = match wanted.cmp(&spec.count) {
        std::cmp::Ordering::Equal => false,
        std::cmp::Ordering::Greater => rests(scaling.scale_out_cooldown()),
        // A deployment measures too little: its new replicas are not loaded yet.
        std::cmp::Ordering::Less => {
            newest != Some(DeploymentState::InProgress) && rests(scaling.scale_in_cooldown())
        }
    };
    is_allowed.then(|| {
        let mut next = record.clone();
        next.scale(wanted, &why, now);
        next
    })
}

/// The replicas of a service that has none, once requests wait for one: no cool-down holds that up.
/// What was told before its last replica ended is no news.
fn woken(record: &ServiceRecord, scaling: &Scaling, load: &Load) -> Option<(u32, u32)> {
    let (requests, told) = load.waiting?;
    let is_news = record.scaled.is_none_or(|scaled| told > scaled);
    let is_asleep = record.service.spec.count == 0 && scaling.wakes();
    (is_asleep && is_news).then(|| (requests, scaling.for_waiting(requests).min(WOKEN_MAX)))
}

/// Whether no replica had a request for so long that none is needed.
fn is_quiet(scaling: &Scaling, load: &Load) -> bool {
    scaling.follows_requests() && load.quiet_for >= scaling.scale_in_cooldown()
}

/// The most replicas that a target asks for, and why.
fn wanted(record: &ServiceRecord, load: &Load) -> Option<(u32, String)> {
    let spec = &record.service.spec;
    let (count, scaling) = (u64::from(spec.count), spec.scaling.as_ref()?);
    let is_quiet = is_quiet(scaling, load);
    let asked = scaling.targets.iter().filter_map(|target| {
        let seen = load.of(&target.metric, spec.count)?;
        let is_own = matches!(target.metric, ScalingMetric::Own(_));
        if is_quiet && !is_own {
            let seconds = scaling.scale_in_cooldown_seconds;
            return Some((0, format!("it had no request for {seconds} s")));
        }
        let value = u64::from(target.value) * 1000;
        let off = seen.abs_diff(value).saturating_mul(100);
        let wanted = match off <= value.saturating_mul(TOLERANCE_PERCENT) && count > 0 {
            true => count,
            false => count.max(1).saturating_mul(seen).div_ceil(value),
        };
        // What is measured of replicas never asks for none of them.
        let least = u64::from(!is_own);
        let most = count.saturating_mul(2).max(DOUBLED_FROM);
        let wanted = u32::try_from(wanted.clamp(least, most)).unwrap_or(u32::MAX);
        let seen = shown(&target.metric, seen);
        Some((wanted, format!("{seen} of each replica, and its target is {target}")))
    });
    asked.max_by_key(|(wanted, _)| *wanted)
}

fn shown(metric: &ScalingMetric, thousandths: u64) -> String {
    let (whole, tenth) = (thousandths / 1000, thousandths % 1000 / 100);
    match metric {
        ScalingMetric::Cpu => format!("{whole} % of the CPU"),
        ScalingMetric::Memory => format!("{whole} % of the memory"),
        ScalingMetric::Requests => format!("{whole}.{tenth} requests a second"),
        ScalingMetric::Concurrency => format!("{whole}.{tenth} requests at one time"),
        ScalingMetric::Own(name) => format!("{whole}.{tenth} of metric `{name}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(count: u32, targets: &[&str]) -> ServiceRecord {
        serde_json::from_value(serde_json::json!({ "service": {
            "name": "web", "cluster": "main", "created": "2026-11-27T10:00:00.000Z",
            "generation": 1, "status": { "placed": 0, "running": 0, "observed_generation": 1 },
            "spec": {
                "task_definition": "web:1", "count": count, "launch_type": "node",
                "scaling": { "min": 2, "max": 10, "targets": targets },
            },
        } }))
        .unwrap()
    }

    fn load(cpu_percent: u64, memory_percent: u64, requests: u64) -> Load {
        let requests_per_1000_s = requests * 1000;
        let in_flight_millis = requests * 1000;
        Load {
            replicas: 1,
            cpu_percent,
            memory_percent,
            requests_per_1000_s,
            in_flight_millis,
            ..Load::default()
        }
    }

    #[test]
    fn a_count_follows_what_clients_report_down_to_none_and_back() {
        let now = Timestamp::from_millis(1_000_000);
        for (min, count, jobs, want) in [
            (0, 0, Some(0), None),
            (0, 0, Some(1), Some(1)),
            (0, 0, Some(35), Some(4)),
            (0, 4, Some(41), None), // within a tenth
            (0, 4, Some(60), Some(6)),
            (0, 4, Some(1_000_000), Some(8)), // at most twice as many
            (0, 4, Some(0), Some(0)),
            (1, 4, Some(0), Some(1)),
            (0, 4, None, None), // not reported lately: the count stays
            (0, 0, None, None),
        ] {
            let mut record = record(count, &["metric:jobs=10"]);
            record.service.spec.scaling.as_mut().unwrap().min = min;
            let own = jobs.map(|jobs| ("jobs".parse().unwrap(), jobs)).into_iter().collect();
            let load = Load { own, ..Load::default() };
            let next = after(&record, Some(&load), now).map(|next| next.service.spec.count);
            assert_eq!(next, want, "{min}.. {count} {jobs:?}");
        }
    }

    #[test]
    fn a_count_follows_the_target_that_asks_for_most_within_its_bounds() {
        let now = Timestamp::from_millis(1_000_000);
        for (count, targets, load, want) in [
            (1, &["cpu=50"][..], None, Some(2)), // its bounds
            (12, &["cpu=50"], None, Some(10)),
            (4, &["cpu=50"], None, None),
            (4, &["cpu=50"], Some(load(50, 0, 0)), None),
            (4, &["cpu=50"], Some(load(55, 0, 0)), None), // within a tenth
            (4, &["cpu=50"], Some(load(56, 0, 0)), Some(5)),
            (4, &["cpu=50"], Some(load(100, 0, 0)), Some(8)),
            (4, &["cpu=50"], Some(load(1000, 0, 0)), Some(8)), // at most twice as many
            (6, &["cpu=50"], Some(load(1000, 0, 0)), Some(10)),
            (4, &["cpu=50"], Some(load(20, 0, 0)), Some(2)),
            (4, &["cpu=50"], Some(load(0, 0, 0)), Some(2)),
            (4, &["cpu=50", "memory=50"], Some(load(20, 90, 0)), Some(8)),
            (4, &["requests=100"], Some(load(0, 0, 150)), Some(6)),
            (4, &["concurrency=10"], Some(load(0, 0, 15)), Some(6)),
            (4, &["concurrency=10"], Some(load(0, 0, 2)), Some(2)),
        ] {
            let next = after(&record(count, targets), load.as_ref(), now);
            let next = next.map(|next| next.service.spec.count);
            assert_eq!(next, want, "{count} {targets:?} {load:?}");
        }
    }

    #[test]
    fn a_step_waits_for_its_cool_down_and_says_why_it_was_made() {
        let mut service = record(4, &["cpu=50"]);
        let at = |seconds: u64| Timestamp::from_millis(1_000_000 + seconds * 1000);
        service = after(&service, Some(&load(100, 0, 0)), at(0)).unwrap();
        assert_eq!(
            service.rollout.events[0].message,
            "scaled from 4 to 8: 100 % of the CPU of each replica, and its target is cpu=50"
        );
        assert!(after(&service, Some(&load(100, 0, 0)), at(29)).is_none());
        assert!(after(&service, Some(&load(10, 0, 0)), at(299)).is_none());
        assert_eq!(after(&service, Some(&load(100, 0, 0)), at(30)).unwrap().service.spec.count, 10);
        assert_eq!(after(&service, Some(&load(10, 0, 0)), at(300)).unwrap().service.spec.count, 2);
    }

    #[test]
    fn a_service_that_is_quiet_ends_and_a_request_brings_it_back_at_once() {
        let at = |seconds: u64| Timestamp::from_millis(1_000_000 + seconds * 1000);
        for (targets, count, load, want) in [
            (&["concurrency=10"][..], 0, waiting(1, 1), Some(1)),
            (&["concurrency=10"], 0, waiting(25, 1), Some(3)),
            (&["concurrency=10"], 0, waiting(1000, 1), Some(4)),
            (&["requests=10"], 0, waiting(25, 1), Some(1)),
            (&["metric:jobs=10"], 0, waiting(25, 1), None),
            (&["concurrency=10"], 0, waiting(1, 0), None), // told before it was scaled to 0
            (&["concurrency=10"], 0, Load::default(), None),
            (&["concurrency=10"], 1, quiet(299, None), None),
            (&["concurrency=10"], 1, quiet(300, None), Some(0)),
            (&["concurrency=10", "cpu=50"], 4, quiet(300, None), Some(0)),
            (&["cpu=50"], 1, quiet(300, None), None),
            (&["concurrency=10", "metric:jobs=10"], 4, quiet(300, Some(15)), Some(2)),
            (&["concurrency=10", "metric:jobs=10"], 4, quiet(300, Some(0)), Some(0)),
        ] {
            let mut service = record(count, targets);
            service.service.spec.scaling.as_mut().unwrap().min = 0;
            service.scaled = (count == 0).then(|| at(0));
            let next = after(&service, Some(&load), at(1)).map(|next| next.service.spec.count);
            assert_eq!(next, want, "{count} {targets:?} {load:?}");
        }
    }

    fn waiting(requests: u32, seconds: u64) -> Load {
        let told = Timestamp::from_millis(1_000_000 + seconds * 1000);
        Load { waiting: Some((requests, told)), ..Load::default() }
    }

    fn quiet(seconds: u64, jobs: Option<u32>) -> Load {
        let own = jobs.map(|jobs| ("jobs".parse().unwrap(), jobs)).into_iter().collect();
        Load { replicas: 1, quiet_for: Duration::from_secs(seconds), own, ..Load::default() }
    }
}
