//! Real containers under the installed OCI runtime. Needs root, a runtime (`apt-get install runc`) and a static busybox
//! (`apt-get install busybox-static`); says so when something is missing, instead of pretending.
//!
//! A program of its own rather than a test harness: it is also the task shim that it starts.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{fs::MetadataExt, net::UnixListener, net::UnixStream},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio as Stdin},
    time::{Duration, Instant},
};

use shim::{
    Adopted, Assignment, Error, Exit, Ingress, LayerBlob, Layers, Listener, Orphan, Runtime, Stdio, Swept, Task,
    VolumeMount,
};
use spec::{Descriptor, Digest, ExecutionConfig, ImageConfig, Limits, Usage};

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 28] = [
    "sh", "ls", "cat", "id", "echo", "sleep", "httpd", "mount", "mkdir", "mknod", "touch", "ps", "head", "tail", "yes",
    "dd", "env", "hostname", "pwd", "kill", "true", "stty", "wc", "unshare", "chown", "grep", "nc", "tr",
];

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("shim") {
        shim::main();
    }
    if std::env::args().nth(1).as_deref() == Some("try-syscalls") {
        try_syscalls();
    }
    let arguments: Vec<_> = std::env::args_os().map(PathBuf::from).collect();
    if let [_, verb, folder, layer] = arguments.as_slice()
        && verb == Path::new("supervise")
    {
        supervise(folder, layer);
    }
    let runtime = match why_not() {
        Ok(runtime) => runtime,
        Err(why) => {
            println!("SKIPPED: no native container was run: {why}");
            return ExitCode::SUCCESS;
        }
    };
    println!("running native containers under {runtime}");
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let mut failed = 0;
    for (name, test) in TESTS {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let began = Instant::now();
        let house = House::new(runtime.clone());
        let passed = catch_unwind(AssertUnwindSafe(|| test(&house))).is_ok();
        if let (false, Ok(Adopted::Running(task))) = (passed, Task::adopt(&house.folder())) {
            let _ = task.stop(Duration::ZERO).map(|()| task.wait());
        }
        let clean = catch_unwind(AssertUnwindSafe(|| house.assert_nothing_left())).is_ok();
        let verdict = if passed && clean { "ok" } else { "FAILED" };
        println!("test {name} ... {verdict} ({} ms)", began.elapsed().as_millis());
        failed += usize::from(!(passed && clean));
    }
    println!("test result: {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn why_not() -> Result<Runtime, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("it needs root".to_owned());
    }
    if !Path::new(BUSYBOX).exists() {
        return Err(format!("there is no {BUSYBOX}: apt-get install busybox-static"));
    }
    Runtime::probe().map_err(|error| format!("{error}: {}", error.hint().unwrap_or_default()))
}

type Test = (&'static str, fn(&House));

const TESTS: &[Test] = &[
    ("a_program_says_hi_and_its_exit_code_passes", says_hi),
    ("output_goes_to_the_log_and_to_whoever_asked", output_goes_both_ways),
    ("input_reaches_the_program_and_ends", input_reaches),
    ("a_terminal_has_its_size_and_carries_both_ways", terminal),
    ("a_published_port_and_the_ingress_reach_the_program", ports),
    ("a_big_body_passes_the_relay_whole", big_body),
    ("a_program_that_listens_late_is_waited_for", late_listener),
    ("the_walls_hold", walls),
    ("what_no_container_needs_is_no_system_call", syscalls),
    ("an_image_that_replaces_the_kernels_folders_gains_nothing", replaced_folders),
    ("only_granted_folders_can_be_written", writes),
    ("a_volume_is_mounted_with_its_rights", volumes),
    ("a_hostile_working_folder_or_user_is_refused", hostile_config),
    ("a_program_that_is_not_there_is_named", no_program),
    ("a_memory_hog_is_reported_as_oom", oom),
    ("a_fork_bomb_ends_at_the_limit", fork_bomb),
    ("a_log_flood_costs_no_disk", log_flood),
    ("time_limits_end_it", time_limits),
    ("stop_asks_first_and_insists_after_its_grace", stop),
    ("a_later_supervisor_adopts_it", adopt),
    ("an_orphan_that_nobody_wants_is_stopped", orphan),
    ("a_killed_shim_leaves_nothing_after_the_sweep", killed_shim),
    ("a_killed_container_is_reported", killed_container),
    ("a_removed_folder_leaves_the_machine_clean_too", removed_folder),
    ("layers_stack_with_whiteouts", whiteouts),
    ("hostile_layers_are_refused_and_leave_nothing", hostile_layers),
    ("a_runtime_that_fails_is_named", bad_runtimes),
    ("starting_is_fast_enough", speed),
];

struct House {
    root: tempfile::TempDir,
    layers: Layers,
    runtime: Runtime,
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
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|e| e.path());
        let tag = tag(folder);
        let cgroups = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).map(|path| {
            let names = std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.file_name());
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
fn processes(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let Ok(environ) = std::fs::read_to_string(entry.path().join("cgroup")) else { continue };
        if environ.contains(&tag(folder)) || (line.contains(" --root ") && line.contains(folder.to_str().unwrap())) {
            found.push(line);
        }
    }
    found
}

