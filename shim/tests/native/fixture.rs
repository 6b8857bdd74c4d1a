use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use engine::{Exit, Listeners, Stdio};
use shim::{Assignment, Error, Layer, LayerBlob, Layers, NativeProgram, RootAccess, Runtime, Task};
use spec::{Descriptor, Digest, ExecutionConfig, ImageConfig, Limits, Usage};

pub const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 35] = [
    "sh", "ls", "cat", "id", "echo", "sleep", "httpd", "mount", "mkdir", "mknod", "touch", "ps",
    "head", "tail", "yes", "dd", "env", "hostname", "pwd", "kill", "true", "stty", "wc", "unshare",
    "chown", "grep", "nc", "tr", "su", "chmod", "cp", "rm", "mkfifo", "stat", "chroot",
];

pub struct TestShim {
    pub root: tempfile::TempDir,
    pub layers: Layers,
    pub runtime: Runtime,
    before: Machine,
}

/// What could be left behind on the machine.
#[derive(Debug, PartialEq)]
struct Machine {
    mounts: usize,
    cgroups: usize,
    processes: Vec<String>,
}

impl Machine {
    fn now(folder: &Path) -> Self {
        // Of this folder only: others may run containers on this machine meanwhile.
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounts = table.lines().filter(|line| line.contains(folder.to_str().unwrap())).count();
        let hierarchies =
            std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|e| e.path());
        let tag = tag(folder);
        let cgroups = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).map(|path| {
            let names =
                std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.file_name());
            names.filter(|name| name.to_string_lossy().ends_with(&tag)).count()
        });
        Self { mounts, cgroups: cgroups.sum(), processes: processes(folder) }
    }
}

/// The end of the names of all containers of `folder`.
fn tag(folder: &Path) -> String {
    let task = folder.join("task").canonicalize().unwrap_or_else(|_| folder.join("task"));
    Digest::of(task.as_os_str().as_encoded_bytes()).to_string()[7..19].to_owned()
}

/// Processes of containers' users, and of shims and runtimes that work in `folder`.
pub fn processes(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let Ok(environ) = std::fs::read_to_string(entry.path().join("cgroup")) else { continue };
        if environ.contains(&tag(folder))
            || (line.contains(" --root ") && line.contains(folder.to_str().unwrap()))
        {
            found.push(line);
        }
    }
    found
}

impl TestShim {
    pub fn new(runtime: Runtime) -> Self {
        let root = tempfile::tempdir().unwrap();
        let layers = Layers::open(&root.path().join("layers")).unwrap();
        std::fs::create_dir(root.path().join("task")).unwrap();
        let before = Machine::now(root.path());
        Self { root, layers, runtime, before }
    }

    pub fn folder(&self) -> PathBuf {
        self.root.path().join("task")
    }

