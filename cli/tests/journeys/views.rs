//! Lists, templates, filters and events: the same facts in the form that was asked for.

use std::path::Path;

use serde_json::Value;

use crate::{
    images,
    stage::{Stage, eventually, samples},
};

fn hello() -> String {
    samples().join("hello/hello-p1.wasm").display().to_string()
}

fn probe() -> String {
    samples().join("hostile/probe-cli.wasm").display().to_string()
}

/// A task that runs, and one that has ended with 3.
fn two_tasks(stage: &Stage) {
    images::build(stage, "hello").ok();
    stage.margay(["run", "--name", "ended", &hello(), "--exit", "3"]).fails(3);
    stage
        .margay(["run", "-d", "--name", "sleeper", "-v", "book:/data", &probe(), "sleep", "60000"])
        .ok();
    eventually("it runs", || stage.margay(["ps"]).out.contains("Up ").then_some(()));
}

#[test]
fn ps_prints_templates_and_filters_as_docker_does() {
    let stage = Stage::new();
    two_tasks(&stage);
    let ps = |arguments: &[&str]| stage.margay(["ps"].iter().chain(arguments)).ok();
    for (arguments, want) in [
        (&["--format", "{{.Names}}"][..], "sleeper\n"),
        (&["-a", "--format", "{{.Names}} {{.State}}"], "sleeper running\nended exited\n"),
        (&["-l", "--format", "{{.Names}}"], "sleeper\n"),
        (&["-n", "1", "--format", "{{.Names}}"], "sleeper\n"),
        (&["-n", "5", "--format", "{{.Names}}"], "sleeper\nended\n"),
        (&["-f", "status=exited", "--format", "{{.Names}}"], "ended\n"),
        (&["-f", "exited=3", "--format", "{{.Names}}"], "ended\n"),
        (&["-f", "exited=4", "--format", "{{.Names}}"], ""),
        (&["-a", "-f", "name=^end", "--format", "{{.Names}}"], "ended\n"),
        (&["-a", "-f", "volume=book", "--format", "{{.Names}} {{.Mounts}}"], "sleeper book\n"),
        (&["-a", "-f", "since=ended", "--format", "{{.Names}}"], "sleeper\n"),
        (&["-a", "-f", "before=sleeper", "--format", "{{.Names}}"], "ended\n"),
        (
            &["-a", "--format", "table {{.Names}}\\t{{upper .State}}"],
            "NAMES     STATE\nsleeper   RUNNING\nended     EXITED\n",
        ),
        (&["-f", "name=none", "--format", "table {{.ID}}"], "TASK ID\n"),
    ] {
        assert_eq!(ps(arguments), want, "ps {arguments:?}");
    }
    let json: Value = serde_json::from_str(&ps(&["--format", "json"])).expect("one line of JSON");
    assert_eq!((&json["Names"], &json["State"]), (&"sleeper".into(), &"running".into()), "{json}");
    assert!(json["Status"].as_str().is_some_and(|status| status.starts_with("Up ")), "{json}");
    let table = ps(&["-a"]);
    assert!(table.contains("STATUS") && table.contains("Exited (3) "), "{table}");
    stage.margay(["rm", "-f", "sleeper"]).ok();
    stage.is_empty();
}

