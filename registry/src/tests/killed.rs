//! kill -9 at many points of retention, backup and restore: nothing acknowledged is lost.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use spec::Digest;
use tokio::time::sleep;

use super::{
    deletion::manifest_of,
    fixture::{TestRegistry, noise, send},
};
use crate::{
    Action, Admin, Config, Cost, Error, RetentionChange, RetentionRule, Server, Tokens, back_up,
    restore,
};

/// What the process that is killed does; without it that process is a test run, and does nothing.
const WORK: &str = "REGISTRY_KILLED_TEST_WORK";
const DATA_DIR: &str = "REGISTRY_KILLED_TEST_DATA_DIR";
const FOLDER: &str = "REGISTRY_KILLED_TEST_FOLDER";
const READY: &str = "the registry listens on ";
const DONE: &str = "one is done";

/// Not a test of its own: the process that the next tests kill.
#[tokio::test]
async fn work_until_killed() {
    let Ok(work) = env::var(WORK) else { return };
    let path = |name| env::var_os(name).map(std::path::PathBuf::from).expect("it is set");
    let data_dir = path(DATA_DIR);
    match work.as_str() {
        "retain" => {
            let mut config = Config::new(data_dir);
            config.cost = Cost::Lowest;
            config.limits.retain_interval = Duration::from_millis(5);
            config.limits.retain_grace = Duration::ZERO;
            config.limits.collect_interval = Duration::from_millis(20);
            config.limits.collect_grace = Duration::from_millis(200);
            let server = Server::open(config).await.unwrap();
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            println!("\n{READY}{}", listener.local_addr().unwrap());
            server.serve(listener, std::future::pending()).await.unwrap();
        }
        "back up" => loop {
            back_up(&Admin::new(&data_dir), &path(FOLDER)).await.unwrap();
            println!("\n{DONE}");
        },
        "restore" => {
            restore(&path(FOLDER), &data_dir).await.unwrap();
            println!("\n{DONE}");
        }
        other => panic!("{other}"),
    }
}

fn start(work: &str, data_dir: &Path, folder: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "tests::killed::work_until_killed", "--nocapture"])
        .env(WORK, work)
        .env(DATA_DIR, data_dir)
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Kills it, and counts what it has done.
fn kill(mut child: Child) -> usize {
    child.kill().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let done = out.filter(|line| line.starts_with(DONE)).count();
    child.wait().unwrap();
    done
}

/// Pushes images until the registry stops answering: every second under a tag that a rule keeps.
/// Returns those of these that were acknowledged.
async fn push_until_it_dies(address: SocketAddr, bearer: String, lane: u8) -> Vec<String> {
    let mut kept = Vec::new();
    let send = |request: String, body: Vec<u8>| {
        let bearer = bearer.clone();
        let sending = async move {
            let kind = ("content-type", "application/vnd.oci.image.manifest.v1+json");
            send(address, &request, &[("authorization", &bearer), kind], body).await.status
        };
        // It panics when the connection is refused.
        async { tokio::spawn(sending).await.ok().map(|status| status.as_u16()) }
    };
    for round in 0u32.. {
        let config = format!("{{\"lane\":{lane},\"round\":{round}}}").into_bytes();
        let blobs = [config, noise((round % 3) as u8, 3000)];
        for blob in &blobs {
            let digest = Digest::of(blob);
            let request = format!("POST /v2/ann/cats/blobs/uploads/?digest={digest}");
            if send(request, blob.clone()).await.is_none() {
                return kept;
            }
        }
        let manifest = manifest_of(&blobs.each_ref().map(Vec::as_slice)).into_bytes();
        let kind = if round % 2 == 0 { "keep" } else { "dev" };
        let tag = format!("{kind}-{lane}-{round}");
        match send(format!("PUT /v2/ann/cats/manifests/{tag}"), manifest).await {
            Some(201) if kind == "keep" => kept.push(tag),
            Some(_) => {} // a blob's grace time may be over
            None => return kept,
        }
    }
    kept
}

/// The image of a tag is there with all that it names.
async fn is_whole(server: &TestRegistry, tag: &str) -> bool {
    let bearer = format!("Bearer {}", server.token("ann/cats"));
    let with = [("authorization", bearer.as_str())];
    let path = format!("GET /v2/ann/cats/manifests/{tag}");
    let answer = server.request(&path, &with, "").await;
    let Ok(manifest) = serde_json::from_slice::<serde_json::Value>(&answer.bytes) else {
        return false;
    };
    let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
    let blobs = layers.into_iter().chain([manifest["config"].clone()]);
    for blob in blobs {
        let Some(digest) = blob["digest"].as_str() else { return false };
        let path = format!("GET /v2/ann/cats/blobs/{digest}");
        if server.request(&path, &with, "").await.status != 200 {
            return false;
        }
    }
    answer.status == 200
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_killed_while_it_retains_keeps_what_its_rules_keep() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for round in 0..8u8 {
        let mut child = start("retain", dir.path(), dir.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.find_map(|line| line.strip_prefix(READY)?.parse().ok());
        let address = address.expect("the child prints its address");
        let admin = Admin::new(dir.path());
        admin
            .put_user(&"ann".parse().unwrap(), "correct horse", crate::Existing::Any)
            .await
            .unwrap();
        for (tags, last) in [("keep-*", None), ("dev-*", Some(2))] {
            let rule = RetentionRule { tags: tags.to_owned(), last, ..RetentionRule::default() };
            let change = RetentionChange { rule: Some(rule), untagged_seconds: Some(1) };
            admin.change_retention("ann/cats", &change).await.unwrap();
        }
        let tokens = Tokens::open(dir.path()).unwrap();
        let access = [("ann/cats".parse().unwrap(), vec![Action::Pull, Action::Push])];
        let bearer = format!("Bearer {}", tokens.mint("test", &access, Duration::from_secs(60)));
        let pushers: Vec<_> = (0..3)
            .map(|lane| {
                let lane = round * 3 + lane;
                tokio::spawn(push_until_it_dies(address, bearer.clone(), lane))
            })
            .collect();
        // At another point of what it does each time.
        sleep(Duration::from_millis(150 + u64::from(round) * 41)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        for pusher in pushers {
            all.extend(pusher.await.unwrap());
        }
    }
    assert!(all.len() > 10, "only {} images came through", all.len());
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