impl House {
    fn new(runtime: Runtime) -> Self {
        let root = tempfile::tempdir().unwrap();
        let layers = Layers::open(&root.path().join("layers")).unwrap();
        std::fs::create_dir(root.path().join("task")).unwrap();
        let before = Machine::now(root.path());
        Self { root, layers, runtime, before }
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("task")
    }

    fn assert_nothing_left(&self) {
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

    fn base(&self) -> PathBuf {
        self.unpack(busybox_layer()).unwrap()
    }

    fn unpack(&self, tar: Vec<u8>) -> Result<PathBuf, Error> {
        let digest = Digest::of(&tar);
        let mut file = tempfile::tempfile_in(self.root.path()).unwrap();
        file.write_all(&tar).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let descriptor = Descriptor::of("application/vnd.oci.image.layer.v1.tar", &tar);
        let blob = LayerBlob { file, descriptor, diff_id: digest };
        self.layers.unpacked(&exe(), vec![blob]).map(|mut paths| paths.remove(0))
    }

    fn assignment(&self, command: &[&str]) -> Assignment {
        let log = Some(self.folder().join("log"));
        Assignment { layers: vec![self.base()], log, ..plain(self.runtime.clone(), command) }
    }

    fn shell(&self, script: &str) -> Assignment {
        self.assignment(&["/bin/sh", "-c", script])
    }

    fn spawn(&self, assignment: Assignment) -> Result<Task, Error> {
        Task::spawn(&exe(), &self.folder(), assignment)
    }

    /// Runs it to its end, and gives back what it wrote.
    fn run(&self, assignment: Assignment) -> (Exit, Usage, String) {
        let task = self.spawn(assignment).unwrap_or_else(|error| panic!("{error}: {error:?}"));
        let (exit, usage) = task.wait().unwrap();
        (exit, usage, self.log())
    }

    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.folder().join("log")).unwrap_or_default();
        text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned() + "\n").collect()
    }

    fn wait_for(&self, what: &str, is: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is() {
            assert!(Instant::now() < deadline, "{what} never came; the log says: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn plain(runtime: Runtime, command: &[&str]) -> Assignment {
    Assignment {
        task: "cats-1".parse().unwrap(),
        container: "cats".parse().unwrap(),
        image: Digest::of(b"image"),
        config: ImageConfig::default(),
        layers: Vec::new(),
        runtime,
        entrypoint: None,
        command: Some(command.iter().map(|word| (*word).to_owned()).collect()),
        env: BTreeMap::new(),
        hostname: None,
        grants: Vec::new(),
        limits: Limits::for_commands(),
        cpu_millis: None,
        volumes: Vec::new(),
        listeners: Vec::new(),
        ingress: Vec::new(),
        stdio: Stdio::default(),
        log: None,
        orphan: Orphan::Keep,
    }
}

fn exe() -> PathBuf {
    std::env::current_exe().unwrap()
}

fn grant(line: &str) -> spec::Capability {
    line.parse().unwrap()
}

fn config(change: impl FnOnce(&mut ExecutionConfig)) -> ImageConfig {
    let mut execution = ExecutionConfig::default();
    change(&mut execution);
    ImageConfig { config: Some(execution), ..ImageConfig::default() }
}

fn busybox_layer() -> Vec<u8> {
    let mut tar = Tar::new();
    tar.folder("bin").file("bin/busybox", 0o755, &std::fs::read(BUSYBOX).unwrap());
    for applet in APPLETS {
        tar.link("2", &format!("bin/{applet}"), "busybox");
    }
    tar.folder("etc").file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nwww:x:33:33::/srv:/bin/sh\n");
    tar.file("etc/group", 0o644, b"root:x:0:\nwww:x:33:\nweb:x:80:www\n");
    tar.folder("srv").file("srv/index.html", 0o644, b"<h1>cats</h1>");
    tar.done()
}

/// Writes what it is told to, however wrong.
struct Tar(Vec<u8>);

impl Tar {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn entry(&mut self, kind: &str, name: &str, mode: u32, link: &str, content: &[u8]) -> &mut Self {
        self.entry_of(0, kind, name, mode, link, content)
    }

    fn entry_of(&mut self, uid: u32, kind: &str, name: &str, mode: u32, link: &str, content: &[u8]) -> &mut Self {
        let mut header = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(100, format!("{mode:07o}\0{uid:07o}\0{uid:07o}\0{:011o}\0{:011o}\0        ", content.len(), 0).as_bytes());
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

    fn folder(&mut self, name: &str) -> &mut Self {
        self.entry("5", &format!("{name}/"), 0o755, "", b"")
    }

    fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> &mut Self {
        self.entry("0", name, mode, "", content)
    }

    fn link(&mut self, kind: &str, name: &str, target: &str) -> &mut Self {
        self.entry(kind, name, 0o777, target, b"")
    }

    fn done(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.0);
        bytes.extend_from_slice(&[0; 1024]);
        bytes
    }
}

fn says_hi(house: &House) {
    let (exit, usage, said) = house.run(house.shell("echo hi; hostname; exit 7"));
    assert_eq!((exit, said.as_str()), (Exit::Code(7), "hi\ncats\n"));
    assert!(usage.runs == 1 && usage.failed_runs == 1 && usage.cpu_ns > 0, "{usage:?}");
    let (exit, ..) = house.run(house.assignment(&["true"]));
    assert_eq!(exit, Exit::Code(0), "the same folder takes a second container, found on the PATH");
}

fn output_goes_both_ways(house: &House) {
    let (mut out, out_end) = UnixStream::pair().unwrap();
    let (mut err, err_end) = UnixStream::pair().unwrap();
    let mut assignment = house.shell("echo out; echo err >&2; echo again > /dev/stdout");
    assignment.stdio = Stdio { stdout: Some(out_end.into()), stderr: Some(err_end.into()), ..Stdio::default() };
    assert_eq!(house.run(assignment).0, Exit::Code(0));
    let mut texts = [String::new(), String::new()];
    out.read_to_string(&mut texts[0]).unwrap();
    err.read_to_string(&mut texts[1]).unwrap();
    assert_eq!(texts, ["out\nagain\n", "err\n"]);
    let log = std::fs::read_to_string(house.folder().join("log")).unwrap();
    assert!(log.contains(" stdout F out\n") && log.contains(" stderr F err\n"), "{log}");
}

fn input_reaches(house: &House) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut assignment = house.assignment(&["cat"]);
    assignment.stdio.stdin = Some(theirs.into());
    let task = house.spawn(assignment).unwrap();
    let text = "meow\n".repeat(50_000);
    ours.write_all(text.as_bytes()).unwrap();
    drop(ours);
    assert_eq!(task.wait().unwrap().0, Exit::Code(0));
    assert_eq!(house.log(), text);
    // Without any, it reads as empty; from a file, the file.
    let (_, _, said) = {
        std::fs::remove_file(house.folder().join("log")).unwrap();
        house.run(house.shell("cat; echo end"))
    };
    assert_eq!(said, "end\n");
    std::fs::remove_file(house.folder().join("log")).unwrap();
    let mut assignment = house.assignment(&["wc", "-c"]);
    assignment.stdio.stdin = Some(File::open(BUSYBOX).unwrap().into());
    let (_, _, said) = house.run(assignment);
    assert_eq!(said.trim(), std::fs::metadata(BUSYBOX).unwrap().len().to_string());
}

fn terminal(house: &House) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut assignment = house.shell("stty size; read line; echo got $line; stty size; test -t 0 && test -t 1");
    assignment.stdio = Stdio {
        stdin: Some(theirs.try_clone().unwrap().into()),
        stdout: Some(theirs.into()),
        stderr: None,
        terminal: Some((24, 80)),
    };
    let task = house.spawn(assignment).unwrap();
    house.wait_for("the first size", || house.log().contains("24 80"));
    task.resize(30, 100).unwrap();
    ours.write_all(b"purr\n").unwrap();
    assert_eq!(task.wait().unwrap().0, Exit::Code(0));
    let mut text = String::new();
    ours.read_to_string(&mut text).unwrap();
    assert!(text.contains("24 80\r\n") && text.contains("got purr\r\n") && text.contains("30 100\r\n"), "{text:?}");
}

