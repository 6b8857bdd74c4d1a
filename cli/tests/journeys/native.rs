//! Linux images: the same verbs, another wall. They need root, an OCI runtime and a static busybox;
//! without, each journey says that it did not run.

use std::{os::unix::fs::symlink, path::Path};

use serde_json::Value;

use crate::{
    stage::{Stage, eventually, get, samples, signal},
    up::Up,
};

const BUSYBOX: &str = "/bin/busybox";

/// Whether Linux images can run here. Says why not.
pub fn ready() -> bool {
    let why = if !rustix::process::geteuid().is_root() {
        "not root"
    } else if !["/usr/sbin/runc", "/usr/bin/runc", "/usr/bin/crun"]
        .iter()
        .any(|path| Path::new(path).exists())
    {
        "no OCI runtime: apt-get install runc"
    } else if !Path::new(BUSYBOX).exists() {
        "no static busybox: apt-get install busybox-static"
    } else {
        return true;
    };
    println!("SKIPPED: no Linux image was run: {why}");
    false
}

/// Builds the page of the cats on busybox, with `last` as the end of its Dockerfile.
pub fn build(stage: &Stage, tag: &str, last: &str) {
    build_for(stage, tag, last, &[]);
}

/// The same with users of the image, as in `web:33`, and all the programs of busybox.
pub fn build_for(stage: &Stage, tag: &str, last: &str, users: &[&str]) {
    let root = stage.path("rootfs");
    if !root.exists() {
        for folder in ["bin", "etc", "srv/www"] {
            std::fs::create_dir_all(root.join(folder)).expect("a folder");
        }
        std::fs::copy(BUSYBOX, root.join("bin/busybox")).expect("busybox");
        let more: &[&str] = if users.is_empty() { &[] } else { &MORE_APPLETS };
        for applet in APPLETS.iter().chain(more) {
            symlink("busybox", root.join("bin").join(applet)).expect("a link");
        }
        let line = |user: &&str| user.replacen(':', ":x:", 1);
        let lines =
            users.iter().map(|user| format!("{0}:{1}::/:/bin/sh\n", line(user), user_id(user)));
        let users: String = lines.collect();
        stage.write("rootfs/etc/passwd", format!("root:x:0:0:root:/:/bin/sh\n{users}"));
        std::fs::copy(samples().join("cats/www/index.html"), root.join("srv/www/index.html"))
            .expect("the page");
    }
    stage.write("Dockerfile", format!("FROM scratch\nCOPY rootfs/ /\n{last}\n"));
    stage.margay(["build", "-t", tag, "."]).ok();
}

const APPLETS: [&str; 8] = ["sh", "cat", "echo", "httpd", "seq", "sleep", "touch", "hostname"];
const MORE_APPLETS: [&str; 14] = [
    "chmod", "chown", "chroot", "id", "kill", "ln", "ls", "mkdir", "mknod", "mount", "stat",
    "true", "unshare", "wc",
];

fn user_id(user: &str) -> &str {
    user.split_once(':').map_or("", |(_, id)| id)
}

const CATS: &str =
    "EXPOSE 80\nCMD [\"/bin/busybox\", \"httpd\", \"-f\", \"-p\", \"80\", \"-h\", \"/srv/www\"]";

pub fn published(stage: &Stage, name: &str) -> Option<String> {
    let list: Value = serde_json::from_str(&stage.margay(["ps", "--output", "json"]).ok()).ok()?;
    let task = list.as_array()?.iter().find(|task| task["name"] == name)?;
    let port = task["ports"][0]["host_port"].as_u64()?;
    (task["state"] == "running").then(|| format!("127.0.0.1:{port}"))
}

