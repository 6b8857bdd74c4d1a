//! Why something is as it is, and the line that would change it: read from the model, from what
//! nodes report, and from the reasons of the plan. Pure: the same inputs say the same.

use spec::{
    ContainerStatus, DeploymentState, Explanation, ExplanationCause, LaunchType, NodeCondition,
    NodeId, NodeProblem, NodeStatus, Scaling, Service, TaskPhase, Timestamp,
};

use super::{
    Observed,
    capacity::Capacity,
    reason::{Lack, Unplaceable, Waiting, cpus, memory},
};
use crate::state::{
    model::Model,
    objects::Certificate,
    orders::CertificateOrder,
    records::{NodeRecord, ServiceKey, ServiceRecord, TaskRecord},
};

/// Copies that are explained one by one: others have the same reasons.
const COPIES_SHOWN: usize = 5;

/// Which nodes are told of. A tenant sees its own: what is left of one of the pool says what others
/// run.
pub(crate) type Sees<'a> = &'a dyn Fn(&NodeId) -> bool;

pub(super) fn because(why: impl Into<String>, change: Option<String>) -> ExplanationCause {
    ExplanationCause { why: why.into(), change }
}

/// Why a service has the copies that it has. `shown` is as clients see it.
pub(crate) fn service(
    model: &Model,
    (key, record): (&ServiceKey, &ServiceRecord),
    shown: &Service,
    waiting: Option<&Waiting>,
    sees: Sees<'_>,
) -> Explanation {
    let (_, cluster, name) = key;
    let ready = shown.status.ready;
    let count = shown.status.desired.unwrap_or(shown.spec.count);
    let at = format!("{name} --cluster {cluster}");
    let mut causes: Vec<_> = waiting.into_iter().flat_map(|why| waits(why, sees)).collect();
    if record.rollout.paused {
        let resume = format!("margay service rollout resume {at}");
        causes.push(because("its rollout is paused: no further copy changes", Some(resume)));
    }
    if let Some(newest) = record.rollout.deployments.first() {
        let number = newest.number;
        let reason = newest.reason.as_ref().map_or(String::new(), |why| format!(": {why}"));
        let task = &newest.task_definition;
        match (newest.state, newest.rolls_back) {
            (DeploymentState::Failed, _) => causes.push(because(
                format!("deployment {number} of `{task}` failed{reason}"),
                Some(format!("margay service rollout undo {at}")),
            )),
            (_, Some(failed)) => causes.push(because(
                format!("deployment {failed} failed, and `{task}` was brought back{reason}"),
                Some(format!("margay service events {at}")),
            )),
            (DeploymentState::InProgress, None) => {
                let mut why = format!("deployment {number} of `{task}` is under way");
                let mut change = None;
                if let Some(share) = newest.traffic {
                    why += &format!(" and has {} % of the requests", share.percent);
                    change = Some(format!("margay service rollout promote {at}"));
                }
                causes.push(because(why, change));
            }
            _ => {}
        }
    }
    let copies = model.tasks.values().map(|stored| &stored.value);
    let copies = copies.filter(|task| task.service_key().as_ref() == Some(key) && task.is_wanted());
    for task in copies.filter(|task| !task.task.status.is_ready()).take(COPIES_SHOWN) {
        causes.extend(of_task(model, task));
    }
    let subject = format!("service `{name}` of cluster `{cluster}`");
    let state = match count {
        0 => "no copies are wanted".to_owned(),
        _ => format!("{ready} of {count} copies are ready"),
    };
    let wakes = record.service.spec.scaling.as_ref().is_some_and(Scaling::wakes);
    if count == 0 && wakes {
        causes.push(because("it had no requests: the next one waits until a copy is ready", None));
    } else if count == 0 {
        let scale = format!("margay service scale {name} 1 --cluster {cluster}");
        causes.push(because("its count is 0", Some(scale)));
    } else if causes.is_empty() && ready >= count {
        causes.push(because("it is as it was requested", None));
    }
    causes.extend(providers(record, count, &at));
    Explanation { subject, state, causes }
}

/// How copies are shared between nodes of the tenant and the pool.
fn providers(record: &ServiceRecord, count: u32, at: &str) -> Option<ExplanationCause> {
    let spec = &record.service.spec;
    let lines = spec.placement.capacity_providers.iter().map(ToString::to_string);
    let lines = lines.collect::<Vec<_>>().join(" and ");
    let [(_, node), (_, pool)] = spec.by_launch_type(count);
    let why =
        format!("of {count} copies {node} are for nodes of yours and {pool} for the pool: {lines}");
    let change = format!("margay service update {at} --capacity-provider node=WEIGHT[,base=COUNT]");
    (!lines.is_empty()).then(|| because(why, Some(change)))
}