fn get(stream: &mut (impl Read + Write), path: &str) -> String {
    write!(stream, "GET {path} HTTP/1.0\r\nHost: cats\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn served(house: &House, script: &str) -> (Task, std::net::SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let mut assignment = house.shell(script);
    assignment.grants = vec![grant("net.in:http/80")];
    assignment.listeners = vec![Listener { container_port: 80, socket }];
    (house.spawn(assignment).unwrap(), address)
}

fn ports(house: &House) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let path = house.folder().join("http.sock");
    let ingress = UnixListener::bind(&path).unwrap();
    let mut assignment = house.assignment(&["httpd"]);
    assignment.listeners = vec![Listener { container_port: 80, socket }];
    assignment.ingress = vec![Ingress { container_port: 80, socket: ingress }];
    let ungranted = house.spawn(assignment).unwrap_err();
    assert!(ungranted.to_string().contains("net.in:http/80"), "{ungranted}");

    let socket = TcpListener::bind(address).unwrap();
    std::fs::remove_file(&path).unwrap();
    let ingress = UnixListener::bind(&path).unwrap();
    let mut assignment = house.assignment(&["httpd", "-f", "-p", "80", "-h", "/srv"]);
    assignment.config = config(|image| image.user = Some("www".to_owned()));
    assignment.grants = vec![grant("net.in:http/80")];
    assignment.listeners = vec![Listener { container_port: 80, socket }];
    assignment.ingress = vec![Ingress { container_port: 80, socket: ingress }];
    let task = house.spawn(assignment).unwrap();
    for _ in 0..20 {
        let answer = get(&mut TcpStream::connect(address).unwrap(), "/index.html");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("<h1>cats</h1>"), "{answer}");
        assert!(get(&mut UnixStream::connect(&path).unwrap(), "/").ends_with("<h1>cats</h1>"));
    }
    let status = task.status().unwrap();
    assert_eq!((status.ports.as_slice(), status.stopping), (&[80][..], false));
    assert!(status.usage.bytes_out > 1000 && status.usage.bytes_in > 500, "{status:?}");
    // What an agent that was restarted takes over.
    let doors = task.doors().unwrap();
    assert_eq!(doors.listeners[0].socket.local_addr().unwrap(), address);
    assert_eq!(doors.ingress[0].socket.local_addr().unwrap().as_pathname(), Some(path.as_path()));
    task.stop(Duration::ZERO).unwrap();
    assert_eq!(task.wait().unwrap().0, Exit::Stopped(137));
}

