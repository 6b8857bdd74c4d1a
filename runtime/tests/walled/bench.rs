//! A node in a temporary folder.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use engine::{Event, Exit, Listener, Listeners, Stdio, VolumeMount, VolumeSource};
use runtime::{
    Assignment, Broker, Key, LayerBlob, Preparation, Prepared, Program, SpareWorker, SpawnOptions,
    WasmProgram, Worker, World, prepare,
};
use spec::{Capabilities, Capability, Digest, Limits, Usage};

/// Long enough for a machine that builds something else meanwhile.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Bench {
    pub folder: tempfile::TempDir,
    pub key: Key,
    pub tokio: tokio::runtime::Runtime,
}

impl Bench {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = Key::open(&folder.path().join("key")).unwrap();
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        Self { folder, key, tokio }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Prepares a program that is a blob of its own, over `layers`.
    pub fn prepare(&self, wasm: &[u8], layers: &[Vec<u8>]) -> Result<Prepared, runtime::Error> {
        let digest = Digest::of(wasm);
        let program = Program::Blob { blob: file_of(wasm), digest };
        self.prepare_into(&digest.to_string().replace(':', "-"), program, layers, |_| {})
    }

    pub fn prepare_into(
        &self,
        name: &str,
        program: Program,
        layers: &[Vec<u8>],
        change: impl FnOnce(&mut Preparation<'_>),
    ) -> Result<Prepared, runtime::Error> {
        let (layers_dir, out) = (self.path("layers"), self.path("prepared").join(name));
        let layers = layers.iter().map(|layer| LayerBlob {
            blob: file_of(layer),
            digest: Digest::of(layer),
            diff_id: None,
        });
        let mut preparation = Preparation {
            place: None,
            exe: "/proc/self/exe".into(),
            arguments: vec!["prepare".into()],
            layers: layers.collect(),
            program,
            layers_dir: &layers_dir,
            out: &out,
            key: &self.key,
            limits: Default::default(),
        };
        change(&mut preparation);
        prepare(&preparation)
    }

    /// An assignment for `prepared`, with nothing granted.
    pub fn assignment(&self, prepared: Prepared) -> Assignment {
        // Each assignment is counted from zero.
        let _ = std::fs::remove_file(self.path("usage"));
        let limits = match prepared.facts.world {
            World::Http => {
                Limits { cpu_time_max: Some(Duration::from_millis(500)), ..Limits::for_requests() }
            }
            World::Command => Limits::for_commands(),
        };
        Assignment {
            task: "test".parse().unwrap(),
            container: "main".parse().unwrap(),
            image: prepared.facts.wasm,
            node: None,
            folder: self.folder.path().to_owned(),
            args: vec!["guest".to_owned()],
            env: BTreeMap::new(),
            grants: Capabilities::default(),
            limits,
            volumes: Vec::new(),
            listeners: Listeners::default(),
            stdio: Stdio::default(),
            log: Some(self.path("log")),
            adoptable: false,
            program: WasmProgram {
                world: prepared.facts.world,
                image_env: BTreeMap::new(),
                working_dir: "/".to_owned(),
                secrets: BTreeMap::new(),
                files_only: false,
                learns: false,
                code: prepared.code,
                index: prepared.index,
                lines: prepared.lines,
                layers: prepared.layers,
            },
        }
    }

    pub fn start(&self, assignment: Assignment) -> Worker {
        self.start_with(assignment, Broker::default(), &SpawnOptions::default())
    }

    pub fn start_with(
        &self,
        assignment: Assignment,
        broker: Broker,
        options: &SpawnOptions,
    ) -> Worker {
        let _context = self.tokio.enter();
        SpareWorker::spawn(options).unwrap().assign(assignment, broker).unwrap()
    }

    /// Runs a command to its end: how it ended, and what it wrote.
    pub fn run(
        &self,
        program: &str,
        arguments: &[&str],
        change: impl FnOnce(&mut Assignment),
    ) -> Ran {
        self.run_wasm(&sample(program), arguments, &[], change)
    }

    pub fn run_wasm(
        &self,
        wasm: &[u8],
        arguments: &[&str],
        layers: &[Vec<u8>],
        change: impl FnOnce(&mut Assignment),
    ) -> Ran {
        let prepared = self.prepare(wasm, layers).unwrap();
        let mut assignment = self.assignment(prepared);
        assignment.args.extend(arguments.iter().map(|word| (*word).to_owned()));
        let mut out = tempfile::tempfile().unwrap();
        assignment.stdio.stdout = Some(OwnedFd::from(out.try_clone().unwrap()));
        assignment.stdio.stderr = Some(OwnedFd::from(out.try_clone().unwrap()));
        change(&mut assignment);
        let mut worker = self.start(assignment);
        let (exit, events) = self.tokio.block_on(to_the_end(&mut worker));
        let mut text = String::new();
        out.rewind().unwrap();
        out.read_to_string(&mut text).unwrap();
        Ran { exit, events, text }
    }

    /// Serves `program` on a port; returns when it has started.
    pub fn serve(
        &self,
        program: &str,
        layers: &[Vec<u8>],
        change: impl FnOnce(&mut Assignment),
    ) -> Served {
        self.serve_with(program, layers, Broker::default(), change)
    }

    pub fn serve_with(
        &self,
        program: &str,
        layers: &[Vec<u8>],
        broker: Broker,
        change: impl FnOnce(&mut Assignment),
    ) -> Served {
        self.serve_wasm(&sample(program), layers, broker, change)
    }

    pub fn serve_wasm(
        &self,
        wasm: &[u8],
        layers: &[Vec<u8>],
        broker: Broker,
        change: impl FnOnce(&mut Assignment),
    ) -> Served {
        let prepared = self.prepare(wasm, layers).unwrap();
        let mut assignment = self.assignment(prepared);
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        assignment.listeners.published.push(Listener { container_port: 80, socket });
        assignment.grants.add(capability("net.in:http/80"));
        change(&mut assignment);
        let mut worker = self.start_with(assignment, broker, &SpawnOptions::default());
        let first = self.tokio.block_on(worker.next_event());
        Served { worker, address, first }
    }

    pub fn usage(&self) -> Usage {
        runtime::usage::read(&File::open(self.path("usage")).unwrap()).unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap()
    }

    /// Its lines, each behind the name of its stream.
    pub fn log_lines(&self) -> Vec<String> {
        let mut decoder = spec::LogDecoder::default();
        let log = self.log();
        let records = log.lines().filter_map(|line| decoder.decode(line.as_bytes()));
        let shown = records
            .map(|record| format!("{:?} {}", record.source, String::from_utf8_lossy(record.text)));
        shown.collect()
    }

    /// A folder that a worker of any uid may use, and its mount.
    pub fn volume(
        &self,
        name: &str,
        path: &str,
        rights: &str,
        max_bytes: Option<u64>,
    ) -> (PathBuf, VolumeMount) {
        use std::os::unix::fs::PermissionsExt;
        let folder = self.path(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
        let rights = rights.parse().unwrap();
        let source = VolumeSource::Folder(folder.clone());
        (folder, VolumeMount { path: path.to_owned(), rights, source, bytes_max: max_bytes })
    }
}

pub struct Ran {
    pub exit: Exit,
    pub events: Vec<Event>,
    pub text: String,
}

pub struct Served {
    pub worker: Worker,
    pub address: SocketAddr,
    pub first: Option<Event>,
}

impl Served {
    pub fn get(&self, path: &str) -> (u16, String) {
        get(self.address, path)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.worker.kill();
    }
}

async fn to_the_end(worker: &mut Worker) -> (Exit, Vec<Event>) {
    let mut events = Vec::new();
    let watch = async {
        while let Some(event) = worker.next_event().await {
            if let Event::Exited(ended) = event {
                return Some(ended.exit);
            }
            events.push(event);
        }
        None
    };
    let exit = tokio::time::timeout(PATIENCE, watch)
        .await
        .expect("the worker ends in time")
        .expect("a last word");
    (exit, events)
}

/// One request, one connection: status and body.
pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let (status, _, body) = ask(
        address,
        &format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"),
        b"",
    );
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// Sends `head` and `body`; status, headers, and the body as it came (chunks and all).
pub fn ask(address: SocketAddr, head: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    // A server that has heard enough may close before it has read everything.
    let _ = stream.write_all(body);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let at = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a response has headers");
    let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
    let status =
        head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a response has a status");
    (status, head, bytes[at + 4..].to_vec())
}

/// Until `probe` gives something, or patience ends.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn sample(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples").join(name);
    match name.ends_with(".wat") {
        true => wat::parse_file(&path).unwrap(),
        false => std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())),
    }
}

pub fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

pub fn capability(line: &str) -> Capability {
    line.parse().unwrap()
}
