//! Requests that go over to another revision in shares, under load, and what ends that early.

use serde_json::{Value, json};

use crate::{
    rollouts::{CLUSTER, Clients, HASTY, WEB, register, serve_web, service, update},
    stage::{Said, Stage, eventually, get, signal},
    up::Up,
};

fn rollout(stage: &Stage, verb: &str) -> Said {
    stage.margay([&["service", "rollout", verb, "web"], &CLUSTER[..]].concat())
}

/// A revision that says its number.
fn numbered(stage: &Stage, number: u32) -> String {
    register(stage, "probe-http", &format!("env = {{ REVISION = \"{number}\" }}"))
}

/// How many of `count` requests a revision answers.
fn answers(up: &Up, count: usize, number: u32) -> usize {
    let is_of = |answer: Vec<u8>| {
        String::from_utf8_lossy(&answer).lines().any(|line| *line == format!("REVISION={number}"))
    };
    let answers = (0..count).map(|_| get(&up.ingress, WEB, "/env").expect("an answer"));
    answers.filter(|answer| is_of(answer.body.clone())).count()
}

fn newest(stage: &Stage) -> Value {
    service(stage)["status"]["deployments"][0].clone()
}

fn until_percent(stage: &Stage, percent: u32) {
    eventually("it has its share", || {
        (newest(stage)["traffic"]["percent"] == percent).then_some(())
    });
}

fn until_state(stage: &Stage, state: &str) {
    eventually("it is decided", || (newest(stage)["state"] == state).then_some(()));
}

fn until_copies(stage: &Stage, count: u64) {
    eventually("the others have ended", || {
        (service(stage)["status"]["placed"] == count).then_some(())
    });
}

#[test]
fn requests_go_over_all_at_once_or_in_shares_and_none_fails() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_web(&stage, &up, 2);
    let clients = Clients::of(&up, WEB);
    clients.served_more(20);

    let second = numbered(&stage, 2);
    let err = update(&stage, &second, &["--bake", "1s"]).fails(1);
    assert!(err.contains("`--bake` says nothing about a rolling rollout"), "{err}");
    assert!(err.contains("hint: add --rollout blue-green or canary or linear"), "{err}");
    update(&stage, &second, &["--rollout", "blue-green", "--bake", "2s"]).ok();
    assert_eq!(service(&stage)["status"]["serving"], json!([second]));
    assert_eq!(answers(&up, 20, 2), 20);
    until_copies(&stage, 2);
    let err = rollout(&stage, "promote").fails(1);
    assert!(err.contains("no deployment of service `web` is in progress"), "{err}");
    clients.served_more(20);

    let third = numbered(&stage, 3);
    let canary = ["--rollout", "canary", "--canary", "10", "--step-bake", "10m", "-d"];
    update(&stage, &third, &canary).ok();
    until_percent(&stage, 10);
    eventually("the ingress knows", || (answers(&up, 10, 3) > 0).then_some(()));
    // The other clients have some of its turns.
    let share = answers(&up, 200, 3);
    assert!((5..40).contains(&share), "{share} of 200");
    let status = rollout(&stage, "status").ok();
    assert!(status.contains("10 % for ") && status.contains("in-progress"), "{status}");
    let explained = stage.margay([&["explain", "service", "web"], &CLUSTER[..]].concat()).ok();
    assert!(explained.contains("has 10 % of the requests"), "{explained}");
    rollout(&stage, "promote").ok();
    until_percent(&stage, 100);
    eventually("it has all", || (answers(&up, 20, 3) == 20).then_some(()));
    assert_eq!(service(&stage)["status"]["placed"], 4, "both are there for the way back");
    assert_eq!(service(&stage)["status"]["ready"], 2, "of two copies");
    rollout(&stage, "abort").ok();
    eventually("the revision before has all", || (answers(&up, 20, 2) == 20).then_some(()));
    until_state(&stage, "completed");
    until_copies(&stage, 2);
    clients.served_more(20);

    update(&stage, &third, &["--step-bake", "1s", "--bake", "1s"]).ok();
    assert_eq!(service(&stage)["status"]["serving"], json!([third]));
    let fourth = numbered(&stage, 4);
    let linear = ["--rollout", "linear", "--step", "40", "--step-bake", "1s", "--bake", "1s"];
    update(&stage, &fourth, &linear).ok();
    let said = stage.margay([&["service", "events", "web"], &CLUSTER[..]].concat()).ok();
    for event in [
        "deployment 2 of `web:2` has 100 % of the requests",
        "deployment 3 of `web:3` has 10 % of the requests",
        "deployment 3 of `web:3` failed: it was aborted",
        "deployment 4 of `web:2` began, to roll back deployment 3",
        "deployment 6 of `web:4` has 40 % of the requests",
        "deployment 6 of `web:4` has 80 % of the requests; at 40 % 0 of ",
        "deployment 6 of `web:4` has 100 % of the requests; at 80 % 0 of ",
        "deployment 6 of `web:4` completed",
    ] {
        assert!(said.contains(event), "no `{event}` in {said}");
    }
    clients.served_more(20);
    clients.end();
    up.end();
    stage.is_empty();
}