/// Debian's runtimes are older than what is published against their versions.
#[test]
fn an_oci_runtime_with_known_escapes_is_warned_of_at_its_first_start_alone() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    build(&stage, "cats", CATS);
    let checks = stage.margay(["doctor", "--output", "json"]).out;
    let checks: Value = serde_json::from_str(&checks).expect("JSON");
    let mut all = checks.as_array().into_iter().flatten();
    let found = all.find(|check| check["name"] == "native: oci-runtime").expect("a check");
    let known = found["found"].as_str().filter(|text| text.contains("CVE-"));
    for (option, want) in [("-d", known), ("--rm", None), ("-d", None)] {
        let err = stage.margay(["run", option, "cats", "/bin/busybox", "true"]);
        let warned = err.err.contains("The OCI runtime of this machine: ");
        assert_eq!(warned, want.is_some(), "{option}: {}", err.err);
        assert!(want.is_none_or(|text| err.err.contains(text)), "{option}: {}", err.err);
        err.ok();
    }
    for task in stage.margay(["ps", "-aq"]).ok().lines() {
        stage.margay(["rm", "-f", task]).ok();
    }
    stage.is_empty();
}

#[test]
fn a_linux_image_runs_a_command_and_passes_its_exit_code() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    build(&stage, "busybox-cats:native", CATS);
    let run =
        |line: &str| stage.margay(["run", "--rm", "busybox-cats:native", "/bin/sh", "-c", line]);
    assert_eq!(run("echo hi").ok(), "hi\n");
    let said = run("echo out; echo err >&2; exit 7");
    assert_eq!((said.out.as_str(), said.code), ("out\n", 7), "{}", said.err);
    assert!(said.err.contains("err\n"), "{}", said.err);
    // The first process of a container cannot kill itself: Linux ignores that.
    assert_eq!(run("/bin/sh -c 'kill -9 $$'; exit $?").code, 137);
    assert_eq!(run("touch /x && echo written").ok(), "written\n");
    let script = "touch /x || echo read-only; touch /tmp/x && echo memory";
    let read_only = ["run", "--rm", "--read-only", "busybox-cats:native", "/bin/sh", "-c", script];
    assert_eq!(stage.margay(read_only).ok(), "read-only\nmemory\n");
    let fed = stage.margay_fed(["run", "-i", "--rm", "busybox-cats:native", "cat"], "meow\n").ok();
    assert_eq!(fed, "meow\n");
    let said = stage.margay([
        "run",
        "--rm",
        "-e",
        "NAME=Tom",
        "busybox-cats:native",
        "/bin/sh",
        "-c",
        "echo $NAME",
    ]);
    assert_eq!(said.ok(), "Tom\n");
    stage.is_empty();
}

#[test]
fn a_linux_image_serves_the_cats_in_the_background() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    build(&stage, "native-cats", CATS);
    stage.margay(["run", "-d", "-p", "0:80", "--name", "tom", "native-cats"]).ok();
    let address = eventually("tom has a port", || published(&stage, "tom"));
    let page = eventually("tom answers", || get(&address, "localhost", "/"));
    assert_eq!(page.status, 200);
    assert!(String::from_utf8_lossy(&page.body).contains("<html"), "{}", page.head);
    let stats: Value =
        serde_json::from_str(&stage.margay(["stats", "tom", "--output", "json"]).ok())
            .expect("JSON");
    assert!(stats[0]["cpu_ns"].as_u64() > Some(0), "counted while it runs: {stats}");
    assert_eq!(stage.margay(["stop", "--time", "1", "tom"]).ok(), "tom\n");
    assert!(get(&address, "localhost", "/").is_none());
    assert_eq!(stage.margay(["rm", "tom"]).ok(), "tom\n");

    // A stop that gives more time than the task was started with means it.
    let slow = "trap 'sleep 3; exit 7' TERM; echo ready; while true; do sleep 0.1; done";
    stage
        .margay([
            "run",
            "-d",
            "--stop-timeout",
            "1",
            "--name",
            "slow",
            "native-cats",
            "/bin/sh",
            "-c",
            slow,
        ])
        .ok();
    eventually("its trap is there", || {
        (stage.margay(["logs", "slow"]).ok() == "ready\n").then_some(())
    });
    assert_eq!(stage.margay(["stop", "--time", "20", "slow"]).ok(), "slow\n");
    let seen: Value = serde_json::from_str(&stage.margay(["inspect", "slow"]).ok()).expect("JSON");
    assert_eq!(seen[0]["seen"]["exit_code"], 7, "{seen}");
    stage.is_empty();
}

