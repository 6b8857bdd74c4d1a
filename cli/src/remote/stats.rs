use std::time::Duration;

use anyhow::bail;
use orchestrator::Client;
use serde::Serialize;
use spec::{ContainerName, ContainerStats, Frame, Task, TaskId, TaskPhase};
use tokio::{sync::mpsc, task::JoinSet};

use super::{Found, broken, find::copies, no_word};
use crate::{
    failure,
    output::{self, Output, duration, size},
};

/// Streams of one command: less than a tenant may have.
const STREAMS_MAX: usize = 48;

/// One container of a task.
#[derive(Serialize)]
struct Row {
    task: TaskId,
    container: ContainerName,
    /// Of one processor, between two readings.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_percent: Option<f64>,
    #[serde(flatten)]
    stats: ContainerStats,
}

/// Prints what the containers of a task or of a service use: once, or again each second.
///
/// # Errors
/// When the control plane or a node says no.
pub async fn watch(
    client: &Client,
    found: Vec<Found>,
    output: Output,
    streams: bool,
) -> anyhow::Result<()> {
    let mut wanted = Vec::new();
    for found in found {
        let (tasks, only): (Vec<Task>, Option<ContainerName>) = match found {
            Found::Task(task, container) => (vec![*task], container),
            Found::Service(service) => {
                let mut tasks = copies(client, &service.cluster, &service.name).await?;
                tasks.retain(|task| task.status.phase == TaskPhase::Running);
                (tasks, None)
            }
        };
        for task in tasks {
            let names = task.status.containers.iter().map(|container| container.name.clone());
            let meant = |name: &ContainerName| only.as_ref().is_none_or(|only| only == name);
            wanted.extend(names.filter(meant).map(|name| (task.id.clone(), name)));
        }
    }
    if wanted.len() > STREAMS_MAX {
        bail!(
            failure::Advice::new(format!("{} containers are too many at once", wanted.len()))
                .hint(format!("name tasks: {STREAMS_MAX} containers at most"))
        );
    }
    let (sender, mut readings) = mpsc::channel(STREAMS_MAX);
    let mut running = JoinSet::new();
    for (at, (task, container)) in wanted.iter().cloned().enumerate() {
        running.spawn(one(client.clone(), task, container, at, sender.clone()));
    }
    drop(sender);
    let mut last: Vec<Option<(ContainerStats, Option<f64>)>> = vec![None; wanted.len()];
    let mut failed = None;
    while let Some((at, reading)) = readings.recv().await {
        match reading {
            Ok(now) => {
                let share = last[at].as_ref().and_then(|(before, _)| share(before, &now));
                last[at] = Some((now, share));
            }
            Err(error) => failed = Some(error),
        }
        let complete = last.iter().flatten().all(|(_, share)| share.is_some());
        if streams {
            output::raw(b"\x1b[H\x1b[2J");
            print(&wanted, &last, output)?;
        } else if complete && last.iter().all(Option::is_some) {
            return print(&wanted, &last, output);
        }
    }
    match failed {
        Some(error) => Err(error),
        None => print(&wanted, &last, output), // all have ended
    }
}

async fn one(
    client: Client,
    task: TaskId,
    container: ContainerName,
    at: usize,
    sender: mpsc::Sender<(usize, anyhow::Result<ContainerStats>)>,
) {
    let read = async {
        let mut stream = client.stats(&task, Some(&container)).await?;
        loop {
            match stream.next().await {
                Ok(Some(Frame::Record(bytes))) => {
                    let stats = spec::json::from_slice::<ContainerStats>(&bytes)?;
                    if sender.send((at, Ok(stats))).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(Some(Frame::End(end))) => match broken(&end) {
                    Some(fault) => bail!(fault.clone()),
                    None => return Ok(()),
                },
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => bail!(no_word()),
            }
        }
    };
    if let Err(error) = read.await {
        let _ = sender.send((at, Err(error))).await;
    }
}

/// The share of a processor between two readings, in percent.
fn share(before: &ContainerStats, now: &ContainerStats) -> Option<f64> {
    let time = now.at.since(before.at);
    let used = now.usage.cpu_ns.saturating_sub(before.usage.cpu_ns) as f64;
    (time > Duration::ZERO).then(|| (used / time.as_nanos() as f64 * 10_000.0).round() / 100.0)
}

const HEADINGS: [&str; 9] =
    ["TASK", "CONTAINER", "CPU %", "MEM USAGE / LIMIT", "PIDS", "RUNS", "CPU TIME", "IN", "OUT"];

fn print(
    wanted: &[(TaskId, ContainerName)],
    last: &[Option<(ContainerStats, Option<f64>)>],
    output: Output,
) -> anyhow::Result<()> {
    let rows = wanted.iter().zip(last).filter_map(|((task, container), seen)| {
        let (stats, cpu_percent) = seen.clone()?;
        Some(Row { task: task.clone(), container: container.clone(), cpu_percent, stats })
    });
    let rows: Vec<Row> = rows.collect();
    output.records(&rows, &HEADINGS, |row| {
        let Row { task, container, cpu_percent, stats } = row;
        [
            task.to_string(),
            container.to_string(),
            cpu_percent.map_or("-".to_owned(), |share| format!("{share:.2}%")),
            format!("{} / {}", size(stats.memory_bytes), size(stats.memory_bytes_max)),
            stats.processes.to_string(),
            stats.usage.runs.to_string(),
            duration(Duration::from_nanos(stats.usage.cpu_ns)),
            size(stats.usage.bytes_in),
            size(stats.usage.bytes_out),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::{Timestamp, Usage};

    #[test]
    fn a_share_is_that_of_the_time_between_two_readings() {
        let at = |millis, cpu_ns| ContainerStats {
            at: Timestamp::from_millis(millis),
            usage: Usage { cpu_ns, ..Usage::default() },
            memory_bytes: 0,
            memory_bytes_max: 0,
            processes: 1,
        };
        for (before, now, want) in [
            (at(0, 0), at(1000, 500_000_000), Some(50.0)),
            (at(0, 0), at(1000, 2_000_000_000), Some(200.0)),
            (at(0, 5), at(1000, 0), Some(0.0)),
            (at(7, 0), at(7, 9), None),
        ] {
            assert_eq!(share(&before, &now), want, "{now:?}");
        }
    }
}
