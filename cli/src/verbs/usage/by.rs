use std::collections::BTreeMap;

use orchestrator::TenantUsage;
use serde::Serialize;
use spec::{Task, Usage};

use crate::{output::Output, verbs::stats::usage_cells};

/// A task or a service, and what its containers used.
#[derive(Serialize)]
struct Row {
    name: String,
    cluster: String,
    tasks: usize,
    #[serde(flatten)]
    usage: Usage,
}

const HEADINGS: [&str; 9] =
    ["NAME", "CLUSTER", "TASKS", "RUNS", "FAILED", "CPU TIME", "MEMORY PEAK", "IN", "OUT"];

/// What the tasks used that are there, each or those of a service together.
pub fn tasks(tasks: &[Task], by_service: bool, output: Output) -> anyhow::Result<()> {
    output.records(&rows(tasks, by_service), &HEADINGS, |row| {
        let head = [row.name.clone(), row.cluster.clone(), row.tasks.to_string()];
        head.into_iter().chain(usage_cells(&row.usage))
    })
}

fn rows(tasks: &[Task], by_service: bool) -> Vec<Row> {
    let mut sums: BTreeMap<(String, String), (usize, Usage)> = BTreeMap::new();
    for task in tasks {
        let service = task.spec.service.as_ref().filter(|_| by_service);
        // A task of no service stands for itself.
        let name = service.map_or_else(|| task.id.to_string(), ToString::to_string);
        let used = task.status.containers.iter().map(|container| container.usage);
        let sum = sums.entry((name, task.spec.cluster.to_string())).or_default();
        *sum = (sum.0 + 1, used.fold(sum.1, Usage::plus));
    }
    let row = |((name, cluster), (tasks, usage))| Row { name, cluster, tasks, usage };
    sums.into_iter().map(row).collect()
}

/// What each tenant used in all.
pub fn tenants(tenants: &[TenantUsage], output: Output) -> anyhow::Result<()> {
    let headings =
        ["TENANT", "SINCE", "UNTIL", "RUNS", "FAILED", "CPU TIME", "MEMORY PEAK", "IN", "OUT"];
    output.records(tenants, &headings, |TenantUsage { tenant, total }| {
        let head = [tenant.to_string(), total.since.to_string(), total.until.to_string()];
        head.into_iter().chain(usage_cells(&total.usage))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tasks_of_a_service_are_added_up_and_others_stand_for_themselves() {
        let task = |id: &str, service: Option<&str>, runs: u64| -> Task {
            let usage = Usage { runs, ..Usage::default() };
            serde_json::from_value(serde_json::json!({
                "id": id, "created": "2026-11-27T10:00:00.000Z",
                "spec": { "cluster": "main", "task_definition": "cats:1", "launch_type": "node",
                    "service": service, "node": null, "stop": false },
                "status": { "phase": "running", "containers": [{
                    "name": "app", "image": spec::Digest::of(b""), "phase": "running",
                    "restarts": 0, "usage": usage,
                }] },
            }))
            .unwrap()
        };
        let tasks = [task("a", Some("cats"), 2), task("b", Some("cats"), 3), task("c", None, 4)];
        let told = |by_service| -> Vec<String> {
            let rows = rows(&tasks, by_service);
            rows.iter()
                .map(|row| format!("{} {} {}", row.name, row.tasks, row.usage.runs))
                .collect()
        };
        assert_eq!(told(true), ["c 1 4", "cats 2 5"]);
        assert_eq!(told(false), ["a 1 2", "b 1 3", "c 1 4"]);
    }
}
