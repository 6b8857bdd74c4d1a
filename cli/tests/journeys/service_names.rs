//! Services that call each other by their names inside the platform.

use serde_json::Value;

use crate::{
    stage::{Answer, Stage, eventually, get},
    up::{Up, page_is_served, push_probe, serve_cats},
};

const CLUSTER: [&str; 2] = ["--cluster", "allthecats"];
const CATS: &str = "http://cats.allthecats.internal/";

/// A service of the probe that sends what it is asked for, with `allow` in its role.
fn serve_caller(stage: &Stage, name: &str, allow: &str, node: &str) {
    let definition = format!(
        "family = \"{name}\"\n[role]\nallow = [{allow}]\n[[containers]]\nname = \"app\"\n\
         image = \"probe-http:v1\"\nports = [{{ container_port = 80 }}]\n"
    );
    let file = stage.write(&format!("{name}.toml"), definition).display().to_string();
    let id = stage.margay(["task", "register", &file]).ok();
    let place = format!("node == {node}");
    let create = ["service", "create", name, "--task", id.trim(), "--constraint", &place];
    stage.margay([&create[..], &CLUSTER].concat()).ok();
}

fn fetch(up: &Up, caller: &str, url: &str) -> Option<Answer> {
    get(&up.ingress, &format!("{caller}.allthecats.localhost"), &format!("/fetch?url={url}"))
}

fn fetched(up: &Up, caller: &str, url: &str) -> Option<()> {
    let answer = fetch(up, caller, url)?;
    (answer.status == 200 && answer.body.starts_with(b"status 200, ")).then_some(())
}

#[test]
fn a_service_calls_another_by_its_name_on_its_own_node_and_on_another() {
    let (stage, other) = (Stage::new(), Stage::new());
    let up = Up::start(&stage);
    let token = stage.margay(["node", "token"]).ok();
    let mut node = other.start(["node", "join", token.trim(), "--name", "second"]);
    assert_eq!(node.line(), "second");
    serve_cats(&stage, &up, 1);
    let update = ["service", "update", "cats", "--constraint", "node == local"];
    stage.margay([&update[..], &CLUSTER].concat()).ok();
    push_probe(&stage, &up, "probe-http");
    let granted = "\"net.out:http://*.allthecats.internal:80\"";
    serve_caller(&stage, "near", granted, "local");
    serve_caller(&stage, "far", granted, "second");
    serve_caller(&stage, "without", "", "local");
    eventually("the page is served", || page_is_served(&up));

    // Beside it, and through the ingresses of two nodes; a replica that starts is waited for.
    eventually("a service on the same node is reached", || fetched(&up, "near", CATS));
    eventually("a service on another node is reached", || fetched(&up, "far", CATS));
    for _ in 0..20 {
        fetched(&up, "near", CATS).expect("a page");
        fetched(&up, "far", CATS).expect("a page");
    }
    // From one node to the other and back, each with a grant of its own.
    let round = format!("http://far.allthecats.internal/fetch?url={CATS}");
    eventually("a call within a call", || fetched(&up, "near", &round));

    // What is not granted is denied, with its line; what is no service does not exist.
    let denied = fetch(&up, "without", CATS).expect("an answer");
    let text = String::from_utf8_lossy(&denied.body).into_owned();
    assert!(text.contains("HttpRequestDenied"), "{text}");
    let tasks = stage.margay(["task", "ls", "--service", "without", "--output", "json"]).ok();
    let tasks: Value = serde_json::from_str(&tasks).expect("JSON");
    let task = tasks[0]["id"].as_str().expect("an id");
    let line = "net.out:http://cats.allthecats.internal:80";
    eventually("the log names the line", || {
        stage.margay(["logs", task]).err.contains(line).then_some(())
    });
    for (url, want) in [
        ("http://dogs.allthecats.internal/", "DnsError"),
        ("http://cats.internal/", "HttpRequestDenied"),
        ("http://cats.allthecats.internal:8080/", "HttpRequestDenied"),
        ("http://cats.allthecats.localhost/", "HttpRequestDenied"),
    ] {
        let answer = fetch(&up, "near", url).expect("an answer");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.contains(want), "{url}: {text}");
    }

    // Without a replica there is an answer at once, and with one again it is reached again.
    stage.margay([&["service", "scale", "cats", "0"], &CLUSTER[..]].concat()).ok();
    eventually("it says that none is ready", || {
        let near = fetch(&up, "near", CATS)?;
        let text = String::from_utf8_lossy(&near.body).into_owned();
        text.contains("DestinationUnavailable").then_some(())
    });
    // One that requests bring back is waited for, from either node.
    let scale = ["service", "update", "cats", "--scale", "0..2", "--target", "concurrency=5"];
    stage.margay([&scale[..], &CLUSTER].concat()).ok();
    eventually("its route is known", || {
        let text = String::from_utf8_lossy(&fetch(&up, "near", CATS)?.body).into_owned();
        text.starts_with("status 200, ").then_some(())
    });
    // Again and again: what was asked for within the last seconds may bring a copy back.
    eventually("it has no copy", || {
        stage.margay([&["service", "scale", "cats", "0"], &CLUSTER[..]].concat()).ok();
        let shown = stage.margay([&["service", "inspect", "cats"], &CLUSTER[..]].concat()).ok();
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        (shown[0]["status"]["placed"] == 0).then_some(())
    });
    fetched(&up, "far", CATS).expect("a page");
    stage.margay([&["service", "update", "cats", "--no-scaling"], &CLUSTER[..]].concat()).ok();
    stage.margay([&["service", "scale", "cats", "1"], &CLUSTER[..]].concat()).ok();
    eventually("it is reached again", || fetched(&up, "near", CATS));
    eventually("and from the other node", || fetched(&up, "far", CATS));
    node.signal("INT");
    node.end();
    up.end();
    stage.is_empty();
    other.is_empty();
}

#[test]
fn services_that_call_each_other_in_circles_end_with_an_answer() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    stage.margay(["login", "-u", "me", &up.registry]).ok();
    push_probe(&stage, &up, "probe-http");
    stage.margay(["cluster", "create", "allthecats"]).ok();
    for name in ["one", "two"] {
        serve_caller(&stage, name, "\"net.out:http://*.allthecats.internal:80\"", "local");
    }
    let both = |name| get(&up.ingress, &format!("{name}.allthecats.localhost"), "/");
    eventually("both serve", || both("one").and(both("two")).filter(|a| a.status == 200));
    let mut url = String::from("http://two.allthecats.internal/");
    for turn in 0..6 {
        let name = if turn % 2 == 0 { "one" } else { "two" };
        url = format!("http://{name}.allthecats.internal/fetch?url={url}");
    }
    eventually("six calls, each within the last", || fetched(&up, "two", &url));
    // Many at once hold all instances of both, each waiting for the other: they end at their
    // limits, and the services go on.
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| fetch(&up, "one", &url));
        }
    });
    eventually("it serves again", || fetched(&up, "two", "http://one.allthecats.internal/"));
    up.end();
    stage.is_empty();
}