/// Why a task is in its phase.
pub(crate) fn task(
    model: &Model,
    record: &TaskRecord,
    waiting: Option<&Waiting>,
    sees: Sees<'_>,
) -> Explanation {
    let phase = match record.task.status.phase {
        TaskPhase::Pending => "it waits for a node",
        TaskPhase::Starting => "it is starting",
        TaskPhase::Running if record.task.status.is_ready() => "it runs and is ready",
        TaskPhase::Running => "it runs and is not ready",
        TaskPhase::Stopping => "it is stopping",
        TaskPhase::Stopped => "it has ended",
        TaskPhase::Unknown => "how it is is not known",
    };
    let node = record.task.spec.node.as_ref();
    let on = node.map_or(String::new(), |node| format!(", on node `{node}`"));
    let mut causes: Vec<_> = waiting.into_iter().flat_map(|why| waits(why, sees)).collect();
    causes.extend(of_task(model, record));
    if causes.is_empty() {
        causes.push(because("it is as it was requested", None));
    }
    Explanation {
        subject: format!("task `{}`", record.id()),
        state: format!("{phase}{on}"),
        causes,
    }
}

/// What its record says of a task, and what its containers say.
fn of_task(model: &Model, record: &TaskRecord) -> Vec<ExplanationCause> {
    let (id, status) = (record.id(), &record.task.status);
    let mut causes = Vec::new();
    if status.phase == TaskPhase::Unknown
        && let Some(node) = &record.task.spec.node
    {
        let why = match model.nodes.contains_key(node) {
            true => format!("`{id}`: node `{node}` does not report"),
            false => format!("`{id}`: node `{node}` was removed"),
        };
        causes.push(because(why, Some(format!("margay explain node {node}"))));
    }
    let told: Vec<_> = status.containers.iter().filter_map(|one| container(record, one)).collect();
    if let Some(reason) = &status.reason
        && told.iter().all(|cause| !reason.contains(&cause.why) && !cause.why.contains(reason))
        && status
            .containers
            .iter()
            .all(|one| one.reason.as_ref().is_none_or(|r| !reason.contains(r)))
    {
        causes.push(because(format!("`{id}`: {reason}"), None));
    }
    causes.extend(told);
    causes
}

/// Why a container does not run, or did not run on.
fn container(record: &TaskRecord, one: &ContainerStatus) -> Option<ExplanationCause> {
    let (id, name) = (record.id(), &one.name);
    let what = match (&one.reason, one.exit_code) {
        (Some(reason), _) => reason.clone(),
        (None, Some(0)) if record.task.status.phase == TaskPhase::Stopped => {
            "it came to its end by itself, with exit code 0".to_owned()
        }
        (None, Some(code)) => format!("it ended with exit code {code}{}", signal(code)),
        (None, None) => match one.health {
            Some(spec::ContainerHealth::Unhealthy) => "its probe fails".to_owned(),
            Some(spec::ContainerHealth::Starting) => "its probe has not succeeded yet".to_owned(),
            Some(spec::ContainerHealth::Healthy) | None => return None,
        },
    };
    let restarts = match one.restarts {
        0 => String::new(),
        1 => ", after one restart".to_owned(),
        many => format!(", after {many} restarts"),
    };
    let family = &record.task.spec.task_definition.family;
    let change = if what.contains("E_MEMORY") {
        format!(
            "a larger `memory_hard_bytes` for `{name}` in `{family}`: margay task register FILE"
        )
    } else {
        format!("see what it wrote: margay logs {id}.{name}")
    };
    Some(because(format!("`{id}`, container `{name}`: {what}{restarts}"), Some(change)))
}

/// Of an exit code that stands for a signal.
fn signal(code: i32) -> String {
    let name = match code - 128 {
        1 => "SIGHUP",
        2 => "SIGINT",
        6 => "SIGABRT",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        15 => "SIGTERM",
        _ => return String::new(),
    };
    format!(" ({name})")
}

