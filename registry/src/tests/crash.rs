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

use super::fixture::{House, ask, noise};
use crate::{Action, Config, Cost, Server, Tokens};

/// Where the child of the kill test finds its data; without it that test is nobody's child and does
/// nothing.
const DATA_DIR: &str = "REGISTRY_CRASH_TEST_DATA_DIR";
const READY: &str = "the registry listens on ";

/// Not a test of its own: the process that the next one kills, a registry.
#[tokio::test]
async fn serve_until_killed() {
    let Some(data_dir) = env::var_os(DATA_DIR) else { return };
    let mut config = Config::new(data_dir);
    config.cost = Cost::Lowest;
    let server = Server::open(config).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("\n{READY}{}", listener.local_addr().unwrap());
    server.serve(listener, std::future::pending()).await.unwrap();
}

fn start(data_dir: &Path) -> (Child, SocketAddr) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "tests::crash::serve_until_killed", "--nocapture"])
        .env(DATA_DIR, data_dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address =
        lines.map_while(Result::ok).find_map(|line| line.strip_prefix(READY)?.parse().ok());
    (child, address.expect("the child says where it listens"))
}

/// Pushes blobs until the registry stops answering, and says which it acknowledged.
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
                ask(address, &request, &[("authorization", &bearer)], bytes).await.status
            })
        };
        match pushing.await {
            Ok(StatusCode::CREATED) => acknowledged.push((digest, size)),
            _ => break, // it panics when nobody answers any more
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_registry_has_all_that_it_acknowledged() {
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
        // Long enough for some to be acknowledged, and some to be on the way.
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
    let house = House::open_in(dir, |_| ()).await;
    let bearer = format!("Bearer {}", house.token("ann/cats"));
    for (digest, size) in all {
        let answer = house
            .ask(&format!("GET /v2/ann/cats/blobs/{digest}"), &[("authorization", &bearer)], "")
            .await;
        assert_eq!((answer.status.as_u16(), answer.bytes.len()), (200, size), "{digest}");
        assert_eq!(Digest::of(&answer.bytes), digest);
    }
    let left = house.dir.path().join("uploads").read_dir().unwrap();
    let left: Vec<_> =
        left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| !name.ends_with(".part")), "{left:?}");
}
