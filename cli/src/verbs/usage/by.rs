use std::collections::{BTreeMap, BTreeSet};

use orchestrator::{DayUsage, TenantUsage};
use serde::Serialize;
use spec::{Task, Tenant, Timestamp, Usage};

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

/// A task or a service, or what is not told apart, and what was used on some days.
#[derive(Serialize)]
struct DaysRow {
    name: String,
    cluster: String,
    /// Days on which it used something.
    days: usize,
    #[serde(flatten)]
    usage: Usage,
}

/// What was used on some days, by each task or by those of a service together.
pub fn days(days: &[DayUsage], by_service: bool, output: Output) -> anyhow::Result<()> {
    let headings =
        ["NAME", "CLUSTER", "DAYS", "RUNS", "FAILED", "CPU TIME", "MEMORY PEAK", "IN", "OUT"];
    output.records(&day_rows(days, by_service), &headings, |row| {
        let head = [row.name.clone(), row.cluster.clone(), row.days.to_string()];
        head.into_iter().chain(usage_cells(&row.usage))
    })
}

fn day_rows(days: &[DayUsage], by_service: bool) -> Vec<DaysRow> {
    let mut sums: BTreeMap<(String, String), (BTreeSet<Timestamp>, Usage)> = BTreeMap::new();
    for day in days {
        let service = day.service.as_ref().filter(|_| by_service).map(ToString::to_string);
        let task = || day.task.as_ref().map(ToString::to_string);
        let name = service.or_else(task).unwrap_or_else(|| "(other tasks)".to_owned());
        let sum = sums.entry((name, day.cluster.to_string())).or_default();
        sum.0.insert(day.day);
        sum.1 = sum.1.plus(day.usage);
    }
    let row = |((name, cluster), (days, usage)): ((String, String), (BTreeSet<_>, Usage))| {
        DaysRow { name, cluster, days: days.len(), usage }
    };
    sums.into_iter().map(row).collect()
}

/// What each tenant used on some days.
pub fn days_of_tenants(tenants: &[(Vec<DayUsage>, Tenant)], output: Output) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Row {
        tenant: Tenant,
        #[serde(flatten)]
        usage: Usage,
    }
    let row = |(days, tenant): &(Vec<DayUsage>, Tenant)| Row {
        tenant: tenant.clone(),
        usage: days.iter().fold(Usage::default(), |sum, day| sum.plus(day.usage)),
    };
    let rows: Vec<Row> = tenants.iter().map(row).collect();
    let headings = ["TENANT", "RUNS", "FAILED", "CPU TIME", "MEMORY PEAK", "IN", "OUT"];
    output.records(&rows, &headings, |row| {
        std::iter::once(row.tenant.to_string()).chain(usage_cells(&row.usage))
    })
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

    #[test]
    fn days_are_added_up_by_service_or_task() {
        let day = |day: u32, service: Option<&str>, task: Option<&str>| -> DayUsage {
            serde_json::from_value(serde_json::json!({
                "day": format!("2026-11-{day:02}T00:00:00.000Z"), "cluster": "main",
                "service": service, "task": task, "usage": Usage { runs: 1, ..Usage::default() },
            }))
            .unwrap()
        };
        let days = [
            day(1, Some("cats"), Some("cats-0")),
            day(1, Some("cats"), Some("cats-1")),
            day(2, Some("cats"), Some("cats-1")),
            day(2, None, Some("job-1")),
            day(2, None, None),
        ];
        let told = |by_service| -> Vec<String> {
            let rows = day_rows(&days, by_service);
            rows.iter().map(|row| format!("{} {} {}", row.name, row.days, row.usage.runs)).collect()
        };
        assert_eq!(told(true), ["(other tasks) 1 1", "cats 2 3", "job-1 1 1"]);
        assert_eq!(told(false), ["(other tasks) 1 1", "cats-0 1 1", "cats-1 2 2", "job-1 1 1"]);
    }
}
