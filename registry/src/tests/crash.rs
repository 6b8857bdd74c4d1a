use std::{
    env,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use http::StatusCode;
use spec::Digest;
use tokio::time::{Instant, sleep};

use super::{
    collect::files,
    deletion::manifest_of,
    fixture::{TestRegistry, noise, send},
};
use crate::{Action, Config, Cost, Server, Tokens};

/// The data folder of the process that is killed; without it that process is a test run, and does
/// nothing.
const DATA_DIR: &str = "REGISTRY_CRASH_TEST_DATA_DIR";
/// Set where that process collects without end.
const COLLECTS: &str = "REGISTRY_CRASH_TEST_COLLECTS";
const READY: &str = "the registry listens on ";

/// Not a test of its own: the registry process that the next test kills.
#[tokio::test]
async fn serve_until_killed() {
    let Some(data_dir) = env::var_os(DATA_DIR) else { return };
    let mut config = Config::new(data_dir);
    config.cost = Cost::Lowest;
    if env::var_os(COLLECTS).is_some() {
        config.limits.collect_interval = Duration::from_millis(5);
        config.limits.collect_grace = Duration::from_millis(100);
    }
    let server = Server::open(config).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("\n{READY}{}", listener.local_addr().unwrap());
    server.serve(listener, std::future::pending()).await.unwrap();
}

fn start(data_dir: &Path) -> (Child, SocketAddr) {
    start_with(data_dir, None)
}

fn start_with(data_dir: &Path, collects: Option<&str>) -> (Child, SocketAddr) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "tests::crash::serve_until_killed", "--nocapture"])
        .env(DATA_DIR, data_dir)
        .envs(collects.map(|_| (COLLECTS, "yes")))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address =
        lines.map_while(Result::ok).find_map(|line| line.strip_prefix(READY)?.parse().ok());
    (child, address.expect("the child prints its address"))
}

/// Pushes blobs until the registry stops answering, and returns those that it acknowledged.
async fn push_until_it_dies(address: SocketAddr, bearer: String, lane: u8) -> Vec<(Digest, usize)> {
    let mut acknowledged = Vec::new();
    for round in 0u32.. {
        let mut bytes = noise(lane, 1 + (round as usize * 7919) % 90_000);
        bytes.extend(round.to_le_bytes());
        let (digest, size) = (Digest::of(&bytes), bytes.len());
        let request = format!("POST /v2/ann/cats/blobs/uploads/?digest={digest}");
        let pushing = {
            let bearer = bearer.clone();
            tokio::spawn(async move {
                send(address, &request, &[("authorization", &bearer)], bytes).await.status
            })
        };
        match pushing.await {
            Ok(StatusCode::CREATED) => acknowledged.push((digest, size)),
            _ => break, // it panics when the connection is refused
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_registry_keeps_everything_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for round in 0..3 {
        let (mut child, address) = start(dir.path());
        let tokens = Tokens::open(dir.path()).unwrap();
        let access = [("ann/cats".parse().unwrap(), vec![Action::Pull, Action::Push])];
        let bearer = format!("Bearer {}", tokens.mint("test", &access, Duration::from_secs(60)));
        let pushers: Vec<_> = (0..3)
            .map(|lane| tokio::spawn(push_until_it_dies(address, bearer.clone(), round * 3 + lane)))
            .collect();
        // Long enough for some to be acknowledged, and some to be in progress.
        let until = Instant::now() + Duration::from_secs(10);
        while dir.path().join("blobs/sha256").read_dir().map_or(0, Iterator::count) < 40
            && Instant::now() < until
        {
            sleep(Duration::from_millis(5)).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for pusher in pushers {
            all.extend(pusher.await.unwrap());
        }
    }
    assert!(all.len() > 10, "only {} pushes came through", all.len());
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

/// Pushes images of blobs that others of them share, and deletes every second, until the registry
/// stops answering. Returns those that it acknowledged.
async fn push_images_until_it_dies(
    address: SocketAddr,
    bearer: String,
    lane: u8,
) -> Vec<(Digest, Vec<Digest>)> {
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
        let blobs = [config, noise((round % 3) as u8, 3000), noise(lane, 500)];
        for blob in &blobs {
            let digest = Digest::of(blob);
            let request = format!("POST /v2/ann/cats/blobs/uploads/?digest={digest}");
            if send(request, blob.clone()).await.is_none() {
                return kept;
            }
        }
        let manifest = manifest_of(&blobs.each_ref().map(Vec::as_slice)).into_bytes();
        let image = Digest::of(&manifest);
        let path = format!("/v2/ann/cats/manifests/{image}");
        match send(format!("PUT {path}"), manifest).await {
            Some(201) => {}
            Some(_) => continue, // a blob's grace time was over
            None => return kept,
        }
        match round % 2 {
            0 => kept.push((image, blobs.iter().map(|blob| Digest::of(blob)).collect())),
            _ if send(format!("DELETE {path}"), vec![]).await.is_none() => return kept,
            _ => {}
        }
    }
    kept
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_killed_while_it_collects_keeps_every_image_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for round in 0..8u8 {
        let (mut child, address) = start_with(dir.path(), Some("yes"));
        let tokens = Tokens::open(dir.path()).unwrap();
        let actions = vec![Action::Pull, Action::Push, Action::Delete];
        let access = [("ann/cats".parse().unwrap(), actions)];
        let bearer = format!("Bearer {}", tokens.mint("test", &access, Duration::from_secs(60)));
        let pushers: Vec<_> = (0..3)
            .map(|lane| {
                let lane = round * 3 + lane;
                tokio::spawn(push_images_until_it_dies(address, bearer.clone(), lane))
            })
            .collect();
        // At another point of what it does each time.
        sleep(Duration::from_millis(150 + u64::from(round) * 37)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        for pusher in pushers {
            all.extend(pusher.await.unwrap());
        }
    }
    assert!(all.len() > 10, "only {} images came through", all.len());
    let server = TestRegistry::open_in(dir, |_| ()).await;
    for (image, blobs) in &all {
        let of_blobs = blobs.iter().map(|blob| format!("blobs/{blob}"));
        for path in of_blobs.chain([format!("manifests/{image}")]) {
            let request = format!("GET /v2/ann/cats/{path}");
            assert_eq!(server.ask("ann/cats", &request).await.0, 200, "{path}");
        }
    }
    server.admin.remove_repository(&"ann/cats".parse().unwrap()).await.unwrap();
    server.admin.collect(Some(Duration::ZERO), false).await.unwrap();
    assert_eq!(files(server.dir.path()), 0, "what a killed process left behind comes back too");
}
