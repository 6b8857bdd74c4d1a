//! A platform of `margay up` for a journey, with the cats served on it.

use std::process::Command;

use serde_json::Value;

use crate::{
    images::build_cats,
    stage::{Running, Said, Stage, get, samples},
};

/// A platform on free ports.
pub const UP: [&str; 7] =
    ["up", "--server-port", "0", "--registry-port", "0", "--ingress-port", "0"];

/// A platform on ports of its own.
pub struct Up {
    running: Running,
    pub registry: String,
    pub ingress: String,
}

impl Up {
    pub fn start(stage: &Stage) -> Self {
        Self::run(stage, stage.command(UP))
    }

    /// One that logs everything it has to say.
    pub fn start_loud(stage: &Stage) -> Self {
        let mut command = stage.command(UP);
        command.env("MARGAY_LOG", "debug");
        Self::run(stage, command)
    }

    /// One whose node is told how to behave.
    pub fn start_with(stage: &Stage, flags: &[&str]) -> Self {
        Self::run(stage, stage.command([&UP, flags].concat()))
    }

    pub fn run(stage: &Stage, command: Command) -> Self {
        let mut running = Running::of(command);
        let first = running.line();
        assert!(first.starts_with("margay is up"), "{first}: {:?}", running.end());
        let record = record(stage);
        let port = |name: &str| {
            record[name]
                .as_str()
                .and_then(|text| text.rsplit(':').next())
                .expect("a port")
                .to_owned()
        };
        let ingress = record["ingress"].as_str().expect("an address").to_owned();
        let registry = format!("localhost:{}", port("registry"));
        Self { running, registry, ingress }
    }

    pub fn pid(&self, stage: &Stage, name: &str) -> i32 {
        pid_of(stage, name).expect("a process")
    }

    pub fn pid_of(&self, stage: &Stage, name: &str) -> Option<i32> {
        pid_of(stage, name)
    }

    pub fn end(self) -> Said {
        self.running.signal("INT");
        let said = self.running.end();
        assert_eq!(said.code, 0, "{said:?}");
        said
    }
}

pub fn record(stage: &Stage) -> Value {
    serde_json::from_slice(&std::fs::read(stage.home().join("up.json")).expect("up.json"))
        .expect("JSON")
}

pub fn pid_of(stage: &Stage, name: &str) -> Option<i32> {
    let record = record(stage);
    let processes = record["processes"].as_array()?.clone();
    let process = processes.iter().find(|process| process[0] == name)?;
    process[1].as_i64().and_then(|pid| i32::try_from(pid).ok())
}

/// A probe of `samples/hostile` as an image of the bundled registry, for a user that has logged in.
pub fn push_probe(stage: &Stage, up: &Up, program: &str) -> String {
    let wasm = format!("{program}.wasm");
    let bytes = std::fs::read(samples().join("hostile").join(&wasm)).expect("a program");
    stage.write(&format!("{program}/{wasm}"), bytes);
    let dockerfile = format!("FROM scratch\nCOPY {wasm} /\nENTRYPOINT [\"/{wasm}\"]\n");
    stage.write(&format!("{program}/Dockerfile"), dockerfile);
    let image = format!("{}/me/{program}:v1", up.registry);
    stage.margay(["build", "-t", &image, program]).ok();
    stage.margay(["push", &image]).ok();
    image
}

/// The guide's way from a checkout to a page, step by step, as `count` replicas.
pub fn serve_cats(stage: &Stage, up: &Up, count: u32) {
    build_cats(stage);
    let image = format!("{}/me/cats:v1", up.registry);
    assert_eq!(stage.margay(["login", "-u", "me", &up.registry]).ok(), "Login Succeeded\n");
    stage.margay(["tag", "cats", &image]).ok();
    let pushed = stage.margay(["push", &image]).ok();
    assert!(pushed.starts_with(&format!("{image}@sha256:")), "{pushed}");
    assert_eq!(stage.margay(["cluster", "create", "allthecats"]).ok(), "allthecats\n");
    let definition = samples().join("cats/task.toml").display().to_string();
    assert_eq!(stage.margay(["task", "register", &definition]).ok(), "cats:1\n");
    let count = count.to_string();
    let arguments = [
        "service",
        "create",
        "cats",
        "--task",
        "cats:1",
        "--cluster",
        "allthecats",
        "--count",
        &count,
    ];
    assert_eq!(stage.margay(arguments).ok(), "cats\n");
}

pub const HOST: &str = "cats.allthecats.localhost";

pub fn page_is_served(up: &Up) -> Option<()> {
    get(&up.ingress, HOST, "/").filter(|answer| answer.status == 200).map(drop)
}

pub fn running_tasks(stage: &Stage) -> Vec<String> {
    let out = stage.margay(["task", "ls", "--cluster", "allthecats", "--output", "json"]).ok();
    let list: Value = serde_json::from_str(&out).expect("JSON");
    let tasks =
        list.as_array().expect("a list").iter().filter(|task| task["status"]["phase"] == "running");
    tasks.map(|task| task["id"].as_str().expect("an id").to_owned()).collect()
}
