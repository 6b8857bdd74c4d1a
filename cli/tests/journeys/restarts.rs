//! When containers are started again, and what tasks have as a whole.

use serde_json::Value;

use crate::{
    stage::{Stage, eventually},
    up::{Up, push_probe},
};

fn register(stage: &Stage, family: &str, of_task: &str, of_container: &str) -> crate::stage::Said {
    let definition = format!(
        "family = \"{family}\"\n{of_task}\n[[containers]]\nname = \"app\"\n\
         image = \"probe-cli:v1\"\n{of_container}\n"
    );
    let file = stage.write("task.toml", definition).display().to_string();
    stage.margay(["task", "register", &file])
}

#[test]
fn a_container_is_started_again_as_its_definition_says() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    stage.margay(["login", "-u", "me", &up.registry]).ok();
    push_probe(&stage, &up, "probe-cli");
    stage.margay(["cluster", "create", "main"]).ok();
    let run = |family: &str, restart: &str, code: u8| -> String {
        let container = format!("restart = \"{restart}\"\ncommand = [\"exit\", \"{code}\"]");
        let task = register(&stage, family, "", &container).ok();
        stage.margay(["task", "run", task.trim(), "--cluster", "main"]).ok().trim().to_owned()
    };
    let status = |task: &str| -> Value {
        let shown = stage.margay(["task", "inspect", task]).ok();
        serde_json::from_str::<Value>(&shown).expect("JSON")[0]["status"].clone()
    };
    // Once at once, and then only after ten seconds.
    for (family, restart, code) in [("again", "on-failure", 1), ("always", "always", 0)] {
        let task = run(family, restart, code);
        let container = eventually("it waits to be started again", || {
            let container = status(&task)["containers"][0].clone();
            (container["phase"] == "back-off" && container["restarts"] == 2).then_some(container)
        });
        assert_eq!(container["exit_code"], code);
        let table = stage.margay(["task", "ls"]).ok();
        let row = table.lines().find(|line| line.starts_with(&task)).expect("its row").to_owned();
        let why = format!("it ended with exit code {code}, and waits to be started again");
        assert!(row.contains(&why), "{row}");
        let events = stage.margay(["events", "--until", "0s", "--filter", "cluster=main"]).ok();
        let again = "container `app` was started again";
        assert!(events.contains(again) && events.contains("2 times so far"), "{events}");
        stage.margay(["task", "stop", &task]).ok();
        eventually("it has ended", || (status(&task)["phase"] == "stopped").then_some(()));
    }
    for (family, restart, code) in [("done", "on-failure", 0), ("never", "never", 1)] {
        let task = run(family, restart, code);
        eventually("it has ended", || (status(&task)["phase"] == "stopped").then_some(()));
        let container = status(&task)["containers"][0].clone();
        assert_eq!((&container["restarts"], &container["exit_code"]), (&0.into(), &code.into()));
    }
    let err = register(&stage, "wrong", "", "restart = \"sometimes\"").fails(1);
    assert!(err.contains("sometimes") && err.contains("on-failure"), "{err}");
    up.end();
    stage.is_empty();
}

#[test]
fn a_task_has_a_size_that_its_containers_share() {
    let stage = Stage::new();
    let up = Up::start(&stage);
    stage.margay(["login", "-u", "me", &up.registry]).ok();
    push_probe(&stage, &up, "probe-cli");
    stage.margay(["cluster", "create", "main"]).ok();
    let size = "cpu_millis = 200\nmemory_bytes = 268435456";
    let err = register(&stage, "large", size, "cpu_millis = 300").fails(1);
    assert!(err.contains("task definition `large`: its containers reserve 300"), "{err}");
    let err = register(&stage, "large", size, "memory_hard_bytes = 268435457").fails(1);
    assert!(err.contains("`memory_bytes` of the task is 268435456"), "{err}");
    // What it may have follows from its size: as a container alone it would have 128 MiB.
    let task = register(&stage, "large", size, "command = [\"hog\", \"160\"]").ok();
    let run = ["task", "run", task.trim(), "--cluster", "main"];
    let task = stage.margay(run).ok().trim().to_owned();
    eventually("it has ended", || {
        let shown = stage.margay(["task", "inspect", &task]).ok();
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        (shown[0]["status"]["phase"] == "stopped").then_some(())
    });
    assert!(stage.margay(["logs", &task]).ok().contains("holding 160 MiB"));
    // And so does what it takes of its node.
    let whole = "cpu_millis = 9000000";
    let task = register(&stage, "whole", whole, "command = [\"sleep\", \"1000\"]").ok();
    let task = stage.margay(["task", "run", task.trim(), "--cluster", "main"]);
    let task = task.ok().trim().to_owned();
    let explained = stage.margay(["explain", "task", &task]).ok();
    assert!(explained.contains("no node has 9000 CPUs"), "{explained}");
    stage.margay(["task", "stop", &task]).ok();
    up.end();
    stage.is_empty();
}
