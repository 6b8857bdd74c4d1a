//! kill -9 at many points of retention, backup and restore: nothing acknowledged is lost.

use std::{fs, time::Duration};

use tokio::time::sleep;

use super::{
    fixture::{TestRegistry, noise},
    process::{Lane, is_whole, kill, kill_while, start},
};
use crate::{Admin, Error, Existing, RetentionChange, RetentionRule, back_up, restore};

/// Pushes images until the registry is gone: every second under a tag that a rule keeps. Returns
/// those of these that were acknowledged.
async fn push_tags(lane: Lane) -> Vec<String> {
    let mut kept = Vec::new();
    for round in 0u32.. {
        let config = format!("{{\"lane\":{},\"round\":{round}}}", lane.number).into_bytes();
        let blobs = [config, noise((round % 3) as u8, 3000)];
        let kind = if round % 2 == 0 { "keep" } else { "dev" };
        let tag = format!("{kind}-{}-{round}", lane.number);
        match lane.push_image(&blobs, Some(&tag)).await {
            Some((201, _)) if kind == "keep" => kept.push(tag),
            Some(_) => {} // a blob's grace time may be over
            None => break,
        }
    }
    kept
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_killed_while_it_retains_keeps_what_its_rules_keep() {
    let dir = tempfile::tempdir().unwrap();
    let admin = Admin::new(dir.path());
    // At another point of what it does each time.
    let until = async |round: u32| {
        let ann = "ann".parse().unwrap();
        admin.put_user(&ann, "correct horse", Existing::Any).await.unwrap();
        for (tags, last) in [("keep-*", None), ("dev-*", Some(2))] {
            let rule = RetentionRule { tags: tags.to_owned(), last, ..RetentionRule::default() };
            let change = RetentionChange { rule: Some(rule), untagged_seconds: Some(1) };
            admin.change_retention("ann/cats", &change).await.unwrap();
        }
        sleep(Duration::from_millis(150 + u64::from(round) * 41)).await;
    };
    let all = kill_while(dir.path(), "retain", 8, (|_| (), until), push_tags).await;
    let server = TestRegistry::open_in(dir, |_| ()).await;
    for tag in &all {
        assert!(is_whole(&server, tag).await, "{tag}");
    }
    server.admin.retain(Some("ann/cats"), Some(Duration::ZERO), false).await.unwrap();
    let tags = server.admin.tags(&"ann/cats".parse().unwrap()).await.unwrap();
    let dev: Vec<_> = tags.iter().filter(|tag| tag.tag.starts_with("dev-")).collect();
    assert!(dev.len() <= 2, "{dev:?}");
    drop(server.close().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_killed_leaves_the_one_before_whole() {
    let server = TestRegistry::open().await;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("backup");
    let (mut pushed, mut backed_up, mut killed_within) = (0, 0, 0);
    for round in 0..10u64 {
        let before = pushed;
        let child = start("back up", server.dir.path(), &folder);
        for _ in 0..4 {
            let layer = noise(pushed as u8, 20_000);
            server.push_image("ann/cats", &format!("v{pushed}"), &[b"{}", &layer]).await;
            pushed += 1;
        }
        sleep(Duration::from_millis(20 + round * 29)).await;
        match kill(child) {
            0 => killed_within += 1,
            _ => backed_up = before,
        }
        if backed_up == 0 {
            continue;
        }
        let to = tempfile::tempdir().unwrap();
        let restored = restore(&folder, to.path()).await.unwrap();
        assert!(restored.damaged.is_empty(), "{restored:?}");
        let other = TestRegistry::open_in(to, |_| ()).await;
        for n in 0..backed_up {
            assert!(is_whole(&other, &format!("v{n}")).await, "round {round}: v{n}");
        }
        drop(other.close().await);
    }
    // What was interrupted does not keep the next from its end.
    back_up(&server.admin, &folder).await.unwrap();
    assert!(!server.dir.path().join("snapshots").exists());
    println!("{killed_within} of 10 were killed within their first backup");
    assert!(backed_up > 0, "no backup came to its end");
    drop(server.close().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_is_killed_leaves_no_registry_and_goes_on_when_it_is_called_again() {
    let server = TestRegistry::open().await;
    for n in 0..60u8 {
        let layer = noise(n, 30_000);
        server.push_image("ann/cats", &format!("v{n}"), &[b"{}", &layer]).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("backup");
    back_up(&server.admin, &folder).await.unwrap();
    drop(server.close().await);
    let to = tempfile::tempdir().unwrap();
    let database = to.path().join("registry.db");
    for round in 0..12u64 {
        let child = start("restore", to.path(), &folder);
        sleep(Duration::from_millis(5 + round * 13)).await;
        if kill(child) > 0 || database.exists() {
            break;
        }
    }
    // One that was ended by the last kill is whole, and another call says that it is there.
    match restore(&folder, to.path()).await {
        Ok(restored) => assert!(restored.damaged.is_empty(), "{restored:?}"),
        Err(Error::RegistryThere { .. }) => assert!(database.exists()),
        Err(error) => panic!("{error}"),
    }
    let left: Vec<_> = fs::read_dir(to.path()).unwrap().map(|entry| entry.unwrap()).collect();
    let left = left.iter().map(|entry| entry.file_name().into_string().unwrap());
    assert!(!left.into_iter().any(|name| name.contains("restoring")), "nothing half-written");
    let restored = TestRegistry::open_in(to, |_| ()).await;
    for n in 0..60 {
        assert!(is_whole(&restored, &format!("v{n}")).await, "v{n}");
    }
    drop(restored.close().await);
}
