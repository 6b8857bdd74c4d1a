//! The ingress beside nginx as a reverse proxy for the same backend: plain hyper on a socket. The
//! proxies have core 0; what drives them and what they lead to have core 1.

use std::{
    cell::RefCell,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    time::timeout,
};

use crate::{
    idle::family,
    load::{self, Server},
    machine,
    measure::{self, Contender},
    platform::Margay,
    routes,
};

const ROUNDS: usize = 5;
const CONNECTIONS: usize = 64;
const ROUND: Duration = Duration::from_secs(3);
const HOST: &str = "bench.localhost";
/// In a row on one connection, for a time that has no queue in it.
const REQUESTS: usize = 5_000;
const KEPT: usize = 10_000;
/// Of one address, of which the ingress takes 2,500, and less with few descriptors.
const KEPT_OF_AN_ADDRESS: usize = 500;
/// What `prlimit` gives this process and all below it, where it may: with fewer descriptors than it
/// wants, the ingress takes fewer connections.
const DESCRIPTORS: &str = "--nofile=65536:65536";
/// For the answer on one of them. One that has none in this time is more than the proxy takes.
const KEPT_ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// A proxy that runs, and where.
struct Proxy {
    name: &'static str,
    server: Server,
    port: u16,
}

/// The backend, and the folders of both proxies.
struct Stand {
    _backend: Server,
    backend_port: u16,
    socket: PathBuf,
    folder: tempfile::TempDir,
}

/// Requests, time on top of the backend's own port, connections that are kept, and handshakes.
pub fn run(margay: &Margay) -> Result<()> {
    let Some(wrk) = machine::peer("wrk", "apt-get install wrk") else { return Ok(()) };
    let Some(nginx) = machine::peer("nginx", "apt-get install nginx-light") else { return Ok(()) };
    raise_descriptors();
    let stand = Stand::set_up(margay)?;
    let proxies = [stand.ingress(margay, None)?, stand.nginx(&nginx, None)?];
    for proxy in &proxies {
        proxy.wait()?;
    }
    rates(&wrk, &proxies)?;
    times(stand.backend_port, &proxies)?;
    kept(&proxies)?;
    routes::changes(&margay.home().join("ingress/routes.json"), proxies[0].port)?;
    drop(proxies);
    let Some(openssl) = machine::peer("openssl", "apt-get install openssl") else { return Ok(()) };
    let certificate = certificate(&openssl, stand.folder.path())?;
    let proxies =
        [stand.ingress(margay, Some(&certificate))?, stand.nginx(&nginx, Some(&certificate))?];
    handshakes(&openssl, &proxies)
}

fn rates(wrk: &Path, proxies: &[Proxy; 2]) -> Result<()> {
    let host = format!("Host: {HOST}");
    let spent = proxies.each_ref().map(|_| RefCell::<measure::Samples>::default());
    let contenders = proxies.iter().zip(&spent).map(|(proxy, spent)| {
        let url = format!("http://127.0.0.1:{}/whoami", proxy.port);
        let host = host.clone();
        Contender::new(proxy.name, move || {
            let before = proxy.server.cpu_time();
            let load = load::wrk_with(wrk, &url, CONNECTIONS, ROUND, &["-H", &host])?;
            let time = proxy.server.cpu_time().saturating_sub(before);
            spent.borrow_mut().push(time.as_secs_f64() * 1e6 / load.answers);
            Ok(load.rate)
        })
    });
    let results = measure::in_turn(ROUNDS, contenders.collect())?;
    let nginx = results[1].1.median();
    let rows: Vec<_> = results
        .iter()
        .zip(&spent)
        .map(|((name, rates), spent)| {
            let ratio = format!("{:.2}", rates.median() / nginx);
            [name.clone(), rates.show("req/s"), ratio, spent.borrow().show("us")]
        })
        .collect();
    let head =
        ["64 connections, 1 core", "median (min to max)", "/ nginx", "processor time of each"];
    measure::table(head, &rows);
    println!();
    Ok(())
}

fn raise_descriptors() {
    let own = std::process::id().to_string();
    let raised = Command::new("prlimit").args(["--pid", &own, DESCRIPTORS]).output();
    if !raised.is_ok_and(|output| output.status.success()) {
        println!("The limit of open files cannot be raised (`ulimit -Hn`).\n");
    }
    net::Descriptors::raise();
}

