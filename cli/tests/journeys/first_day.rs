//! What Docker's users type on the first day and what is not as they expect it: the message says
//! what is different, and what to type instead.

use crate::{
    native,
    stage::{Stage, samples},
};

#[test]
fn what_is_typed_for_docker_gets_the_next_step() {
    let stage = Stage::new();
    stage.write("app/Dockerfile", "FROM scratch AS first\nFROM scratch AS second\n");
    for (line, code, error, hint) in [
        (
            "build https://example.com/cats.git#main",
            1,
            "`https://example.com/cats.git#main` is no folder: a build fetches no context",
            "git clone https://example.com/cats.git#main",
        ),
        ("build github.com/cats/app", 1, "`github.com/cats/app` is no folder", "git clone"),
        ("import https://example.com/x.tgz", 1, "is no file: no verb fetches", "| margay load"),
        ("stop -s NOSUCH x", 1, "`NOSUCH` is not a signal", ""),
        ("import - new:1", 2, "`margay import` takes no `new:1`", "ADD FILE.tar /"),
        ("rmi nosuch", 1, "there is no local image `nosuch:latest`", "margay images"),
        ("build --target third app", 1, "no stage `third`: the file has `first`, `second`", ""),
        ("run -m 64m --memory-swap -1 x", 2, "invalid value '-1' for '--memory-swap", ""),
        ("stop -t -1 x", 1, "no task is called `x`", "margay ps -a"),
        ("ps -n x", 2, "invalid value 'x' for '--last <COUNT>': use a whole number", ""),
        ("run -e =1 x", 2, "`=1` cannot name a variable", "NAME=VALUE"),
        (
            "login --password x localhost:1",
            2,
            "a password is given, and no user name",
            "margay login -u NAME localhost:1",
        ),
        ("stop -t soon x", 2, "for '--time <SECONDS>': give whole seconds, or -1 to wait", ""),
    ] {
        let err = stage.margay(line.split(' ')).fails(code);
        assert!(err.starts_with("error: ") && err.contains(error), "margay {line}: {err}");
        let said = err.split_once("\nhint: ").map_or("", |(_, said)| said);
        assert!(said.contains(hint), "margay {line}: {err}");
        assert!(!said.contains("Docker Hub"), "margay {line}: {err}");
    }
    stage.is_empty();
}

#[test]
fn what_is_not_there_is_said_before_anything_else_is_done() {
    let stage = Stage::new();
    // Bytes that no image names any more: the next `rmi` that removes something takes them along.
    for content in ["one", "two"] {
        stage.write("app/file", content);
        stage.write("app/Dockerfile", "FROM scratch\nCOPY file /\n");
        stage.margay(["build", "-t", "a", "app"]).ok();
    }
    let blobs = stage.home().join("images/blobs/sha256");
    let count = || std::fs::read_dir(&blobs).expect("blobs").count();
    let before = count();
    for line in
        ["rmi nope", "rm nope", "volume rm nope", "tag nope a", "stop nope", "image rm nope nada"]
    {
        let said = stage.margay(line.split(' '));
        let first = said.err.lines().next().unwrap_or_default().to_owned();
        assert!(first.contains("`nope"), "margay {line}: {}", said.err);
        assert!(!said.err.contains("Freed"), "margay {line}: {}", said.err);
        assert_eq!((said.out.as_str(), said.code), ("", 1), "margay {line}: {}", said.err);
        assert_eq!(count(), before, "margay {line}");
    }
    stage.margay(["rmi", "nope", "a"]).fails(1);
    assert_eq!(count(), 0);
    stage.is_empty();
}

#[test]
fn an_image_that_says_no_time_is_not_old() {
    let stage = Stage::new();
    stage
        .margay(["build", "-q", "-t", "hello", &samples().join("hello").display().to_string()])
        .ok();
    let prune = ["image", "prune", "--all", "--force", "--filter", "until=240h"];
    let out = stage.margay(prune).ok();
    assert!(!out.contains("Untagged"), "{out}");
    assert!(stage.margay(["images", "-q"]).ok().lines().count() == 1);
    stage.margay(["image", "prune", "--all", "--force"]).ok();
    assert_eq!(stage.margay(["images", "-q"]).ok(), "");
    stage.is_empty();
}

#[test]
fn a_volume_without_a_source_is_one_of_the_task() {
    let stage = Stage::new();
    let probe = samples().join("hostile/probe-cli.wasm");
    let run = |mount: &str| {
        let probe = probe.display().to_string();
        stage.margay(["run", "--rm", "--mount", mount, &probe, "write", "/data/x", "5"])
    };
    run("type=volume,target=/data").ok();
    let denied = run("type=volume,target=/data,readonly");
    assert_ne!(denied.code, 0, "{}", denied.out);
    assert_eq!(stage.margay(["volume", "ls", "-q"]).ok(), "");
    stage.is_empty();
}

