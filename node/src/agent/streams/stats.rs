use spec::{ContainerStats, Frame, StreamEnd};
use tokio::time::interval;

use super::Output;
use crate::{
    agent::limits::STATS_EVERY,
    error::{Error, Result},
    processes,
    tasks::{TaskFolder, now},
    verbs::task_usage,
};

/// Sends what the container uses each second, to its end: once, when it has ended.
pub(super) async fn send(folder: TaskFolder, output: &Output) -> Result<StreamEnd> {
    let mut next = interval(STATS_EVERY);
    let mut begun = false;
    loop {
        next.tick().await;
        let looked = folder.clone();
        let read = tokio::task::spawn_blocking(move || stats(&looked)).await;
        let (stats, alive) = read.map_err(|error| Error::System {
            verb: "read what a task uses",
            source: std::io::Error::other(error),
        })??;
        let record = serde_json::to_vec(&stats).expect("it has string keys");
        let first = (!begun).then_some(Frame::Started);
        begun = true;
        for frame in first.into_iter().chain([Frame::Record(record)]) {
            if output.send(&frame).await.is_err() {
                return Ok(StreamEnd::default());
            }
        }
        if !alive {
            return Ok(StreamEnd::default());
        }
    }
}

fn stats(folder: &TaskFolder) -> Result<(ContainerStats, bool)> {
    let alive = folder.state()?.is_alive();
    let found = processes::of_task(folder)?;
    let stats = ContainerStats {
        at: now(),
        usage: task_usage(folder)?,
        memory_bytes: found.iter().map(|process| process.memory_bytes).sum(),
        memory_bytes_max: folder.record().limits.memory_bytes_max,
        processes: u32::try_from(found.len()).unwrap_or(u32::MAX),
    };
    Ok((stats, alive))
}
