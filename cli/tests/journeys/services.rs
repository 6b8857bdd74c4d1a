//! Services as their operators see them: waited for, shown, and one run of a task that is changed.

use serde_json::Value;

use crate::{
    images::build,
    stage::{Stage, eventually, get},
    up::{HOST, Up, serve_cats},
};

const CLUSTER: [&str; 2] = ["--cluster", "allthecats"];

#[test]
fn a_service_is_ready_when_create_returns_and_says_why_when_it_is_not() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_cats(&stage, &up, 2);
    assert_eq!(get(&up.ingress, HOST, "/").map(|answer| answer.status), Some(200));
    let on = |verb: &[&str], name: &str| stage.margay([verb, &[name], &CLUSTER].concat());
    let table = on(&["service", "ps"], "cats").ok();
    assert!(table.contains("cats-0-") && table.contains("cats-1-"), "{table}");
    let shown: Value =
        serde_json::from_str(&on(&["service", "inspect"], "cats").ok()).expect("JSON");
    assert_eq!(shown[0]["spec"]["count"], 2);
    on(&["service", "logs", "--tail", "1"], "cats").ok();
    // An end that is past ends `--follow` as well.
    assert_eq!(on(&["service", "logs", "--follow", "--until", "1h"], "cats").ok(), "");
    on(&["service", "logs", "--tail", "all", "--since", "1700000000"], "cats").ok();
    let err = on(&["service", "logs", "--until", "soon"], "cats").fails(2);
    assert!(err.contains("`soon` is no point in time"), "{err}");
    let err = on(&["service", "logs"], "dogs").fails(1);
    assert!(err.contains("there is no service `dogs`"), "{err}");
    let usage = stage.margay(["usage"]);
    assert!(usage.err.contains("what runs is counted every 10 s"), "{}", usage.err);
    assert!(usage.ok().contains("RUNNING"));

    let large = format!(
        "family = \"large\"\n[[containers]]\nname = \"app\"\nimage = \"{}/me/cats:v1\"\n\
         cpu_millis = 90000000\n",
        up.registry
    );
    let file = stage.write("large.toml", large).display().to_string();
    stage.margay(["task", "register", &file]).ok();
    let create = ["service", "create", "large", "--task", "large:1", "--timeout", "1s"];
    let err = stage.margay([&create[..], &CLUSTER].concat()).fails(1);
    assert!(err.contains("has no ready copy: no node has 90000 CPUs"), "{err}");
    let answer = get(&up.ingress, "large.allthecats.localhost", "/").expect("an answer");
    assert_eq!(answer.status, 503);
    up.end();
    stage.is_empty();
}

#[test]
fn one_run_of_a_task_has_arguments_of_its_own() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    build(&stage, "hello").ok();
    let image = format!("{}/me/hello:v1", up.registry);
    stage.margay(["login", "-u", "me", &up.registry]).ok();
    stage.margay(["tag", "hello", &image]).ok();
    stage.margay(["push", &image]).ok();
    stage.margay(["cluster", "create", "allthecats"]).ok();
    let definition = format!(
        "family = \"job\"\n[[containers]]\nname = \"app\"\nimage = \"{image}\"\ncommand = [\"a\"]\n"
    );
    let file = stage.write("job.toml", definition).display().to_string();
    stage.margay(["task", "register", &file]).ok();
    let run =
        |more: &[&str]| stage.margay([&["task", "run", "job:1"], &CLUSTER[..], more].concat());
    let log_of = |id: &str| {
        eventually("it has written", || {
            let said = stage.margay(["logs", &format!("me.{}.app", id.trim())]);
            (said.code == 0 && said.out.contains("arguments")).then_some(said.out)
        })
    };
    assert!(log_of(&run(&[]).ok()).contains("arguments: a\n"));
    let changed = run(&["-e", "DAY=monday", "--", "x", "y"]).ok();
    assert!(log_of(&changed).contains("arguments: x y\n"));
    let err = run(&["--container", "side", "--", "x"]).fails(1);
    assert!(err.contains("a container `side`, which there is not"), "{err}");

    let compose = stage.write("compose.yaml", "services:\n  web:\n    image: nginx\n");
    let err = stage.margay(["task", "register", &compose.display().to_string()]).fails(1);
    assert!(err.contains("is a Compose file: it is YAML"), "{err}");
    up.end();
    stage.is_empty();
}
