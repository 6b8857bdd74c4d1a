use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Child,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::client::TlsStream;

use super::{
    faults::serving_child,
    fixture::{connect_pinned, until},
};
use crate::{Client, CreateCredential, Credential, CredentialScope, limits::BODY_BYTES_FREE};

/// What 1,024 hostile connections may cost.
const HOSTILE_BYTES_MAX: u64 = 64 << 20;

/// Ends with its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Memory of a process that is in RAM, in bytes.
fn resident(process: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// A connection from the address 127.0.0.`host`.
async fn connect(credential: &Credential, host: u8) -> TlsStream<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0))).unwrap();
    let stream = socket.connect(credential.address.parse().unwrap()).await.unwrap();
    connect_pinned(&credential.ca_fingerprint, stream).await
}

async fn send(stream: &mut TlsStream<TcpStream>, bytes: &[u8]) {
    // A server that has refused closes, which is as good.
    let _ = timeout(Duration::from_secs(5), stream.write_all(bytes)).await;
    let _ = timeout(Duration::from_secs(5), stream.flush()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_hostile_connections_cost_at_most_64_mib() {
    let folder = tempfile::tempdir().unwrap();
    let process = Ended(serving_child(folder.path()));
    let client = Client::unix(folder.path().join("run/server.sock"));
    until("it answers", || async { client.health().await.ok() }).await;
    let file = std::fs::read(folder.path().join("server/credential.json")).unwrap();
    let operator: Credential = serde_json::from_slice(&file).unwrap();
    let wanted = CreateCredential {
        name: "hostile".parse().unwrap(),
        tenant: Some("hostile".parse().unwrap()),
        scope: CredentialScope::Manage,
        lifetime_seconds: None,
    };
    let hostile = client.create_credential(&wanted).await.unwrap();
    let asked = serde_json::json!({
        "tenant": hostile.tenant, "credential": hostile.name, "secret": hostile.secret,
    });
    let asked = asked.to_string();
    let head = |path: &str, token: &str, length: usize| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
             content-length: {length}\r\n\r\n"
        )
    };
    let mut first = connect(&operator, 1).await;
    send(&mut first, (head("/v1/access-tokens", "", asked.len()) + &asked).as_bytes()).await;
    let mut answer = vec![0; 4096];
    let read = first.read(&mut answer).await.unwrap();
    let body = answer[..read].split(|byte| *byte == b'{').nth(1).unwrap();
    let body = [b"{", body].concat();
    let token: Value = serde_json::from_slice(&body).unwrap();
    let token = token["token"].as_str().unwrap();

    let before = resident(&process.0);
    let mut held = Vec::new();
    for n in 0..1024_usize {
        let mut stream = connect(&operator, 2 + (n / 200) as u8).await;
        let request = match n % 5 {
            // A head that does not end.
            0 => format!("GET /v1/health HTTP/1.1\r\nx: {}", "x".repeat(60 << 10)).into_bytes(),
            // A body without a principal that lacks its last byte.
            1 => {
                let mut request = head("/v1/node/join", "", BODY_BYTES_FREE).into_bytes();
                request.extend(vec![b' '; BODY_BYTES_FREE - 1]);
                request
            }
            // One that is far too large.
            2 => {
                let mut request = head("/v1/access-tokens", "", 1 << 30).into_bytes();
                request.extend(vec![b' '; 64 << 10]);
                request
            }
            // A program for a task, whose frame does not end.
            3 => {
                let length = 128 << 10;
                let mut request = head("/v1/tasks/cats-1/exec", token, length).into_bytes();
                request.extend([4, 0, 1, 0xff, 0xff]);
                request.resize(request.len() + length - 6, b' ');
                request
            }
            // A tenant's, as large as it may be, that lacks its last byte.
            _ => {
                let mut request = head("/v1/task-definitions", token, 1 << 20).into_bytes();
                request.extend(vec![b' '; (1 << 20) - 1]);
                request
            }
        };
        // The server reads some of these no further.
        held.push(tokio::spawn(async move {
            send(&mut stream, &request).await;
            stream
        }));
    }
    let (until, mut most) = (Instant::now() + Duration::from_secs(3), 0);
    while Instant::now() < until {
        most = most.max(resident(&process.0));
        sleep(Duration::from_millis(50)).await;
    }
    drop(first);
    println!("{} connections: {} KiB", held.len(), most.saturating_sub(before) >> 10);
    assert!(most.saturating_sub(before) <= HOSTILE_BYTES_MAX, "{} MiB", (most - before) >> 20);
    assert!(client.health().await.is_ok(), "and its operator gets in");
}