#[test]
fn the_log_of_a_task_ends_where_it_is_asked_to() {
    let stage = Stage::new();
    let hello = samples().join("hello/hello.wasm").display().to_string();
    stage.margay(["run", "--name", "said", &hello, "a"]).ok();
    assert!(stage.margay(["logs", "--tail", "-1", "said"]).ok().contains("arguments: a"));
    // An end that is past ends `--follow` as well.
    assert_eq!(stage.margay(["logs", "-f", "--until", "1h", "said"]).ok(), "");
    let err = stage.margay(["logs", "--until", "soon", "said"]).fails(2);
    assert!(err.contains("`soon` is no point in time"), "{err}");
    stage.margay(["rm", "said"]).ok();
    stage.is_empty();
}

#[test]
fn an_empty_value_of_a_flag_counts_as_none_where_docker_has_it_so() {
    let stage = Stage::new();
    let probe = samples().join("hostile/probe-cli.wasm").display().to_string();
    // The first run may say that it takes seconds to prepare.
    stage.margay(["run", "--rm", &probe, "exit", "0"]).ok();
    for flag in [
        "--name",
        "--hostname",
        "--user",
        "--workdir",
        "--cidfile",
        "--restart",
        "--platform",
        "--network",
        "--log-driver",
        "--stop-signal",
        "--health-cmd",
    ] {
        let said = stage.margay(["run", "--rm", flag, "", &probe, "exit", "7"]);
        assert_eq!((said.code, said.err.as_str()), (1, ""), "{flag}");
        let said = stage.margay(["run", "--rm", &format!("{flag}="), &probe, "exit", "7"]);
        assert_eq!((said.code, said.err.as_str()), (1, ""), "{flag}");
    }
    for flag in ["-m", "-p", "-v", "-e", "--cpus"] {
        stage.margay(["run", "--rm", flag, "", &probe, "exit", "7"]).fails(2);
    }
    stage.is_empty();
}

#[test]
fn what_came_through_standard_input_is_named_so() {
    let stage = Stage::new();
    for (line, input, error, hint) in [
        (
            "build -",
            "FROM scratch\nCOPY app /\n",
            "`Dockerfile`, line 2, column 6: there is no `app` in the build context `-`",
            "name their folder, margay build -f - FOLDER",
        ),
        (
            "build --check -",
            "FROM scratch\nCOPY app /\n",
            "there is no `app` in the build context `-`",
            "name their folder",
        ),
        ("load", "no archive at all", "`-` ", ""),
    ] {
        let err = stage.margay_fed(line.split(' '), input).fails(1);
        assert!(err.starts_with("error: ") && err.contains(error), "margay {line}: {err}");
        let said = err.split_once("\nhint: ").map_or("", |(_, said)| said);
        assert!(said.contains(hint), "margay {line}: {err}");
        assert!(!err.contains("/tmp") && !err.contains("stdin-"), "margay {line}: {err}");
    }
    stage.is_empty();
}

#[test]
fn a_program_gets_a_terminal_where_this_process_has_none() {
    let stage = Stage::new();
    let probe = samples().join("hostile/probe-cli.wasm").display().to_string();
    stage.margay(["run", "-t", "--rm", &probe, "exit", "0"]).ok();
    for run in [&["run", "-it", "--rm", &probe][..], &["run", "-i", "-t", &probe]] {
        let err = stage.margay(run).fails(2);
        assert!(err.contains("-i and -t together need a terminal, and stdin is none"), "{err}");
    }
    if !native::ready() {
        return;
    }
    native::build(&stage, "busy", "CMD [\"/bin/sh\"]");
    let ask = "[ -t 1 ] && echo a terminal";
    // As with Docker the terminal ends lines its own way.
    let said = stage.margay(["run", "-t", "--rm", "busy", "/bin/sh", "-c", ask]);
    assert_eq!(said.ok(), "a terminal\r\n");
    stage.margay(["run", "-d", "--name", "tom", "busy", "/bin/sleep", "600"]).ok();
    assert_eq!(stage.margay(["exec", "-t", "tom", "sh", "-c", ask]).ok(), "a terminal\r\n");
    assert_eq!(stage.margay(["exec", "-dit", "tom", "sh", "-c", ask]).ok(), "");
    stage.margay(["rm", "-f", "tom"]).ok();
    stage.is_empty();
}

#[test]
fn verbs_print_tasks_as_they_were_named() {
    let stage = Stage::new();
    let probe = samples().join("hostile/probe-cli.wasm").display().to_string();
    let run = ["run", "-d", "--name", "tom", &probe, "sleep", "600000"];
    let id = stage.margay(run).ok().trim().to_owned();
    let named = [id.as_str(), &id[..6], "tom"];
    for verb in [&["restart", "-t", "0"][..], &["stop"], &["start"], &["kill"]] {
        for task in named {
            let said = stage.margay([verb, &[task][..]].concat()).ok();
            assert_eq!(said, format!("{task}\n"), "{verb:?}");
            stage.margay(["start", task]).ok();
        }
    }
    assert_eq!(stage.margay(["stop", &id]).ok(), format!("{id}\n"));
    assert_eq!(stage.margay(["rm", &id[..6]]).ok(), format!("{}\n", &id[..6]));
    stage.is_empty();
}
