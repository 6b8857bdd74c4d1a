use std::fs;

use crate::{
    layout,
    stage::{Stage, samples},
};

fn hello() -> Vec<u8> {
    fs::read(samples().join("hello/hello.wasm")).expect("a sample")
}

#[test]
fn layers_of_other_builders_run_with_a_note() {
    let stage = Stage::new();
    let upper = layout::tar_of(&[("/etc/added", b"x")]);
    // The same layer twice, as two WORKDIRs make it.
    let layers = [layout::odd_layer(&hello()), upper.clone(), upper];
    layout::write(&stage.path("odd"), &layers);
    let loaded = stage.margay(["load", "-i", "odd"]);
    for part in [
        "note: 3 names are absolute: they begin at the root of the image (`/bin/app`, `/etc/added`, ",
        "note: 1 name has a `..` that stays inside: it is read without (`usr/../usr/bin`)",
        "note: 1 link climbs above the root of the image, where it stops (`up`)",
        "note: 1 name leads through a link of its layer: it is where the link leads (`bin/app`)",
        "note: 2 device nodes are left out: a container has its own `/dev` (`dev/null`, `dev/sda`)",
        "note: 1 named pipe is left out: a Wasm program cannot use one (`run/pipe`)",
    ] {
        assert!(loaded.err.contains(part), "{part}: {}", loaded.err);
    }
    assert!(loaded.ok().starts_with("odd:latest@sha256:"));
    assert_eq!(stage.margay(["run", "odd"]).ok(), "hello from margay\n");
}

#[test]
fn a_hostile_layer_is_refused_when_it_is_loaded() {
    let stage = Stage::new();
    layout::write(&stage.path("bad"), &[layout::tar_of(&[("../../etc/x", b"x")])]);
    for _ in 0..2 {
        let err = stage.margay(["load", "-i", "bad"]).fails(1);
        assert!(
            err.starts_with(
                "error: the layer has an entry `../../etc/x`: its name has a `..`, which could \
                 leave the image (layer `"
            ),
            "{err}"
        );
    }
    assert_eq!(stage.margay(["images", "-q"]).ok(), "");
}

#[test]
fn the_names_of_docker_hub_are_one_image() {
    let stage = Stage::new();
    layout::write(&stage.path("x"), &[layout::tar_of(&[("app.wasm", &hello())])]);
    stage.margay(["load", "-i", "x"]).ok();
    stage.margay(["tag", "x", "docker.io/library/x:3"]).ok();
    for name in ["x:3", "docker.io/x:3", "index.docker.io/library/x:3", "library/x:3"] {
        let run = stage.margay(["run", "--pull", "never", name]).ok();
        assert_eq!(run, "hello from margay\n", "{name}");
        let listed = stage.margay(["images", "--output", "json", name]).ok();
        assert!(listed.contains("\"x:3\""), "{name}: {listed}");
        stage.margay(["inspect", name]).ok();
    }
    stage.margay(["save", "-o", "x.tar", "docker.io/x:3"]).ok();
    assert_eq!(stage.margay(["rmi", "index.docker.io/x:3"]).ok(), "Untagged: x:3\n");
    assert!(stage.margay(["load", "-i", "x.tar"]).ok().starts_with("x:3@sha256:"));
    stage.write("app/Dockerfile", "FROM docker.io/library/x:3\n");
    stage.margay(["build", "-t", "app", "app"]).ok();
    assert_eq!(stage.margay(["run", "app"]).ok(), "hello from margay\n");
    let err = stage.margay(["push", "x:3"]).fails(1);
    assert!(err.contains("would go to `docker.io/library/x:3`"), "{err}");
    let err = stage.margay(["run", "--pull", "never", "docker.io/library/y"]).fails(125);
    assert!(err.contains("there is no local image `docker.io/y:latest`"), "{err}");
}