fn big_body(house: &House) {
    let (task, address) = served(house, "nc -l -p 80 -e sh -c 'head -c 20000000 /dev/zero | tr \"\\0\" x'");
    let mut stream = TcpStream::connect(address).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!((all.len(), all.iter().all(|b| *b == b'x')), (20_000_000, true));
    assert_eq!(task.wait().unwrap().0, Exit::Code(0));
}

fn late_listener(house: &House) {
    let (task, address) = served(house, "sleep 1; httpd -f -p 80 -h /srv");
    let answer = get(&mut TcpStream::connect(address).unwrap(), "/");
    assert!(answer.ends_with("<h1>cats</h1>"), "{answer}");
    task.stop(Duration::ZERO).unwrap();
    task.wait().unwrap();
}

fn walls(house: &House) {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let runtime = std::fs::read(&house.runtime.path).unwrap();
    let script = "
        grep -E '^(CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status
        echo fds: $(ls /proc/self/fd | wc -l)
        echo x > /proc/sys/kernel/core_pattern; echo core_pattern $?
        echo h > /proc/sysrq-trigger; echo sysrq $?
        echo x > /sys/kernel/uevent_helper; echo sys $?
        mknod /tmp/dev b 8 0; echo mknod $?
        unshare -Ur true; echo unshare $?
        mount -t tmpfs none /srv; echo mount $?
        cat /proc/kcore | head -c 1 | wc -c
        touch /x; echo root $?
        touch /etc/x; echo etc $?
        touch /tmp/x; echo tmp $?
        echo x > /proc/1/exe; echo exe $?
        ls /dev
        cat /proc/net/dev | wc -l
        kill -0 2; echo other $?
        cat /proc/self/uid_map
        hostname dog; echo hostname $?
        chown 70000 /tmp/x; echo chown $?
    ";
    let (exit, _, said) = house.run(house.shell(script));
    assert_eq!(exit, Exit::Code(0), "{said}");
    for line in [
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "fds: 4", // 0 to 2, and the one that lists them
        "core_pattern 1",
        "sysrq 1",
        "sys 1",
        "mknod 1",
        "unshare 1",
        "mount 1",
        "0",
        "root 1",
        "etc 1",
        "tmp 0",
        "exe 1",
        "3", // two lines of head, and loopback
        "hostname 1",
        "chown 1",
    ] {
        assert!(said.lines().any(|said| said == line), "`{line}` is not in:\n{said}");
    }
    assert!(said.contains("2013265920      65536"), "{said}");
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), pattern);
    assert!(std::fs::read(&house.runtime.path).unwrap() == runtime, "the runtime was changed");
}