/// The median of many requests in a row, in microseconds.
fn time_of(port: u16) -> Result<f64> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream);
    let request = format!("GET /whoami HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    let mut times = measure::Samples::default();
    let (mut line, mut body) = (String::new(), Vec::new());
    for _ in 0..REQUESTS {
        let began = Instant::now();
        reader.get_mut().write_all(request.as_bytes())?;
        let mut length = 0;
        loop {
            line.clear();
            ensure!(reader.read_line(&mut line)? > 0, "port {port} closed the connection");
            let header = line.trim().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        times.push_unsorted(began.elapsed().as_secs_f64() * 1e6);
    }
    times.sort();
    Ok(times.median())
}

fn times(direct: u16, proxies: &[Proxy; 2]) -> Result<()> {
    let mut contenders = vec![Contender::new("the backend itself", || time_of(direct))];
    for proxy in proxies {
        contenders.push(Contender::new(proxy.name, || time_of(proxy.port)));
    }
    let results = measure::in_turn(ROUNDS, contenders)?;
    let direct = results[0].1.median();
    let rows: Vec<_> = results
        .iter()
        .map(|(name, times)| {
            [name.clone(), times.show("us"), format!("{:.1} us", times.median() - direct)]
        })
        .collect();
    measure::table(["p50, one connection", "median (min to max)", "on top"], &rows);
    println!();
    Ok(())
}

/// What both keep for connections that have had one answer.
fn kept(proxies: &[Proxy; 2]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut rows, mut most) = (Vec::new(), KEPT);
    for proxy in proxies {
        let before = resident(proxy.server.id());
        let held = runtime.block_on(keep(proxy.port, most))?;
        let after = resident(proxy.server.id());
        most = held.len();
        let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
        let each = after.saturating_sub(before) as f64 / 1e3 / held.len() as f64;
        let count = held.len().to_string();
        let each = format!("{each:.1} KB");
        rows.push([proxy.name.to_owned(), count, megabytes(before), megabytes(after), each]);
        drop(held);
    }
    let head = ["keep-alive", "connections", "resident before", "with them", "each"];
    measure::table(head, &rows);
    println!();
    Ok(())
}

/// As many connections as are answered, up to `most`.
async fn keep(port: u16, most: usize) -> Result<Vec<tokio::net::TcpStream>> {
    let mut held = Vec::new();
    for number in 0..most {
        match timeout(KEPT_ANSWER_TIME_MAX, keep_one(port, number)).await {
            Ok(stream) => held.push(stream?),
            Err(_) => break,
        }
    }
    ensure!(held.len() > 1, "port {port} keeps no connections");
    Ok(held)
}

async fn keep_one(port: u16, number: usize) -> Result<tokio::net::TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let address = u8::try_from(2 + number / KEPT_OF_AN_ADDRESS)?;
    socket.bind(([127, 0, 0, address], 0).into())?;
    let mut stream = socket.connect(([127, 0, 0, 1], port).into()).await?;
    let request = format!("GET /whoami HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = [0; 1024];
    let read = stream.read(&mut answer).await?;
    ensure!(answer[..read].starts_with(b"HTTP/1.1 200"), "connection {number} has no answer");
    Ok(stream)
}

fn resident(root: u32) -> u64 {
    let pages = family(root).into_iter().filter_map(|pid| {
        let fields = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        fields.split(' ').nth(1)?.parse::<u64>().ok()
    });
    4096 * pages.sum::<u64>()
}

