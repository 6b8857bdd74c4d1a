//! Inside a container of another engine, as CI and shared machines have it: either margay runs, or
//! `doctor` says beforehand what is forbidden. Needs root, podman or a Docker engine, and what
//! `tests/fetch-servers` has unpacked as a root folder; without, a journey says that it did not
//! run.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use crate::stage::{Stage, eventually, samples, with_default_signals};

/// What a user does first, each with its exit code.
const STEPS: &str = r#"
export PATH=/opt/margay:/usr/sbin:/usr/bin HOME=/tmp/home MARGAY_HOME=/tmp/home/margay
mkdir -p $HOME && cd $HOME && cp -r /opt/samples .
step() {
  name=$1; shift; "$@" > out 2>&1; code=$?
  while IFS= read -r line; do echo "$name| $line"; done < out; echo "$name=$code"
}
step doctor margay doctor
step run margay run --rm samples/hello/hello.wasm a
step build margay build -t cats-base samples/httpd
step serve margay run -d --name page -p 127.0.0.1:0:80 cats-base
step remove margay rm -f page
step demo margay demo --once --samples samples
"#;

/// As Docker's own profile has it for a container without CAP_SYS_ADMIN.
const NO_NAMESPACES: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
  {"names": ["unshare", "mount", "open_tree", "fsopen"], "action": "SCMP_ACT_ERRNO",
   "errnoRet": 1}]}"#;

const NO_SETFCAP: &str = "no CAP_SETFCAP: start the container around us with `--cap-add";
const FILTERED: &str = "`--security-opt seccomp=unconfined`";

/// A root folder of Debian, for root and where `program` is there.
fn rootfs(program: &Command) -> Option<PathBuf> {
    let root = std::env::var_os("MARGAY_TEST_SERVERS").map(PathBuf::from)?;
    let mut asked = Command::new(program.get_program());
    for (name, value) in program.get_envs() {
        asked.env(name, value.unwrap_or_default());
    }
    let is_there = asked.arg("--version").output().is_ok_and(|output| output.status.success());
    let runs = rustix::process::geteuid().is_root() && is_there && root.join("bin/sh").exists();
    runs.then_some(root)
}

/// Mounts, limits and the steps: what both engines are told in one way.
fn inside(mut engine: Command, options: &[&str], root: &[String], mounts: &[String]) -> String {
    let binary = Path::new(env!("CARGO_BIN_EXE_margay"));
    engine.args(["run", "--rm", "--network=none", "--tmpfs=/tmp:mode=1777,exec"]);
    // More than this machine may have is asked for otherwise.
    engine.args(["--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096"]).args(options);
    engine.args(["-v", &format!("{}:/opt/margay/margay:ro", binary.display())]);
    engine.args(["-v", &format!("{}:/opt/samples:ro", samples().display())]);
    engine.args(mounts).args(root).args(["/bin/sh", "-c", STEPS]);
    let said = engine.output().expect("the engine runs");
    text_of(&said, options)
}

fn text_of(said: &Output, options: &[&str]) -> String {
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.status.success(), "{options:?}: {out}\n{err}");
    format!("{out}{err}")
}

/// All of it works, or doctor names what is forbidden before anything is started.
#[track_caller]
fn check(options: &[&str], forbidden: Option<&str>, out: &str, few_descriptors: bool) {
    let has = |line: &str| out.lines().any(|own| own == line);
    let codes = match forbidden {
        None => ["doctor=0", "run=0", "build=0", "serve=0", "demo=0"],
        Some(_) => ["doctor=1", "run=125", "build=0", "serve=125", "demo=1"],
    };
    for code in codes {
        assert!(has(code), "{options:?}: not {code}: {out}");
    }
    let fails = out.lines().filter(|line| line.starts_with("doctor| fail")).count();
    assert_eq!(fails, usize::from(forbidden.is_some()), "{options:?}: {out}");
    if let Some(forbidden) = forbidden {
        assert!(out.contains(forbidden), "{options:?}: not {forbidden}: {out}");
        assert!(out.contains("hint: see what this machine allows"), "{options:?}: {out}");
    }
    // One cause, one line: few descriptors are said by no process but the first.
    let few = out.lines().filter(|line| line.starts_with("demo|") && line.contains("open files"));
    let want = usize::from(forbidden.is_none() && few_descriptors);
    assert_eq!(few.count(), want, "{options:?}: {out}");
    assert!(!out.contains("restarting it") && !out.contains("WARN"), "{options:?}: {out}");
}