/// The processes of the host that run `line`, below this home.
pub fn running(stage: &Stage, line: &str) -> Vec<i32> {
    let shims: Vec<_> = stage.processes().iter().map(|(pid, _)| *pid).collect();
    let parent = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok()).unwrap_or(0)
    };
    let runs = |pid: &i32| {
        let said = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&said).replace('\0', " ").starts_with(line)
    };
    let all = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(runs).filter(|pid| shims.contains(&parent(pid))).collect()
}

fn cgroups() -> Vec<String> {
    let roots =
        ["/sys/fs/cgroup", "/sys/fs/cgroup/pids"].map(std::fs::read_dir).into_iter().flatten();
    roots.flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[test]
fn a_linux_service_is_replaced_when_killed_adopted_by_the_next_agent_and_leaves_nothing() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    let up = Up::start(&stage);
    build(&stage, "purrs", CATS);
    let image = format!("{}/me/purrs:v1", up.registry);
    stage.margay(["login", "-u", "me", &up.registry]).ok();
    stage.margay(["tag", "purrs", &image]).ok();
    stage.margay(["push", &image]).ok();
    let definition = "family = \"purrs\"\nlaunch_types = [\"node\", \"pool\"]\n[role]\nallow = []\n\
         [[containers]]\nname = \"purrs\"\nimage = \"purrs:v1\"\ncpu_millis = 100\nmemory_soft_bytes = 33554432\n\
         memory_hard_bytes = 67108864\nports = [{ container_port = 80 }]\n";
    let file = stage.write("purrs.toml", definition).display().to_string();
    assert_eq!(stage.margay(["task", "register", &file]).ok(), "purrs:1\n");
    stage.margay(["cluster", "create", "main"]).ok();
    let pool = ["task", "run", "purrs:1", "--cluster", "main", "--launch-type", "pool"];
    let err = stage.margay(pool).fails(1);
    assert!(err.contains("no node of the pool runs") && err.contains("--pool-native"), "{err}");
    stage.margay(["service", "create", "purrs", "--task", "purrs:1", "--cluster", "main"]).ok();
    let page =
        || get(&up.ingress, "purrs.main.localhost", "/").filter(|answer| answer.status == 200);
    eventually("the page is served", page);
    let name = eventually("the task has a folder", || {
        let list: Value =
            serde_json::from_str(&stage.margay(["ps", "--output", "json"]).ok()).ok()?;
        Some(list[0]["name"].as_str()?.to_owned())
    });
    assert!(cgroups().iter().any(|group| group.contains(&name)), "{:?}", cgroups());
    let program = |but: i32| {
        eventually("its program runs", || {
            running(&stage, "/bin/busybox httpd").into_iter().find(|pid| *pid != but)
        })
    };
    let first = program(0);
    signal(first, "KILL");
    let second = program(first);
    eventually("the page is back", page);

    // The agent dies: the container runs on, and the next agent finds it and both of its doors.
    let agent = up.pid_of(&stage, "node").expect("an agent");
    signal(agent, "KILL");
    let next =
        eventually("an agent is back", || up.pid_of(&stage, "node").filter(|now| *now != agent));
    let seen = eventually("it is adopted", || {
        let list: Value = serde_json::from_str(&stage.margay(["inspect", &name]).ok()).ok()?;
        let seen = list[0]["seen"].clone();
        (seen["supervisor"]["pid"] == next && seen["phase"] == "running").then_some(seen)
    });
    assert_eq!(
        seen["ports"],
        serde_json::json!([{ "container_port": 80, "host_port": null }]),
        "{seen}"
    );
    assert_eq!(running(&stage, "/bin/busybox httpd"), [second], "the same program as before");
    page().expect("the page");

    // Also when no process is left that knows how it ended.
    let shim =
        stage.processes().into_iter().find(|(_, line)| line.contains(" shim")).expect("a shim").0;
    signal(shim, "KILL");
    let third = program(second);
    eventually("the page is back", page);
    signal(third, "KILL");
    program(third);
    eventually("the page is back", page);

    stage.margay(["service", "delete", "purrs", "--cluster", "main"]).ok();
    eventually("nothing of it runs", || {
        running(&stage, "/bin/busybox httpd").is_empty().then_some(())
    });
    let sockets = stage.home().join("ingress/sockets");
    eventually("its door is gone", || {
        std::fs::read_dir(&sockets).ok()?.next().is_none().then_some(())
    });
    up.end();
    assert!(!cgroups().iter().any(|group| group.contains(&name)), "{:?}", cgroups());
    stage.is_empty();
}

