//! What images are: in a registry that has read their bytes, and beside each other.

use std::fs;

use serde_json::Value;

use crate::{
    images::build,
    registry_admin::{Apart, check},
    stage::Stage,
};

fn json(stage: &Stage, line: &str) -> Value {
    serde_json::from_str(&stage.margay(line.split(' ')).ok()).expect("JSON")
}

#[test]
fn a_registry_says_what_images_import_and_finds_them_by_it() {
    let stage = Stage::new();
    let apart = Apart::with_images(&stage);
    build(&stage, "adopt").ok();
    apart.push(&stage, "adopt", "me/adopt:v1");
    // Asked for, an image is read at once; the others are read in the background.
    for name in ["me/cats:hello", "me/cats:httpd", "me/adopt:v1"] {
        let info = json(&stage, &format!("registry inspect {name} --output json"));
        let program = &info["images"][0]["program"];
        assert_eq!(program["kind"], "component", "{name}: {info}");
        assert_eq!(program["wasi"], "0.2", "{name}: {info}");
    }
    for (line, code, want) in [
        ("inspect me/cats:hello", 0, "world       command"),
        ("inspect me/cats:httpd", 0, "world       http"),
        ("inspect me/adopt:v1", 0, "wants       net.in:http/80"),
        ("inspect me/adopt:v1", 0, "imports     wasi:http/types@0.2"),
        ("inspect me/cats:none", 1, "no image `me/cats:none`"),
        ("inspect me/none:v1", 1, "no image `me/none:v1`"),
        ("inspect me/cats", 1, "`me/cats` is neither REPOSITORY:TAG nor REPOSITORY@DIGEST"),
        ("inspect me/cats@sha256:00", 1, "sha256:00"),
        ("search adopt", 0, "me/adopt"),
        ("search --exports wasi:http/incoming-handler CATS", 0, "http component, WASI 0.2"),
    ] {
        check(&stage, line, code, want);
    }
    let found = |query: &str| {
        let found = json(&stage, &format!("registry search {query} --output json"));
        let found = found.as_array().expect("a list");
        let names = found.iter().map(|image| format!("{} {}", image["repository"], image["tags"]));
        names.collect::<Vec<_>>().join(", ").replace('"', "")
    };
    let digest = json(&stage, "registry manifest ls me/adopt --output json");
    let digest = digest[0]["digest"].as_str().expect("a digest")[..20].to_owned();
    for (query, want) in [
        ("--exports wasi:cli/run", "me/cats [hello]"),
        ("--imports wasi:sockets", ""),
        ("cats:httpd", "me/cats [httpd]"),
        ("--label nothing", ""),
        (&format!("--digest {digest}"), "me/adopt [v1]"),
        ("nosuchtext", ""),
    ] {
        assert_eq!(found(query), want, "{query}");
    }
    reads_what_it_may(&stage, &apart);
    stage.margay(["registry", "manifest", "rm", &whole_digest(&stage)]).ok();
    assert_eq!(found("adopt"), "");
    apart.end();
}

fn whole_digest(stage: &Stage) -> String {
    let manifests = json(stage, "registry manifest ls me/adopt --output json");
    format!("me/adopt@{}", manifests[0]["digest"].as_str().expect("a digest"))
}

/// Another user, over the network.
fn reads_what_it_may(stage: &Stage, apart: &Apart) {
    let add = ["registry", "user", "add", "bob", "--password-stdin"];
    stage.margay_fed(add, "a fine password\n").ok();
    let other = Stage::new();
    let log_in = ["login", "-u", "bob", "--password-stdin", &apart.address];
    other.margay_fed(log_in, "a fine password\n").ok();
    let at = |line: &str| format!("{line} --registry {}", apart.address);
    check(&other, &at("inspect me/adopt:v1"), 1, "no image `me/adopt:v1`");
    check(stage, "visibility me/adopt public", 0, "me/adopt");
    check(&other, &at("inspect me/adopt:v1"), 0, "net.in:http/80");
    let found = other.margay(at("registry search me/").split(' ')).ok();
    assert!(found.contains("me/adopt") && !found.contains("me/cats"), "{found}");
}

