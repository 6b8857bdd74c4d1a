//! Flags of `build`: what comes through standard input, names, labels, arguments and fetched bases.

use std::fs;

use crate::stage::Stage;

/// What a label of an image says.
fn label(stage: &Stage, image: &str, name: &str) -> String {
    let format = format!("{{{{.Label \"{name}\"}}}}");
    stage.margay(["images", "--format", &format, image]).ok().trim().to_owned()
}

#[test]
fn a_build_reads_its_file_or_its_context_from_standard_input() {
    let stage = Stage::new();
    stage.write("app/f", "hello");
    let built =
        stage.margay_fed(["build", "-t", "a", "-f", "-", "app"], "FROM scratch\nCOPY f /f\n");
    assert!(built.err.contains("Built from - in "), "{}", built.err);
    built.ok();
    stage.margay_fed(["build", "-t", "b", "-"], "FROM scratch\nLABEL from=stdin\n").ok();
    assert_eq!(label(&stage, "b", "from"), "stdin");
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
    for (name, want) in [("v", "7"), ("arch", "arm64"), ("team", "cats")] {
        assert_eq!(label(&stage, "two:2", name), want, "{name}");
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