#[test]
fn what_a_template_or_a_filter_cannot_name_is_said_with_what_it_can() {
    let stage = Stage::new();
    for (arguments, code, want) in [
        (
            &["ps", "--format", "{{.Nmes}}"][..],
            1,
            "error: `--format`: there is no field `.Nmes`\nhint: the fields are .Command",
        ),
        (&["ps", "--format", "{{.Names"], 2, "error: `--format`: column "),
        (&["ps", "--format", "{{nope .Names}}"], 2, "hint: the functions are and eq"),
        (&["ps", "--filter", "nme=x"], 2, "there is no filter `nme`; the keys are id, name"),
        (&["ps", "--filter", "name"], 2, "a filter is KEY=VALUE; the keys are"),
        (&["ps", "--filter", "status=up"], 2, "filter `status` cannot be `up`: it is one of"),
        (&["images", "--filter", "x=y"], 2, "the keys are reference, before"),
        (&["volume", "ls", "--filter", "x=y"], 2, "the keys are name, label"),
        (&["events", "--until", "soon"], 2, "error: `soon` is no point in time\nhint: write 10m"),
        (&["inspect", "--type", "volume", "x"], 1, "error: no volume is called `x`\nhint: see"),
        (&["history", "x"], 1, "there is no local image `x"),
        (&["help", "frobnicate"], 2, "there is no verb `frobnicate`"),
        (&["help", "volume", "x"], 2, "`volume` has no verb `x`\nhint: it has create, ls"),
        (&["top", "x"], 1, "no task is called `x`"),
        (&["volume", "rm", "x"], 1, "no volume is called `x`"),
        (&["system", "prune"], 1, "there is no terminal to ask on\nhint: say so with --force"),
    ] {
        let err = stage.margay(arguments).fails(code);
        assert!(err.contains(want), "margay {arguments:?}: {err}");
    }
}

#[test]
fn inspect_resolves_dockers_paths_beside_ours() {
    let stage = Stage::new();
    two_tasks(&stage);
    let inspect = |template: &str, thing: &str| {
        stage.margay(["inspect", "-f", template, thing]).ok().trim_end().to_owned()
    };
    for (template, thing, want) in [
        ("{{.State.Status}} {{.State.Running}} {{.State.ExitCode}}", "sleeper", "running true 0"),
        ("{{.State.Status}} {{.State.Running}} {{.State.ExitCode}}", "ended", "exited false 3"),
        ("{{.Name}} {{.name}}", "ended", "/ended ended"),
        ("{{.Config.Image}}", "sleeper", &probe()),
        (
            "{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}} {{.RW}}{{end}}",
            "sleeper",
            "volume book /data true",
        ),
        ("{{json .NetworkSettings.Ports}}", "sleeper", "{}"),
        ("{{.HostConfig.Memory}}", "sleeper", "134217728"),
        ("{{index .RepoTags 0}} {{.Os}}", "hello", "hello:latest wasi"),
        ("{{.Driver}} {{.Scope}} {{.Name}}", "book", "local local book"),
    ] {
        assert_eq!(inspect(template, thing), want, "{template} of {thing}");
    }
    let pid = inspect("{{.State.Pid}}", "sleeper");
    assert!(Path::new("/proc").join(&pid).exists(), "no process {pid}");
    let top = stage.margay(["top", "sleeper"]).ok();
    assert!(top.starts_with("PID") && top.contains(&pid), "{top}");
    let top = stage.margay(["top", "sleeper", "-ef"]).ok();
    assert!(top.starts_with("UID") && top.contains(&pid) && top.lines().count() == 2, "{top}");
    let err = stage.margay(["top", "sleeper", "-eo", "comm"]).fails(1);
    assert!(err.contains("no column `PID`") && err.contains("-eo pid,comm"), "{err}");
    stage.margay(["top", "sleeper", "--nosuch"]).fails(1);
    let all: Value = serde_json::from_str(
        &stage.margay(["inspect", "--format", "json", "ended", "sleeper"]).ok(),
    )
    .expect("JSON");
    assert_eq!((&all[0]["State"]["ExitCode"], &all[1]["name"]), (&3.into(), &"sleeper".into()));
    let ours: Value = serde_json::from_str(&stage.margay(["inspect", "ended"]).ok()).expect("JSON");
    assert!(ours[0]["State"].is_null() && ours[0]["state"] == "exited", "{ours}");
    let err = stage.margay(["inspect", "-f", "{{.State.Code}}", "ended"]).fails(1);
    assert!(err.contains("no field `.State.Code`\nhint: the fields are .Dead .Error"), "{err}");
    stage.margay(["rm", "-f", "sleeper"]).ok();
    stage.is_empty();
}