#[test]
fn a_linux_image_in_a_docker_archive_runs() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    build(&stage, "native-cats", CATS);
    stage.margay(["save", "-o", "cats.tar", "native-cats"]).ok();
    let said = stage.margay(["run", "--rm", "./cats.tar", "/bin/echo", "from a tar"]);
    assert_eq!(said.ok(), "from a tar\n");
    stage.is_empty();
}

#[test]
fn a_linux_image_without_an_oci_runtime_says_what_to_install() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    build(&stage, "native-cats", CATS);
    let output = stage
        .command(["run", "--rm", "native-cats"])
        .env("PATH", "/nonexistent")
        .output()
        .expect("margay runs");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{err}");
    assert!(
        err.contains("no OCI runtime is installed") && err.contains("apt-get install runc"),
        "{err}"
    );
    stage.is_empty();
}

#[test]
fn a_linux_program_that_is_not_there_or_eats_too_much_is_named() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    build(&stage, "native-cats", CATS);
    for before in [&["run", "--rm"][..], &["run", "-d"]] {
        let run =
            |program: &str| stage.margay(before.iter().copied().chain(["native-cats", program]));
        let err = run("/bin/dog").fails(127);
        assert!(err.contains("/bin/dog"), "{err}");
        let err = run("/etc/passwd").fails(126);
        assert!(err.contains("/etc/passwd"), "{err}");
    }
    let hog = ["/bin/busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"];
    let err =
        stage.margay(["run", "--rm", "-m", "32m", "native-cats"].iter().chain(&hog)).fails(137);
    assert!(err.contains("E_MEMORY") && err.contains("oom"), "{err}");
    let err = stage.margay(["run", "--rm", "--allow", "clock:frozen", "native-cats"]).fails(125);
    assert!(err.contains("cannot be granted `clock:frozen`"), "{err}");
    stage.is_empty();
}

/// What a container of either kind is told to do, and the exit code that comes of it.
#[test]
fn variables_and_arguments_that_linux_does_not_take_are_named_before_the_start() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    build(&stage, "box", "CMD [\"/bin/sleep\", \"600\"]");
    let long = "x".repeat(120_000);
    stage.write("env", format!("A={long}\n"));
    let run = ["run", "--rm", "--env-file", "env", "box", "sh", "-c", "echo ${#A}"];
    assert_eq!(stage.margay(run).ok(), "120000\n");
    stage.write("env", format!("A={long}{long}\n"));
    let err = stage.margay(run).fails(125);
    assert!(err.contains("variable `A` has 240002 bytes"), "{err}");
    let nine = [&["run", "--rm", "box", "echo"][..], &[long.as_str(); 9]].concat();
    let err = stage.margay(nine).fails(125);
    assert!(err.contains("the command has 1080004 bytes"), "{err}");
    stage.is_empty();
}