#[test]
fn two_images_are_compared_by_what_they_may_and_what_they_have() {
    let stage = Stage::new();
    let folder = stage.path("sources");
    fs::create_dir_all(&folder).expect("a folder");
    for (name, wants, kept, changed) in [
        ("one", "fs:/data#rw", "same", "before"),
        ("two", "fs:/data#r\\nnet.out:https://example.com:443", "same", "behind"),
    ] {
        fs::write(folder.join("kept"), kept).expect("a file");
        fs::write(folder.join("changed"), changed).expect("a file");
        fs::write(folder.join(name), name).expect("a file");
        let text = format!(
            "FROM scratch\nLABEL margay.wants=\"{wants}\"\nENV STAGE={name}\nCOPY kept /a/kept\n\
             COPY changed {name} /b/\n"
        );
        fs::write(folder.join("Dockerfile"), text).expect("a file");
        stage.margay(["build", "-t", name, &folder.display().to_string()]).ok();
    }
    let told = stage.margay(["diff", "one", "two"]).ok();
    for want in [
        "- fs:/data#rw",
        "+ fs:/data#r (within fs:/data#rw of before)",
        "+ net.out:https://example.com:443\n",
        "environment: STAGE=one -> STAGE=two\n",
        "  C /b/changed  6 B 0644\n",
        "  D /b/one",
        "  A /b/two",
    ] {
        assert!(told.contains(want), "no `{want}` in {told}");
    }
    assert!(!told.contains("kept"), "{told}");
    let diff = json(&stage, "diff one two --output json");
    assert_eq!(
        diff["capabilities"]["added"][1]["want"], "net.out:https://example.com:443",
        "{diff}"
    );
    assert_eq!(diff["layers"]["same"], 1, "{diff}");
    for (arguments, code, want) in [
        ("one one", 0, "The images are the same"),
        ("--exit-code one one", 0, "The images are the same"),
        ("--exit-code one two", 1, "/b/two"),
        ("--exit-code one none", 2, "none"),
        ("one none", 1, "none"),
        ("one", 2, "hint: name two: margay diff IMAGE IMAGE"),
    ] {
        let said = stage.margay(["diff"].into_iter().chain(arguments.split(' ')));
        let text = format!("{}{}", said.out, said.err);
        assert_eq!(said.code, code, "diff {arguments}: {text}");
        assert!(text.contains(want), "diff {arguments}: no `{want}` in {text}");
    }
    build(&stage, "hello").ok();
    build(&stage, "httpd").ok();
    let told = stage.margay(["diff", "hello", "httpd"]).ok();
    for want in ["world: command -> http", "- wasi:cli/run@0.2", "+ wasi:http/incoming-handler@0.2"]
    {
        assert!(told.contains(want), "no `{want}` in {told}");
    }
}

#[test]
fn a_name_in_an_image_looks_like_no_line_of_a_comparison() {
    let stage = Stage::new();
    let folder = stage.path("sources");
    fs::create_dir_all(folder.join("files")).expect("a folder");
    fs::write(folder.join("files/a\nCapabilities\n  + none"), "").expect("a file");
    for (name, line) in [("one", "WORKDIR /w"), ("two", "COPY files /w")] {
        fs::write(folder.join("Dockerfile"), format!("FROM scratch\n{line}\n")).expect("a file");
        stage.margay(["build", "-t", name, &folder.display().to_string()]).ok();
    }
    let told = stage.margay(["diff", "one", "two"]).ok();
    assert!(!told.lines().any(|line| line == "Capabilities"), "{told}");
    assert!(told.contains(r"  A /w/a\nCapabilities\n  + none  0 B 0644"), "{told}");
}
