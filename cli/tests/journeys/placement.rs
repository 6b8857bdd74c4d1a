//! Which nodes the copies of services go to, what an operator says of nodes, and the order of the
//! containers of a task.

use serde_json::Value;

use crate::{
    native,
    stage::{Stage, eventually, get, samples},
    up::{HOST, Up, page_is_served, serve_cats},
};

const CLUSTER: [&str; 2] = ["--cluster", "allthecats"];

fn json(stage: &Stage, words: &[&str]) -> Value {
    serde_json::from_str(&stage.margay(words.iter().copied()).ok()).expect("JSON")
}

fn service(stage: &Stage, name: &str) -> Value {
    json(stage, &[&["service", "inspect", name], &CLUSTER[..]].concat())[0].clone()
}

/// Nodes of the running tasks of a service, sorted.
fn nodes(stage: &Stage, service: &str) -> Vec<String> {
    let list = json(stage, &["task", "ls", "--service", service, "--output", "json"]);
    let running =
        list.as_array().expect("a list").iter().filter(|task| task["status"]["phase"] == "running");
    let node = |task: &Value| task["spec"]["node"].as_str().expect("a node").to_owned();
    let mut nodes: Vec<String> = running.map(node).collect();
    nodes.sort();
    nodes
}

fn until_on(stage: &Stage, service: &str, want: &[&str]) {
    eventually(&format!("{service} is on {want:?}"), || {
        (nodes(stage, service) == want).then_some(())
    });
}

fn until_it_says(stage: &Stage, name: &str, want: &str) {
    eventually(&format!("{name} says {want}"), || {
        service(stage, name)["status"]["reason"].as_str()?.contains(want).then_some(())
    });
}

#[test]
fn services_follow_constraints_taints_cordons_and_drains() {
    let (stage, other) = (Stage::new(), Stage::new());
    let up = Up::start(&stage);
    let token = stage.margay(["node", "token"]).ok();
    let join = ["node", "join", token.trim(), "--name", "second", "--label", "disk=fast"];
    let mut node = other.start(join);
    assert_eq!(node.line(), "second");
    serve_cats(&stage, &up, 2);
    until_on(&stage, "cats", &["local", "second"]);
    let update =
        |more: &[&str]| stage.margay([&["service", "update", "cats"], &CLUSTER[..], more].concat());

    let err = update(&["--constraint", "disk ="]).fails(1);
    assert!(err.contains("`disk =` is not an expression: a value is missing"), "{err}");
    update(&["--constraint", "disk == fast", "--count", "3"]).ok();
    until_on(&stage, "cats", &["local", "second", "second"]);
    update(&["--constraint", "rack exists", "--count", "4"]).ok();
    until_it_says(&stage, "cats", "no node that could take it meets `rack exists`");
    stage.margay(["node", "update", "local", "--label-add", "rack=1"]).ok();
    until_on(&stage, "cats", &["local", "local", "second", "second"]);
    let err = stage.margay(["node", "update", "local", "--label-rm", "disk"]).fails(1);
    assert!(err.contains("node `local` was given no label `disk`"), "{err}");
    let err = stage.margay(["node", "update", "local", "--label-add", "pool=true"]).fails(1);
    assert!(err.contains("say what a node consents to"), "{err}");

    // One copy of a daemon on each node, and none where it is not tolerated.
    let daemon = ["service", "create", "log", "--task", "cats:1", "--daemon"];
    stage.margay([&daemon[..], &CLUSTER].concat()).ok();
    until_on(&stage, "log", &["local", "second"]);
    let table = stage.margay([&["service", "ls"], &CLUSTER[..]].concat()).ok();
    eventually("it counts its nodes", || {
        let table = stage.margay([&["service", "ls"], &CLUSTER[..]].concat()).ok();
        let row = table.lines().find(|line| line.starts_with("log "))?.to_owned();
        row.contains("2/2").then_some(())
    });
    assert!(table.contains("log"), "{table}");
    let err = stage.margay([&["service", "scale", "log", "3"], &CLUSTER[..]].concat()).fails(1);
    assert!(err.contains("a daemon has one task on each node"), "{err}");
    stage.margay(["node", "update", "second", "--taint-add", "repair:NoExecute"]).ok();
    until_on(&stage, "log", &["local"]);
    until_on(&stage, "cats", &["local", "local", "local", "local"]);
    stage.margay(["node", "update", "second", "--taint-rm", "repair"]).ok();
    until_on(&stage, "log", &["local", "second"]);
    page_is_served(&up).expect("the page");

    // A cordoned node takes nothing new, and says so.
    stage.margay(["node", "cordon", "second", "local"]).ok();
    let table = stage.margay(["node", "ls"]).ok();
    assert_eq!(table.matches("cordoned").count(), 2, "{table}");
    update(&["--constraint", "none", "--count", "5"]).ok();
    until_it_says(&stage, "cats", "every node that could take it is cordoned");
    stage.margay(["node", "uncordon", "second", "local"]).ok();
    until_on(&stage, "cats", &["local", "local", "local", "local", "second"]);

    // It is spread anew when that is asked for.
    stage.margay([&["service", "rebalance"], &CLUSTER[..]].concat()).ok();
    until_on(&stage, "cats", &["local", "local", "local", "second", "second"]);
    eventually("that has ended", || {
        let events = stage.margay([&["service", "events", "cats"], &CLUSTER[..]].concat()).ok();
        events.contains("as evenly as they can be").then_some(())
    });

    // A copy without another place stays until the deadline of a drain, and no longer.
    update(&["--constraint", "disk == fast", "--count", "1"]).ok();
    until_on(&stage, "cats", &["local"]);
    stage.margay(["node", "drain", "local", "--deadline", "1h"]).ok();
    until_on(&stage, "cats", &["second"]);
    stage.margay(["node", "drain", "local", "--undo"]).ok();
    stage.margay(["node", "drain", "second", "--deadline", "2s"]).ok();
    until_on(&stage, "cats", &[]);
    until_it_says(&stage, "cats", "no node");
    eventually("it is drained", || {
        let table = stage.margay(["node", "ls"]).ok();
        table
            .lines()
            .any(|line| line.starts_with("second") && line.contains("drained"))
            .then_some(())
    });
    let shown = json(&stage, &["node", "inspect", "second"]);
    assert!(shown[0]["drain_deadline"].is_string(), "{shown}");
    drop(node);
    up.end();
    stage.is_empty();
    other.is_empty();
}

