//! What a tenant may have, and that it cannot have more by asking for it at the same time.

use futures_util::future::join_all;
use serde_json::json;
use spec::{LaunchType, QuotaChange, TaskDefinition, Tenant};

use super::fixture::{TestControlPlane, definition};
use crate::{Client, CreateJoinToken, CreateService, Error, RunTask, UpdateService};

async fn tenant(plane: &TestControlPlane, name: &str) -> (Tenant, Client) {
    let tenant: Tenant = name.parse().unwrap();
    let client = plane.client_of(tenant.as_str()).await;
    (tenant, client)
}

fn change(lines: &[&str]) -> QuotaChange {
    let mut change = QuotaChange::default();
    lines.iter().for_each(|line| change.set(line).unwrap());
    change
}

fn refused<T>(result: Result<T, Error>, words: &str) {
    let Err(error) = result else { panic!("not refused: {words}") };
    assert!(error.to_string().contains(words), "{words}: {error}");
    assert!(error.hint().unwrap().contains("margay tenant quota set acme"), "{error}");
}

fn with_volume(family: &str, volume: &str) -> TaskDefinition {
    serde_json::from_value(json!({
        "family": family, "volumes": [{ "name": volume }],
        "containers": [{
            "name": "app", "image": "cats", "mounts": [{ "volume": volume, "path": "/data" }],
        }],
    }))
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_has_no_more_than_its_quota_of_anything() {
    let plane = TestControlPlane::start().await;
    let (acme, client) = tenant(&plane, "acme").await;
    let main = "main".parse().unwrap();
    client.create_cluster(&main).await.unwrap();
    client.register(&definition("cats", "cats")).await.unwrap();
    for index in 0..2 {
        client.register(&with_volume(&format!("v{index}"), &format!("v{index}"))).await.unwrap();
    }
    let quota = [
        "tasks=3",
        "nodes=1",
        "cpu-millis=1000000",
        "memory=100TiB",
        "volumes=1",
        "secrets=1",
        "tokens=2",
    ];
    plane.client.change_quota(&acme, &change(&quota)).await.unwrap();
    let service = |name: &str, count| {
        CreateService::new(
            name.parse().unwrap(),
            "cats:1".parse().unwrap(),
            LaunchType::Node,
            count,
        )
    };
    let run = |family: &str, count| RunTask {
        task_definition: format!("{family}:1").parse().unwrap(),
        launch_type: LaunchType::Node,
        count,
        overrides: None,
    };
    refused(client.create_service(&main, &service("web", 4)).await, "quota `tasks` is used up");
    client.create_service(&main, &service("web", 2)).await.unwrap();
    refused(client.run(&main, &run("cats", 2)).await, "2 of 3, and this asks for 2 more");
    let to = |count| UpdateService { count: Some(count), ..UpdateService::default() };
    let web = "web".parse().unwrap();
    refused(client.update_service(&main, &web, &to(4)).await, "2 of 3, and this asks for 2 more");
    client.update_service(&main, &web, &to(3)).await.unwrap();
    client.update_service(&main, &web, &to(1)).await.unwrap();
    client.run(&main, &run("v0", 1)).await.unwrap();
    refused(client.run(&main, &run("v1", 1)).await, "quota `volumes` is used up: 1 of 1");

    let secret = |name: &str| name.parse().unwrap();
    let value = spec::SecretValue::new(b"x".to_vec()).unwrap();
    client.create_secret(&secret("one"), &value).await.unwrap();
    refused(client.create_secret(&secret("two"), &value).await, "quota `secrets` is used up");
    for _ in 0..2 {
        client.create_join_token(CreateJoinToken::default()).await.unwrap();
    }
    let token = client.create_join_token(CreateJoinToken::default()).await;
    refused(token, "quota `tokens` is used up: 2 of 2");

    let shown = client.quota().await.unwrap();
    assert_eq!((shown.used.tasks, shown.used.volumes, shown.used.tokens), (2, 1, 2), "{shown:?}");
    let most = shown.used.definition_bytes + 10;
    plane.client.change_quota(&acme, &change(&[&format!("definitions={most}")])).await.unwrap();
    let registered = client.register(&definition("cats", "cats")).await;
    refused(registered, "quota `definitions` is used up");
    // Another tenant has a quota of its own, which the operator alone may see and change.
    let (_, other) = tenant(&plane, "other").await;
    assert_eq!(other.quota().await.unwrap().used.tasks, 0);
    assert!(other.change_quota(&acme, &change(&["tasks=9"])).await.is_err());
    assert!(other.quota_of(&acme).await.is_err() && other.quotas().await.is_err());
    let all = plane.client.quotas().await.unwrap();
    let listed = all.iter().find(|report| report.tenant == acme).unwrap();
    assert_eq!((listed.limits.tasks, listed.used.tasks), (3, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_at_the_same_time_do_not_exceed_a_quota_together() {
    let plane = TestControlPlane::start().await;
    let (acme, client) = tenant(&plane, "acme").await;
    let main = "main".parse().unwrap();
    client.create_cluster(&main).await.unwrap();
    client.register(&definition("cats", "cats")).await.unwrap();
    plane.client.change_quota(&acme, &change(&["tasks=10", "tokens=5"])).await.unwrap();
    let run = RunTask {
        task_definition: "cats:1".parse().unwrap(),
        launch_type: LaunchType::Node,
        count: 1,
        overrides: None,
    };
    let made = join_all((0..30).map(|_| client.run(&main, &run))).await;
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 10);
    let tokens = (0..15).map(|_| client.create_join_token(CreateJoinToken::default()));
    assert_eq!(join_all(tokens).await.iter().filter(|made| made.is_ok()).count(), 5);
}

/// Processors and memory of the pool are shared out; those of its own nodes a tenant has itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processors_and_memory_are_counted_in_the_pool() {
    let plane = TestControlPlane::start().await;
    let (acme, client) = tenant(&plane, "acme").await;
    let main = "main".parse().unwrap();
    client.create_cluster(&main).await.unwrap();
    let large: TaskDefinition = serde_json::from_value(json!({
        "family": "large",
        "containers": [{
            "name": "app", "image": "cats", "cpu_millis": 600, "memory_soft_bytes": 1 << 20,
            "memory_hard_bytes": 1 << 21,
        }],
    }))
    .unwrap();
    client.register(&large).await.unwrap();
    plane.client.change_quota(&acme, &change(&["cpu-millis=1000"])).await.unwrap();
    let run = |launch_type, count| RunTask {
        task_definition: "large:1".parse().unwrap(),
        launch_type,
        count,
        overrides: None,
    };
    client.run(&main, &run(LaunchType::Node, 5)).await.unwrap();
    client.run(&main, &run(LaunchType::Pool, 1)).await.unwrap();
    let second = client.run(&main, &run(LaunchType::Pool, 1)).await;
    refused(second, "quota `cpu-millis` is used up: 600 of 1000, and this asks for 600 more");
    plane.client.change_quota(&acme, &change(&["cpu-millis=2000", "memory=8MiB"])).await.unwrap();
    let second = client.run(&main, &run(LaunchType::Pool, 1)).await;
    refused(second, "quota `memory` is used up: 8MiB of 8MiB, and this asks for 8MiB more");
}
