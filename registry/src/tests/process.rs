//! A registry in a process of its own, which is killed at many points of what it does.

use std::{
    env,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use spec::Digest;

use super::{
    deletion::manifest_of,
    fixture::{TestRegistry, send},
};
use crate::{Action, Admin, Config, Cost, Server, Tokens, back_up, restore};

/// What the process does; without it that process is a test run, and does nothing.
const WORK: &str = "REGISTRY_KILLED_TEST_WORK";
const DATA_DIR: &str = "REGISTRY_KILLED_TEST_DATA_DIR";
const FOLDER: &str = "REGISTRY_KILLED_TEST_FOLDER";
/// How many times as often as usual processes are killed.
const TIMES: &str = "REGISTRY_KILLED_TEST_TIMES";
const READY: &str = "the registry listens on ";
const DONE: &str = "one is done";

/// At once, and each with numbers of their own.
const LANES: u32 = 3;

/// Not a test of its own: the process that other tests kill.
#[tokio::test]
async fn work_until_killed() {
    let Ok(work) = env::var(WORK) else { return };
    let path = |name| env::var_os(name).map(PathBuf::from).expect("it is set");
    let data_dir = path(DATA_DIR);
    let mut config = Config::new(&data_dir);
    config.cost = Cost::Lowest;
    match work.as_str() {
        "serve" => serve(config).await,
        "collect" => {
            config.limits.collect_interval = Duration::from_millis(5);
            config.limits.collect_grace = Duration::from_millis(100);
            serve(config).await;
        }
        "retain" => {
            config.limits.retain_interval = Duration::from_millis(5);
            config.limits.retain_grace = Duration::ZERO;
            config.limits.collect_interval = Duration::from_millis(20);
            config.limits.collect_grace = Duration::from_millis(200);
            serve(config).await;
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

async fn serve(config: Config) {
    let server = Server::open(config).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("\n{READY}{}", listener.local_addr().unwrap());
    server.serve(listener, std::future::pending()).await.unwrap();
}

/// Killed at the latest when the test has failed.
pub(super) struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn start(work: &str, data_dir: &Path, folder: &Path) -> Killed {
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "tests::process::work_until_killed", "--nocapture"])
        .env(WORK, work)
        .env(DATA_DIR, data_dir)
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn();
    Killed(child.unwrap())
}

/// Kills it, and counts what it has done.
pub(super) fn kill(mut child: Killed) -> usize {
    child.0.kill().unwrap();
    let out = BufReader::new(child.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    out.filter(|line| line.starts_with(DONE)).count()
}

/// A client of the registry that is killed.
#[derive(Clone)]
pub(super) struct Lane {
    address: SocketAddr,
    bearer: String,
    pub number: u32,
}

impl Lane {
    /// The status and the bytes of the answer; nothing when the registry is gone.
    pub async fn ask(&self, request: &str, body: Vec<u8>) -> Option<(u16, Vec<u8>)> {
        let (lane, request) = (self.clone(), request.to_owned());
        let sending = async move {
            let kind = ("content-type", "application/vnd.oci.image.manifest.v1+json");
            let with = [("authorization", lane.bearer.as_str()), kind];
            let answer = send(lane.address, &request, &with, body).await;
            (answer.status.as_u16(), answer.bytes.to_vec())
        };
        // It panics when the connection is refused.
        tokio::spawn(sending).await.ok()
    }

    pub async fn push_blob(&self, blob: &[u8]) -> Option<u16> {
        let digest = Digest::of(blob);
        let request = format!("POST /v2/ann/cats/blobs/uploads/?digest={digest}");
        Some(self.ask(&request, blob.to_vec()).await?.0)
    }

    /// An image of these blobs, under a tag or its digest alone. The status, and the digest.
    pub async fn push_image(&self, blobs: &[Vec<u8>], tag: Option<&str>) -> Option<(u16, Digest)> {
        for blob in blobs {
            self.push_blob(blob).await?;
        }
        let parts: Vec<_> = blobs.iter().map(Vec::as_slice).collect();
        let manifest = manifest_of(&parts).into_bytes();
        let image = Digest::of(&manifest);
        let name = tag.map_or_else(|| image.to_string(), str::to_owned);
        let (status, _) = self.ask(&format!("PUT /v2/ann/cats/manifests/{name}"), manifest).await?;
        Some((status, image))
    }
}

/// After `prepare`, starts a registry that does `work`, lets `push` go on in some lanes, waits for
/// `until`, and kills it; so many `rounds`. What the lanes returned, which was acknowledged.
pub(super) async fn kill_while<T, P>(
    data_dir: &Path,
    work: &str,
    rounds: u32,
    (prepare, until): (impl Fn(u32), impl AsyncFn(u32)),
    push: impl Fn(Lane) -> P,
) -> Vec<T>
where
    T: Send + 'static,
    P: Future<Output = Vec<T>> + Send + 'static,
{
    let times = env::var(TIMES).map_or(1, |times| times.parse().expect("a number"));
    let mut all = Vec::new();
    for round in 0..rounds * times {
        prepare(round);
        let mut child = start(work, data_dir, data_dir);
        let mut lines =
            BufReader::new(child.0.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.find_map(|line| line.strip_prefix(READY)?.parse().ok());
        let address = address.expect("the child prints its address");
        let tokens = Tokens::open(data_dir).unwrap();
        let actions = vec![Action::Pull, Action::Push, Action::Delete];
        let access = [("ann/cats".parse().unwrap(), actions)];
        let bearer = format!("Bearer {}", tokens.mint("test", &access, Duration::from_secs(60)));
        let lanes: Vec<_> = (0..LANES)
            .map(|lane| {
                let number = round * LANES + lane;
                tokio::spawn(push(Lane { address, bearer: bearer.clone(), number }))
            })
            .collect();
        until(round % rounds).await;
        drop(child);
        for lane in lanes {
            all.extend(lane.await.unwrap());
        }
    }
    assert!(all.len() > 10, "only {} pushes came through", all.len());
    all
}

/// The image of a tag or a digest is there with all that it names.
pub(super) async fn is_whole(server: &TestRegistry, name: &str) -> bool {
    let bearer = format!("Bearer {}", server.token("ann/cats"));
    let with = [("authorization", bearer.as_str())];
    let path = format!("GET /v2/ann/cats/manifests/{name}");
    let answer = server.request(&path, &with, "").await;
    let Ok(manifest) = serde_json::from_slice::<serde_json::Value>(&answer.bytes) else {
        return false;
    };
    let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
    let blobs = layers.into_iter().chain([manifest["config"].clone()]);
    for blob in blobs {
        let Some(digest) = blob["digest"].as_str() else { return false };
        let path = format!("GET /v2/ann/cats/blobs/{digest}");
        let answer = server.request(&path, &with, "").await;
        if answer.status != 200 || Digest::of(&answer.bytes).to_string() != digest {
            return false;
        }
    }
    answer.status == 200
}
