//! Flags of `build`: what comes through standard input, names, labels, arguments and fetched bases.

use std::fs;

use serde_json::Value;

use crate::stage::Stage;

fn config(stage: &Stage, image: &str) -> Value {
    let text = stage.margay(["inspect", image, "--output", "json"]).ok();
    let value: Value = serde_json::from_str(&text).expect("JSON");
    match value {
        Value::Array(list) => list.into_iter().next().expect("an image"),
        other => other,
    }
}

#[test]
fn a_build_reads_its_file_or_its_context_from_standard_input() {
    let stage = Stage::new();
    stage.write("app/f", "hello");
    stage.margay_fed(["build", "-t", "a", "-f", "-", "app"], "FROM scratch\nCOPY f /f\n").ok();
    stage.margay_fed(["build", "-t", "b", "-"], "FROM scratch\nLABEL from=stdin\n").ok();
    assert!(config(&stage, "b").to_string().contains("stdin"));
    let err = stage.margay_fed(["build", "-"], "FROM scratch\nCOPY f /f\n").fails(1);
    assert!(err.contains("`Dockerfile`, line 2, column 6: there is no `f`"), "{err}");
    stage.margay_fed(["build", "-f", "-", "-"], "").fails(1);
}

#[test]
fn flags_of_a_build_reach_the_image() {
    let stage = Stage::new();
    stage.write(
        "app/Containerfile",
        "FROM scratch\nARG V TARGETARCH\nLABEL v=$V arch=$TARGETARCH\n",
    );
    let id = stage.path("id");
    let out = stage
        .margay([
            "build",
            "-q",
            "-t",
            "one",
            "-t",
            "two:2",
            "--build-arg",
            "V=7",
            "--label",
            "team=cats",
            "--platform",
            "linux/arm64",
            "--iidfile",
            &id.display().to_string(),
            "app",
        ])
        .ok();
    assert_eq!(fs::read_to_string(id).expect("an ID"), out.trim());
    let text = config(&stage, "two:2").to_string();
    for want in ["\"v\":\"7\"", "\"arch\":\"arm64\"", "\"team\":\"cats\""] {
        assert!(text.contains(want), "{want} in {text}");
    }
    let out = stage.margay(["build", "--check", "app"]).ok();
    assert_eq!(out, "Check complete, no warnings found.\n");
    let err = stage.margay(["build", "--push", "app"]).fails(1);
    assert!(err.contains("-t HOST:PORT/NAME"), "{err}");
    stage.write("base/Dockerfile", "FROM localhost:1/nothing:1\n");
    let never = stage.margay(["build", "--pull=never", "base"]).fails(1);
    assert!(never.contains("there is no local image `localhost:1/nothing:1`\n"), "{never}");
    let missing = stage.margay(["build", "base"]).fails(1);
    assert!(missing.contains("and it cannot be pulled"), "{missing}");
}
