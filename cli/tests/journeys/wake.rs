//! A service that requests bring back from no copies at all.

use serde_json::Value;

use crate::{
    rollouts::{CLUSTER, Clients, WEB, serve_web, service},
    stage::{Said, Stage, eventually, get},
    up::Up,
};

fn margay(stage: &Stage, words: &[&str]) -> Said {
    stage.margay([words, &CLUSTER[..]].concat())
}

fn until_placed(stage: &Stage, count: u64) {
    eventually(&format!("it has {count} copies"), || {
        (service(stage)["status"]["placed"] == count).then_some(())
    });
}

fn until_asleep(stage: &Stage) {
    until_placed(stage, 0);
}

#[test]
fn a_service_without_requests_ends_and_the_next_request_waits_for_it() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    serve_web(&stage, &up, 1);
    let scale = ["service", "update", "web", "--scale", "0..3", "--target", "concurrency=2"];
    margay(&stage, &scale).ok();

    // By hand: eight requests at once bring it back, as many copies as they ask for.
    margay(&stage, &["service", "scale", "web", "0"]).ok();
    until_asleep(&stage);
    let why = margay(&stage, &["explain", "service", "web"]).ok();
    assert!(why.contains("the next one waits until a copy is ready"), "{why}");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let answer = get(&up.ingress, WEB, "/sleep?ms=50").expect("an answer");
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                assert_eq!(answer.status, 200, "{text}");
            });
        }
    });
    let events = margay(&stage, &["service", "events", "web"]).ok();
    assert!(events.contains("requests wait for a replica"), "{events}");

    // By itself, once it was quiet for so long.
    margay(&stage, &["service", "update", "web", "--scale-in-cooldown", "1s"]).ok();
    until_asleep(&stage);
    let events = margay(&stage, &["service", "events", "web"]).ok();
    assert!(events.contains("it had no request for 1 s"), "{events}");
    assert_eq!(get(&up.ingress, WEB, "/").expect("an answer").status, 200);

    // Down to none and back under requests with bodies and without, of which none fails.
    let clients = Clients::of(&up, WEB);
    for _ in 0..3 {
        clients.served_more(20);
        margay(&stage, &["service", "scale", "web", "0"]).ok();
    }
    clients.served_more(20);
    clients.end();

    // Without scaling, none is what was asked for, and a request is told so at once.
    margay(&stage, &["service", "update", "web", "--no-scaling"]).ok();
    margay(&stage, &["service", "scale", "web", "0"]).ok();
    until_asleep(&stage);
    eventually("it is told at once", || (get(&up.ingress, WEB, "/")?.status == 503).then_some(()));
    let shown: Value = service(&stage);
    assert_eq!(shown["spec"]["count"], 0, "{shown}");
    up.end();
    stage.is_empty();
}
