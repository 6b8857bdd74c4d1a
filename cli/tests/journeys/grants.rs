//! What an image asks for, what a role grants it, and the role that a run needs.

use std::fs;

use crate::{
    pages::published,
    stage::{Stage, answering, eventually, get, samples},
};

#[test]
fn each_line_of_an_image_and_a_role_is_explained() {
    let stage = Stage::new();
    stage.margay(["build", "-t", "adopt", &samples().join("adopt").display().to_string()]).ok();
    let role = |name: &str, allow: &str| {
        let path = stage.path(name);
        let text = format!(
            "family = \"adopt\"\nrole.allow = [{allow}]\n[[containers]]\nname = \"app\"\n\
             image = \"adopt\"\nports = [{{ container_port = 80 }}]\n"
        );
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let wide = role("wide.toml", "\"net.out:https://*.example.com\", \"clock:fine\"");
    let narrow = role("narrow.toml", "\"net.out:https://api.example.com\"");
    let bad = stage.path("bad.toml");
    fs::write(&bad, "allow = [\"env\"]").expect("a file");
    let bad = bad.display().to_string();
    for (arguments, code, wants) in [
        (
            "explain adopt".to_owned(),
            1,
            &["It would not start", "add `ports = [{ container_port = 80 }]`"][..],
        ),
        (format!("explain adopt --role {wide}"), 0, &["It would start", "unused"]),
        ("explain adopt --allow net.in:http/80".to_owned(), 0, &["It would start"]),
        (format!("explain adopt --role {bad}"), 1, &["line 1: `env` is not a capability"]),
        (format!("explain adopt --role {wide} --container x"), 1, &["no container `x`"]),
        (format!("explain none --role {wide}"), 1, &["`docker.io/library/none:latest`"]),
        (
            format!("diff {wide} {narrow}"),
            0,
            &["(within net.out:https://*.example.com:443 of before)", "- clock:fine"],
        ),
        (format!("diff --exit-code {wide} {narrow}"), 1, &["+ net.out:https://api.example"]),
        (format!("diff --exit-code {wide} {wide}"), 0, &["grant the same"]),
        (format!("diff --exit-code {wide} adopt:1"), 2, &["margay up"]),
    ] {
        let said = stage.margay(["grants"].into_iter().chain(arguments.split(' ')));
        let text = format!("{}{}", said.out, said.err);
        assert_eq!(said.code, code, "{arguments}: {text}");
        for want in wants {
            assert!(text.contains(want), "{arguments}: no `{want}` in {text}");
        }
    }
    stage.is_empty();
}

#[test]
fn a_run_that_is_learned_from_prints_the_role_that_it_needed() {
    let stage = Stage::new();
    let address = answering("inside");
    let probe = samples().join("hostile/probe-http.wasm").display().to_string();
    let (reached, spare) =
        (format!("net.out:http://{address};private"), "net.out:https://example.com:443");
    let learn = ["run", "--learn", "-p", "0:80", "--name", "probe"];
    let grants = ["--allow", &reached, "--allow", spare, "--private-network", "127.0.0.1"];
    let running = stage.start([&learn[..], &grants[..], &[&probe]].concat());
    let page = eventually("the probe has a port", || published(&stage, "probe"));
    let ask = |url: &str| get(&page, "localhost", &format!("/fetch?url={url}"));
    assert_eq!(ask(&format!("http://{address}/")).map(|answer| answer.status), Some(200));
    // Not granted, and no internal address: what is told of it is that there is no such name.
    assert_ne!(ask("http://cats.invalid/").map(|answer| answer.status), Some(200));
    // Internal, and not granted.
    assert_ne!(ask("http://127.0.0.1:9/").map(|answer| answer.status), Some(200));
    running.signal("INT");
    let said = running.end().err;
    for want in [
        format!("role.allow = [\n  \"{reached}\",\n]"),
        format!("Granted, and not used in this run: {spare}"),
        "Denied: net.out:http://127.0.0.1:9;private".to_owned(),
    ] {
        assert!(said.contains(&want), "no `{want}` in {said}");
    }
    assert!(!said.contains("cats.invalid"), "{said}");

    let background = stage.margay(["run", "-d", "--learn", &probe]);
    assert!(background.code == 2 && background.err.contains("leave out -d"), "{background:?}");
    stage.is_empty();
}