#[test]
fn a_service_follows_its_load_and_says_why() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_cats(&stage, &up, 1);
    let update =
        |more: &[&str]| stage.margay([&["service", "update", "cats"], &CLUSTER[..], more].concat());
    let err = update(&["--target", "requests=5"]).fails(1);
    assert!(err.contains("has bounds") && err.contains("--scale MIN..MAX"), "{err}");
    let err = update(&["--scale", "0..3", "--target", "memory=50"]).fails(1);
    assert!(err.contains("never leave 0"), "{err}");
    update(&["--scale", "2..4", "--target", "requests=5", "--scale-in-cooldown", "1s"]).ok();
    until_on(&stage, "cats", &["local", "local"]);
    let err = stage.margay([&["service", "scale", "cats", "9"], &CLUSTER[..]].concat()).fails(1);
    assert!(err.contains("`cats` scales between 2 and 4, and 9 is outside"), "{err}");
    // Some hundred requests a second, until it has as many copies as it may.
    eventually("it has four copies", || {
        for _ in 0..50 {
            get(&up.ingress, HOST, "/")?;
        }
        (nodes(&stage, "cats").len() == 4).then_some(())
    });
    let events = stage.margay([&["service", "events", "cats"], &CLUSTER[..]].concat()).ok();
    assert!(
        events.contains("requests a second of each replica, and its target is requests=5"),
        "{events}"
    );
    update(&["--no-scaling"]).ok();
    stage.margay([&["service", "scale", "cats", "1"], &CLUSTER[..]].concat()).ok();
    until_on(&stage, "cats", &["local"]);
    up.end();
    stage.is_empty();
}

/// Pushes an image whose program is one of the probes.
fn push_probe(stage: &Stage, up: &Up, program: &str) {
    let context = stage.path(program);
    std::fs::create_dir(&context).expect("a folder");
    let wasm = format!("{program}.wasm");
    std::fs::copy(samples().join("hostile").join(&wasm), context.join(&wasm)).expect("a copy");
    let dockerfile = format!("FROM scratch\nCOPY {wasm} /\nENTRYPOINT [\"/{wasm}\"]\n");
    std::fs::write(context.join("Dockerfile"), dockerfile).expect("a Dockerfile");
    let image = format!("{}/me/{program}:v1", up.registry);
    stage.margay(["build", "-t", &image, &context.display().to_string()]).ok();
    stage.margay(["push", &image]).ok();
}

