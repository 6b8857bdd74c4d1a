//! Stock servers from unchanged packages of Debian: they start as root or as a user of the image,
//! serve, stop at once, and find their data at the next start. They need root, an OCI runtime, and
//! what `tests/fetch-servers` has unpacked; without, the journey says that it did not run.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    stage::{Stage, eventually, get},
    subordinate::{self, GROUP, RANGE},
};

pub fn rootfs() -> Option<PathBuf> {
    let root = std::env::var_os("MARGAY_TEST_SERVERS").map(PathBuf::from)?;
    let runs = rustix::process::geteuid().is_root() && root.join("usr/sbin/nginx").exists();
    let found = runs.then_some(root);
    if found.is_none() {
        println!("SKIPPED: no stock server was run: as root, tests/run fetches them");
    }
    found
}

const NGINX: &str = "server { listen 80 default_server; root /usr/share/nginx/html; }\n";

/// As official images begin: root gives the data to the server's user, and becomes that user.
const REDIS: &str = "#!/bin/sh\nset -e\nchown redis:redis /data\nexec setpriv --reuid=redis --regid=redis --init-groups \
                     redis-server --bind 0.0.0.0 --protected-mode no --dir /data\n";
const POSTGRES: &str = r#"#!/bin/sh
set -e
export PGDATA=/var/lib/postgresql/data PATH=/usr/lib/postgresql/15/bin:$PATH
if [ "$(id -u)" = 0 ]; then
  mkdir -p /var/run/postgresql
  chown -R postgres:postgres "$PGDATA" /var/run/postgresql
  chmod 700 "$PGDATA"
  exec setpriv --reuid=postgres --regid=postgres --init-groups "$0"
fi
[ -s "$PGDATA/PG_VERSION" ] || initdb -U postgres --auth=trust >/dev/null
exec postgres
"#;
/// In one transaction, so that a client sees the table with its row.
const QUERY: &str = "CREATE TABLE IF NOT EXISTS cats (name text); INSERT INTO cats VALUES ('Tom'); SELECT count(*) FROM cats";
/// Node's own handler raises the signal once more, which the kernel drops for a first process:
/// without one of the program's a stop takes its whole grace period, as in Docker.
const NODE: &str = "const fs = require('fs'), file = '/var/count';\n\
    require('http').createServer((request, response) => {\n\
      let count = 0;\n\
      try { count = +fs.readFileSync(file) } catch {}\n\
      fs.writeFileSync(file, String(count + 1));\n\
      response.end(`visit ${count + 1}`);\n\
    }).listen(3000);\n\
    process.on('SIGTERM', () => process.exit());\n";

/// None of them waits for its kill, which comes after ten seconds.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);

struct Server {
    name: &'static str,
    dockerfile: &'static str,
    port: u16,
}

const SERVERS: [Server; 5] = [
    Server {
        name: "nginx",
        dockerfile: "CMD [\"/usr/sbin/nginx\", \"-g\", \"daemon off;\"]",
        port: 80,
    },
    Server { name: "redis", dockerfile: "VOLUME /data\nENTRYPOINT [\"/redis.sh\"]", port: 6379 },
    Server {
        name: "postgres",
        dockerfile: "VOLUME /var/lib/postgresql/data\nSTOPSIGNAL SIGINT\nENTRYPOINT [\"/postgres.sh\"]",
        port: 5432,
    },
    Server {
        name: "python",
        dockerfile: "USER www-data\nWORKDIR /usr/share/nginx/html\nCMD [\"python3\", \"-m\", \"http.server\", \"8000\"]",
        port: 8000,
    },
    Server { name: "node", dockerfile: "CMD [\"node\", \"/app.js\"]", port: 3000 },
];

fn build(stage: &Stage, root: &Path) {
    // A link to a file changes it, as a build sees it that another test has under way.
    static LINKING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = LINKING.lock().unwrap_or_else(PoisonError::into_inner);
    let packed = Command::new("cp").arg("-al").arg(root).arg(stage.path("rootfs")).status();
    assert!(packed.expect("cp").success());
    for (file, lines) in [
        (
            "passwd",
            "redis:x:101:101::/data:/bin/sh\npostgres:x:102:102::/var/lib/postgresql:/bin/sh\n",
        ),
        ("group", "redis:x:101:\npostgres:x:102:\n"),
    ] {
        let known = std::fs::read_to_string(root.join("etc").join(file)).expect("a user database");
        stage.write(&format!("etc/{file}"), known + lines);
    }
    stage.write("default.conf", NGINX);
    stage.write("app.js", NODE);
    for (name, script) in [("redis.sh", REDIS), ("postgres.sh", POSTGRES)] {
        let path = stage.write(name, script);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(path, mode).expect("a program");
    }
    stage.write(
        "Dockerfile",
        "FROM scratch\nCOPY rootfs/ /\nCOPY etc/ /etc/\nCOPY default.conf /etc/nginx/conf.d/\nCOPY redis.sh postgres.sh app.js /\n",
    );
    stage.margay(["build", "-t", "servers", "."]).ok();
    for Server { name, dockerfile, .. } in &SERVERS {
        stage.write(&format!("{name}/Dockerfile"), format!("FROM servers\n{dockerfile}\n"));
        stage.margay(["build", "-t", name, name]).ok();
    }
    std::fs::remove_dir_all(stage.path("rootfs")).expect("its links go");
}