/// Why something waits: the sentence of the plan, and each node that lacks something.
fn waits(waiting: &Waiting, sees: Sees<'_>) -> Vec<ExplanationCause> {
    let mut causes = vec![because(waiting.to_string(), waiting.change())];
    let (Waiting::Unplaceable(why) | Waiting::NoCapacityBeside(why)) = waiting else {
        return causes;
    };
    if let Unplaceable::NoFit { nodes, .. } = why.of_nodes() {
        let told = nodes.iter().filter(|(node, _)| sees(node));
        causes.extend(told.map(|(node, lack)| {
            let change = match lack {
                Lack::Drained => Some(format!("margay node drain --undo {node}")),
                Lack::Cordoned => Some(format!("margay node uncordon {node}")),
                Lack::Taint => Some(format!("margay node inspect {node}")),
                Lack::PoolNative => Some("at that node: margay node --pool-native".to_owned()),
                Lack::NotReady => Some(format!("margay explain node {node}")),
                _ => None,
            };
            because(format!("node `{node}` {lack}"), change)
        }));
    }
    causes
}

/// Why a node takes the tasks that it takes.
pub(crate) fn node(
    model: &Model,
    observed: &Observed,
    record: &NodeRecord,
    (status, problems): (&NodeStatus, &[NodeProblem]),
    now: Timestamp,
) -> Explanation {
    let id = &record.id;
    let silent = now.since(status.last_seen).as_secs();
    let mut causes = Vec::new();
    let state = match (status.condition, record.drain) {
        (NodeCondition::Ready, false) => "it is ready",
        (NodeCondition::Ready, true) => "it is drained",
        (NodeCondition::Suspect, _) => "it is suspect: no new task is placed on it",
        (NodeCondition::Disconnected, _) => "it is disconnected: its tasks are replaced elsewhere",
    };
    if status.condition != NodeCondition::Ready {
        causes.push(because(
            format!("its last report came {silent} s ago"),
            Some("start its agent on that machine: margay node; or: margay up".to_owned()),
        ));
    }
    if record.drain {
        let undo = format!("margay node drain --undo {id}");
        causes.push(because("it was drained: no task is placed on it", Some(undo)));
    }
    if record.cordoned {
        let undo = format!("margay node uncordon {id}");
        causes.push(because("it is cordoned: it takes no new task", Some(undo)));
    }
    for problem in problems {
        let effect = match problem.kind.keeps_tasks_away() {
            true => ": it takes no new task",
            false => "",
        };
        causes.push(because(format!("it has {}, {}{effect}", problem.kind, problem.message), None));
    }
    for taint in &record.taints {
        let undo = format!("margay node update {id} --taint-rm {}", taint.key);
        let why = format!("it has the taint `{taint}`: tasks that do not tolerate it stay away");
        causes.push(because(why, Some(undo)));
    }
    let tasks = model.tasks_on(id).count();
    let capacity = Capacity::left_on(model, observed);
    if let Some(node) = capacity.nodes.get(id) {
        let all = record.spec.capacity;
        causes.push(because(
            format!(
                "{} on it; {} of {} and {} of {} of memory are not reserved",
                if tasks == 1 { "one task is".to_owned() } else { format!("{tasks} tasks are") },
                cpus(node.left.cpu_millis),
                cpus(all.cpu_millis.into()),
                memory(node.left.memory_bytes),
                memory(all.memory_bytes)
            ),
            None,
        ));
    }
    let whose = match (&record.tenant, record.in_pool()) {
        (Some(tenant), true) => format!("tasks of tenant `{tenant}` and of the pool"),
        (Some(tenant), false) => format!("tasks of tenant `{tenant}` alone"),
        (None, _) => "tasks of the pool alone".to_owned(),
    };
    causes.push(because(format!("it takes {whose}"), None));
    if !record.spec.runs_native {
        causes.push(because(
            "it runs no Linux images: it has no OCI runtime, or its agent is not root",
            Some("see what it lacks, on that machine: margay doctor".to_owned()),
        ));
    }
    Explanation { subject: format!("node `{id}`"), state: state.to_owned(), causes }
}

/// What clients of a host that speak TLS are shown.
pub(crate) fn certificate(certificate: &Certificate, now: Timestamp) -> ExplanationCause {
    let Certificate { name, not_after, .. } = certificate;
    let update = certificate.next_one();
    let why = match now >= *not_after {
        true => format!("clients are shown certificate `{name}`, which expired on {not_after}"),
        false => format!("clients are shown certificate `{name}`, which is good until {not_after}"),
    };
    because(why, (now >= certificate.renew_from()).then_some(update))
}

