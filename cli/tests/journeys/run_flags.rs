//! Docker's flags of `run`: what they do for a Linux image, and what a Wasm program says to them.

use serde_json::Value;

use crate::{
    native::{build, ready},
    stage::{Stage, eventually, get, samples},
};

fn hello() -> String {
    samples().join("hello/hello.wasm").display().to_string()
}

/// What the task `name` was asked for.
fn record(stage: &Stage, name: &str) -> Value {
    let seen: Value = serde_json::from_str(&stage.margay(["inspect", name]).ok()).expect("JSON");
    seen[0]["task"].clone()
}

#[test]
fn flags_that_mean_nothing_for_a_wasm_program_are_refused_before_it_starts() {
    let stage = Stage::new();
    for (flag, value) in [
        ("--user", "1000"),
        ("--hostname", "web"),
        ("--add-host", "db:10.0.0.7"),
        ("--group-add", "www"),
        ("--shm-size", "1m"),
        ("--ulimit", "nofile=100"),
        ("--stop-signal", "INT"),
    ] {
        let err = stage.margay(["run", flag, value, &hello()]).fails(125);
        let want = format!("error: `{flag}` means nothing for a Wasm program: ");
        assert!(err.starts_with(&want) && err.contains("\nhint: "), "{flag}: {err}");
    }
    assert_eq!(stage.margay(["ps", "-aq"]).ok(), "");
    stage.is_empty();
}

#[test]
fn values_that_cannot_be_are_refused_with_what_can() {
    let stage = Stage::new();
    for (line, want) in [
        ("--ulimit rtprio=9", "from all others"),
        ("--ulimit nofile=9:1", "above the hard one"),
        ("--ulimit cpu=0", "use 1 or more"),
        ("--stop-signal 0", "it is no signal, such as SIGTERM"),
        ("--group-add=", "use the name of a group of the image"),
        ("--cap-add SYS_ADMIN", "no task gets `CAP_SYS_ADMIN`"),
        ("--cap-drop FLY", "no capability `CAP_FLY`"),
        ("--security-opt seccomp=unconfined", "list of system calls"),
        ("--platform linux/s390x", "this machine runs wasi/wasm and linux/"),
        ("-d -a stdout", "-d and -a contradict each other"),
        ("--tmpfs run", "absolute path"),
        ("--mount type=bind,source=/no/such,target=/x", "no file or folder `/no/such`"),
        ("--mount type=npipe,source=x,target=/x", "`npipe` is no type of mount"),
        ("--mount source=x,target=/d -v y:/d", "something is mounted at `/d` twice"),
        ("--cpus 0.001", "use 0.01 to"),
        ("--pids-limit -1", "a task always has a limit"),
        ("--memory-swap 1g -m 512m", "a task has no swap"),
        ("--memory-swap 1g", "a task has no swap"),
        ("--memory-swap -1", "a task has no swap"),
        ("-m 0", "a task always has a limit"),
        ("--network host", "no task has the network of this machine"),
        ("--network back", "no networks to join"),
        ("--network none -p 80", "--network none, and a port"),
        ("-p 8000-8002:80-81", "as many ports"),
        ("-w srv", "absolute path"),
        ("-h a_b!", "use letters"),
        ("--add-host db", "NAME:ADDRESS"),
        ("-l =x", "is no label"),
    ] {
        let err = stage.margay(["run"].into_iter().chain(line.split(' ')).chain(["x"])).fails(2);
        assert!(err.contains(want), "{line}: {err}");
    }
    assert!(!stage.home().join("tasks").exists());
}

#[test]
fn labels_are_kept_and_fractions_of_sizes_are_read() {
    let stage = Stage::new();
    stage.write("labels", "# a comment\ntier=front\nowner=file\n");
    let flags = ["--label-file", "labels", "-l", "owner=flag", "--label", "bare", "-m", "0.125g"];
    let run = ["run", "--name", "labelled", "--expose", "80"];
    stage.margay(run.iter().chain(&flags).chain(&[hello().as_str()])).ok();
    let record = record(&stage, "labelled");
    let labels = serde_json::json!({ "bare": "", "owner": "flag", "tier": "front" });
    assert_eq!(record["labels"], labels, "{record}");
    assert_eq!(record["limits"]["memory_bytes_max"], 128 << 20, "{record}");
    assert_eq!(record["exposed"], serde_json::json!([80]), "{record}");
}