/// In the container: what a program could try that changes the machine, or that opens the kernel wide.
fn try_syscalls() -> ! {
    let attempts: &[(&str, libc::c_long, [libc::c_long; 3])] = &[
        ("bpf", libc::SYS_bpf, [0, 0, 0]),
        ("clone(NEWUSER)", libc::SYS_clone, [libc::CLONE_NEWUSER as _, 0, 0]),
        ("clone3", libc::SYS_clone3, [0, 0, 0]),
        ("init_module", libc::SYS_init_module, [0, 0, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [0, 0, 0]),
        ("mount", libc::SYS_mount, [0, 0, 0]),
        ("mount_setattr", libc::SYS_mount_setattr, [0, 0, 0]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, [0, 0, 0]),
        ("open_tree", libc::SYS_open_tree, [0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [0, 0, 0]),
        ("personality(READ_IMPLIES_EXEC)", libc::SYS_personality, [0x0040_0000, 0, 0]),
        ("pivot_root", libc::SYS_pivot_root, [0, 0, 0]),
        ("process_vm_readv", libc::SYS_process_vm_readv, [1, 0, 0]),
        ("ptrace(ATTACH)", libc::SYS_ptrace, [16, 1, 0]),
        ("reboot", libc::SYS_reboot, [0, 0, 0]),
        ("setns", libc::SYS_setns, [0, 0, 0]),
        ("socket(ALG)", libc::SYS_socket, [38, 5, 0]),
        ("socket(NETLINK, NETFILTER)", libc::SYS_socket, [16, 3, 12]),
        ("socket(PACKET)", libc::SYS_socket, [17, 3, 0]),
        ("socket(VSOCK)", libc::SYS_socket, [40, 1, 0]),
        ("unshare(NEWNET)", libc::SYS_unshare, [libc::CLONE_NEWNET as _, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [0, 0, 0]),
        // These two are refused for want of a capability, not by the list of calls.
        ("socket(INET, RAW)", libc::SYS_socket, [2, 3, 1]),
        ("setuid(70000)", libc::SYS_setuid, [70_000, 0, 0]),
    ];
    for (name, number, [a, b, c]) in attempts {
        // SAFETY: each call either fails at once or does nothing with null pointers and empty lengths.
        let result = unsafe { libc::syscall(*number, *a, *b, *c, 0, 0, 0) };
        let error = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        println!("{name} {}", if result >= 0 { "ALLOWED".to_owned() } else { error.to_string() });
    }
    std::process::exit(0)
}

fn syscalls(house: &House) {
    // This very program and the libraries that it has loaded, as a layer.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut libraries: Vec<_> = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).collect();
    libraries.retain(|path| path.contains(".so"));
    libraries.sort_unstable();
    libraries.dedup();
    let mut tar = Tar::new();
    tar.file("probe", 0o755, &std::fs::read(exe()).unwrap());
    for library in libraries {
        tar.file(&library[1..], 0o755, &std::fs::read(library).unwrap());
    }
    let interpreter = ["lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1"];
    for path in interpreter.into_iter().filter(|path| Path::new("/").join(path).exists()) {
        tar.file(path, 0o755, &std::fs::read(Path::new("/").join(path)).unwrap());
    }
    let layer = house.unpack(tar.done()).unwrap();
    let mut assignment = house.assignment(&["/probe", "try-syscalls"]);
    assignment.layers.push(layer);
    let (exit, _, said) = house.run(assignment);
    assert_eq!((exit, said.lines().count()), (Exit::Code(0), 25), "{said}");
    for line in said.lines() {
        let (name, outcome) = line.rsplit_once(' ').unwrap();
        let want: &[&str] = match name {
            "clone3" => &["38"],
            "setuid(70000)" => &["1", "22"],
            _ => &["1"],
        };
        assert!(want.contains(&outcome), "{name}: {outcome}\n{said}");
    }
}

fn replaced_folders(house: &House) {
    for folder in ["proc", "sys", "dev", "tmp", "dev/null"] {
        for target in ["/srv", "../../srv", "/proc/self/cwd"] {
            let mut tar = Tar::new();
            tar.link("2", folder, target);
            let Ok(layer) = house.unpack(tar.done()) else { continue };
            let mut assignment = house.shell("echo x > /proc/sys/kernel/core_pattern; ls /; mount");
            assignment.layers.push(layer);
            // Refused, or started with the kernel's folders where they belong.
            if let Ok(task) = house.spawn(assignment) {
                task.wait().unwrap();
                let said = house.log();
                assert!(said.contains("proc on /proc type proc") || said.is_empty(), "{folder} -> {target}: {said}");
            }
            std::fs::remove_file(house.folder().join("log")).ok();
        }
    }
    assert_ne!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), "x\n");
    assert!(
        std::fs::metadata("/dev/null").unwrap().mode() & 0o170_000 == 0o020_000,
        "the host's /dev/null is a device"
    );
}

fn writes(house: &House) {
    let script =
        "touch /x && touch /srv/new && echo both; dd if=/dev/zero of=/srv/big bs=1M count=100 2>/dev/null || echo full";
    let mut assignment = house.shell(script);
    assignment.grants = vec![grant("fs:/#rw")];
    assignment.limits.writable_bytes_max = 8 << 20;
    assert_eq!(house.run(assignment).2, "both\nfull\n");
    std::fs::remove_file(house.folder().join("log")).unwrap();
    let mut assignment =
        house.shell("touch /srv/new && echo srv; touch /x || echo root; touch /new/folder/x && echo made");
    assignment.grants = vec![grant("fs:/srv#rw"), grant("fs:/new/folder#rw")];
    let said = house.run(assignment).2;
    assert!(
        ["srv\n", "touch: /x: Read-only file system\n", "root\n", "made\n"].iter().all(|line| said.contains(line)),
        "{said}"
    );
    std::fs::remove_file(house.folder().join("log")).unwrap();
    let said = house.run(house.shell("ls /srv")).2;
    assert_eq!(said, "index.html\n", "what one container wrote is gone with it");
}

fn volumes(house: &House) {
    let folder = house.root.path().join("volume");
    std::fs::create_dir(&folder).unwrap();
    rustix::fs::chmod(&folder, rustix::fs::Mode::from_raw_mode(0o777)).unwrap();
    std::fs::write(folder.join("old"), "kept\n").unwrap();
    let mount = |rights: &str| VolumeMount {
        path: "/data".to_owned(),
        rights: rights.parse().unwrap(),
        folder: folder.clone(),
    };
    let script = "cat /data/old; echo new > /data/new && echo wrote; cd /data/.. && pwd; ls /data/../..";
    let mut assignment = house.shell(script);
    assignment.grants = vec![grant("fs:/data#rwd;volume=book")];
    assignment.volumes = vec![mount("rwd")];
    let said = house.run(assignment).2;
    assert!(said.starts_with("kept\nwrote\n/\n") && said.contains("data\n") && !said.contains("volume"), "{said}");
    assert_eq!(std::fs::read_to_string(folder.join("new")).unwrap(), "new\n");
    assert_eq!(std::fs::metadata(folder.join("new")).unwrap().uid(), 2_013_265_920);
    std::fs::remove_file(house.folder().join("log")).unwrap();
    let mut assignment = house.shell("cat /data/new; echo x > /data/no || echo denied");
    assignment.grants = vec![grant("fs:/data#r;volume=book")];
    assignment.volumes = vec![mount("r")];
    let said = house.run(assignment).2;
    assert!(said.contains("new\n") && said.contains("denied\n") && said.contains("Read-only"), "{said}");
    let mut assignment = house.shell("true");
    assignment.volumes = vec![mount("r")];
    assert!(house.spawn(assignment).unwrap_err().to_string().contains("needs the grant `fs:/data#r`"));
}

fn hostile_config(house: &House) {
    let links = Tar::new().link("2", "fd", "/proc/self/fd/7").link("2", "up", "../../../..").done();
    let links = match house.unpack(links) {
        Ok(path) => path,
        // The reader refuses links that climb out by their text alone.
        Err(error) => {
            assert_eq!(error.code(), "E_LAYER_PATH", "{error}");
            house.unpack(Tar::new().link("2", "fd", "/proc/self/fd/7").done()).unwrap()
        }
    };
    for (user, folder, want) in [
        (None, Some("/proc/self/fd/7"), "belongs to the kernel"),
        (None, Some("/fd"), "leads through a link"),
        (None, Some("relative"), "not an absolute path"),
        (None, Some("/srv/../../.."), "not an absolute path"),
        (Some("4294967296"), None, "not the number"),
        (Some("65536"), None, "below 65536"),
        (Some("nobody"), None, "has no `nobody`"),
    ] {
        let mut assignment = house.shell("true");
        assignment.layers.push(links.clone());
        assignment.config = config(|image| {
            image.user = user.map(str::to_owned);
            image.working_dir = folder.map(str::to_owned);
        });
        let error = house.spawn(assignment).unwrap_err();
        assert_eq!(error.code(), "E_CONFIG", "{error}");
        assert!(error.to_string().contains(want), "{user:?} {folder:?}: {error}");
    }
    let mut assignment = house.shell("pwd; id -u; id -G; echo $HOME $A");
    assignment.env.insert("A".to_owned(), "b".to_owned());
    assignment.config = config(|image| {
        image.user = Some("www".to_owned());
        image.working_dir = Some("/srv/deep/er".to_owned());
    });
    assert_eq!(house.run(assignment).2, "/srv/deep/er\n33\n33 80\n/srv b\n");
}

fn no_program(house: &House) {
    let error = house.spawn(house.assignment(&["/bin/nothing"])).unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("E_START", 127), "{error}");
    assert!(error.to_string().contains("/bin/nothing"), "{error}");
    let error = house.spawn(house.assignment(&["/etc/passwd"])).unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("E_START", 126), "{error}");
    let error = house.spawn(house.assignment(&[])).unwrap_err();
    assert_eq!(error.code(), "E_CONFIG", "{error}");
}