#[test]
fn bad_revisions_take_no_request_and_bad_answers_bring_the_one_before_back() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_web(&stage, &up, 2);
    let clients = Clients::of(&up, WEB);
    clients.served_more(20);
    let bad = [
        ("blue-green", "exits", "probe-cli", "command = [\"clock\"]", "ended"),
        (
            "canary",
            "never listens",
            "probe-cli",
            "command = [\"sleep\", \"600000\"]",
            "did not answer within",
        ),
        ("linear", "wrong status", "probe-http", "http = \"/nope\"", "GET /nope on port 80"),
    ];
    for (strategy, what, program, line, want) in bad {
        let more = match line.strip_prefix("http") {
            Some(_) => format!("health = {{ {line}, {HASTY} }}"),
            None => format!("{line}\nhealth = {{ {HASTY} }}"),
        };
        let revision = register(&stage, program, &more);
        let err = update(&stage, &revision, &["--rollout", strategy, "--timeout", "90s"]).fails(1);
        assert!(
            err.contains("failed and was rolled back to `web:1`") && err.contains(want),
            "{strategy}, {what}: {err}"
        );
        until_state(&stage, "completed");
        clients.served_more(20);
    }
    assert_eq!(service(&stage)["status"]["serving"], json!(["web:1"]));
    clients.served_more(20);
    clients.end(); // from here on some requests fail because they are meant to

    let revision = numbered(&stage, 5);
    let canary = ["--rollout", "canary", "--canary", "50", "--step-bake", "10m", "-d"];
    update(&stage, &revision, &canary).ok();
    until_percent(&stage, 50);
    let failed = eventually("too many of its requests fail", || {
        get(&up.ingress, WEB, "/panic");
        let deployments = service(&stage)["status"]["deployments"].clone();
        (deployments[0]["rolls_back"].is_number()).then(|| deployments[1].clone())
    });
    let reason = failed["reason"].as_str().expect("a reason");
    assert!(reason.contains("requests failed with a share of 50 %, and 5 % may"), "{reason}");
    until_state(&stage, "completed");
    assert_eq!(answers(&up, 20, 5), 0);
    up.end();
    stage.is_empty();
}