#[test]
fn a_linux_program_gets_user_folder_names_and_limits() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    build(&stage, "box", "WORKDIR /srv\nENTRYPOINT [\"/bin/echo\"]\nCMD [\"image\"]");
    let run = |flags: &str, line: &str| {
        let flags = flags.split(' ').filter(|flag| !flag.is_empty());
        let program = ["--entrypoint", "/bin/busybox", "box", "sh", "-c", line];
        let said = stage.margay(["run", "--rm"].into_iter().chain(flags).chain(program));
        said.ok().trim().to_owned()
    };
    for (flags, line, want) in [
        ("", "pwd; busybox id -u", "/srv\n0"),
        ("-w /etc", "pwd", "/etc"),
        ("-u 1000:1001", "busybox id -u; busybox id -g", "1000\n1001"),
        ("-u root --group-add 7", "busybox id -G", "0 7"),
        ("-h web-1", "busybox hostname; busybox grep -c web-1 /etc/hosts", "web-1\n1"),
        ("--cpus 0 --shm-size 0 --memory-swap 0", "pwd", "/srv"),
        ("--add-host db:10.0.0.7", "busybox grep db /etc/hosts", "10.0.0.7\tdb"),
        ("--ulimit nofile=9000:9000", "ulimit -Sn; ulimit -Hn", "9000\n9000"),
        ("--cap-drop ALL", "busybox grep CapEff /proc/self/status", "CapEff:\t0000000000000000"),
        (
            "--cap-drop ALL --cap-add CHOWN",
            "busybox grep CapEff /proc/self/status",
            "CapEff:\t0000000000000001",
        ),
        (
            "--security-opt no-new-privileges",
            "busybox grep NoNew /proc/self/status",
            "NoNewPrivs:\t1",
        ),
        ("-a stdout", "echo out; echo err >&2", "out"),
        ("--ulimit nofile=100:200", "ulimit -Sn; ulimit -Hn", "100\n200"),
        (
            "--shm-size 1m",
            "busybox df -k /dev/shm | busybox tail -n 1 | busybox awk '{print $2}'",
            "1024",
        ),
        ("--tmpfs /scratch:size=1m", "echo x > /scratch/x && busybox cat /scratch/x", "x"),
        ("--mount type=tmpfs,target=/scratch,tmpfs-mode=700", "busybox stat -c %a /scratch", "700"),
    ] {
        assert_eq!(run(flags, line), want, "{flags}");
    }
    assert_eq!(stage.margay(["run", "--rm", "box"]).ok(), "image\n");
    // An empty entrypoint takes that of the image away, and its arguments with it.
    let said =
        stage.margay(["run", "--rm", "--entrypoint", "", "box", "/bin/busybox", "echo", "mine"]);
    assert_eq!(said.ok(), "mine\n");
    let err = stage.margay(["run", "--rm", "--platform", "wasi/wasm", "box"]).fails(125);
    assert!(err.contains("is an image for linux/"), "{err}");
    stage.margay(["run", "--rm", "--platform", "wasi/wasm", &hello()]).ok();
    let err = stage.margay(["run", "--rm", "-u", "ghost", "box"]).fails(125);
    assert!(err.contains("ghost"), "{err}");
    stage.is_empty();
}

#[test]
fn a_linux_program_has_as_many_processes_as_it_was_given() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    build(&stage, "box", "CMD [\"/bin/sh\"]");
    let line = "i=0; while [ $i -lt 20 ]; do busybox sleep 5 & i=$((i+1)); done; echo all";
    let said = stage.margay(["run", "--rm", "--pids-limit", "16", "box", "/bin/sh", "-c", line]);
    assert!(said.err.contains("fork"), "{said:?}");
    stage.is_empty();
}

#[test]
fn a_mount_that_cannot_work_is_refused_with_what_to_do() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    build(&stage, "box", "CMD [\"/bin/sh\"]");
    stage.write("outer/file", "x");
    for (mounts, why, next) in [
        (&["-v", "/dev/null:/x"][..], "`/dev/null` is a device", "mount an empty one"),
        (&["-v", "data:/proc"], "a volume cannot be mounted there", "mount it at another path"),
        (
            &["-v", "./outer:/x:ro", "-v", "data:/x/inner"],
            "read-only file system",
            "make that folder first",
        ),
    ] {
        let run = [&["run", "--rm"], mounts, &["box", "/bin/sh", "-c", "true"]].concat();
        let err = stage.margay(run).fails(125);
        assert!(err.contains(why) && err.contains(next), "{mounts:?}: {err}");
        assert!(!err.contains("install a newer one"), "{mounts:?}: {err}");
    }
    let few = ["run", "--rm", "--ulimit", "nofile=5", "box", "/bin/sh", "-c", "true"];
    let err = stage.margay(few).fails(125);
    assert!(err.contains("--ulimit nofile=NUMBER"), "{err}");
    stage.is_empty();
}

#[test]
fn every_exposed_port_is_published_on_a_free_one() {
    let stage = Stage::new();
    crate::images::build_cats(&stage);
    stage.margay(["run", "-d", "-P", "--name", "cats", "cats"]).ok();
    let list: Value =
        serde_json::from_str(&stage.margay(["ps", "--output", "json"]).ok()).expect("JSON");
    let port = list[0]["ports"][0]["host_port"].as_u64().expect("a port");
    let address = format!("127.0.0.1:{port}");
    let page = eventually("cats answers", || get(&address, "localhost", "/"));
    assert_eq!(page.status, 200);
    stage.margay(["rm", "-f", "cats"]).ok();
    stage.is_empty();
}
