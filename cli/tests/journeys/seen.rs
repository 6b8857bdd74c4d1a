//! What an operator sees of requests afterwards: lines of the access log, ids, pages of a service.

use serde_json::Value;

use crate::{
    stage::{Stage, eventually, get},
    up::{HOST, UP, Up, page_is_served, serve_cats},
};

#[test]
fn requests_are_in_the_access_log_and_errors_are_pages_of_the_service() {
    let stage = Stage::new();
    let err = stage.margay([&UP[..], &["--access-log", "xml"]].concat()).fails(2);
    assert!(err.contains("use json or combined"), "{err}");
    let up = Up::start_with(&stage, &["--access-log", "json"]);
    serve_cats(&stage, &up, 1);
    eventually("the page is served", || page_is_served(&up));
    let answer = get(&up.ingress, HOST, "/?token=secret").expect("an answer");
    let id = answer.head.lines().find_map(|line| line.strip_prefix("x-request-id: "));
    let id = id.expect("an id").to_owned();
    let log = || std::fs::read_to_string(stage.home().join("ingress/access.log")).expect("a log");
    let line = eventually("it has a line", || {
        log().lines().find(|line| line.contains(&id)).map(str::to_owned)
    });
    let line: Value = serde_json::from_str(&line).expect("JSON");
    for (name, want) in [
        ("status", Value::from(200)),
        ("path", "/".into()),
        ("service", HOST.into()),
        ("tenant", "me".into()),
        ("complete", true.into()),
    ] {
        assert_eq!(line[name], want, "{name} of {line}");
    }
    assert!(line["task"].as_str().is_some_and(|task| task.starts_with("cats-")), "{line}");
    assert!(!log().contains("secret"));
    // Its tenant reads the lines of its own service, from anywhere.
    let requests = |more: &[&str]| {
        let words = ["service", "access-log", "cats", "--cluster", "allthecats"];
        stage.margay([&words[..], more].concat())
    };
    let read = requests(&["--output", "json", "--grep", &id]).ok();
    assert_eq!(
        read.lines().map(str::parse::<Value>).collect::<Result<Vec<_>, _>>().unwrap(),
        [line]
    );
    let said = requests(&["--tail", "1"]).ok();
    assert!(said.contains(" 127.0.0.1 GET http://cats.") && said.contains(" 200 "), "{said}");
    assert_eq!(requests(&["--until", "1h"]).ok(), "");
    let err = stage.margay(["service", "access-log", "dogs", "--cluster", "allthecats"]).fails(1);
    assert!(err.contains("there is no service `dogs`"), "{err}");

    let cluster = ["service", "update", "cats", "--cluster", "allthecats"];
    let page = stage.write("sorry.html", "<p>back soon: {request_id}").display().to_string();
    let long = stage.write("long.html", "x".repeat(5000)).display().to_string();
    let update = |more: &[&str]| stage.margay([&cluster[..], more].concat());
    let err = update(&["--error-page", &format!("503={long}")]).fails(2);
    assert!(err.contains("is longer than 4096 bytes"), "{err}");
    let err = update(&["--error-page", &format!("500={page}")]).fails(2);
    assert!(err.contains("use 502, 503 or 504 and a file"), "{err}");
    update(&["--error-page", &format!("503={page}"), "--count", "0"]).ok();
    let sorry = || {
        let answer = get(&up.ingress, HOST, "/")?;
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        (answer.status == 503 && body.starts_with("<p>back soon: ")).then_some(answer.head)
    };
    let head = eventually("the page of the service", sorry);
    assert!(head.contains("content-type: text/html") && head.contains("retry-after: "), "{head}");
    update(&["--error-page", "503="]).ok();
    eventually("the ingress' own words", || {
        let answer = get(&up.ingress, HOST, "/")?;
        String::from_utf8_lossy(&answer.body).contains("E_STARTING").then_some(())
    });
    up.end();
    let before = log();
    let up = Up::start_with(&stage, &["--access-log", "combined"]);
    eventually("it goes on in the same file", || {
        get(&up.ingress, HOST, "/next")?;
        let log = log();
        (log.starts_with(&before) && log.contains("\"GET /next HTTP/1.1\" 503 ")).then_some(())
    });
    up.end();
    std::fs::write(stage.home().join("ingress/access.log"), "127.0.0.1 - - combined\n").unwrap();
    let _ = std::fs::remove_file(stage.home().join("ingress/access.log.1"));
    let up = Up::start(&stage);
    let words = ["service", "access-log", "cats", "--cluster", "allthecats"];
    let err = stage.margay(words).fails(1);
    assert!(err.contains("keeps no access log that names services"), "{err}");
    assert!(err.contains("--access-log json"), "{err}");
    up.end();
    stage.is_empty();
}