/// Its first start, or the next one of the same task.
fn start(stage: &Stage, server: &Server, round: usize) -> String {
    let publish = format!("127.0.0.1:0:{}", server.port);
    let name = server.name;
    match round {
        1 => stage.margay(["run", "-d", "-m", "512m", "--name", name, "-p", &publish, name]).ok(),
        _ => stage.margay(["start", name]).ok(),
    };
    eventually("it has a port", || {
        let list = stage.margay(["ps", "--output", "json"]).ok();
        let list: Value = serde_json::from_str(&list).ok()?;
        let task = list.as_array()?.iter().find(|task| task["name"] == name)?.clone();
        Some(format!("127.0.0.1:{}", task["ports"][0]["host_port"].as_u64()?))
    })
}

fn page(address: &str, content: &str) -> Option<()> {
    let answer = get(address, "localhost", "/")?;
    String::from_utf8_lossy(&answer.body).contains(content).then_some(())
}

/// One request in a protocol of lines, and what is answered within a moment.
fn ask(address: &str, request: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = [0; 64];
    let length = stream.read(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).into_owned())
}

fn sql(address: &str, root: &Path) -> Option<String> {
    let port = address.rsplit(':').next()?;
    // The client of the same packages, which needs nothing but its own libraries.
    let done = Command::new("chroot")
        .arg(root)
        .args([
            "/usr/lib/postgresql/15/bin/psql",
            "-h",
            "127.0.0.1",
            "-p",
            port,
            "-U",
            "postgres",
            "-qAtc",
            QUERY,
        ])
        .output()
        .ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

#[test]
fn stock_servers_serve_stop_at_once_and_find_their_data_again() {
    let Some(root) = rootfs() else { return };
    let stage = Stage::new();
    build(&stage, &root);
    serve_twice(&stage, &root);
}

/// They become users of the image, which are of the user's subordinate ids.
#[test]
fn stock_servers_do_the_same_for_an_ordinary_user() {
    let Some(root) = rootfs() else { return };
    let Some(bob) = subordinate::bob(RANGE, GROUP) else { return };
    // Files of root's alone are in them, which bob could not build with.
    let builder = Stage::new();
    build(&builder, &root);
    let archive = bob.path("servers.tar");
    let names = SERVERS.iter().map(|server| server.name);
    let save = ["save", "-o", archive.to_str().expect("UTF-8")];
    builder.margay(save.into_iter().chain(names)).ok();
    std::fs::set_permissions(&archive, std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .expect("an archive that he may read");
    bob.margay(["load", "-i", archive.to_str().expect("UTF-8")]).ok();
    serve_twice(&bob, &root);
}

fn serve_twice(stage: &Stage, root: &Path) {
    for round in 1..=2 {
        let addresses: Vec<_> = SERVERS.iter().map(|server| start(stage, server, round)).collect();
        eventually("nginx serves", || page(&addresses[0], "Welcome to nginx"));
        let count = eventually("redis serves", || {
            ask(&addresses[1], "INCR visits\r\n").filter(|said| said.starts_with(':'))
        });
        assert_eq!(count, format!(":{round}\r\n"));
        let rows = eventually("postgres serves", || sql(&addresses[2], root));
        assert_eq!(rows, round.to_string());
        eventually("python serves", || page(&addresses[3], "Welcome to nginx"));
        eventually("node serves", || page(&addresses[4], &format!("visit {round}")));
        for Server { name, .. } in &SERVERS {
            let began = Instant::now();
            stage.margay(["stop", name]).ok();
            let took = began.elapsed();
            assert!(took < STOP_TIME_MAX, "{name} took {took:?} to stop");
        }
    }
    let volumes =
        || std::fs::read_dir(stage.home().join("volumes/local")).expect("volumes").count();
    assert_eq!(volumes(), 2, "one for each VOLUME");
    for Server { name, .. } in &SERVERS {
        stage.margay(["rm", "-v", name]).ok();
    }
    assert_eq!(volumes(), 0);
    stage.is_empty();
}