/// Handshakes for a second of the server's processor: what drives them needs more than it.
fn handshakes(openssl: &Path, proxies: &[Proxy; 2]) -> Result<()> {
    for proxy in proxies {
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", proxy.port)).is_err() {
            ensure!(Instant::now() < until, "{} does not listen", proxy.name);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let contenders = proxies.iter().map(|proxy| {
        Contender::new(proxy.name, || {
            let before = proxy.server.cpu_time();
            let output = machine::pinned(1, openssl)
                .args(["s_time", "-new", "-time", "3", "-connect"])
                .arg(format!("127.0.0.1:{}", proxy.port))
                .output()?;
            let text = String::from_utf8_lossy(&output.stdout);
            let line =
                text.lines().find(|line| line.contains("connections in") && line.contains("real"));
            let count: f64 = line
                .and_then(|line| line.split(' ').next())
                .with_context(|| format!("openssl s_time counted nothing: {text}"))?
                .parse()?;
            let spent = proxy.server.cpu_time().saturating_sub(before);
            Ok(count / spent.as_secs_f64())
        })
    });
    let results = measure::in_turn(ROUNDS, contenders.collect())?;
    let nginx = results[1].1.median();
    let rows: Vec<_> = results
        .iter()
        .map(|(name, rates)| {
            [name.clone(), rates.show("/s"), format!("{:.2}", rates.median() / nginx)]
        })
        .collect();
    measure::table(
        ["TLS 1.3 handshakes, P-256, a second of a processor", "median (min to max)", "/ nginx"],
        &rows,
    );
    Ok(())
}

fn certificate(openssl: &Path, folder: &Path) -> Result<[PathBuf; 2]> {
    let [chain, key] = ["tls.crt", "tls.key"].map(|name| folder.join(name));
    let made = Command::new(openssl)
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=bench.localhost"])
        .args(["-addext", "subjectAltName=DNS:bench.localhost"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&chain)
        .output()?;
    ensure!(made.status.success(), "openssl req: {}", String::from_utf8_lossy(&made.stderr));
    Ok([chain, key])
}

impl Proxy {
    fn wait(&self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(20);
        while time_of_one(self.port).is_err() {
            ensure!(Instant::now() < until, "{} does not answer", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

fn time_of_one(port: u16) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET /whoami HTTP/1.1\r\nhost: {HOST}\r\n\r\n")?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    ensure!(&status == b"HTTP/1.1 200", "no success");
    Ok(())
}

impl Stand {
    /// A folder of routes with one replica, as an agent writes it, and what answers there.
    fn set_up(margay: &Margay) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))?;
        let shared = margay.home().join("ingress");
        std::fs::create_dir_all(shared.join("sockets"))?;
        let mut name = spec::Digest::of(b"me/a/80").hex();
        name.truncate(32);
        let socket = shared.join("sockets").join(format!("{name}.sock"));
        let routes = serde_json::json!({
            "version": 1,
            "node": "n1",
            "routes": {
                "version": 1,
                "hosts": { HOST: [
                    { "node": "n1", "tenant": "me", "task": "a", "container_port": 80 }
                ] },
                "ingresses": {},
            },
        });
        let file = shared.join("routes.json");
        std::fs::write(&file, routes.to_string())?;
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644))?;
        let backend_port = load::free_port()?;
        let backend = Server::start(
            machine::pinned(1, &std::env::current_exe()?)
                .args(["plain-hyper", &backend_port.to_string()])
                .arg(&socket),
        )?;
        load::wait_for(&format!("http://127.0.0.1:{backend_port}/"))?;
        // The ingress and nginx's workers are users of their own.
        std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o666))?;
        Ok(Self { _backend: backend, backend_port, socket, folder })
    }

    fn ingress(&self, margay: &Margay, tls: Option<&[PathBuf; 2]>) -> Result<Proxy> {
        let port = load::free_port()?;
        let mut command = margay.pinned(["ingress", "--listen", &format!("127.0.0.1:{port}")]);
        if let Some([chain, key]) = tls {
            command.arg("--tls-cert").arg(chain).arg("--tls-key").arg(key);
        }
        Ok(Proxy { name: "margay ingress", server: Server::start(&mut command)?, port })
    }

    fn nginx(&self, nginx: &Path, tls: Option<&[PathBuf; 2]>) -> Result<Proxy> {
        let port = load::free_port()?;
        let own = self.folder.path().display();
        let config = self.folder.path().join(format!("nginx-{port}.conf"));
        let (listen, certificate) = match tls {
            Some([chain, key]) => (
                "ssl",
                format!(
                    "ssl_certificate {}; ssl_certificate_key {};",
                    chain.display(),
                    key.display()
                ),
            ),
            None => ("", String::new()),
        };
        let text = format!(
            "daemon off; worker_processes 1; worker_rlimit_nofile 65536; pid {own}/pid;\n\
             error_log {own}/error.log; user root; events {{ worker_connections 32768; }}\n\
             http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 60s;\n\
             upstream backend {{ server unix:{}; keepalive 64; keepalive_requests 100000000; }}\n\
             server {{ listen 127.0.0.1:{port} {listen} backlog=1024; {certificate}\n\
             location / {{ proxy_pass http://backend; proxy_http_version 1.1;\n\
             proxy_set_header Connection \"\"; proxy_set_header Host $host;\n\
             proxy_set_header X-Forwarded-For $remote_addr;\n\
             proxy_set_header X-Forwarded-Proto $scheme;\n\
             proxy_set_header X-Request-ID $request_id; }} }} }}\n",
            self.socket.display()
        );
        std::fs::write(&config, text)?;
        let mut command = machine::pinned(0, nginx);
        command.arg("-c").arg(&config).arg("-p").arg(self.folder.path());
        Ok(Proxy { name: "nginx, 1 worker", server: Server::start(&mut command)?, port })
    }
}