    pub fn assert_nothing_left(&self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let now = Machine::now(self.root.path());
            if now == self.before {
                break;
            }
            assert!(Instant::now() < deadline, "left behind: {now:?}, before: {:?}", self.before);
            std::thread::sleep(Duration::from_millis(10));
        }
        let folder = self.folder();
        for name in ["oci", "native.json", "worker.sock"] {
            assert!(!folder.join(name).exists(), "{name} is left");
        }
    }

    pub fn base(&self) -> Layer {
        self.unpack(busybox_layer()).unwrap()
    }

    pub fn unpack(&self, tar: Vec<u8>) -> Result<Layer, Error> {
        let digest = Digest::of(&tar);
        let mut file = tempfile::tempfile_in(self.root.path()).unwrap();
        file.write_all(&tar).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let descriptor = Descriptor::of("application/vnd.oci.image.layer.v1.tar", &tar);
        let blob = LayerBlob { file, descriptor, diff_id: digest };
        self.layers.unpacked(&exe(), vec![blob]).map(|mut paths| paths.remove(0))
    }

    pub fn assignment(&self, command: &[&str]) -> Assignment {
        let mut assignment = plain(self.runtime.clone(), &self.folder(), command);
        assignment.program.layers = vec![self.base()];
        assignment
    }

    pub fn shell(&self, script: &str) -> Assignment {
        self.assignment(&["/bin/sh", "-c", script])
    }

    pub fn spawn(&self, assignment: Assignment) -> Result<Task, Error> {
        Task::spawn(&exe(), assignment)
    }

    /// Runs it to its end, and gives back what it wrote.
    pub fn run(&self, assignment: Assignment) -> (Exit, Usage, String) {
        let task = self.spawn(assignment).unwrap_or_else(|error| panic!("{error}: {error:?}"));
        let (exit, usage) = task.wait().unwrap();
        (exit, usage, self.log())
    }

    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.folder().join("log")).unwrap_or_default();
        let mut decoder = spec::LogDecoder::default();
        let records = bytes.split(|byte| *byte == b'\n').filter_map(|line| decoder.decode(line));
        records.map(|record| String::from_utf8_lossy(record.text).into_owned() + "\n").collect()
    }

    pub fn wait_for(&self, what: &str, is: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is() {
            assert!(Instant::now() < deadline, "{what} never came; the log says: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

pub fn plain(runtime: Runtime, folder: &Path, command: &[&str]) -> Assignment {
    Assignment {
        task: "cats-1".parse().unwrap(),
        container: "cats".parse().unwrap(),
        image: Digest::of(b"image"),
        node: None,
        folder: folder.to_owned(),
        args: command.iter().map(|word| (*word).to_owned()).collect(),
        env: BTreeMap::new(),
        grants: spec::Capabilities::default(),
        limits: Limits::for_commands(),
        volumes: Vec::new(),
        listeners: Listeners::default(),
        stdio: Stdio::default(),
        log: Some(folder.join("log")),
        adoptable: true,
        program: NativeProgram {
            local_ports: Vec::new(),
            config: ImageConfig::default(),
            layers: Vec::new(),
            runtime,
            cpu_millis: None,
            settings: shim::Settings::default(),
            root: RootAccess::Writable,
            owner: "acme".to_owned(),
        },
    }
}

pub fn exe() -> PathBuf {
    std::env::current_exe().unwrap()
}

pub fn grant(line: &str) -> spec::Capability {
    line.parse().unwrap()
}

pub fn config(change: impl FnOnce(&mut ExecutionConfig)) -> ImageConfig {
    let mut execution = ExecutionConfig::default();
    change(&mut execution);
    ImageConfig { config: Some(execution), ..ImageConfig::default() }
}

pub fn busybox_layer() -> Vec<u8> {
    let mut tar = Tar::new();
    tar.folder("bin").file("bin/busybox", 0o755, &std::fs::read(BUSYBOX).unwrap());
    for applet in APPLETS {
        tar.link("2", &format!("bin/{applet}"), "busybox");
    }
    tar.folder("etc").file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nwww:x:33:33::/srv:/bin/sh\n",
    );
    tar.file("etc/group", 0o644, b"root:x:0:\nwww:x:33:\nweb:x:80:www\n");
    tar.folder("srv").file("srv/index.html", 0o644, b"<h1>cats</h1>");
    tar.done()
}

/// Writes what it is told to, however wrong.
pub struct Tar(Vec<u8>);

impl Tar {
    pub fn new() -> Self {
        Self(Vec::new())
    }

    pub fn entry(
        &mut self,
        kind: &str,
        name: &str,
        mode: u32,
        link: &str,
        content: &[u8],
    ) -> &mut Self {
        self.entry_of(0, kind, name, mode, link, content)
    }

    pub fn entry_of(
        &mut self,
        uid: u32,
        kind: &str,
        name: &str,
        mode: u32,
        link: &str,
        content: &[u8],
    ) -> &mut Self {
        let mut header = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(
            100,
            format!(
                "{mode:07o}\0{uid:07o}\0{uid:07o}\0{:011o}\0{:011o}\0        ",
                content.len(),
                0
            )
            .as_bytes(),
        );
        put(156, kind.as_bytes());
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn folder(&mut self, name: &str) -> &mut Self {
        self.entry("5", &format!("{name}/"), 0o755, "", b"")
    }

    pub fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> &mut Self {
        self.entry("0", name, mode, "", content)
    }

    pub fn link(&mut self, kind: &str, name: &str, target: &str) -> &mut Self {
        self.entry(kind, name, 0o777, target, b"")
    }

    pub fn done(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.0);
        bytes.extend_from_slice(&[0; 1024]);
        bytes
    }
}
