use http::{Method, StatusCode};
use serde_json::json;
use spec::{Digest, LaunchType, NodeCondition, TaskPhase};

use super::fixture::{TestControlPlane, definition, modes, until};
use crate::{CreateJoinToken, CreateService, RunTask, UpdateService};

fn service(name: &str, id: &str, count: u32) -> CreateService {
    CreateService::new(name.parse().unwrap(), id.parse().unwrap(), LaunchType::Node, count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_lives_from_its_definition_to_its_end() {
    let plane = TestControlPlane::start().await;
    let (client, cluster) = (&plane.client, "allthecats".parse().unwrap());
    let agent = plane.node("n1").await.run();
    client.create_cluster(&cluster).await.unwrap();
    let registered = client.register(&definition("cats", "cats")).await.unwrap();
    assert_eq!(registered.id.to_string(), "cats:1");
    assert_eq!(registered.definition.containers[0].digest, Some(Digest::of(b"cats")));
    assert_eq!(registered.grants[0].effective[0].to_string(), "net.in:http/80");
    assert_eq!(
        client.register(&definition("cats", "cats")).await.unwrap().id.to_string(),
        "cats:2"
    );

    client.create_service(&cluster, &service("cats", "cats:1", 3)).await.unwrap();
    let name = "cats".parse().unwrap();
    let running = |count: u32| async move {
        until(&format!("{count} replicas run"), || async {
            let service = client
                .service(&"allthecats".parse().unwrap(), &"cats".parse().unwrap())
                .await
                .unwrap();
            (service.status.running == count && service.status.placed == count).then_some(())
        })
        .await;
    };
    running(3).await;
    let routes = client.routes().await.unwrap();
    let backends = &routes.hosts["cats.allthecats.localhost"];
    assert_eq!(
        (backends.len(), backends[0].container_port, backends[0].node.as_str()),
        (3, 80, "n1")
    );
    assert_eq!(routes.ingresses.values().next().unwrap(), "127.0.0.1:8443");

    // A replica that is stopped by request is replaced by another.
    let victim = client.tasks().await.unwrap().remove(0);
    client.stop(&victim.id).await.unwrap();
    until("the stopped replica has ended", || async {
        (client.task(&victim.id).await.unwrap().status.phase == TaskPhase::Stopped).then_some(())
    })
    .await;
    running(3).await;

    let update = UpdateService {
        count: Some(1),
        task_definition: Some("cats:2".parse().unwrap()),
        generation: Some(1),
        ..UpdateService::default()
    };
    let updated = client.update_service(&cluster, &name, &update).await.unwrap();
    assert_eq!(updated.generation, 2);
    let stale = client.update_service(&cluster, &name, &update).await.unwrap_err();
    assert_eq!(stale.to_string(), "the object was modified concurrently");
    running(1).await;
    until("only the new revision runs", || async {
        let tasks = client.tasks().await.unwrap();
        let mut live = tasks.iter().filter(|task| task.status.phase != TaskPhase::Stopped);
        live.all(|task| task.spec.task_definition.to_string() == "cats:2").then_some(())
    })
    .await;

    // A task of its own, on the pool.
    let run = RunTask {
        task_definition: "cats:2".parse().unwrap(),
        launch_type: LaunchType::Pool,
        count: 2,
        overrides: None,
    };
    let tasks = client.run(&cluster, &run).await.unwrap();
    for task in &tasks {
        let task = until("it runs", || async {
            let task = client.task(&task.id).await.unwrap();
            (task.status.phase == TaskPhase::Running).then_some(task)
        })
        .await;
        assert_eq!(task.spec.node.unwrap().as_str(), "n1");
    }
    let error = client.delete_cluster(&cluster).await.unwrap_err();
    assert_eq!(error.to_string(), "cluster `allthecats` still has services: `cats`");
    assert_eq!(
        error.hint().unwrap(),
        "delete it first: margay service delete cats --cluster allthecats"
    );
    client.delete_service(&cluster, &name).await.unwrap();
    let error = client.delete_cluster(&cluster).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cluster `allthecats` still has tasks that have not ended: `ca"),
        "{error}"
    );
    assert!(
        error.hint().unwrap().starts_with("stop them first, as with margay task stop cats-"),
        "{error}"
    );
    for task in &tasks {
        client.stop(&task.id).await.unwrap();
    }
    until("the cluster is empty and goes", || async { client.delete_cluster(&cluster).await.ok() })
        .await;
    until("its ended tasks are forgotten", || async {
        client.tasks().await.unwrap().is_empty().then_some(())
    })
    .await;
    client.deregister(&"cats:1".parse().unwrap()).await.unwrap();
    let left: Vec<String> =
        client.definitions().await.unwrap().iter().map(|one| one.id.to_string()).collect();
    assert_eq!(left, ["cats:2"]);
    agent.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_requests_say_what_to_do_next() {
    let plane = TestControlPlane::start().await;
    let (client, main) = (&plane.client, "main".parse().unwrap());
    client.create_cluster(&main).await.unwrap();
    let mut writer = definition("writer", "cats");
    writer.volumes.push(serde_json::from_value(json!({ "name": "book" })).unwrap());
    writer.containers[0]
        .mounts
        .push(serde_json::from_value(json!({ "volume": "book", "path": "/data" })).unwrap());
    let mut published = definition("published", "cats");
    published.containers[0].ports[0].host_port = Some(22);
    for one in [definition("cats", "cats"), definition("native", "native"), writer, published] {
        client.register(&one).await.unwrap();
    }
    client.create_service(&main, &service("here", "cats:1", 1)).await.unwrap();
    let run = |id: &str, launch_type, count| {
        json!({
            "task_definition": id, "launch_type": launch_type, "count": count,
        })
    };
    let serve = |name: &str, id: &str, count| {
        let mut service = run(id, "node", count);
        service["name"] = name.into();
        service
    };
    let define = |image: &str| serde_json::to_value(definition("x", image)).unwrap();
    let with = |key: &str, value: serde_json::Value| {
        let mut wanted = define("cats");
        wanted["containers"][0][key] = value;
        wanted
    };
    let port = |container, host| json!({ "container_port": container, "host_port": host });
    for (method, path, body, status, message, hint) in [
        (
            "POST",
            "/v1/clusters",
            json!({ "name": "main" }),
            409,
            "a cluster `main` is there already",
            "",
        ),
        (
            "POST",
            "/v1/clusters",
            json!({ "name": "Main" }),
            400,
            "`Main` cannot name a cluster",
            "",
        ),
        (
            "POST",
            "/v1/clusters",
            json!({ "name": "a", "tenant": "b" }),
            400,
            "unknown field `tenant`",
            "",
        ),
        (
            "POST",
            "/v1/task-definitions",
            define("nowhere"),
            422,
            "there is no image `nowhere`",
            "push it",
        ),
        (
            "POST",
            "/v1/task-definitions",
            define("wants-net"),
            422,
            "container `web`: the image wants `net.out:https://api.example.com:443`, which it has \
             not been granted",
            "add \"net.out:https://api.example.com:443\" to `allow` under `[role]`",
        ),
        (
            "POST",
            "/v1/task-definitions",
            with("ports", json!([port(0, 8080)])),
            400,
            "container `web` has `container_port` 0: name the port",
            "",
        ),
        (
            "POST",
            "/v1/task-definitions",
            with("ports", json!([port(80, 8080), port(81, 8080)])),
            400,
            "duplicate host port 8080",
            "",
        ),
        (
            "POST",
            "/v1/task-definitions",
            with("ports", vec![port(80, 0); 33].into()),
            400,
            "container `web` has more than 32 ports",
            "",
        ),
        (
            "POST",
            "/v1/task-definitions",
            with("env", json!({ "A": "a".repeat(65_536) })),
            400,
            "and 65536 is the most",
            "into a file of the image",
        ),
        (
            "POST",
            "/v1/clusters/main/tasks",
            run("published:1", "pool", 1),
            400,
            "`published:1` asks for host port 22, and the pool's hosts give none",
            "remove `host_port`",
        ),
        (
            "POST",
            "/v1/clusters/main/services",
            json!({
                "name": "p", "task_definition": "published:1", "launch_type": "pool", "count": 1,
            }),
            400,
            "`published:1` asks for host port 22",
            "remove `host_port`",
        ),
        (
            "POST",
            "/v1/clusters/no/tasks",
            run("cats:1", "node", 1),
            404,
            "there is no cluster `no`",
            "",
        ),
        (
            "POST",
            "/v1/clusters/main/tasks",
            run("cats:9", "node", 1),
            404,
            "there is no task definition `cats:9`",
            "",
        ),
        (
            "POST",
            "/v1/clusters/main/tasks",
            run("cats:1", "node", 11),
            400,
            "`count` is 1 to 10",
            "",
        ),
        (
            "POST",
            "/v1/clusters/main/tasks",
            run("native:1", "pool", 1),
            400,
            "`native:1` has a native image, and no node of the pool",
            "launch it on a node of yours",
        ),
        (
            "POST",
            "/v1/clusters/main/services",
            serve("w", "writer:1", 2),
            422,
            "`writer:1` writes to a volume, so only one replica of it can run",
            "count of 1",
        ),
        (
            "POST",
            "/v1/clusters/main/services",
            serve("here", "cats:1", 1),
            409,
            "a service `here` is there already",
            "update",
        ),
        (
            "DELETE",
            "/v1/clusters/main",
            json!(null),
            409,
            "cluster `main` still has services: `here`",
            "margay service delete here --cluster main",
        ),
        ("GET", "/v1/tasks?limit=0", json!(null), 400, "`limit` is 1 to 1000", ""),
        ("GET", "/v1/nothing", json!(null), 404, "there is nothing at this path", "openapi"),
        ("PUT", "/v1/clusters", json!(null), 405, "`/v1/clusters` has no PUT", ""),
    ] {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (got, fault) = plane.raw(method, path, None, body.as_bytes()).await;
        let (told, hinted) =
            (fault["message"].as_str().unwrap(), fault["hint"].as_str().unwrap_or_default());
        assert_eq!(got.as_u16(), status, "{method} {path} {body}: {fault}");
        assert!(told.contains(message), "{method} {path} {body}: {told}");
        assert!(hinted.contains(hint), "{method} {path} {body}: {hinted}");
    }
    let (status, _) = plane.raw("POST", "/v1/clusters", None, &vec![b' '; (1 << 20) + 1]).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let run = RunTask {
        task_definition: "cats:1".parse().unwrap(),
        launch_type: LaunchType::Pool,
        count: 1,
        overrides: None,
    };
    let waiting = client.run(&main, &run).await.unwrap().remove(0);
    let reason = until("the reason is shown", || async {
        client.task(&waiting.id).await.unwrap().status.reason
    })
    .await;
    assert_eq!(reason, "the pool has no node");
    let reason = until("the reason is shown", || async {
        client.services().await.unwrap().remove(0).status.reason
    })
    .await;
    assert_eq!(reason, "you have no node: `margay node join`");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_told_its_tasks_and_nothing_else() {
    let plane = TestControlPlane::start().await;
    let (client, main) = (&plane.client, "main".parse().unwrap());
    client.create_cluster(&main).await.unwrap();
    let mut two = definition("cats", "cats");
    two.containers
        .push(serde_json::from_value(json!({ "name": "side", "image": "dogs" })).unwrap());
    client.register(&two).await.unwrap();
    let mut node = plane.node("n1").await;
    let own = plane.token(CreateJoinToken::default()).await;
    let other = super::fixture::FakeNode::join(own, "n2").await.unwrap();
    let first = node.poll().await;
    assert_eq!((first.tasks.len(), first.epoch), (0, 1));
    let run = RunTask {
        task_definition: "cats:1".parse().unwrap(),
        launch_type: LaunchType::Pool,
        count: 1,
        overrides: None,
    };
    let task = client.run(&main, &run).await.unwrap().remove(0);
    let set = node.poll().await; // a long poll: it answers when there is something new
    assert!(set.revision > first.revision);
    assert_eq!(
        set.tasks[0].id, task.id,
        "the pool's node got it, though the other said that it is in the pool, too"
    );
    assert_eq!(
        set.tasks[0].pull_token.as_deref(),
        Some("acme may pull cats:latest and dogs:latest")
    );
    assert_eq!(set.tasks[0].definition.containers[0].digest, Some(Digest::of(b"cats")));
    assert_eq!(other.clone().poll().await.tasks.len(), 0);
    // Another node has no say about it.
    let mut liar = other.clone();
    liar.act(&set);
    assert_eq!(liar.report().await, StatusCode::NO_CONTENT);
    assert_eq!(client.task(&task.id).await.unwrap().status.phase, TaskPhase::Starting);
    node.act(&set);
    assert_eq!(node.report().await, StatusCode::NO_CONTENT);
    assert_eq!(client.task(&task.id).await.unwrap().status.phase, TaskPhase::Running);
    // A heartbeat writes nothing.
    let before = client.health().await.unwrap().revision;
    for _ in 0..5 {
        assert_eq!(node.report().await, StatusCode::NO_CONTENT);
    }
    assert_eq!(client.health().await.unwrap().revision, before);
    // What should end and was never there has ended.
    client.stop(&task.id).await.unwrap();
    let set = until("it is told to stop", || {
        let mut node = node.clone();
        async move { Some(node.poll().await).filter(|set| set.tasks.iter().all(|task| task.stop)) }
    })
    .await;
    node.revision = set.revision;
    node.tasks.clear();
    node.report().await;
    assert_eq!(client.task(&task.id).await.unwrap().status.phase, TaskPhase::Stopped);
    let (status, fault) = node.ask(Method::GET, "/v1/tasks", &json!(null)).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{fault}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_files_are_closed_to_other_users() {
    let plane = TestControlPlane::start().await;
    let at = |name: &str| plane.folder.path().join(name);
    for (path, mode) in [
        ("server", 0o700),
        ("run", 0o700),
        ("run/server.sock", 0o600),
        ("server/store.db", 0o600),
        ("server/ca.key", 0o600),
        ("server/secret.key", 0o600),
        ("server/credential.json", 0o600),
    ] {
        assert_eq!(modes(&at(path)), mode, "{path}");
    }
    // No secret is in the store.
    let (_, joined) = (plane.node("n1").await, plane.token(CreateJoinToken::default()).await);
    let (mut bytes, credential) =
        (std::fs::read(at("server/store.db")).unwrap(), plane.credential());
    bytes.extend(std::fs::read(at("server/store.db-wal")).unwrap());
    for secret in [joined.secret, credential.secret] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_of_any_size_is_taken_and_any_request_is_a_heartbeat() {
    let mut plane = TestControlPlane::start().await;
    let (client, main) = (plane.client.clone(), "main".parse().unwrap());
    client.create_cluster(&main).await.unwrap();
    client.register(&definition("cats", "cats")).await.unwrap();
    let mut node = plane.node("n1").await;
    let run = RunTask {
        task_definition: "cats:1".parse().unwrap(),
        launch_type: LaunchType::Pool,
        count: 1,
        overrides: None,
    };
    let task = client.run(&main, &run).await.unwrap().remove(0);
    let set = until("it is placed", || {
        let mut node = node.clone();
        async move { Some(node.poll().await).filter(|set| set.tasks.len() == 1) }
    })
    .await;
    node.act(&set);
    let long = "é".repeat(5_000);
    node.tasks.values_mut().for_each(|status| status.reason = Some(long.clone()));
    // What pool tenants could put on it, some megabytes of it, ends with this node in the list.
    let (_, status) =
        node.tasks.iter().next().map(|(key, status)| (key.clone(), status.clone())).unwrap();
    for n in 0..300 {
        node.tasks
            .insert(("other".parse().unwrap(), format!("t{n}").parse().unwrap()), status.clone());
    }
    assert_eq!(node.report().await, StatusCode::NO_CONTENT);
    let seen = client.task(&task.id).await.unwrap().status;
    assert_eq!(seen.phase, TaskPhase::Running);
    assert_eq!(seen.reason.unwrap(), format!("{}…", &long[..1024]));
    // A request that makes no sense is a sign of life, too.
    plane.restart().await;
    let condition = || async { client.node(&node.id).await.unwrap().status.condition };
    assert_eq!(condition().await, NodeCondition::Suspect);
    let (status, fault) = node.ask(Method::POST, "/v1/node/report", &json!({})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{fault}");
    assert_eq!(condition().await, NodeCondition::Ready);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_speaks_http2_or_takes_datagrams_is_one_of_a_linux_image() {
    let plane = TestControlPlane::start().await;
    for (protocol, hint) in [("http2", "needs a Linux image"), ("udp", "need a Linux image")] {
        let speaking = |image: &str| {
            let mut definition = definition("rpc", image);
            let port = serde_json::json!({ "container_port": 50051, "protocol": protocol });
            definition.containers[0].ports = vec![serde_json::from_value(port).unwrap()];
            definition
        };
        let refused = plane.client.register(&speaking("cats")).await.unwrap_err();
        let want = format!("`protocol = \"{protocol}\"` on port 50051");
        assert!(refused.to_string().contains(&want), "{refused}");
        assert!(refused.hint().unwrap().contains(hint), "{refused}");
        plane.client.register(&speaking("native")).await.unwrap();
    }
}