#[test]
fn a_control_plane_that_is_killed_in_each_phase_goes_on_with_it() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_web(&stage, &up, 2);
    let clients = Clients::of(&up, WEB);
    clients.served_more(20);
    let kill = || {
        let before = up.pid(&stage, "server");
        signal(before, "KILL");
        eventually("the server is back", || {
            let after = up.pid_of(&stage, "server").filter(|pid| *pid != before);
            let shown = after.map(|_| rollout(&stage, "status"));
            shown.filter(|said| said.code == 0).map(drop)
        });
    };
    let revision = numbered(&stage, 2);
    let canary = ["--rollout", "canary", "--canary", "20", "--step-bake", "10m", "--bake", "10m"];
    update(&stage, &revision, &[&canary[..], &["-d"]].concat()).ok();
    kill(); // while its copies become ready, or just after
    until_percent(&stage, 20);
    clients.served_more(20);
    kill();
    clients.served_more(20);
    assert_eq!(newest(&stage)["traffic"]["percent"], 20);
    eventually("all copies are seen again", || {
        (rollout(&stage, "promote").code == 0).then_some(())
    });
    until_percent(&stage, 100);
    kill();
    clients.served_more(20);
    assert_eq!(answers(&up, 20, 2), 20);
    // Another one begins while the last is not at its end, and the server goes away with it.
    let third = numbered(&stage, 3);
    update(&stage, &third, &["--rollout", "blue-green", "--bake", "1s", "-d"]).ok();
    kill();
    until_state(&stage, "completed");
    eventually("it serves", || (answers(&up, 20, 3) == 20).then_some(()));
    until_copies(&stage, 2);
    clients.served_more(20);
    clients.end();
    up.end();
    stage.is_empty();
}

#[test]
fn a_count_follows_requests_that_are_under_way() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_web(&stage, &up, 1);
    let scale = ["--scale", "1..3", "--target", "concurrency=2", "--scale-out-cooldown", "1s"];
    stage.margay([&["service", "update", "web"], &CLUSTER[..], &scale].concat()).ok();
    let done = std::sync::atomic::AtomicBool::new(false);
    let is_done = || done.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !is_done() {
                    let answer = get(&up.ingress, WEB, "/sleep?ms=200").expect("an answer");
                    assert_eq!(answer.status, 200);
                }
            });
        }
        let ready = || (service(&stage)["status"]["ready"] == 3).then_some(());
        let ready = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("it has three copies", ready);
        }));
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        ready.expect("it has three copies");
    });
    let events = stage.margay([&["service", "events", "web"], &CLUSTER[..]].concat()).ok();
    let why = "requests at one time of each replica, and its target is concurrency=2";
    assert!(events.contains(why), "{events}");
    up.end();
    stage.is_empty();
}

#[test]
fn a_count_follows_a_metric_of_its_own_down_to_none_and_back() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_web(&stage, &up, 1);
    let update =
        |more: &[&str]| stage.margay([&["service", "update", "web"], &CLUSTER[..], more].concat());
    let put = |metric: &str, value: &str| {
        let words = ["service", "metric", "put", "web", metric, value];
        stage.margay([&words, &CLUSTER[..]].concat())
    };
    let refused = update(&["--scale", "0..3", "--target", "cpu=60"]).fails(1);
    assert!(refused.contains("metric:queue-depth=20"), "{refused}");
    let refused = put("jobs", "4").fails(1);
    assert!(refused.contains("`web` does not scale by metric `jobs`"), "{refused}");
    assert!(refused.contains("--target metric:jobs=NUMBER"), "{refused}");
    let cooldowns = ["--scale-out-cooldown", "1s", "--scale-in-cooldown", "1s"];
    let target = ["--scale", "0..3", "--target", "metric:jobs=10"];
    update(&[&target[..], &cooldowns].concat()).ok();
    for wrong in ["-1", "x", "4294967296"] {
        put("jobs", wrong).fails(2);
    }
    for (jobs, count) in [("0", 0), ("25", 3), ("7", 1), ("0", 0)] {
        assert_eq!(put("jobs", jobs).ok(), "");
        eventually(&format!("{count} copies for {jobs} jobs"), || {
            let status = &service(&stage)["status"];
            (status["desired"] == count && status["placed"] == count).then_some(())
        });
    }
    let listed = stage.margay([&["service", "metric", "ls", "web"], &CLUSTER[..]].concat()).ok();
    assert!(listed.contains("jobs     0"), "{listed}");
    let events = stage.margay([&["service", "events", "web"], &CLUSTER[..]].concat()).ok();
    assert!(events.contains("of metric `jobs` of each replica"), "{events}");
    up.end();
    stage.is_empty();
}
