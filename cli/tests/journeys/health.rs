//! HEALTHCHECK: programs that are asked whether they are well, for both kinds of images.

use std::collections::HashSet;

use serde_json::Value;

use crate::{
    native::{build, ready},
    stage::{Stage, eventually, samples, signal},
    up::Up,
};

fn inspect(stage: &Stage, name: &str, template: &str) -> String {
    stage.margay(["inspect", "--format", template, name]).ok().trim().to_owned()
}

/// Waits for a state of health, as templates and filters have it too.
#[track_caller]
fn becomes(stage: &Stage, name: &str, word: &str) {
    let filter = format!("health={word}");
    let shown = match word {
        "starting" => "(health: starting)".to_owned(),
        word => format!("({word})"),
    };
    eventually(&format!("`{name}` is {word}"), || {
        let is_so = inspect(stage, name, "{{.State.Health.Status}}") == word;
        let format = "{{.Names}} {{.Status}}";
        let listed = stage.margay(["ps", "--filter", &filter, "--format", format]).ok();
        (is_so && listed.starts_with(&format!("{name} Up ")) && listed.contains(&shown))
            .then_some(())
    });
}

fn log(stage: &Stage, name: &str) -> Vec<Value> {
    let log = inspect(stage, name, "{{json .State.Health.Log}}");
    serde_json::from_str(&log).expect("JSON")
}

/// The health of `name` as events tell it, oldest first.
fn told(stage: &Stage, name: &str) -> Vec<String> {
    let filter = format!("container={name}");
    let events = stage.margay([
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--filter",
        &filter,
        "--filter",
        "event=health_status",
        "--format",
        "{{.Action}}",
    ]);
    events.ok().lines().map(str::to_owned).collect()
}

#[test]
fn a_linux_program_is_starting_unhealthy_and_healthy_as_its_check_says() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    // In shell form, with the variables and the folder of the image.
    build(
        &stage,
        "checked",
        "ENV FILE=ready\nWORKDIR /srv\nHEALTHCHECK --interval=100ms --retries=2 \
         CMD [ -f $FILE ] && echo well || { echo not yet >&2; exit 3; }\n\
         CMD [\"/bin/sleep\", \"600\"]",
    );
    stage.margay(["run", "-d", "--name", "tom", "--health-start-period", "1h", "checked"]).ok();
    let log_of_tom = || log(&stage, "tom");
    // Failures in the start period do not count, and are kept.
    let first = eventually("a probe has failed", || log_of_tom().into_iter().next());
    assert_eq!(
        (first["ExitCode"].as_i64(), first["Output"].as_str()),
        (Some(3), Some("not yet\n"))
    );
    becomes(&stage, "tom", "starting");
    assert_eq!(inspect(&stage, "tom", "{{.State.Health.FailingStreak}}"), "0");
    stage.margay(["exec", "tom", "touch", "/srv/ready"]).ok();
    becomes(&stage, "tom", "healthy");
    // A success ends the start period.
    stage.margay(["exec", "tom", "/bin/busybox", "rm", "/srv/ready"]).ok();
    becomes(&stage, "tom", "unhealthy");
    eventually("five results are kept", || (log_of_tom().len() == 5).then_some(()));
    eventually("they are of one kind", || {
        log_of_tom().iter().all(|probe| probe["Output"] == "not yet\n").then_some(())
    });
    stage.margay(["exec", "tom", "touch", "/srv/ready"]).ok();
    becomes(&stage, "tom", "healthy");
    assert_eq!(inspect(&stage, "tom", "{{.State.Health.FailingStreak}}"), "0");
    let want = ["healthy", "unhealthy", "healthy"].map(|word| format!("health_status: {word}"));
    assert_eq!(told(&stage, "tom"), want);
    let check = inspect(&stage, "tom", "{{json .Config.Healthcheck}}");
    for part in
        ["\"CMD-SHELL\"", "\"Interval\":100000000", "\"Timeout\":30000000000", "\"Retries\":2"]
    {
        assert!(check.contains(part), "{part} in {check}");
    }

    // What has ended is not well, and a start begins anew; its files are there still.
    stage.margay(["stop", "--time", "0", "tom"]).ok();
    assert_eq!(inspect(&stage, "tom", "{{.State.Health.Status}}"), "unhealthy");
    assert!(stage.margay(["ps", "--filter", "health=healthy"]).ok().lines().count() == 1);
    stage.margay(["start", "tom"]).ok();
    becomes(&stage, "tom", "healthy");
    stage.margay(["restart", "--time", "0", "tom"]).ok();
    becomes(&stage, "tom", "healthy");
    stage.margay(["rm", "-f", "tom"]).ok();

    // No check, by a flag; `none` has those without one.
    stage.margay(["run", "-d", "--name", "kit", "--no-healthcheck", "checked"]).ok();
    assert_eq!(inspect(&stage, "kit", "{{json .State.Health}}"), "null");
    let listed = stage.margay(["ps", "--filter", "health=none", "--format", "{{.Names}}"]);
    assert_eq!(listed.ok(), "kit\n");
    stage.margay(["rm", "-f", "kit"]).ok();
    stage.is_empty();
}