fn oom(house: &House) {
    let mut assignment = house.shell("echo begin; dd if=/dev/zero of=/dev/null bs=200M count=1; exit $?");
    assignment.limits.memory_bytes_max = 32 << 20;
    let (exit, usage, _) = house.run(assignment);
    assert_eq!((exit.code(), exit.reason()), (137, Some("oom")), "{exit:?}");
    assert!(exit.message().unwrap().contains("32MiB"), "{exit:?}");
    assert!(usage.failed_runs == 1 && usage.memory_bytes_peak > 16 << 20, "{usage:?}");
}

fn fork_bomb(house: &House) {
    let script = "bomb() { bomb | bomb & }; bomb 2>/dev/null; sleep 1; echo end";
    let task = house.spawn(house.shell(script)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline && processes(house.root.path()).len() < 400 {
        assert!(processes(house.root.path()).len() < 530);
        std::thread::sleep(Duration::from_millis(20));
    }
    // The bomb may have killed its own shell by now.
    let _ = task.stop(Duration::ZERO);
    task.wait().unwrap();
}

fn log_flood(house: &House) {
    let mut assignment = house.shell("yes aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa | head -c 50000000");
    assignment.limits.log_bytes_max = 1 << 20;
    assert_eq!(house.run(assignment).0, Exit::Code(0));
    let log = house.folder().join("log");
    assert!(std::fs::metadata(&log).unwrap().len() <= 1 << 20);
    assert!(house.log().starts_with("margay: "), "{}", &house.log()[..80]);
}

fn time_limits(house: &House) {
    let mut assignment = house.shell("sleep 100");
    assignment.limits.wall_time_max = Some(Duration::from_secs(1));
    assert_eq!(house.run(assignment).0.reason(), Some("wall-time"));
    let mut assignment = house.shell("while true; do true; done");
    assignment.limits.cpu_time_max = Some(Duration::from_millis(500));
    let (exit, usage, _) = house.run(assignment);
    assert_eq!(exit.reason(), Some("cpu-time"));
    assert!(usage.cpu_ns > 500_000_000, "{usage:?}");
}

fn stop(house: &House) {
    let task =
        house.spawn(house.shell("trap 'echo bye; exit 3' TERM; echo ready; while true; do sleep 0.05; done")).unwrap();
    house.wait_for("ready", || house.log().contains("ready"));
    task.stop(Duration::from_secs(20)).unwrap();
    assert_eq!(task.wait().unwrap().0, Exit::Stopped(3));
    assert_eq!(house.log(), "ready\nbye\n");
    let task = house.spawn(house.shell("trap '' TERM; echo deaf; sleep 1000")).unwrap();
    house.wait_for("deaf", || house.log().contains("deaf"));
    let began = Instant::now();
    task.stop(Duration::from_millis(300)).unwrap();
    assert_eq!(task.wait().unwrap().0, Exit::Stopped(137));
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(task.stop(Duration::ZERO).unwrap_err().code(), "E_SHIM_LOST");
}

fn adopt(house: &House) {
    let (task, address) = served(house, "httpd -f -p 80 -h /srv");
    drop(task);
    let Adopted::Running(task) = Task::adopt(&house.folder()).unwrap() else { panic!("it should run") };
    assert!(get(&mut TcpStream::connect(address).unwrap(), "/").ends_with("cats</h1>"));
    let second = house.spawn(house.shell("true")).unwrap_err();
    assert!(second.to_string().contains("second container"), "{second}");
    assert_eq!(shim::sweep(&house.folder()).unwrap(), Swept::Alive);
    task.stop(Duration::ZERO).unwrap();
    task.wait().unwrap();
    match Task::adopt(&house.folder()).unwrap() {
        Adopted::Ended(exit, usage) => {
            assert_eq!(exit, Exit::Stopped(137));
            assert!(usage.bytes_out > 0);
        }
        Adopted::Running(_) => panic!("it ended"),
    }
}

fn orphan(house: &House) {
    // A supervisor of its own, killed without a word.
    let mut supervisor = Command::new(exe())
        .arg("supervise")
        .arg(house.folder())
        .arg(house.base())
        .stdin(Stdin::piped())
        .spawn()
        .unwrap();
    house.wait_for("the container", || house.log().contains("ready"));
    let Adopted::Running(task) = Task::adopt(&house.folder()).unwrap() else { panic!("it should run") };
    assert!(!task.status().unwrap().stopping, "as long as its supervisor lives, it runs");
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    assert_eq!(task.wait().unwrap().0, Exit::Stopped(5));
}

/// The supervisor of the test above.
fn supervise(folder: &Path, layer: &Path) -> ! {
    let assignment = Assignment {
        orphan: Orphan::Stop,
        layers: vec![layer.to_owned()],
        log: Some(folder.join("log")),
        ..plain(
            Runtime::probe().unwrap(),
            &["sh", "-c", "trap 'exit 5' TERM; echo ready; while true; do sleep 0.05; done"],
        )
    };
    let task = Task::spawn(&exe(), folder, assignment).unwrap();
    task.wait().unwrap();
    std::process::exit(0)
}

fn killed_shim(house: &House) {
    let (task, _) = served(house, "sleep 1000");
    let status = task.status().unwrap();
    kill(status.shim_pid as i32);
    assert_eq!(task.wait().unwrap().0, Exit::Lost);
    // Dead, whether or not somebody has waited for it yet.
    let state = std::fs::read_to_string(format!("/proc/{}/stat", status.pid)).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
    house.assert_nothing_left();
    assert_eq!(shim::sweep(&house.folder()).unwrap(), Swept::Nothing);
    assert_eq!(house.run(house.shell("exit 4")).0, Exit::Code(4), "and it can start again");
}

fn killed_container(house: &House) {
    let task = house.spawn(house.shell("sleep 1000")).unwrap();
    kill(task.status().unwrap().pid);
    assert_eq!(task.wait().unwrap().0, Exit::Signal(9));
}

fn removed_folder(house: &House) {
    let task = house.spawn(house.shell("sleep 1000")).unwrap();
    let number = task.status().unwrap().pid;
    std::fs::remove_dir_all(house.folder()).unwrap();
    kill(number);
    assert!(task.wait().is_ok_and(|(exit, _)| exit == Exit::Signal(9)) || task.status().is_err());
}

fn kill(number: i32) {
    rustix::process::kill_process(pid(number), rustix::process::Signal::KILL).unwrap();
}

fn pid(number: i32) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(number).unwrap()
}