/// Ten times what it takes: a demo that waits for what cannot come takes a minute.
const TIME_MAX: Duration = Duration::from_secs(40);

#[test]
fn inside_podman_it_runs_or_doctor_says_why_not() {
    let podman = || {
        let mut podman = Command::new("podman");
        // crun refuses machines that divide their controllers among cgroup v1 and v2.
        podman.arg("--runtime=runc");
        podman
    };
    let Some(root) = rootfs(&podman()) else {
        println!("SKIPPED: nothing ran inside podman: it takes root, podman and tests/run");
        return;
    };
    let stage = Stage::new();
    let profile = stage.write("no-namespaces.json", NO_NAMESPACES);
    let profile = format!("--security-opt=seccomp={}", profile.display());
    let root = ["--rootfs".to_owned(), format!("{}:O", root.display())];
    for (options, forbidden) in [
        (&[][..], None),
        (&["--user=1000:1000"][..], None),
        (&["--cap-drop=all", "--cap-add=setfcap", "--cap-add=sys_chroot"], None),
        (&["--cap-drop=chown"], None),
        (&["--read-only"], None),
        (&["--privileged"], None),
        (&["--cap-drop=setfcap"], Some(NO_SETFCAP)),
        (&["--cap-drop=all"], Some(NO_SETFCAP)),
        (&["--cap-drop=all", "--user=1000:1000"], Some(FILTERED)),
        (&[profile.as_str()], Some(FILTERED)),
        (&["--user=1000:1000", &profile], Some(FILTERED)),
    ] {
        let began = Instant::now();
        let mut engine = podman();
        engine.current_dir(stage.path(""));
        let out = inside(engine, options, &root, &[]);
        check(options, forbidden, &out, true);
        let took = began.elapsed();
        assert!(took < TIME_MAX, "{options:?} took {took:?}");
    }
    stage.is_empty();
}

/// A Docker engine of its own: nothing of the machine's firewall, bridges or cgroups is touched.
struct Docker {
    daemon: Child,
    path: String,
    host: String,
}

impl Docker {
    fn command(path: &str, program: &str) -> Command {
        // Command looks a program up in its own PATH.
        let places = path.split(':').map(|place| Path::new(place).join(program));
        let found = places.into_iter().find(|place| place.exists());
        let mut command = Command::new(found.unwrap_or_else(|| program.into()));
        command.env("PATH", path);
        command
    }

    fn start(stage: &Stage, path: String) -> Self {
        let folder = stage.path("engine");
        fs::create_dir_all(&folder).expect("a folder");
        let host = format!("unix://{}", folder.join("docker.sock").display());
        let of = |name: &str| folder.join(name).display().to_string();
        let mut daemon = Self::command(&path, "dockerd");
        daemon.args(["--iptables=false", "--ip6tables=false", "--bridge=none"]);
        daemon.args(["--storage-driver=vfs", "--data-root", &of("data")]);
        daemon.args(["--exec-root", &of("run"), "--pidfile", &of("pid"), "--host", &host]);
        daemon.stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = with_default_signals(&mut daemon).spawn().expect("dockerd starts");
        let docker = Self { daemon, path, host };
        eventually("dockerd answers", || {
            docker.docker(&["info"]).output().is_ok_and(|said| said.status.success()).then_some(())
        });
        docker
    }

