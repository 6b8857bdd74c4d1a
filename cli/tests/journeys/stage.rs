//! A home of its own for each journey, the real binary in an empty environment, and nothing left
//! behind.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a margay said, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub out: String,
    pub err: String,
    /// The exit code, or 128 and the signal.
    pub code: i32,
}

impl Said {
    /// Its stdout, when it exited with 0.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.out, self.err);
        self.out
    }

    /// Its stderr, when it exited with `code`.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        self.err
    }
}

/// A home, and every process that works in it.
pub struct Stage {
    folder: TempDir,
    /// What runs `margay` as another user, where it is not to be ours.
    starter: Vec<String>,
}

impl Stage {
    pub fn new() -> Self {
        Self {
            folder: tempfile::Builder::new()
                .prefix("margay-journey-")
                .tempdir()
                .expect("a temporary folder"),
            starter: Vec::new(),
        }
    }

    /// From now on `margay` is started by this command, whose arguments it follows.
    pub fn start_by(&mut self, starter: Vec<String>) {
        self.starter = starter;
    }

    /// A folder for inputs, beside the home.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// Writes an input file.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(&path, content).expect("an input file");
        path
    }

    /// `margay` in an empty environment.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let margay = env!("CARGO_BIN_EXE_margay");
        let mut command = match self.starter.split_first() {
            None => Command::new(margay),
            Some((starter, arguments)) => {
                let mut command = Command::new(starter);
                command.args(arguments);
                command
            }
        };
        command
            .args(arguments)
            .env_clear()
            .env("MARGAY_HOME", self.home())
            // Only for native images: the OCI runtime is looked for there.
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        with_default_signals(&mut command);
        command
    }

    /// Runs `margay` to its end.
    pub fn margay<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Said {
        finish(self.command(arguments))
    }

    /// Runs `margay` to its end with `input` on stdin.
    pub fn margay_fed<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
        input: &str,
    ) -> Said {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("margay starts");
        // A child that does not read is no failure of the test.
        let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
        said(child.wait_with_output().expect("margay ends"))
    }

    /// Starts `margay` and leaves it running.
    pub fn start<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Running {
        Running::of(self.command(arguments))
    }

    /// Every process that works in this home, with its command line.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok())
            else {
                continue;
            };
            if pid != std::process::id().cast_signed()
                && works_in(&entry.path(), self.folder.path())
            {
                let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                found.push((pid, String::from_utf8_lossy(&line).replace('\0', " ")));
            }
        }
        found
    }

    /// Waits until no process of this home is left.
    #[track_caller]
    pub fn is_empty(&self) {
        eventually("every process is gone", || self.processes().is_empty().then_some(()));
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let here = self.folder.path().to_str().expect("UTF-8");
        assert!(!mounts.contains(here), "a mount is left: {mounts}");
    }
}

impl Stage {
    /// The cgroups of this home's workers.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let tasks = self.home().join("tasks");
        let digest = spec::Digest::of(tasks.as_os_str().as_encoded_bytes());
        let prefix = format!("margay-{}.", digest.short());
        let folders = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = folders(root).map(|entry| entry.path()).chain([root.to_owned()]);
        let groups = hierarchies.flat_map(|hierarchy| folders(&hierarchy));
        let own = groups.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
        own.map(|entry| entry.path()).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for _ in 0..50 {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            for (pid, _) in left {
                let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // Those of workers whose supervisor a test has killed stay until the next start.
        for group in self.cgroups() {
            let leaves = fs::read_dir(&group).into_iter().flatten().flatten();
            let leaves = leaves.filter(|entry| entry.path().is_dir());
            leaves.for_each(|leaf| drop(fs::remove_dir(leaf.path())));
            let _ = fs::remove_dir(group);
        }
    }
}

/// A worker has no environment and no folder, but it holds its log; the others carry the home in
/// their environment.
fn works_in(process: &Path, folder: &Path) -> bool {
    let folder = folder.to_str().expect("UTF-8");
    let named = |file: &str| {
        fs::read(process.join(file))
            .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(folder))
    };
    let held = || {
        let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        let mut targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.any(|target| target.to_string_lossy().contains(folder))
    };
    named("cmdline") || named("environ") || held()
}

/// A margay that was started and not waited for.
pub struct Running {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
    talk: Option<std::thread::JoinHandle<String>>,
}

impl Running {
    pub fn of(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("margay starts");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let err = child.stderr.take().expect("piped");
        let talk = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = BufReader::new(err).read_to_string(&mut text);
            text
        });
        Self { child, out, talk: Some(talk) }
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// The next line on its stdout; empty at its end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits for its end and says what it said.
    pub fn end(mut self) -> Said {
        let mut out = String::new();
        let _ = self.out.read_to_string(&mut out);
        let status = self.child.wait().expect("margay ends");
        let err = self.talk.take().map(|talk| talk.join().expect("stderr")).unwrap_or_default();
        Said { out, err, code: code(status) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A platform that is killed leaves its tasks to the next one, which there is not.
        let began = Instant::now();
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal("TERM");
        }
        while matches!(self.child.try_wait(), Ok(None)) && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a shell has its background jobs ignore, or `nohup` its program, the tests ignore too: what
/// they start does not.
pub fn with_default_signals(command: &mut Command) -> &mut Command {
    let reset = || {
        for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTERM] {
            // SAFETY: after a fork this process has one thread, and the default takes no handler.
            if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: `reset` makes system calls only.
    unsafe { command.pre_exec(reset) }
}

pub fn signal(pid: i32, name: &str) {
    Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().expect("kill runs");
}

/// Ends everything of a home at once, as a machine without power: no process starts another again,
/// and no agent notices that its supervisor is gone. That one is the oldest, and goes last: when it
/// ends the kernel wakes what is stopped.
pub fn cut_power(stage: &Stage) {
    stage.processes().iter().for_each(|(pid, _)| signal(*pid, "STOP"));
    let mut left = stage.processes();
    left.sort_unstable();
    left.iter().rev().for_each(|(pid, _)| signal(*pid, "KILL"));
}

fn finish(mut command: Command) -> Said {
    said(command.output().expect("margay runs"))
}

pub fn said(output: std::process::Output) -> Said {
    Said {
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: code(output.status),
    }
}

fn code(status: std::process::ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Asks again until there is an answer.
#[track_caller]
pub fn eventually<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An HTTP answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

/// A server outside of margay that answers each request with `body`, until the tests end.
pub fn answering(body: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let head = format!("content-length: {}\r\nconnection: close", body.len());
            let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}").as_bytes());
        }
    });
    address
}

/// `GET path` from `address` as `host`; `None` without an answer.
pub fn get(address: &str, host: &str, path: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream
        .write_all(
            format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes(),
        )
        .ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head, body: unchunked(&bytes[end + 4..], &bytes[..end]) })
}

fn unchunked(body: &[u8], head: &[u8]) -> Vec<u8> {
    if !String::from_utf8_lossy(head).to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return body.to_vec();
    }
    let (mut rest, mut whole) = (body, Vec::new());
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let size =
            usize::from_str_radix(String::from_utf8_lossy(&rest[..end]).trim(), 16).unwrap_or(0);
        if size == 0 || rest.len() < end + 2 + size {
            break;
        }
        whole.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = rest.get(end + 4 + size..).unwrap_or_default();
    }
    whole
}

/// The samples of this checkout.
pub fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").join("samples")
}