fn whiteouts(house: &House) {
    let upper = Tar::new()
        .file("etc/.wh.group", 0o644, b"")
        .file("srv/.wh..wh..opq", 0o644, b"")
        .file("srv/new", 0o600, b"")
        .link("1", "srv/hard", "srv/new")
        .entry_of(33, "0", "srv/theirs", 0o6755, "", b"")
        .done();
    let upper = house.unpack(upper).unwrap();
    let mut assignment = house.shell("ls /etc /srv; ls -ln /srv/theirs | head -c 20; ls -ln /srv/hard | head -c 20");
    assignment.layers.push(upper);
    let said = house.run(assignment).2;
    assert!(said.starts_with("/etc:\nhosts\npasswd\n\n/srv:\nhard\nnew\ntheirs\n"), "{said}");
    assert!(said.contains("-rwxr-xr-x    1 33") && said.contains("-rw-------    2 0"), "{said}");
}

fn hostile_layers(house: &House) {
    let outside = house.root.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let before = std::fs::read_dir(house.root.path().join("layers")).unwrap().count();
    let to_outside = outside.to_str().unwrap();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("climbing name", Tar::new().file("../../outside/x", 0o644, b"x").done(), "E_LAYER_PATH"),
        ("absolute name", Tar::new().file(&format!("{to_outside}/x"), 0o644, b"x").done(), "E_LAYER_PATH"),
        ("write through a link", Tar::new().link("2", "d", to_outside).file("d/x", 0o644, b"x").done(), "E_LAYER_PATH"),
        (
            "write through a relative link",
            Tar::new().folder("a").link("2", "a/d", "../b").file("a/d/x", 0o644, b"x").done(),
            "E_LAYER_PATH",
        ),
        ("folder made through a link", Tar::new().link("2", "d", "/").folder("d/e/f").done(), "E_LAYER_PATH"),
        ("hard link outside", Tar::new().link("1", "h", "../../../etc/passwd").done(), "E_LAYER_PATH"),
        (
            "hard link through a link",
            Tar::new().link("2", "d", "/etc").link("1", "h", "d/passwd").done(),
            "E_LAYER_PATH",
        ),
        ("hard link to nothing", Tar::new().link("1", "h", "nothing").done(), "E_LAYER_PATH"),
        ("hard link to a link", Tar::new().link("2", "l", "/etc/passwd").link("1", "h", "l").done(), "E_LAYER_PATH"),
        (
            "opaque through a link",
            Tar::new().link("2", "d", "/").file("d/.wh..wh..opq", 0o644, b"").done(),
            "E_LAYER_PATH",
        ),
        (
            "whiteout through a link",
            Tar::new().link("2", "d", "/").file("d/.wh.etc", 0o644, b"").done(),
            "E_LAYER_PATH",
        ),
        ("block device", Tar::new().entry("4", "sda", 0o666, "", b"").done(), "E_LAYER_KIND"),
        ("character device", Tar::new().entry("3", "mem", 0o666, "", b"").done(), "E_LAYER_KIND"),
        ("pipe", Tar::new().entry("6", "pipe", 0o666, "", b"").done(), "E_LAYER_KIND"),
        ("owner out of range", Tar::new().entry_of(65_536, "0", "x", 0o644, "", b"").done(), "E_LAYER_OWNER"),
        ("cut short", busybox_layer()[..700].to_vec(), "E_MEDIA"),
        ("empty", Vec::new(), "E_MEDIA"),
    ];
    for (name, tar, want) in cases {
        let error = house.unpack(tar).expect_err(name);
        assert_eq!(error.code(), want, "{name}: {error}");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "{name} wrote outside");
    }
    let tar = busybox_layer();
    let lie = |digest: Digest, diff_id: Digest| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&tar).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let mut descriptor = Descriptor::of("application/vnd.oci.image.layer.v1.tar", &tar);
        descriptor.digest = digest;
        house.layers.unpacked(&exe(), vec![LayerBlob { file, descriptor, diff_id }])
    };
    for (digest, diff_id) in [(Digest::of(b"x"), Digest::of(&tar)), (Digest::of(&tar), Digest::of(b"x"))] {
        let error = lie(digest, diff_id).unwrap_err();
        assert_eq!(error.code(), "E_DIGEST", "{error}");
    }
    assert_eq!(std::fs::read_dir(house.root.path().join("layers")).unwrap().count(), before, "nothing is kept of them");
    house.base();
    assert_eq!(house.layers.prune(&[]).unwrap(), 1);
}

