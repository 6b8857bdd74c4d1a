//! What the replicas of this node were asked, for the control plane: it decides by this how many
//! there should be, and whether a revision is good.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, atomic::Ordering},
};

use spec::{Digest, TaskId, Tenant, wire::RequestCounts};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    folder::IngressFolder,
    limits::{COUNTED_BYTES_MAX, COUNTED_EVERY, SAMPLED_EVERY},
    routes::Routes,
    table::Replica,
};
use crate::error::{Error, Result};

/// Of one task.
pub(crate) type TaskCounts = (Tenant, TaskId, RequestCounts);

/// The file by which the agent is told. To be opened while that is allowed.
pub(super) fn open(folder: &IngressFolder) -> Result<File> {
    let path = folder.counts_file();
    disk::open(&path, disk::Purpose::Keep).map_err(Error::file("open", &path))
}

/// Counts for as long as this ingress serves, and writes that down where there is a file for it.
pub(super) async fn keep(routes: &Routes, file: Option<File>) {
    let file = file.map(Arc::new);
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
        let (file, bytes) = (file.clone(), sealed(&counts));
        match tokio::task::spawn_blocking(move || write(&file, &bytes)).await {
            Ok(Ok(())) => before = Some(counts),
            Ok(Err(error)) => tracing::warn!(%error, "requests are counted and not told"),
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

/// With a digest in front, by which a reader knows that it is whole.
fn sealed(counts: &[TaskCounts]) -> Vec<u8> {
    let json = serde_json::to_vec(counts).unwrap_or_default();
    let mut bytes = format!("{}\n", Digest::of(&json)).into_bytes();
    bytes.extend(json);
    bytes
}

fn unsealed(bytes: &[u8]) -> Option<Vec<TaskCounts>> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (digest, json) = (&bytes[..end], &bytes[end + 1..]);
    let is_whole = digest == Digest::of(json).to_string().as_bytes();
    is_whole.then(|| serde_json::from_slice(json).ok()).flatten()
}

fn write(file: &File, bytes: &[u8]) -> io::Result<()> {
    file.write_all_at(bytes, 0)?;
    file.set_len(bytes.len() as u64)
}

/// What the ingress has written last; nothing while it writes, and where it never did.
pub(crate) fn read(folder: &IngressFolder) -> Option<Vec<TaskCounts>> {
    unsealed(&disk::read_optional(&folder.counts_file(), COUNTED_BYTES_MAX).ok()??)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::{super::counts::Counts, *};

    #[test]
    fn counts_are_read_as_they_were_written_and_never_half() {
        let counts = Counts::default();
        counts.answered(StatusCode::OK);
        counts.answered(StatusCode::NOT_FOUND);
        counts.answered(StatusCode::BAD_GATEWAY);
        counts.lost();
        let all: Vec<TaskCounts> =
            vec![("me".parse().unwrap(), "cats-1".parse().unwrap(), counts.so_far())];
        assert_eq!((all[0].2.requests, all[0].2.failed_requests), (4, 2));
        let bytes = sealed(&all);
        assert_eq!(unsealed(&bytes), Some(all));
        for cut in 0..bytes.len() {
            assert_eq!(unsealed(&bytes[..cut]), None, "{cut}");
        }
        let mut mixed = bytes.clone();
        let last = mixed.len() - 4;
        mixed[last] ^= 1;
        assert_eq!(unsealed(&mixed), None);
    }
}