    fn docker(&self, arguments: &[&str]) -> Command {
        let mut command = Self::command(&self.path, "docker");
        command.env("DOCKER_HOST", &self.host).args(arguments);
        command
    }

    /// An image that finds its programs in folders that are mounted.
    fn import_base(&self, stage: &Stage) {
        for folder in ["usr", "etc", "proc", "sys", "tmp", "dev", "opt"] {
            fs::create_dir_all(stage.path("base").join(folder)).expect("a folder");
        }
        // What is mounted there takes its mode.
        let open = fs::Permissions::from_mode(0o1777);
        fs::set_permissions(stage.path("base/tmp"), open).expect("a mode");
        for name in ["bin", "sbin", "lib", "lib64"] {
            let to = format!("usr/{name}");
            std::os::unix::fs::symlink(to, stage.path("base").join(name)).expect("a link");
        }
        let (folder, archive) = (stage.path("base"), stage.path("base.tar"));
        let mut tar = Command::new("tar");
        tar.arg("-cf").arg(&archive).arg("-C").arg(folder).arg(".");
        assert!(tar.status().expect("tar runs").success());
        let archive = archive.display().to_string();
        let said = self.docker(&["import", &archive, "base"]).output().expect("docker runs");
        text_of(&said, &["import"]);
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        crate::stage::signal(self.daemon.id().cast_signed(), "TERM");
        let _ = self.daemon.wait();
    }
}

#[test]
fn inside_docker_it_runs_or_doctor_says_why_not() {
    let built = std::env::var("MARGAY_TEST_CLIENTS").unwrap_or_default();
    let path = format!("{built}:{}", std::env::var("PATH").unwrap_or_default());
    let Some(root) = rootfs(&Docker::command(&path, "dockerd")) else {
        println!("SKIPPED: nothing ran inside Docker: it takes root, an engine and tests/run");
        return;
    };
    let stage = Stage::new();
    let docker = Docker::start(&stage, path);
    docker.import_base(&stage);
    let mounts = ["-v".to_owned(), format!("{}:/usr:ro", root.join("usr").display())];
    for (options, forbidden) in [
        (&[][..], Some(FILTERED)),
        (&["--user=1000:1000"][..], Some(FILTERED)),
        (&["--cap-drop=all", "--security-opt=seccomp=unconfined"], Some(NO_SETFCAP)),
        (&["--security-opt=seccomp=unconfined"], None),
        (&["--user=1000:1000", "--security-opt=seccomp=unconfined"], None),
        (&["--cap-add=sys_admin"], None),
    ] {
        let began = Instant::now();
        let out = inside(docker.docker(&[]), options, &["base".to_owned()], &mounts);
        check(options, forbidden, &out, true);
        let took = began.elapsed();
        assert!(took < TIME_MAX, "{options:?} took {took:?}");
    }
    drop(docker);
    stage.is_empty();
}

/// Root in a user namespace has all rights and one user, as in a container of an ordinary user.
#[test]
fn root_of_a_user_namespace_runs_what_an_ordinary_user_does() {
    let stage = Stage::new();
    let made = Command::new("unshare").args(["-Ur", "true"]).status();
    if !made.is_ok_and(|status| status.success()) {
        println!("SKIPPED: this machine makes no user namespaces for its users");
        return;
    }
    let mut shell = Command::new("unshare");
    let binary = Path::new(env!("CARGO_BIN_EXE_margay"));
    let steps = STEPS
        .replace("/opt/margay:", &format!("{}:", binary.parent().expect("a folder").display()))
        .replace("/opt/samples", &samples().display().to_string())
        .replace("/tmp/home", &stage.path("").display().to_string());
    shell.args(["-Ur", "sh", "-c", &steps]).current_dir(stage.path(""));
    let said = with_default_signals(&mut shell).output().expect("unshare runs");
    check(&["unshare -Ur"], None, &text_of(&said, &["unshare"]), false);
    stage.is_empty();
}