#[test]
fn images_and_their_history_are_listed_as_docker_lists_them() {
    let stage = Stage::new();
    stage.write("app/a", "one");
    stage.write("app/b", "two");
    stage.write("app/Dockerfile", "FROM scratch\nCOPY a /a\nCOPY b /b\nLABEL tier=web\n");
    stage.margay(["build", "-t", "app:1", "app"]).ok();
    images::build(&stage, "hello").ok();
    let images = |arguments: &[&str]| stage.margay(["images"].iter().chain(arguments)).ok();
    for (arguments, want) in [
        (&["--format", "{{.Repository}}:{{.Tag}}"][..], "app:1\nhello:latest\n"),
        (&["-f", "label=tier", "--format", "{{.Repository}}"], "app\n"),
        (&["-f", "label=tier=db", "-q"], ""),
        (&["-f", "reference=h*", "--format", "{{.Repository}} {{.CreatedSince}}"], "hello N/A\n"),
        (&["-f", "dangling=true", "-q"], ""),
        (&["--format", "table {{.Repository}}", "app"], "REPOSITORY\napp\n"),
        (&["--format", "{{.Label \"tier\"}}", "app"], "web\n"),
    ] {
        assert_eq!(images(arguments), want, "images {arguments:?}");
    }
    let table = images(&["--digests"]);
    assert!(
        table.starts_with("REPOSITORY   TAG      DIGEST ") && table.contains("IMAGE ID"),
        "{table}"
    );
    assert_eq!(stage.margay(["image", "ls", "-q"]).ok(), images(&["-q"]));
    let history = stage.margay(["history", "--format", "{{.ID}} {{.Size}}", "app:1"]).ok();
    let id = images(&["-q", "app"]);
    assert!(history.starts_with(id.trim()) && history.lines().count() >= 2, "{history}");
    assert!(history.contains("<missing>"), "{history}");
    let sizes = stage.margay(["image", "history", "--human=false", "app:1"]).ok();
    assert!(sizes.starts_with("IMAGE") && !sizes.contains("KiB"), "{sizes}");
    // A base brings its history along, and the config says it to every other tool.
    stage.write("on/Dockerfile", "FROM app:1\nCOPY c /c\n");
    stage.write("on/c", "three");
    stage.margay(["build", "-q", "-t", "on:1", "on"]).ok();
    let by = stage.margay(["history", "--format", "{{.CreatedBy}}", "on:1"]).ok();
    assert_eq!(by, "COPY c /c\nCOPY b /b\nCOPY a /a\n");
    let config: Value =
        serde_json::from_str(&stage.margay(["inspect", "on:1"]).ok()).expect("JSON");
    assert_eq!(config[0]["layers"].as_array().map(Vec::len), Some(3), "{config}");
}

#[test]
fn a_volume_is_made_listed_inspected_and_removed() {
    let stage = Stage::new();
    let volume = |arguments: &[&str]| stage.margay(["volume"].iter().chain(arguments));
    assert_eq!(volume(&["create", "--label", "tier=db", "data"]).ok(), "data\n");
    assert_eq!(volume(&["create", "data"]).ok(), "data\n", "one that is there stays");
    let anonymous = volume(&["create"]).ok();
    assert_eq!(anonymous.trim().len(), 32, "{anonymous}");
    stage.margay(["run", "--name", "user", "-v", "data:/data", &hello()]).ok();
    assert_eq!(volume(&["ls", "-q", "-f", "name=^data$"]).ok(), "data\n");
    assert_eq!(
        volume(&["ls", "-f", "label=tier=db", "--format", "{{.Name}} {{.Links}}"]).ok(),
        "data 1\n"
    );
    assert_eq!(volume(&["ls", "-q", "-f", "dangling=true"]).ok(), anonymous);
    let inspected: Value = serde_json::from_str(&volume(&["inspect", "data"]).ok()).expect("JSON");
    assert_eq!(inspected[0]["tasks"][0], "user", "{inspected}");
    let mountpoint = volume(&["inspect", "-f", "{{.Mountpoint}}", "data"]).ok();
    assert!(Path::new(mountpoint.trim()).is_dir(), "{mountpoint}");
    let err = volume(&["rm", "data"]).fails(1);
    assert_eq!(
        err,
        "error: volume `data` is mounted by task `user`\nhint: remove the task first: margay rm user\n"
    );
    // The names that Docker takes, and none that would be another folder.
    assert_eq!(volume(&["create", "Pg_data.2"]).ok(), "Pg_data.2\n");
    let file = samples().join("hello/hello.wasm").display().to_string();
    stage.margay(["run", "--rm", "-v", "Pg_data.2:/data", &file]).ok();
    assert_eq!(volume(&["rm", "Pg_data.2"]).ok(), "Pg_data.2\n");
    for name in [".", "..", ".hidden", "-a", "a/b", "_a"] {
        volume(&["create", "--", name]).fails(2);
    }
    let pruned = volume(&["prune", "-f"]).ok();
    assert!(pruned.starts_with(&format!("Deleted volume: {anonymous}")), "{pruned}");
    stage.margay(["rm", "user"]).ok();
    assert_eq!(volume(&["rm", "data"]).ok(), "data\n");
    assert_eq!(volume(&["rm", "-f", "data"]).ok(), "");
    assert_eq!(volume(&["ls", "-q"]).ok(), "");
}

