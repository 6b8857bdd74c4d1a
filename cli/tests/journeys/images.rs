//! Images: built the same twice, listed, tagged, saved, brought back, removed.

use std::{
    collections::BTreeSet,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::stage::{Said, Stage, samples};

/// Builds `samples/NAME` under the tag `NAME`.
pub fn build(stage: &Stage, name: &str) -> Said {
    stage.margay(["build", "-t", name, &samples().join(name).display().to_string()])
}

/// `httpd`, and `cats` on top of it.
pub fn build_cats(stage: &Stage) {
    build(stage, "httpd").ok();
    build(stage, "cats").ok();
}

#[test]
fn a_second_build_of_the_same_tree_has_the_same_digest_and_takes_no_time() {
    let stage = Stage::new();
    build(&stage, "httpd").ok();
    let first = build(&stage, "cats").ok();
    assert!(first.starts_with("cats:latest@sha256:"), "{first}");
    let mut shortest = Duration::MAX;
    for _ in 0..5 {
        let started = Instant::now();
        let again = build(&stage, "cats").ok();
        shortest = shortest.min(started.elapsed());
        assert_eq!(again, first);
    }
    assert!(shortest < Duration::from_millis(50), "a rebuild took {shortest:?}");
}

#[test]
fn two_homes_make_the_same_bytes() {
    let (one, two) = (Stage::new(), Stage::new());
    assert_eq!(build(&one, "httpd").ok(), build(&two, "httpd").ok());
    assert_eq!(build(&one, "cats").ok(), build(&two, "cats").ok());
}

#[test]
fn images_are_listed_filtered_tagged_and_removed() {
    let stage = Stage::new();
    build_cats(&stage);
    let names = |arguments: &[&str]| {
        let out =
            stage.margay(["images"].iter().chain(arguments).chain(&["--output", "json"])).ok();
        let list: Value = serde_json::from_str(&out).expect("JSON");
        let names = list.as_array().expect("a list").iter();
        names
            .map(|image| image["reference"].as_str().expect("a reference").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ["cats:latest", "httpd:latest"]);
    assert_eq!(names(&["--filter", "reference=cats"]), ["cats:latest"]);
    assert_eq!(names(&["--filter", "reference=c*:l*"]), ["cats:latest"]);
    assert_eq!(names(&["--filter", "reference=dogs"]), [""; 0]);
    stage.margay(["tag", "cats", "localhost:5000/me/cats:v1"]).ok();
    assert_eq!(names(&[]), ["cats:latest", "httpd:latest", "localhost:5000/me/cats:v1"]);
    stage.margay(["tag", "cats", "cats:v2"]).ok();
    assert_eq!(names(&["cats"]), ["cats:latest", "cats:v2"]);
    assert_eq!(names(&["cats:v2"]), ["cats:v2"]);
    stage.margay(["rmi", "cats:v2"]).ok();
    let table = stage.margay(["images"]).ok();
    assert!(table.starts_with("REPOSITORY"), "{table}");
    assert!(table.contains("localhost:5000/me/cats"), "{table}");
    assert_eq!(stage.margay(["rmi", "cats"]).ok(), "Untagged: cats:latest\n");
    let gone = stage.margay(["rmi", "httpd", "localhost:5000/me/cats:v1"]).ok();
    assert!(
        gone.contains("Untagged: httpd:latest\n") && gone.contains("Deleted: sha256:"),
        "{gone}"
    );
    assert_eq!(names(&[]), [""; 0]);
    let err = stage.margay(["rmi", "cats"]).fails(1);
    assert_eq!(
        err,
        "error: there is no local image `cats:latest`\nhint: see what there is: margay images\n"
    );
}

#[test]
fn a_digest_or_its_beginning_names_an_image_as_its_name_does() {
    let stage = Stage::new();
    let built = build(&stage, "hello").ok();
    let digest = built.trim().split_once('@').expect("a digest").1.to_owned();
    let short = stage.margay(["images", "-q"]).ok().trim().to_owned();
    for text in [&short, &digest, &short[..6].to_owned()] {
        assert_eq!(stage.margay(["run", text]).ok(), "hello from margay\n", "{text}");
    }
    let inspected: Value =
        serde_json::from_str(&stage.margay(["inspect", &short]).ok()).expect("JSON");
    assert_eq!(inspected[0]["digest"], digest.as_str());
    stage.margay(["tag", &short, "other"]).ok();
    let err = stage.margay(["rmi", &short]).fails(1);
    assert!(
        err.contains("has 2 names: hello:latest, other:latest") && err.contains("--force"),
        "{err}"
    );
    let gone = stage.margay(["rmi", "--force", &digest]).ok();
    assert_eq!(
        gone,
        format!("Untagged: hello:latest\nUntagged: other:latest\nDeleted: {digest}\n")
    );
    let err = stage.margay(["run", "--pull", "never", &short]).fails(125);
    assert!(err.contains(&format!("there is no local image `{short}")), "{err}");
}

#[test]
fn an_image_without_a_program_can_be_looked_at() {
    let stage = Stage::new();
    stage.write("app/Dockerfile", "FROM scratch\nCOPY text /text\n");
    stage.write("app/text", "text");
    stage.margay(["build", "-t", "base", "app"]).ok();
    let seen = stage.margay(["inspect", "base"]).ok();
    assert!(seen.contains("\"reference\": \"base\""), "{seen}");
}

#[test]
fn an_image_that_a_task_runs_from_stays_and_its_machine_code_goes_with_it() {
    let stage = Stage::new();
    build_cats(&stage);
    stage.margay(["run", "-d", "--name", "tom", "cats"]).ok();
    let err = stage.margay(["rmi", "cats"]).fails(1);
    assert!(
        err.contains("task `tom` runs from image `cats:latest`")
            && err.contains("margay rm -f tom"),
        "{err}"
    );
    let prepared = || {
        let folder = stage.home().join("prepared/local");
        let mut names: Vec<_> =
            std::fs::read_dir(folder).expect("prepared").flatten().map(|e| e.file_name()).collect();
        names.retain(|name| name.len() >= 64);
        names.len()
    };
    stage.margay(["prune"]).ok();
    assert_eq!(prepared(), 1, "what a task runs from stays");
    stage.margay(["stop", "--time", "0", "tom"]).ok();
    let err = stage.margay(["rmi", "cats"]).fails(1);
    assert!(err.contains("task `tom` was made from image") && err.contains("rm tom"), "{err}");
    stage.margay(["start", "tom"]).ok();
    stage.margay(["rm", "-f", "tom"]).ok();
    stage.margay(["rmi", "cats"]).ok();
    assert_eq!(prepared(), 0);
    stage.is_empty();
}

#[test]
fn a_build_without_a_tag_says_which_name_it_takes() {
    let stage = Stage::new();
    for (text, want) in [("one", false), ("one", false), ("two", true)] {
        stage.write("app/Dockerfile", "FROM scratch\nCOPY text /text\n");
        stage.write("app/text", text);
        let said = stage.margay(["build", "app"]);
        assert_eq!(
            said.err.contains("`app:latest` was another image until now"),
            want,
            "{text}: {}",
            said.err
        );
        said.ok();
    }
    stage.write("app/text", "three");
    let said = stage.margay(["build", "-t", "app", "app"]);
    assert!(!said.err.contains("another image"), "a name was given: {}", said.err);
}

#[test]
fn a_saved_image_comes_back_the_same() {
    let stage = Stage::new();
    let built = build(&stage, "hello").ok();
    stage.margay(["save", "-o", "hello.tar", "hello"]).ok();
    let file = stage.path("hello.tar").display().to_string();
    let other = Stage::new();
    assert_eq!(other.margay(["load", "-i", &file]).ok(), built);
    assert_eq!(other.margay(["run", "hello"]).ok(), "hello from margay\n");
    let piped = other.margay_fed(["load"], "no archive").fails(1);
    assert!(piped.contains("is not an image"), "{piped}");
    let piped = other.margay_fed(["load"], "").fails(1);
    assert!(piped.contains("stdin is empty") && piped.contains("margay load -i FILE"), "{piped}");
    // Several go into one archive, and an image with two names is in it once.
    stage.margay(["tag", "hello", "hello:two"]).ok();
    stage.write("app/Dockerfile", "FROM hello\nLABEL a=b\n");
    stage.margay(["build", "-t", "other", "app"]).ok();
    let several = stage.path("several.tar").display().to_string();
    stage.margay(["save", "-o", &several, "other", "hello:two", "hello", "hello"]).ok();
    let listing = Command::new("tar").args(["xOf", &several, "manifest.json"]).output();
    let saved: Value = serde_json::from_slice(&listing.expect("tar").stdout).expect("JSON");
    let names: BTreeSet<String> = saved
        .as_array()
        .expect("images")
        .iter()
        .map(|image| image["RepoTags"].to_string())
        .collect();
    let want = [r#"["hello:latest","hello:two"]"#, r#"["other:latest"]"#].map(str::to_owned);
    assert_eq!(names, BTreeSet::from(want));
    let loaded = Stage::new().margay(["load", "-i", &several]).ok();
    for name in ["hello:latest", "hello:two", "other:latest"] {
        assert!(loaded.contains(name), "{name} in {loaded}");
    }
    // An archive is an image by itself, too, and so is a layout in a folder.
    let third = Stage::new();
    assert_eq!(third.margay(["run", &file]).ok(), "hello from margay\n");
    let folder = other.home().join("images").display().to_string();
    assert_eq!(third.margay(["run", &folder]).ok(), "hello from margay\n");
    assert_eq!(third.margay(["images", "-q"]).ok(), "", "what was only run has no name");
}

#[test]
fn an_image_says_what_it_wants() {
    let stage = Stage::new();
    build(&stage, "adopt").ok();
    let inspected: Value =
        serde_json::from_str(&stage.margay(["inspect", "adopt"]).ok()).expect("JSON");
    let wants = inspected[0]["wants"].as_array().expect("wants");
    assert!(wants.contains(&"net.in:http/80".into()), "{wants:?}");
    assert!(wants.contains(&"fs:/data#rw;volume=book;optional".into()), "{wants:?}");
    let program = &inspected[0]["program"];
    assert_eq!(
        (&program["kind"], &program["world"]),
        (&"component".into(), &"http".into()),
        "{program}"
    );
    let imports = program["imports"].as_array().expect("imports");
    assert!(
        imports.iter().any(|name| name.as_str().is_some_and(|n| n.starts_with("wasi:http/types@"))),
        "{imports:?}"
    );
}
