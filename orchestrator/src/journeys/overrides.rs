//! What one run changes in its definition, from the request to the node.

use serde_json::json;
use spec::{LaunchType, TaskOverrides, wire::DesiredSet};

use super::fixture::{FakeNode, TestControlPlane, definition};
use crate::{Client, RunTask};

const MIB: u64 = 1 << 20;

fn run(launch_type: LaunchType, overrides: serde_json::Value) -> RunTask {
    let overrides: TaskOverrides = serde_json::from_value(overrides).unwrap();
    RunTask {
        task_definition: "cats:1".parse().unwrap(),
        launch_type,
        count: 1,
        overrides: Some(overrides),
    }
}

/// What the node is told once it is told of a task.
async fn assigned(node: &mut FakeNode) -> DesiredSet {
    loop {
        let set = node.poll().await;
        if !set.tasks.is_empty() {
            return set;
        }
    }
}

async fn client(plane: &TestControlPlane) -> &Client {
    plane.client.create_cluster(&"main".parse().unwrap()).await.unwrap();
    plane.client.register(&definition("cats", "cats")).await.unwrap();
    &plane.client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_has_a_size_and_a_role_of_its_own_also_after_a_restart() {
    let mut plane = TestControlPlane::start().await;
    let main = "main".parse().unwrap();
    let mut node = plane.node("n1").await;
    let wanted = run(
        LaunchType::Pool,
        json!({
            "memory_soft_bytes": 96 * MIB, "memory_hard_bytes": 160 * MIB, "cpu_millis": 250,
            "task_memory_bytes": 256 * MIB, "role": { "allow": ["net.out:https://example.com"] },
        }),
    );
    let task = client(&plane).await.run(&main, &wanted).await.unwrap().remove(0);
    for restarted in [false, true] {
        let set = assigned(&mut node).await;
        let definition = &set.tasks[0].definition;
        assert_eq!(set.tasks[0].id, task.id);
        let app = &definition.containers[0];
        assert_eq!(
            (app.cpu_millis, app.memory_soft_bytes, app.memory_hard_bytes),
            (250, 96 * MIB, Some(160 * MIB)),
            "restarted: {restarted}"
        );
        assert_eq!(definition.memory_bytes, Some(256 * MIB));
        assert_eq!(definition.role.allow.len(), 1);
        plane.restart().await;
        node.revision = 0;
    }
    let registered = plane.client.definitions().await.unwrap().remove(0).definition;
    assert_eq!(registered, {
        let mut as_before = registered.clone();
        as_before.memory_bytes = None;
        as_before.role = spec::Role::default();
        as_before
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_run_changes_is_judged_as_what_it_has() {
    let plane = TestControlPlane::start().await;
    let (client, main) = (client(&plane).await, "main".parse().unwrap());
    for (launch_type, overrides, want) in [
        (LaunchType::Pool, json!({ "memory_hard_bytes": 1024 * MIB }), "memory"),
        (LaunchType::Node, json!({ "memory_hard_bytes": 1 }), "hard memory limit"),
        (LaunchType::Node, json!({ "task_cpu_millis": 1 }), "`cpu_millis` of the task is 1"),
        (
            LaunchType::Node,
            json!({ "role": { "allow": vec![format!("env:{}", "A".repeat(100)); 90] } }),
            "at most 8192",
        ),
    ] {
        let error = client.run(&main, &run(launch_type, overrides.clone())).await.unwrap_err();
        assert!(error.to_string().contains(want), "{overrides}: {error}");
    }
    // What a node reserves is what this task asks for.
    let mut node = plane.node("n1").await;
    let large = json!({ "cpu_millis": 32_000, "memory_hard_bytes": 128 * MIB });
    let large = client.run(&main, &run(LaunchType::Pool, large)).await.unwrap().remove(0);
    let small = client.run(&main, &run(LaunchType::Pool, json!({ "cpu_millis": 10 }))).await;
    let small = small.unwrap().remove(0);
    let set = assigned(&mut node).await;
    assert!(set.tasks.iter().all(|task| task.id == small.id), "{:?}", set.tasks);
    let waits = super::fixture::until("it says why it waits", || async {
        client.task(&large.id).await.unwrap().status.reason
    });
    assert!(waits.await.contains("32 CPUs"), "it names what is asked for");
}
