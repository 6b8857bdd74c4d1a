//! Copies that go wrong where nothing more is asked of them, and updates that meet.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use serde_json::Value;

use crate::{
    native,
    rollouts::{CLUSTER, Clients, WEB, register, serve_web, service, update},
    stage::{Stage, eventually, get},
    up::Up,
};

/// A Linux revision of `web` that serves the cats for so many seconds.
fn register_native(stage: &Stage, up: &Up, tag: &str, serves: &str) -> String {
    let local = format!("cats:{tag}");
    let last = format!(
        "EXPOSE 80\nCMD [\"/bin/busybox\", \"sh\", \"-c\", \
         \"/bin/busybox httpd -p 80 -h /srv/www; /bin/busybox sleep {serves}\"]"
    );
    native::build(stage, &local, &last);
    let image = format!("{}/me/{local}", up.registry);
    stage.margay(["tag", &local, &image]).ok();
    stage.margay(["push", &image]).ok();
    let definition = format!(
        "family = \"web\"\n[[containers]]\nname = \"app\"\nimage = \"{local}\"\n\
         restart = \"never\"\ncpu_millis = 50\nports = [{{ container_port = 80 }}]\n"
    );
    let file = stage.write("native.toml", definition).display().to_string();
    stage.margay(["task", "register", &file]).ok().trim().to_owned()
}

#[test]
fn a_revision_that_dies_after_the_gate_is_rolled_back_and_no_get_fails() {
    if !native::ready() {
        return;
    }
    let stage = Stage::new();
    let up = Up::start(&stage);
    stage.margay(["login", "-u", "me", &up.registry]).ok();
    stage.margay(["cluster", "create", "main"]).ok();
    assert_eq!(register_native(&stage, &up, "good", "1000000"), "web:1");
    let create = ["service", "create", "web", "--task", "web:1", "--count", "2"];
    stage.margay([&create[..], &CLUSTER].concat()).ok();
    // Only a deployment that was completed is one to go back to.
    eventually("both copies serve", || {
        (service(&stage)["status"]["deployments"][0]["state"] == "completed").then_some(())
    });
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (ingress, stop, served) = (up.ingress.clone(), stop.clone(), served.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let answer = get(&ingress, WEB, "/").expect("an answer");
                    assert_eq!(answer.status, 200);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let bad = register_native(&stage, &up, "bad", "3");
    let err =
        update(&stage, &bad, &["--rollout", "blue-green", "--bake", "2m", "--timeout", "90s"]);
    let err = err.fails(1);
    assert!(err.contains("failed and was rolled back to `web:1`"), "{err}");
    eventually("the revision before serves alone", || {
        let status = service(&stage)["status"].clone();
        let is_alone = status["serving"] == serde_json::json!(["web:1"]);
        (is_alone && status["deployments"][0]["state"] == "completed").then_some(())
    });
    let before = served.load(Ordering::Relaxed);
    eventually("it goes on", || (served.load(Ordering::Relaxed) > before + 20).then_some(()));
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().expect("no GET fails"));
    up.end();
    stage.is_empty();
}

#[test]
fn two_deployments_at_once_end_as_one_of_them_and_no_request_fails() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_web(&stage, &up, 2);
    let clients = Clients::of(&up, WEB);
    clients.served_more(20);
    for round in 0..3 {
        let numbered = |number: u32| {
            register(&stage, "probe-http", &format!("env = {{ REVISION = \"{round}.{number}\" }}"))
        };
        let revisions = [numbered(1), numbered(2)];
        std::thread::scope(|scope| {
            for revision in &revisions {
                scope.spawn(|| update(&stage, revision, &["-d"]).ok());
            }
        });
        let last: Value = eventually("one of them is completed", || {
            let status = service(&stage)["status"].clone();
            let newest = status["deployments"][0].clone();
            let is_alone = status["serving"] == serde_json::json!([newest["task_definition"]]);
            (newest["state"] == "completed" && is_alone && status["ready"] == 2).then_some(newest)
        });
        let last = last["task_definition"].as_str().expect("a definition");
        assert!(revisions.iter().any(|revision| revision == last), "{last}");
        clients.served_more(20);
    }
    clients.end();
    up.end();
    stage.is_empty();
}