/// Why there is no other certificate for a host.
pub(crate) fn order(order: &CertificateOrder, now: Timestamp) -> ExplanationCause {
    let CertificateOrder { host, certificate, next, failures, error, hint, .. } = order;
    let Some(error) = error else {
        return because(format!("a certificate for `{host}` is asked for just now"), None);
    };
    let again = match *next > now {
        true => format!("again at {next}"),
        false => "again now".to_owned(),
    };
    let tries = if *failures == 1 { "1 try" } else { &format!("{failures} tries") };
    let hint = hint.as_ref().map_or(String::new(), |hint| format!("{hint}; then "));
    because(
        format!("no certificate was issued for `{host}` in {tries}, {again}: {error}"),
        Some(format!("{hint}margay certificate renew {certificate}")),
    )
}

impl Waiting {
    /// The line that would end the wait, where there is one.
    pub fn change(&self) -> Option<String> {
        match self {
            Self::MissingSecret(name) => Some(format!("margay secret create {name} FILE")),
            Self::Unplaceable(why) | Self::NoCapacityBeside(why) => why.change(),
            Self::VolumeOnDrainedNode(node) => Some(format!("margay node drain --undo {node}")),
            Self::BackOff { task, .. } => Some(format!("margay logs {task}")),
            Self::MissingDefinition(_) => Some("margay task register FILE".to_owned()),
            Self::NoStepAllowed(_) => {
                Some("margay service update NAME --min-healthy 50 --max-percent 200".to_owned())
            }
            Self::PredecessorWrites => None,
        }
    }
}