#[test]
fn events_tell_the_life_of_a_task_in_order() {
    let stage = Stage::new();
    images::build(&stage, "hello").ok();
    stage.margay(["tag", "hello", "other"]).ok();
    stage.margay(["run", "--name", "one", "-v", "book:/data", &hello(), "--exit", "3"]).fails(3);
    stage.margay(["rm", "one"]).ok();
    stage.margay(["volume", "rm", "book"]).ok();
    stage.margay(["rmi", "other"]).ok();
    let events = |arguments: &[&str]| {
        stage.margay(["events", "--since", "1h", "--until", "0s"].iter().chain(arguments)).ok()
    };
    let actions = events(&["--filter", "task=one", "--format", "{{.Action}}"]);
    assert_eq!(actions, "create\nstart\ndie\ndestroy\n");
    let died = events(&[
        "-f",
        "event=die",
        "--format",
        "{{.Type}} {{.Actor.Attributes.name}} {{.Actor.Attributes.exitCode}}",
    ]);
    assert_eq!(died, "container one 3\n");
    assert_eq!(
        events(&["-f", "type=volume", "--format", "{{.Action}} {{.Actor.ID}}"]),
        "create book\ndestroy book\n"
    );
    assert_eq!(events(&["-f", "image=other", "--format", "{{.Action}}"]), "tag\nuntag\n");
    let lines = events(&["-f", "type=container"]);
    assert!(
        lines.lines().all(|line| line.contains("Z task ") && line.contains("name=one")),
        "{lines}"
    );
    let json: Value = serde_json::from_str(events(&["-f", "event=die", "--output", "json"]).trim())
        .expect("JSON");
    assert_eq!((&json["subject"], &json["attributes"]["exitCode"]), (&"task".into(), &"3".into()));
    // Without an end it waits for what comes.
    let late = ["events", "--since", "1h", "-f", "volume=late", "--format", "{{.Actor.ID}}"];
    let mut following = stage.start(late);
    stage.margay(["volume", "create", "late"]).ok();
    assert_eq!(following.line(), "late");
    following.signal("TERM");
    following.end();
}

#[test]
fn groups_say_the_same_verbs_and_help_explains_them() {
    let stage = Stage::new();
    for (one, other) in [
        (&["image", "ls"][..], &["images"][..]),
        (&["container", "ls", "-a"], &["ps", "-a"]),
        (&["container", "ps", "-a"], &["ps", "-a"]),
        (&["volume", "list"], &["volume", "ls"]),
        (&["help", "run"], &["run", "--help"]),
        (&["help", "volume", "ls"], &["volume", "ls", "--help"]),
        (&["help"], &["--help"]),
    ] {
        let (one, other) = (stage.margay(one).ok(), stage.margay(other).ok());
        assert_eq!(one.trim_end(), other.trim_end());
    }
    stage.margay(["container", "run", "--name", "c", &hello(), "--exit", "4"]).fails(4);
    stage.margay(["image", "inspect", "c"]).fails(1);
    let err = stage.margay(["container", "rm", "none"]).fails(1);
    assert!(err.contains("no task is called `none`"), "{err}");
    let info = stage.margay(["info", "--format", "{{.Containers}} {{.OSType}}"]).ok();
    assert_eq!(info, "1 linux\n");
    assert_eq!(stage.margay(["system", "info", "-f", "{{.ContainersRunning}}"]).ok(), "0\n");
    let version = stage.margay(["version", "--format", "{{.Server.Version}} {{.Client.Os}}"]).ok();
    assert!(version.ends_with(" linux\n"), "{version}");
    let df = stage.margay(["system", "df", "--format", "{{.Type}} {{.TotalCount}}"]).ok();
    assert!(df.starts_with("Images 0\nTasks 1\nLocal Volumes 0\n"), "{df}");
    assert!(stage.margay(["system", "df", "-v"]).ok().contains("\nVolumes:\n"));
    let pruned = stage.margay(["container", "prune", "--force", "--filter", "until=1h"]).ok();
    assert!(pruned.starts_with("Freed "), "{pruned}");
    let pruned = stage.margay(["system", "prune", "-a", "-f", "--volumes"]).ok();
    assert!(pruned.starts_with("Deleted task: c\n"), "{pruned}");
}