#[test]
fn a_probe_that_takes_too_long_is_killed_with_its_children_and_runs_alone() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    build(&stage, "slow", "CMD [\"/bin/sleep\", \"600\"]");
    // A child in the background, one with a session of its own, and the shell that waits.
    let line = "echo begun; sleep 985 & busybox setsid sleep 986 & sleep 987";
    stage
        .margay([
            "create",
            "--name",
            "tom",
            "--health-cmd",
            line,
            "--health-interval",
            "10ms",
            "--health-timeout",
            "300ms",
            "--health-retries",
            "1",
            "slow",
        ])
        .ok();
    stage.margay(["start", "tom"]).ok();
    let sleepers = || -> Vec<String> {
        let listed = stage.margay(["top", "tom"]).ok();
        let of_probe = listed.lines().filter(|line| line.contains("sleep 98"));
        of_probe.filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
    };
    let mut seen = HashSet::new();
    eventually("several probes have run", || {
        let now = sleepers();
        assert!(now.len() <= 3, "probes run at once: {now:?}");
        seen.extend(now);
        (seen.len() >= 9).then_some(())
    });
    becomes(&stage, "tom", "unhealthy");
    let probe = log(&stage, "tom").pop().expect("a result");
    assert_eq!(probe["ExitCode"], -1);
    assert_eq!(probe["Output"], "Health check exceeded timeout (300ms): begun\n");

    stage.margay(["rm", "-f", "tom"]).ok();
    stage.is_empty();
}

#[test]
fn output_is_kept_to_4096_bytes_and_a_probe_that_cannot_run_says_why() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    build(&stage, "loud", "CMD [\"/bin/sleep\", \"600\"]");
    let run = |name: &str, test: &str, image: &str| {
        let often = ["--health-interval", "50ms", "--health-retries", "1"];
        let flags = ["run", "-d", "--name", name, "--health-cmd", test];
        stage.margay(flags.iter().chain(&often).chain(&[image])).ok();
        eventually("a probe has run", || log(&stage, name).into_iter().next())
    };
    let probe = run("loud", "busybox yes | busybox head -c 500000", "loud");
    let output = probe["Output"].as_str().expect("text");
    assert_eq!((output.len(), &output[..4], &output[4096..]), (4099, "y\ny\n", "..."));
    assert_eq!(probe["ExitCode"], 0);
    let probe = run("words", "[\"/bin/echo\", \"a  b\", \"$HOME\"]", "loud");
    assert_eq!(probe["Output"], "a  b $HOME\n");
    let probe = run("gone", "[\"/bin/gone\"]", "loud");
    let output = probe["Output"].as_str().expect("text");
    assert!(output.contains("`/bin/gone`: no such file"), "{output}");
    assert_eq!(probe["ExitCode"], -1);
    becomes(&stage, "gone", "unhealthy");

    stage.write(
        "Dockerfile",
        "FROM scratch\nCOPY rootfs/bin/busybox /bin/busybox\n\
         CMD [\"/bin/busybox\", \"sleep\", \"600\"]\n",
    );
    stage.margay(["build", "-t", "bare", "."]).ok();
    let probe = run("bare", "true", "bare");
    let output = probe["Output"].as_str().expect("text");
    assert!(output.contains("the image has no shell `/bin/sh`"), "{output}");
    stage.margay(["rm", "-f", "loud", "words", "gone", "bare"]).ok();
    stage.is_empty();
}

#[test]
fn a_wasm_program_is_asked_by_another_one_of_its_image() {
    let stage = Stage::new();
    for (sample, name) in
        [("hostile/probe-cli.wasm", "probe.wasm"), ("hello/hello.wasm", "hello.wasm")]
    {
        std::fs::create_dir_all(stage.path("bin")).expect("a folder");
        std::fs::copy(samples().join(sample), stage.path("bin").join(name)).expect("a sample");
    }
    stage.write(
        "Dockerfile",
        "FROM scratch\nCOPY bin/ /bin/\nENV HELLO_TO=cats\n\
         HEALTHCHECK --interval=100ms --timeout=20s --retries=1 CMD [\"/bin/hello.wasm\", \"well\"]\n\
         ENTRYPOINT [\"/bin/probe.wasm\"]\nCMD [\"sleep\", \"600000\"]\n",
    );
    stage.margay(["build", "-t", "asked", "."]).ok();
    let run = |name: &str, flags: &[&str]| {
        let head = ["run", "-d", "--name", name, "-m", "64m"];
        stage.margay(head.iter().chain(flags).chain(&["asked"])).ok();
        eventually("a probe has run", || log(&stage, name).into_iter().next())
    };
    let probe = run("tom", &[]);
    assert_eq!(probe["Output"], "hello from margay\narguments: well\nHELLO_TO: cats\n");
    becomes(&stage, "tom", "healthy");
    let probe = run("code", &["--health-cmd", "[\"hello\", \"--exit\", \"3\"]"]);
    // WASI 0.2 knows success and failure.
    assert_eq!(probe["ExitCode"], 1);
    becomes(&stage, "code", "unhealthy");
    let slow = ["--health-cmd", "[\"probe\", \"sleep\", \"600000\"]", "--health-timeout", "200ms"];
    let probe = run("slow", &slow);
    assert_eq!(probe["Output"], "Health check exceeded timeout (200ms)");
    becomes(&stage, "slow", "unhealthy");
    let probe = run("shell", &["--health-cmd", "exit 0"]);
    let output = probe["Output"].as_str().expect("text");
    assert!(output.contains("the image has no shell `/bin/sh`"), "{output}");
    stage.margay(["rm", "-f", "tom", "code", "slow", "shell"]).ok();
    stage.is_empty();
}