impl Unplaceable {
    fn change(&self) -> Option<String> {
        match self {
            Self::VolumeHasWriter { writer, .. } => Some(format!("margay task stop {writer}")),
            Self::NoNode(LaunchType::Node) => {
                Some("margay node token; and on another machine: margay node join TOKEN".to_owned())
            }
            Self::NoNode(LaunchType::Pool) => {
                Some("ask the operator for a node: margay node token --pool".to_owned())
            }
            Self::NoFit { .. } => Some("add a node: margay node token".to_owned()),
            Self::AwaitsGroup { group, .. } => Some(format!("margay node-group inspect {group}")),
            Self::GroupIsFull { group, max, .. } => {
                let more = max.saturating_add(1);
                Some(format!("margay node-group update {group} --max {more}"))
            }
            Self::VolumesApart => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use spec::{Task, VolumeName};

    use super::*;
    use crate::{plan::reason::Demand, state::records::Stored};

    fn record(status: serde_json::Value) -> TaskRecord {
        let task: Task = serde_json::from_value(json!({
            "id": "cats-1", "created": "2026-11-27T10:00:00.000Z",
            "spec": { "cluster": "main", "task_definition": "cats:1", "launch_type": "node",
                "service": null, "node": "n1", "stop": false },
            "status": status,
        }))
        .unwrap();
        let tenant = "acme".parse().unwrap();
        let record = TaskRecord::new(
            tenant,
            task.id.clone(),
            task.spec,
            TaskPhase::Pending,
            None,
            task.created,
        );
        record.with(task.status, task.created)
    }

    fn container(more: serde_json::Value) -> serde_json::Value {
        let mut container = json!({ "name": "app", "image": spec::Digest::of(b""),
            "phase": "exited", "restarts": 0, "usage": spec::Usage::default() });
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        container
    }

    fn told(explanation: &Explanation) -> String {
        let causes = explanation.causes.iter().map(|cause| {
            let change = cause.change.as_ref().map_or(String::new(), |line| format!(" -> {line}"));
            format!("\n{}{change}", cause.why)
        });
        format!("{}: {}", explanation.subject, explanation.state) + &causes.collect::<String>()
    }

    #[test]
    fn a_task_says_why_it_is_in_its_phase() {
        for (status, want) in [
            (
                json!({ "phase": "running" }),
                "task `cats-1`: it runs and is ready, on node `n1`\nit is as it was requested",
            ),
            (
                json!({ "phase": "stopped", "containers": [container(json!({ "exit_code": 0 }))] }),
                "task `cats-1`: it has ended, on node `n1`\n\
                 `cats-1`, container `app`: it came to its end by itself, with exit code 0 \
                 -> see what it wrote: margay logs cats-1.app",
            ),
            (
                json!({ "phase": "stopped", "reason": "stopped by request",
                    "containers": [container(json!({ "exit_code": 143, "restarts": 2 }))] }),
                "task `cats-1`: it has ended, on node `n1`\n`cats-1`: stopped by request\n\
                 `cats-1`, container `app`: it ended with exit code 143 (SIGTERM), after 2 restarts \
                 -> see what it wrote: margay logs cats-1.app",
            ),
            (
                json!({ "phase": "starting", "reason": "container `app`: E_MEMORY: too much",
                    "containers": [container(json!({ "exit_code": 137,
                        "reason": "E_MEMORY: too much" }))] }),
                "task `cats-1`: it is starting, on node `n1`\n\
                 `cats-1`, container `app`: E_MEMORY: too much -> \
                 a larger `memory_hard_bytes` for `app` in `cats`: margay task register FILE",
            ),
            (
                json!({ "phase": "unknown" }),
                "task `cats-1`: how it is is not known, on node `n1`\n\
                 `cats-1`: node `n1` was removed -> margay explain node n1",
            ),
        ] {
            let all = &|_: &NodeId| true;
            assert_eq!(told(&task(&Model::default(), &record(status), None, all)), want);
        }
    }

    #[test]
    fn each_wait_says_what_would_end_it() {
        let demand = Demand {
            cpu_millis: 250,
            memory_bytes: 64 << 20,
            host_ports: Vec::new(),
            architectures: Vec::new(),
            constraints: Vec::new(),
            volume_node: None,
        };
        let node = |name: &str| -> NodeId { name.parse().unwrap() };
        let volume: VolumeName = "book".parse().unwrap();
        let left = Lack::Resources { cpu_millis: 100, memory_bytes: 32 << 20 };
        let nodes = vec![(node("n1"), Lack::Drained), (node("n2"), left)];
        let no_fit = Waiting::Unplaceable(Unplaceable::NoFit { demand, nodes });
        // Of a node that the tenant does not see, nothing is told.
        let seen = waits(&no_fit, &|node| node.as_str() == "n1");
        let names = |cause: &ExplanationCause| cause.why.contains("`n2`");
        assert!(seen.len() == 2 && !seen.iter().any(names), "{seen:?}");
        for (waiting, want) in [
            (
                no_fit,
                "no node has 0.25 CPUs and 64MiB of memory left -> add a node: margay node token\n\
                 node `n1` is drained -> margay node drain --undo n1\n\
                 node `n2` has 0.1 CPUs and 32MiB left",
            ),
            (
                Waiting::Unplaceable(Unplaceable::VolumeHasWriter {
                    volume,
                    writer: "cats-1".parse().unwrap(),
                }),
                "volume `book` is written to by task `cats-1`, and by one task at a time: stop that \
                 one, or mount it with `read_only = true` -> margay task stop cats-1",
            ),
            (
                Waiting::MissingSecret("key".parse().unwrap()),
                "there is no secret `key`, which its role grants: margay secret create key FILE -> \
                 margay secret create key FILE",
            ),
        ] {
            let causes = waits(&waiting, &|_| true);
            let explanation = Explanation { subject: String::new(), state: String::new(), causes };
            assert_eq!(told(&explanation).strip_prefix(": \n").unwrap(), want);
        }
    }

    #[test]
    fn a_node_says_what_it_takes_and_what_is_left_of_it() {
        let node_record: NodeRecord = serde_json::from_value(json!({
            "id": "n1", "tenant": "acme", "joined": "2026-11-27T10:00:00.000Z", "drain": true,
            "certificates": [],
            "spec": { "capacity": { "cpu_millis": 4000, "memory_bytes": 4_u64 << 30 }, "zone": "a",
                "architecture": "amd64", "runs_native": false, "ingress_address": null },
        }))
        .unwrap();
        let mut model = Model::default();
        model.nodes.insert(node_record.id.clone(), Arc::new(node_record.clone()));
        let running = record(json!({ "phase": "running" }));
        let key = running.key();
        model.by_node.entry(node_record.id.clone()).or_default().insert(key.clone());
        let stored = Stored { value: running, mod_rev: 1, create_rev: 1 };
        model.tasks.insert(key, Arc::new(stored));
        let status = NodeStatus {
            condition: NodeCondition::Disconnected,
            last_seen: Timestamp::from_millis(5_000),
        };
        let now = Timestamp::from_millis(47_000);
        assert_eq!(
            told(&node(&model, &Observed::default(), &node_record, (&status, &[]), now)),
            "node `n1`: it is disconnected: its tasks are replaced elsewhere\n\
             its last report came 42 s ago -> start its agent on that machine: margay node; or: \
             margay up\n\
             it was drained: no task is placed on it -> margay node drain --undo n1\n\
             one task is on it; 4 CPUs of 4 CPUs and 4GiB of 4GiB of memory are not reserved\n\
             it takes tasks of tenant `acme` alone\n\
             it runs no Linux images: it has no OCI runtime, or its agent is not root -> see what it \
             lacks, on that machine: margay doctor"
        );
    }
}