#[test]
fn both_kinds_of_containers_report_host_errors_alike() {
    let stage = Stage::new();
    std::fs::copy(samples().join("hostile/probe-cli.wasm"), stage.path("probe.wasm"))
        .expect("the probe");
    let hog = wat::parse_file(samples().join("hostile/hog.wat")).expect("a program");
    stage.write("hog.wasm", hog);
    stage.write("text", "this is no program");
    let entrypoint = "ENTRYPOINT [\"/probe.wasm\"]";
    stage.write(
        "Dockerfile",
        format!("FROM scratch\nCOPY probe.wasm hog.wasm text /\n{entrypoint}\n"),
    );
    stage.margay(["build", "-t", "wasm-probe", "."]).ok();
    let hog = ["run", "--rm", "-m", "32m", "--entrypoint", "/hog.wasm", "wasm-probe"];
    let mut kinds = vec![("wasm-probe", "/text", &hog[..], &["sleep", "60000"][..])];
    let dd = "/bin/busybox dd if=/dev/zero of=/dev/null bs=100M count=1".split(' ');
    let dd: Vec<_> = ["run", "--rm", "-m", "32m", "native-probe"].into_iter().chain(dd).collect();
    // The first process of a container is not ended by a signal that it does not handle.
    let waits = ["/bin/sh", "-c", "trap 'exit 143' TERM; while :; do sleep 0.05; done"];
    if ready() {
        build(&stage, "native-probe", CATS);
        kinds.push(("native-probe", "/etc/passwd", &dd[..], &waits[..]));
    }
    for (image, text, hog, sleep) in kinds {
        let entrypoint = |program| ["run", "--rm", "--entrypoint", program, image];
        let err = stage.margay(entrypoint("/missing")).fails(127);
        assert!(err.contains("missing"), "{image}: {err}");
        let err = stage.margay(entrypoint(text)).fails(126);
        assert!(err.contains(&text[1..]), "{image}: {err}");
        let err = stage.margay(hog).fails(137);
        assert!(err.contains("E_MEMORY: oom: it needed more than its 32MiB"), "{image}: {err}");
        for (signal, want) in [("TERM", 143), ("INT", 130)] {
            let grace = ["run", "--rm", "--name", signal, image];
            let running = stage.start(grace.iter().chain(sleep).copied());
            eventually("it runs", || {
                let list: Value =
                    serde_json::from_str(&stage.margay(["ps", "--output", "json"]).ok()).ok()?;
                (list[0]["state"] == "running").then_some(())
            });
            running.signal(signal);
            assert_eq!(running.end().code, want, "{image} and {signal}");
        }
    }
    stage.is_empty();
}

#[test]
fn a_linux_task_is_shown_with_its_ports_its_processes_and_dockers_paths() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    build(&stage, "busybox-cats:native", &format!("LABEL tier=web\n{CATS}"));
    let run = ["run", "-d", "--name", "web", "-p", "127.0.0.1::80", "-l", "x=y"];
    stage.margay(run.iter().chain(&["busybox-cats:native"])).ok();
    let address = eventually("it is published", || published(&stage, "web"));
    let show = |arguments: &[&str]| stage.margay(arguments).ok().trim_end().to_owned();
    assert_eq!(show(&["ps", "--format", "{{.Ports}}"]), format!("{address}->80/tcp"));
    let port = "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}";
    let found = show(&["inspect", "-f", port, "web"]);
    assert!(address.ends_with(&format!(":{found}")), "{address} and {found}");
    let shown = show(&["inspect", "-f", "{{.Platform}} {{.Path}} {{.Config.Labels.tier}}", "web"]);
    assert_eq!(shown, "linux /bin/busybox web");
    for (filter, want) in [
        ("label=tier=web", "web"),
        ("label=x=y", "web"),
        ("label=x=z", ""),
        ("ancestor=busybox-cats:native", "web"),
        ("ancestor=other", ""),
        ("expose=80", "web"),
        (&format!("publish={found}"), "web"),
        ("publish=1-2", ""),
    ] {
        let names = show(&["ps", "--filter", filter, "--format", "{{.Names}}"]);
        assert_eq!(names, want, "{filter}");
    }
    let top = show(&["top", "web"]);
    assert!(top.contains("/bin/busybox httpd -f"), "{top}");
    assert!(!top.contains("margay"), "the shim is not the task's: {top}");
    let top = show(&["top", "web", "-eo", "pid,comm"]);
    assert_eq!(top.split_whitespace().skip(2).nth(1), Some("busybox"), "{top}");
    assert_eq!(top.lines().count(), 2, "{top}");
    assert_eq!(show(&["top", "web", "-o", "pid,comm"]), top);
    assert!(show(&["top", "web", "axf"]).contains("/bin/busybox httpd -f"));
    assert_eq!(show(&["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}"]), "web 1");
    stage.margay(["stop", "-t", "1", "web"]).ok();
    let actions = ["events", "--since", "1h", "--until", "0s", "-f", "container=web"];
    let told = stage.margay(actions.iter().chain(&["--format", "{{.Action}}"])).ok();
    assert_eq!(told, "create\nstart\nkill\ndie\nstop\n");
    assert_eq!(show(&["ps", "-l", "--format", "{{.State}} [{{.Ports}}]"]), "exited []");
    stage.margay(["rm", "web"]).ok();
    stage.is_empty();
}