#[test]
fn flags_of_health_are_read_as_docker_reads_them() {
    let stage = Stage::new();
    let both = "cannot be used with";
    for (flags, why) in [
        (&["--no-healthcheck", "--health-cmd", "true"][..], both),
        (&["--no-healthcheck", "--health-retries", "3"], both),
        (&["--health-interval", "30"], "30s"),
        (&["--health-interval", "-1s"], "cannot be negative"),
        (&["--health-timeout", "10us"], "1ms or more"),
        (&["--health-retries", "-1"], "cannot be negative"),
        (&["--health-retries", "many"], "a number"),
        (&["--health-cmd", "[\"/check\""], "[\"/PROGRAM\", \"ARG\"]"),
    ] {
        let err = stage.margay(["run"].iter().chain(flags).chain(&["x"])).fails(2);
        assert!(err.contains(why), "{flags:?}: {err}");
    }
    let err = stage.margay(["ps", "--filter", "health=well"]).fails(2);
    assert!(err.contains("starting, healthy, unhealthy, none"), "{err}");
}

#[test]
fn the_health_of_a_service_survives_the_agent_that_watched_it() {
    if !ready() {
        return;
    }
    let stage = Stage::new();
    let up = Up::start(&stage);
    build(
        &stage,
        "purrs",
        "HEALTHCHECK --interval=100ms --retries=1 CMD [ -f /srv/www/index.html ]\n\
         EXPOSE 80\nCMD [\"/bin/busybox\", \"httpd\", \"-f\", \"-p\", \"80\", \"-h\", \"/srv/www\"]",
    );
    let image = format!("{}/me/purrs:v1", up.registry);
    stage.margay(["login", "-u", "me", &up.registry]).ok();
    stage.margay(["tag", "purrs", &image]).ok();
    stage.margay(["push", &image]).ok();
    let definition = "family = \"purrs\"\n[role]\nallow = []\n[[containers]]\nname = \"purrs\"\n\
         image = \"purrs:v1\"\ncpu_millis = 100\nmemory_soft_bytes = 33554432\n\
         memory_hard_bytes = 67108864\nports = [{ container_port = 80 }]\n";
    let file = stage.write("purrs.toml", definition).display().to_string();
    stage.margay(["task", "register", &file]).ok();
    stage.margay(["cluster", "create", "main"]).ok();
    stage.margay(["service", "create", "purrs", "--task", "purrs:1", "--cluster", "main"]).ok();
    let name = eventually("the task has a folder", || {
        let list = stage.margay(["ps", "--format", "{{.Names}}"]).ok();
        Some(list.lines().next()?.to_owned())
    });
    becomes(&stage, &name, "healthy");
    let started = inspect(&stage, &name, "{{.State.StartedAt}}");

    let agent = up.pid_of(&stage, "node").expect("an agent");
    signal(agent, "KILL");
    eventually("an agent is back", || up.pid_of(&stage, "node").filter(|now| *now != agent));
    // The next one goes on with the same program and the same results.
    assert_eq!(inspect(&stage, &name, "{{.State.StartedAt}}"), started);
    stage.margay(["exec", &name, "/bin/busybox", "rm", "/srv/www/index.html"]).ok();
    eventually("it is unhealthy", || {
        (told(&stage, &name) == ["health_status: healthy", "health_status: unhealthy"])
            .then_some(())
    });
    // A copy that is not well is replaced by another one.
    eventually("another copy is healthy", || {
        let listed = stage.margay(["ps", "--filter", "health=healthy", "--format", "{{.Names}}"]);
        listed.ok().lines().any(|copy| copy != name).then_some(())
    });
    stage.margay(["service", "delete", "purrs", "--cluster", "main"]).ok();
    eventually("nothing of it runs", || {
        let runs = stage.processes().iter().any(|(_, line)| line.contains("httpd"));
        (!runs).then_some(())
    });
    up.end();
    stage.is_empty();
}
