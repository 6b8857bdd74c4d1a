//! kill -9 at many points of pushes, pulls, deletions, collections and scrubs.

use std::time::Duration;

use spec::Digest;
use tokio::time::{Instant, sleep};

use super::{
    collect::files,
    fixture::{TestRegistry, noise},
    process::{Lane, is_whole, kill_while},
};
use crate::Admin;

/// Pushes blobs until the registry is gone, and returns those that it acknowledged.
async fn push_blobs(lane: Lane) -> Vec<(Digest, usize)> {
    let mut acknowledged = Vec::new();
    for round in 0u32.. {
        let mut bytes = noise(lane.number as u8, 1 + (round as usize * 7919) % 90_000);
        bytes.extend([lane.number.to_le_bytes(), round.to_le_bytes()].concat());
        match lane.push_blob(&bytes).await {
            Some(201) => acknowledged.push((Digest::of(&bytes), bytes.len())),
            _ => break,
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_registry_keeps_everything_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    // Long enough for some to be acknowledged, and some to be in progress.
    let until = async |_: u32| {
        let until = Instant::now() + Duration::from_secs(10);
        while dir.path().join("blobs/sha256").read_dir().map_or(0, Iterator::count) < 40
            && Instant::now() < until
        {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let all = kill_while(dir.path(), "serve", 3, (|_| (), until), push_blobs).await;
    let server = TestRegistry::open_in(dir, |_| ()).await;
    let bearer = format!("Bearer {}", server.token("ann/cats"));
    for (digest, size) in all {
        let answer = server
            .request(&format!("GET /v2/ann/cats/blobs/{digest}"), &[("authorization", &bearer)], "")
            .await;
        assert_eq!((answer.status.as_u16(), answer.bytes.len()), (200, size), "{digest}");
        assert_eq!(Digest::of(&answer.bytes), digest);
    }
    let left = server.dir.path().join("uploads").read_dir().unwrap();
    let left: Vec<_> =
        left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| !name.ends_with(".part")), "{left:?}");
}

/// Pushes images of blobs that others of them share, pulls each, and deletes every second, until
/// the registry is gone. Returns those that it acknowledged.
async fn push_pull_and_delete(lane: Lane) -> Vec<Digest> {
    let mut kept = Vec::new();
    for round in 0u32.. {
        let config = format!("{{\"lane\":{},\"round\":{round}}}", lane.number).into_bytes();
        let blobs = [config, noise((round % 3) as u8, 3000), noise(lane.number as u8, 500)];
        let image = match lane.push_image(&blobs, None).await {
            Some((201, image)) => image,
            Some(_) => continue, // a blob's grace time was over
            None => break,
        };
        for blob in &blobs {
            let path = format!("GET /v2/ann/cats/blobs/{}", Digest::of(blob));
            let Some((status, bytes)) = lane.ask(&path, vec![]).await else { return kept };
            assert_eq!((status, &bytes), (200, blob), "{path}");
        }
        match round % 2 {
            0 => kept.push(image),
            _ => {
                let path = format!("DELETE /v2/ann/cats/manifests/{image}");
                if lane.ask(&path, vec![]).await.is_none() {
                    break;
                }
            }
        }
    }
    kept
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_killed_while_it_collects_and_scrubs_keeps_every_image_it_acknowledged()
{
    let dir = tempfile::tempdir().unwrap();
    let admin = Admin::new(dir.path());
    let until = async |round: u32| {
        // At another point of what it does each time.
        let pause = sleep(Duration::from_millis(150 + u64::from(round) * 37));
        let scrubbing = async {
            loop {
                let found = admin.scrub(Some(u64::MAX)).await.unwrap();
                assert_eq!(found.damaged, [], "none was lost");
            }
        };
        tokio::select! {
            () = pause => {}
            never = scrubbing => never,
        }
    };
    let all = kill_while(dir.path(), "collect", 8, (|_| (), until), push_pull_and_delete).await;
    let server = TestRegistry::open_in(dir, |_| ()).await;
    for image in &all {
        assert!(is_whole(&server, &image.to_string()).await, "{image}");
    }
    assert_eq!(server.admin.scrub(Some(u64::MAX)).await.unwrap().damaged, []);
    server.admin.remove_repository(&"ann/cats".parse().unwrap()).await.unwrap();
    server.admin.collect(Some(Duration::ZERO), false).await.unwrap();
    assert_eq!(files(server.dir.path()), 0, "what a killed process left behind comes back too");
}
