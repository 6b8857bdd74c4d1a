//! What the replicas of this node were asked, for the control plane: it decides by this how many
//! there should be, and whether a revision is good.

use std::sync::{Arc, atomic::Ordering};

use spec::{TaskId, Tenant, wire::RequestCounts};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    folder::IngressFolder,
    limits::{COUNTED_BYTES_MAX, COUNTED_EVERY, SAMPLED_EVERY},
    routes::Routes,
    table::Replica,
    told::{self, ToldFile},
};
use crate::error::Result;

/// Of one task.
pub(crate) type TaskCounts = (Tenant, TaskId, RequestCounts);

/// The file by which the agent is told. To be opened while that is allowed.
pub(super) fn open(folder: &IngressFolder) -> Result<ToldFile> {
    ToldFile::open(&folder.counts_file())
}

/// Counts for as long as this ingress serves, and writes that down where there is a file for it.
pub(super) async fn keep(routes: &Routes, file: Option<ToldFile>) {
    let (mut sampled, mut written) = (Instant::now(), Instant::now());
    let mut before = None;
    let mut tick = interval(SAMPLED_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = tick.tick().await;
        let replicas = routes.counted();
        sample(&replicas, u64::try_from((now - sampled).as_millis()).unwrap_or(u64::MAX));
        sampled = now;
        let Some(file) = file.as_ref().filter(|_| now - written >= COUNTED_EVERY) else { continue };
        written = now;
        let counts: Vec<TaskCounts> = replicas
            .iter()
            .map(|one| (one.tenant.clone(), one.task.clone(), one.counts.so_far()))
            .collect();
        if before.as_ref() == Some(&counts) {
            continue;
        }
        match file.write(&counts).await {
            Ok(()) => before = Some(counts),
            Err(error) => tracing::warn!(%error, "requests are counted and not told"),
        }
    }
}

/// What is under way is taken to have been so since the last look.
fn sample(replicas: &[Arc<Replica>], millis: u64) {
    for replica in replicas {
        let in_flight = replica.in_flight.load(Ordering::Relaxed) as u64;
        replica.counts.under_way(in_flight, millis);
    }
}

/// What the ingress has written last; nothing while it writes, and where it never did.
pub(crate) fn read(folder: &IngressFolder) -> Option<Vec<TaskCounts>> {
    told::read(&folder.counts_file(), COUNTED_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::super::counts::Counts;

    #[test]
    fn answers_with_5xx_and_none_at_all_are_failures() {
        let counts = Counts::default();
        counts.answered(StatusCode::OK);
        counts.answered(StatusCode::NOT_FOUND);
        counts.answered(StatusCode::BAD_GATEWAY);
        counts.lost();
        let counts = counts.so_far();
        assert_eq!((counts.requests, counts.failed_requests), (4, 2));
    }
}