#[test]
fn containers_of_a_task_start_in_order_and_one_that_fails_says_which() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    stage.margay(["login", "-u", "me", &up.registry]).ok();
    push_probe(&stage, &up, "probe-cli");
    push_probe(&stage, &up, "probe-http");
    stage.margay(["cluster", "create", "allthecats"]).ok();
    let register = |code: &str, condition: &str| {
        let definition = format!(
            "family = \"web\"\n\
             [[containers]]\nname = \"app\"\nimage = \"probe-http:v1\"\n\
             ports = [{{ container_port = 80 }}]\nstop_timeout_seconds = 3\n\
             depends_on = [{{ container = \"init\", condition = \"{condition}\" }}]\n\
             [[containers]]\nname = \"init\"\nimage = \"probe-cli:v1\"\nessential = false\n\
             command = [\"exit\", \"{code}\"]\n"
        );
        let file = stage.write("web.toml", definition).display().to_string();
        stage.margay(["task", "register", &file])
    };
    let err = register("0", "ended").fails(1);
    assert!(err.contains("unknown variant `ended`") && err.contains("success"), "{err}");
    let good = register("0", "success").ok();
    let create = ["service", "create", "web", "--task", good.trim()];
    stage.margay([&create[..], &CLUSTER].concat()).ok();
    let task = json(&stage, &["task", "ls", "--service", "web", "--output", "json"])[0].clone();
    let containers = &task["status"]["containers"];
    assert_eq!(
        (&containers[1]["phase"], &containers[1]["exit_code"], &containers[1]["restarts"]),
        (&"exited".into(), &0.into(), &0.into()),
        "it ran once: {containers}"
    );
    let answer = get(&up.ingress, "web.allthecats.localhost", "/").expect("an answer");
    assert_eq!(answer.status, 200);

    let bad = register("1", "success").ok();
    let run = ["task", "run", bad.trim()];
    let id = stage.margay([&run[..], &CLUSTER].concat()).ok();
    eventually("it has ended", || {
        let task = json(&stage, &["task", "ls", "-a", "--output", "json"]);
        let task = task.as_array()?.iter().find(|task| task["id"] == id.trim())?.clone();
        let reason = task["status"]["reason"].as_str()?.to_owned();
        let want =
            "container `app`: container `init` ended with exit code 1, and it depends on that";
        (task["status"]["phase"] == "stopped" && reason.contains(want)).then_some(())
    });
    up.end();
    stage.is_empty();
}

#[test]
fn linux_images_run_in_the_pool_where_the_operator_of_a_node_lets_them() {
    if !native::ready() {
        return;
    }
    let (stage, other) = (Stage::new(), Stage::new());
    let up = Up::start(&stage);
    native::build(&stage, "still", "CMD [\"/bin/busybox\", \"sleep\", \"600\"]");
    let image = format!("{}/me/still:v1", up.registry);
    stage.margay(["login", "-u", "me", &up.registry]).ok();
    stage.margay(["tag", "still", &image]).ok();
    stage.margay(["push", &image]).ok();
    stage.margay(["cluster", "create", "allthecats"]).ok();
    let definition = "family = \"still\"\n[[containers]]\nname = \"app\"\nimage = \"still:v1\"\n";
    let file = stage.write("still.toml", definition).display().to_string();
    assert_eq!(stage.margay(["task", "register", &file]).ok(), "still:1\n");
    let run = ["task", "run", "still:1", "--launch-type", "pool"];
    let err = stage.margay([&run[..], &CLUSTER].concat()).fails(1);
    assert!(
        err.contains("no node of the pool runs those of every tenant")
            && err.contains("--pool-native"),
        "{err}"
    );
    let token = stage.margay(["node", "token", "--pool"]).ok();
    let mut node = other.start(["node", "join", token.trim(), "--name", "second", "--pool-native"]);
    assert_eq!(node.line(), "second");
    stage.margay([&run[..], &CLUSTER].concat()).ok();
    eventually("it runs on the node that lets it", || {
        let list = json(&stage, &["task", "ls", "--output", "json"]);
        let task = list.as_array()?.iter().find(|task| task["spec"]["launch_type"] == "pool")?;
        (task["status"]["phase"] == "running" && task["spec"]["node"] == "second").then_some(())
    });
    drop(node);
    up.end();
    stage.is_empty();
    other.is_empty();
}