#[test]
fn image_prune_takes_what_no_task_was_made_from() {
    let stage = Stage::new();
    images::build(&stage, "hello").ok();
    stage.margay(["tag", "hello", "kept"]).ok();
    stage.write("app/a", "one");
    stage.write("app/Dockerfile", "FROM scratch\nCOPY a /a\nLABEL keep=no\n");
    stage.margay(["build", "-t", "app", "app"]).ok();
    stage.margay(["run", "--name", "t", "hello"]).ok();
    stage.margay(["image", "prune", "-f"]).ok();
    let names = || stage.margay(["images", "--format", "{{.Repository}}"]).ok();
    assert_eq!(names(), "app\nhello\nkept\n", "without --all only what has no name goes");
    let pruned = stage.margay(["image", "prune", "-a", "-f", "--filter", "label=keep=yes"]).ok();
    assert!(!pruned.contains("Untagged"), "{pruned}");
    let pruned = stage.margay(["image", "prune", "-a", "-f", "--filter", "label=keep"]).ok();
    assert!(pruned.starts_with("Untagged: app:latest\n"), "{pruned}");
    assert_eq!(names(), "hello\nkept\n");
    let said = stage.margay(["rmi", "-f", "nothing"]);
    assert!(said.err.contains("there is no local image `nothing"), "{}", said.err);
    assert_eq!(said.code, 0, "what is not there is no failure where it is forced");
}

#[test]
fn logs_can_be_cut_by_time() {
    let stage = Stage::new();
    stage.margay(["run", "--name", "t", &hello()]).ok();
    let logs =
        |arguments: &[&str]| stage.margay(["logs"].iter().chain(arguments).chain(&["t"])).ok();
    let all = logs(&[]);
    assert!(all.starts_with("hello"), "{all}");
    for (arguments, want) in [
        (&["--since", "1h"][..], all.as_str()),
        (&["--since", "2000-01-01T00:00:00Z"], &all),
        (&["--until", "1h"], ""),
        (&["--since", "2999-01-01"], ""),
        (&["--until", "2999-01-01", "--since", "0"], &all),
    ] {
        assert_eq!(logs(arguments), want, "logs {arguments:?}");
    }
    stage.margay(["logs", "--since", "x", "t"]).fails(2);
}

#[test]
fn stats_prints_what_a_template_names_once() {
    let stage = Stage::new();
    two_tasks(&stage);
    let said = stage
        .margay(["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.MemUsage}}"])
        .ok();
    assert!(said.starts_with("sleeper 1 ") && said.trim_end().ends_with("/ 128MiB"), "{said}");
    let percent = stage.margay(["stats", "--format", "{{.CPUPerc}}|{{.MemPerc}}", "sleeper"]).ok();
    assert!(percent.trim_end().ends_with('%') && percent.contains("%|"), "{percent}");
    let ended = stage.margay(["stats", "ended", "sleeper", "--format", "{{.Name}}"]).ok();
    assert_eq!(ended, "ended\nsleeper\n");
    stage.margay(["rm", "-f", "sleeper"]).ok();
    stage.is_empty();
}