fn bad_runtimes(house: &House) {
    use std::os::unix::fs::PermissionsExt;
    for (script, want) in [
        ("#!/bin/sh\nexit 137\n", "failed without a word"),
        ("#!/bin/sh\nexit 0\n", "did not say its process"),
        ("not a program at all", "cannot be started"),
    ] {
        let path = house.root.path().join("runc");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut assignment = house.shell("true");
        assignment.runtime.path = path;
        let error = house.spawn(assignment).unwrap_err();
        assert_eq!(error.code(), "E_RUNTIME", "{error}");
        assert!(error.to_string().contains(want), "{script}: {error}");
        house.assert_nothing_left();
    }
}

fn speed(house: &House) {
    let layer = house.base();
    let mut times = Vec::new();
    for _ in 0..10 {
        let mut assignment = house.assignment(&["true"]);
        assignment.layers = vec![layer.clone()];
        let began = Instant::now();
        house.run(assignment);
        times.push(began.elapsed());
    }
    times.sort();
    println!("  run of /bin/true to its end and cleared away: median {:?}, fastest {:?}", times[5], times[0]);
    let task = house.spawn(house.shell("sleep 100")).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", task.status().unwrap().shim_pid)).unwrap();
    let of = |key: &str| status.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
    println!("  the shim meanwhile: {}, {}, {}", of("VmRSS"), of("RssAnon"), of("CapEff"));
    assert_eq!(of("CapEff").split_whitespace().nth(1), Some("0000000000000022"), "it kept more than it needs");
    assert_eq!(of("Threads").split_whitespace().nth(1), Some("1"));
    task.stop(Duration::ZERO).unwrap();
    task.wait().unwrap();
    assert!(times[5] < Duration::from_secs(2), "{times:?}");
}
