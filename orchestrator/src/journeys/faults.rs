use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use spec::{Digest, LaunchType, TaskPhase};
use store::{MemoryStore, Query, Store, Txn};

use super::fixture::{FakeNode, TestControlPlane, config, definition, node_spec, until};
use crate::{
    CreateJoinToken, CreateService, Runs, UpdateService,
    api::test::{Api, Call, Principal, handlers},
    state::{
        keys, now,
        records::{DefinitionRecord, NodeRecord, TaskRecord, encode},
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_everything_and_restarts_no_task() {
    let mut plane = TestControlPlane::start().await;
    let (client, main) = (plane.client.clone(), "main".parse().unwrap());
    client.create_cluster(&main).await.unwrap();
    client.register(&definition("cats", "cats")).await.unwrap();
    let service =
        CreateService::new("cats".parse().unwrap(), "cats:1".parse().unwrap(), LaunchType::Node, 2);
    client.create_service(&main, &service).await.unwrap();
    let mut node = plane.node("n1").await;
    until("two tasks are placed", || {
        let mut node = node.clone();
        async move { Some(node.poll().await).filter(|set| set.tasks.len() == 2) }
    })
    .await;
    let set = node.poll().await;
    node.act(&set);
    node.report().await;
    let (tasks, credential) = (client.tasks().await.unwrap(), plane.credential());
    assert!(tasks.iter().all(|task| task.status.phase == TaskPhase::Running), "{tasks:?}");
    let start = Instant::now();
    plane.restart().await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(plane.credential() == credential);
    assert_eq!(client.health().await.unwrap().epoch, 2);
    assert_eq!(client.clusters().await.unwrap().len(), 1);
    let same = |a: &[spec::Task], b: &[spec::Task]| {
        a.iter()
            .map(|task| (&task.id, task.status.phase))
            .eq(b.iter().map(|task| (&task.id, task.status.phase)))
    };
    assert!(same(&client.tasks().await.unwrap(), &tasks));
    node.revision = 0; // an agent that does not trust what it knew
    let again = node.poll().await;
    assert_eq!(again.tasks, set.tasks);
    assert!(again.epoch > set.epoch);
    node.report().await;
    assert!(
        same(&client.tasks().await.unwrap(), &tasks),
        "the node is the same one, and so are its tasks"
    );
}

/// A node as it is stored.
fn node_record() -> NodeRecord {
    NodeRecord {
        id: "n1".parse().unwrap(),
        tenant: Some("acme".parse().unwrap()),
        spec: node_spec(),
        joined: now(),
        drain: false,
        drain_deadline: None,
        cordoned: false,
        labels: BTreeMap::new(),
        taints: Vec::new(),
        certificates: vec!["ab".to_owned()],
    }
}

/// A request that was authorized.
fn called(api: &Arc<Api>, principal: Principal, body: &Value) -> Call {
    Call {
        api: api.clone(),
        principal,
        parts: Request::new(()).into_parts().0,
        params: Vec::new(),
        body: body.to_string().into(),
        streamed: None,
    }
}

#[tokio::test]
async fn a_control_plane_that_starts_knows_every_task_before_it_listens() {
    let node = node_record();
    let definition = DefinitionRecord {
        id: "cats:1".parse().unwrap(),
        registered: now(),
        active: true,
        definition: definition("cats", "cats"),
        runs: vec![Runs::Wasm],
    };
    let task: TaskRecord = serde_json::from_value(json!({
        "tenant": "acme",
        "task": {
            "id": "cats-1", "created": "2026-11-23T16:40:00.000Z", "status": { "phase": "running" },
            "spec": {
                "cluster": "main", "task_definition": "cats:1", "launch_type": "node",
                "service": null, "node": "n1",
                "stop": false,
            },
        },
        "copy": null, "ended": null,
    }))
    .unwrap();
    let (store, acme) = (MemoryStore::new(), "acme".parse().unwrap());
    let records = Txn::new()
        .put(keys::node(&node.id), encode(&node))
        .put(keys::definition(&acme, &definition.id), encode(&definition))
        .put(keys::task(&acme, task.id()), encode(&task));
    store.txn(records).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    // Without a reconciler: this is what a node is told that polls in the first instant.
    let api =
        Arc::new(Api::start(config(folder.path(), listener), Arc::new(store), None).await.unwrap());
    let assigned = api.node_watch.assigned(&node);
    assert_eq!(assigned.tasks.iter().map(|task| task.id.as_str()).collect::<Vec<_>>(), ["cats-1"]);
    // And without a model no node is told anything.
    api.state.forget_model();
    let call = |principal| called(&api, principal, &Value::Null);
    let as_node = Principal::Node { id: node.id.clone(), certificate: "ab".to_owned() };
    for refused in [
        handlers::agent::desired(call(as_node)).await,
        handlers::system::routes(call(Principal::Operator(acme.clone()))).await,
    ] {
        let refused = refused.unwrap_err();
        assert_eq!(
            (refused.status, refused.fault.code.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "starting")
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_that_is_sent_again_happens_once() {
    let mut plane = TestControlPlane::start().await;
    let cluster = |name: &str| json!({ "name": name }).to_string().into_bytes();
    let (status, first) = plane.raw("POST", "/v1/clusters", Some("k1"), &cluster("main")).await;
    assert_eq!(status, StatusCode::CREATED);
    plane.restart().await;
    for _ in 0..2 {
        assert_eq!(
            plane.raw("POST", "/v1/clusters", Some("k1"), &cluster("main")).await,
            (StatusCode::CREATED, first.clone())
        );
    }
    let (status, fault) = plane.raw("POST", "/v1/clusters", Some("k1"), &cluster("other")).await;
    assert_eq!(
        (status, fault["code"].as_str().unwrap()),
        (StatusCode::CONFLICT, "idempotency-conflict")
    );
    for key in ["", "a b", &"k".repeat(65)] {
        assert_eq!(
            plane.raw("POST", "/v1/clusters", Some(key), &cluster("x")).await.0,
            StatusCode::BAD_REQUEST,
            "{key:?}"
        );
    }
    plane.client.register(&definition("cats", "cats")).await.unwrap();
    let run = json!({ "task_definition": "cats:1", "launch_type": "node", "count": 3 })
        .to_string()
        .into_bytes();
    let sent = (0..20).map(|_| plane.raw("POST", "/v1/clusters/main/tasks", Some("k2"), &run));
    let mut answers = join_all(sent).await;
    answers.dedup();
    assert_eq!(answers.len(), 1, "every answer is the same");
    assert_eq!(plane.client.tasks().await.unwrap().len(), 3);
    // A secret that is made again is the same secret, and works once.
    let token = plane
        .client
        .with_key("k3")
        .create_join_token(CreateJoinToken::default())
        .await
        .unwrap()
        .token;
    assert_eq!(
        plane
            .client
            .with_key("k3")
            .create_join_token(CreateJoinToken::default())
            .await
            .unwrap()
            .token,
        token
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_is_taken_once_however_often_it_comes() {
    let plane = TestControlPlane::start().await;
    let node = plane.node("n1").await;
    let (acme, other) = (plane.client.clone(), plane.client_of("other").await);
    let images: Vec<String> = (0..60).map(|n| format!("i{n}")).collect();
    let mut tasks = Vec::new();
    for (n, image) in images.iter().enumerate() {
        let client = if n.is_multiple_of(2) { &acme } else { &other };
        tasks.push(plane.run_one(client, image).await);
    }
    until("all are placed", || {
        let mut node = node.clone();
        async move { (node.poll().await.tasks.len() == 60).then_some(()) }
    })
    .await;
    let record = |seq: u64| {
        let n = (seq % 60) as usize;
        let usage = json!({
            "runs": 1, "failed_runs": 0, "cpu_ns": 10, "memory_byte_ms": 5,
            "memory_bytes_peak": seq,
            "bytes_in": 2, "bytes_out": 3,
        });
        json!({
            "seq": seq, "tenant": if seq.is_multiple_of(2) { "acme" } else { "other" },
            "task": tasks[n], "container": "web", "image": Digest::of(images[n].as_bytes()),
            "at": "2026-11-23T16:40:00.000Z", "usage": usage,
        })
    };
    let batch = |from: u64, to: u64| {
        let records: Vec<Value> = (from..=to).map(record).collect();
        json!({ "version": 1, "node": "n1", "boot": "b1", "records": records })
    };
    let send = |body: Value| {
        let node = node.clone();
        async move { node.ask(Method::POST, "/v1/node/usage", &body).await }
    };
    let (status, fault) = send(batch(2, 3)).await;
    assert_eq!((status, fault["code"].as_str().unwrap()), (StatusCode::CONFLICT, "usage-gap"));
    // More totals than one transaction moves: the answer says how far it came.
    let mut seq = 0;
    while seq < 100 {
        let answers = join_all((0..4).map(|_| send(batch(1, 100)))).await;
        let took = answers.iter().filter(|(status, _)| *status == StatusCode::OK);
        let newest = took.map(|(_, taken)| taken["seq"].as_u64().unwrap()).max().unwrap();
        assert!(newest > seq || newest == 100);
        seq = newest;
    }
    assert_eq!(send(batch(1, 100)).await, (StatusCode::OK, json!({ "version": 1, "seq": 100 })));
    let report = plane.client.usage().await.unwrap();
    let total = report.total.unwrap().usage;
    assert_eq!((total.runs, total.cpu_ns, total.memory_bytes_peak), (50, 500, 100));
    assert_eq!(report.images.iter().map(|image| image.usage.runs).sum::<u64>(), 50);
    assert_eq!(report.images.len(), 30);
    // The same by day and task, of the caller alone.
    let days = plane.client.usage_by_day(&[]).await.unwrap();
    assert_eq!(days.len(), 30);
    assert_eq!(days.iter().map(|day| day.usage.runs).sum::<u64>(), 50);
    let today = days[0].day.to_string();
    let none = plane.client.usage_by_day(&[("to", "2026-11-01T00:00:00.000Z".to_owned())]).await;
    assert_eq!(none.unwrap(), []);
    assert_eq!(plane.client.usage_by_day(&[("from", today)]).await.unwrap().len(), 30);
    let of_acme = [("tenant", "acme".to_owned())];
    assert_eq!(plane.client.usage_by_day(&of_acme).await.unwrap().len(), 30);
    assert!(other.usage_by_day(&of_acme).await.is_err(), "a tenant sees its own alone");
    for (what, body, want) in [
        (
            "another node's",
            json!({ "version": 1, "node": "n2", "boot": "b1", "records": [] }),
            StatusCode::FORBIDDEN,
        ),
        (
            "newer",
            json!({ "version": 2, "node": "n1", "boot": "b1", "records": [] }),
            StatusCode::BAD_REQUEST,
        ),
        (
            "a strange boot",
            json!({ "version": 1, "node": "n1", "boot": "../x", "records": [] }),
            StatusCode::BAD_REQUEST,
        ),
    ] {
        assert_eq!(send(body).await.0, want, "{what}");
    }
    // A node that is not in the pool cannot charge others.
    let own = plane.token(CreateJoinToken::default()).await;
    let own = FakeNode::join(own, "n2").await.unwrap();
    let body = json!({ "version": 1, "node": "n2", "boot": "b2", "records": [record(1)] });
    assert_eq!(own.ask(Method::POST, "/v1/node/usage", &body).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lying_node_bills_no_more_than_it_ran() {
    let plane = TestControlPlane::start().await;
    let (client, other) = (plane.client.clone(), plane.client_of("other").await);
    let node = plane.node("n1").await;
    let task = plane.run_one(&client, "cats").await;
    until("it is placed", || {
        let mut node = node.clone();
        async move { (node.poll().await.tasks.len() == 1).then_some(()) }
    })
    .await;
    let rival = plane.node("n2").await;
    let usage = |cpu_ns: u64| {
        json!({
            "runs": 1, "failed_runs": 0, "cpu_ns": cpu_ns, "memory_byte_ms": 0,
            "memory_bytes_peak": 0, "bytes_in": 0, "bytes_out": 0,
        })
    };
    let honest = json!({
        "tenant": "acme", "task": task, "container": "web", "image": Digest::of(b"cats"),
        "at": "2026-11-23T16:40:00.000Z", "usage": usage(1_000),
    });
    let lie = |key: &str, value: Value| {
        let mut record = honest.clone();
        record[key] = value;
        record
    };
    let mut seq = 0;
    for (what, record) in [
        ("it ran", honest.clone()),
        ("no such task", lie("task", json!("t1"))),
        ("no such tenant", lie("tenant", json!("absent"))),
        ("a task of another tenant", lie("tenant", json!("other"))),
        ("another image", lie("image", json!(Digest::of(b"dogs")))),
        ("another container", lie("container", json!("db"))),
        ("a thousand years of it", lie("usage", usage(u64::MAX))),
        ("and again", lie("usage", usage(u64::MAX))),
    ] {
        seq += 1;
        let mut record = record;
        record["seq"] = json!(seq);
        let body = json!({ "version": 1, "node": "n1", "boot": "b1", "records": [record] });
        let (status, taken) = node.ask(Method::POST, "/v1/node/usage", &body).await;
        assert_eq!((status, &taken["seq"]), (StatusCode::OK, &json!(seq)), "{what}: {taken}");
    }
    let mut record = honest.clone();
    record["seq"] = json!(1);
    let body = json!({ "version": 1, "node": "n2", "boot": "b2", "records": [record] });
    assert_eq!(rival.ask(Method::POST, "/v1/node/usage", &body).await.0, StatusCode::OK);
    let report = client.usage().await.unwrap();
    let total = report.total.unwrap().usage;
    // Four processors since the test began, and the slack.
    assert_eq!(total.runs, 3, "the task's own records");
    assert!(total.cpu_ns < 4 * 60 * 1_000_000_000, "{}", total.cpu_ns);
    let images: u64 = report.images.iter().map(|image| image.usage.cpu_ns).sum();
    assert_eq!(images, total.cpu_ns, "the total is the sum of its images");
    assert_eq!(other.usage().await.unwrap().total, None);
    assert!(other.usage().await.unwrap().disputed.is_empty(), "it is the operator's");
    let disputed: Vec<(String, u64)> =
        report.disputed.iter().map(|one| (one.node.to_string(), one.records)).collect();
    assert_eq!(disputed, [("n1".to_owned(), 7), ("n2".to_owned(), 1)]);
    assert!(report.disputed[0].usage.cpu_ns > u64::MAX / 2);
    assert_eq!(report.disputed[0].last.reason, "more than the node can have used in the time");
    // Nor can it say that it is larger than any machine.
    let mut spec = serde_json::to_value(node_spec()).unwrap();
    spec["capacity"]["cpu_millis"] = json!(u32::MAX);
    let report = json!({
        "version": 1, "boot": "b1", "seq": 1, "revision": 0, "tasks": [], "spec": spec,
    });
    assert_eq!(node.ask(Method::POST, "/v1/node/report", &report).await.0, StatusCode::BAD_REQUEST);
}

/// A batch of records `from` to `to` of one run each.
fn batch(node: &str, task: &str, boot: &str, from: u64, to: u64) -> Value {
    let record = |seq: u64| {
        let usage = json!({
            "runs": 1, "failed_runs": 0, "cpu_ns": 0, "memory_byte_ms": 0,
            "memory_bytes_peak": 0, "bytes_in": 0, "bytes_out": 0,
        });
        json!({
            "seq": seq, "tenant": "acme", "task": task, "container": "web",
            "image": Digest::of(b"cats"),
            "at": "2026-11-23T16:40:00.000Z", "usage": usage,
        })
    };
    let records: Vec<Value> = (from..=to).map(record).collect();
    json!({ "version": 1, "node": node, "boot": boot, "records": records })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_that_joins_again_goes_on_with_its_usage() {
    let plane = TestControlPlane::start().await;
    let first = plane.node("n1").await;
    let task = plane.run_one(&plane.client, "cats").await.to_string();
    until("it is placed", || {
        let mut node = first.clone();
        async move { (node.poll().await.tasks.len() == 1).then_some(()) }
    })
    .await;
    let send = |node: &FakeNode, from: u64, to: u64| {
        let (node, body) = (node.clone(), batch(node.id.as_str(), &task, "b1", from, to));
        async move { node.ask(Method::POST, "/v1/node/usage", &body).await }
    };
    let taken = |seq: u64| (StatusCode::OK, json!({ "version": 1, "seq": seq }));
    let other = plane.node("n9").await;
    assert_eq!(send(&first, 1, 2).await, taken(2));
    assert_eq!(
        send(&other, 3, 4).await.0,
        StatusCode::FORBIDDEN,
        "it is the log of a node that is there"
    );
    let mut removed = first;
    // The machine keeps its log, whatever it is called when it is back.
    for (name, upto) in [("n1", 4), ("n2", 6)] {
        plane.client.force_remove_node(&removed.id).await.unwrap();
        let node = plane.node(name).await;
        assert_eq!(send(&node, upto - 1, upto).await, taken(upto), "{name}");
        assert_eq!(send(&node, 1, upto).await, taken(upto), "{name}: nothing is counted twice");
        removed = node;
    }
    assert_eq!(plane.client.usage().await.unwrap().total.unwrap().usage.runs, 6);
}

#[tokio::test]
async fn a_node_has_at_most_32_usage_logs_that_are_known() {
    let (store, folder) = (Arc::new(MemoryStore::new()), tempfile::tempdir().unwrap());
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let api =
        Arc::new(Api::start(config(folder.path(), listener), store.clone(), None).await.unwrap());
    for name in ["n1", "n2"] {
        let node = NodeRecord { id: name.parse().unwrap(), ..node_record() };
        store.txn(Txn::new().put(keys::node(&node.id), encode(&node))).await.unwrap();
    }
    let send = async |node: &str, boot: &str| {
        let principal = Principal::Node { id: node.parse().unwrap(), certificate: "ab".to_owned() };
        handlers::ledger::take(called(&api, principal, &batch(node, "t1", boot, 1, 1)))
            .await
            .unwrap();
    };
    send("n2", "another").await;
    for n in 0..40 {
        send("n1", &format!("b{n}")).await;
    }
    let left = store.range(Query::prefix(keys::CURSORS)).await.unwrap();
    let left: Vec<&str> = left.kvs.iter().map(|kv| &kv.key[keys::CURSORS.len()..]).collect();
    let mut want: Vec<String> =
        (8..40).map(|n| format!("b{n}")).chain(["another".to_owned()]).collect();
    want.sort();
    assert_eq!(left, want, "the oldest went, and none of another node");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_changes_at_once_end_in_one_state() {
    let plane = TestControlPlane::start().await;
    let (client, main) = (&plane.client, "main".parse().unwrap());
    client.create_cluster(&main).await.unwrap();
    client.register(&definition("cats", "cats")).await.unwrap();
    let agent = plane.node("n1").await.run();
    let service =
        CreateService::new("cats".parse().unwrap(), "cats:1".parse().unwrap(), LaunchType::Node, 1);
    let created = join_all((0..10).map(|_| client.create_service(&main, &service))).await;
    assert_eq!(created.iter().filter(|result| result.is_ok()).count(), 1, "one winner");
    let name = "cats".parse().unwrap();
    let updates = (0..40).map(|i| {
        let update = UpdateService { count: Some(i % 5), ..UpdateService::default() };
        let (main, name) = (&main, &name);
        async move { client.update_service(main, name, &update).await }
    });
    join_all(updates).await;
    let last = UpdateService { count: Some(4), ..UpdateService::default() };
    client.update_service(&main, &name, &last).await.unwrap();
    until("four replicas run, and no more", || async {
        let tasks = client.tasks().await.unwrap();
        let live = tasks.iter().filter(|task| task.status.phase != TaskPhase::Stopped);
        let running = tasks.iter().filter(|task| task.status.phase == TaskPhase::Running);
        (live.count() == 4 && running.count() == 4).then_some(())
    })
    .await;
    agent.abort();
}

/// Where the child of the kill test finds its folder; without it that test does nothing.
const CHILD: &str = "MARGAY_ORCHESTRATOR_TEST_CHILD";

/// Not a test of its own: the control plane that the next one kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_serves_until_it_is_killed() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    super::fixture::serve_in(folder.as_ref()).await;
}

/// A control plane in `folder` in a process of its own.
pub fn serving_child(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "journeys::faults::child_that_serves_until_it_is_killed"])
        .env(CHILD, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_load_loses_nothing_that_was_acknowledged_and_is_back_within_2_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let client = crate::Client::unix(folder.path().join("run/server.sock"));
    let start = || serving_child(folder.path());
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let (mut child, started) = (start(), Instant::now());
        let epoch = until("it answers", || async { client.health().await.ok() }).await.epoch;
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        assert_eq!(epoch, round + 1);
        let known: Vec<String> =
            client.clusters().await.unwrap().iter().map(|one| one.name.to_string()).collect();
        for name in &acknowledged {
            assert!(known.contains(name), "{name} was acknowledged");
        }
        let writers = (0..8).map(|writer| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut done = Vec::new();
                for i in 0.. {
                    let name = format!("c-{round}-{writer}-{i}");
                    match client.create_cluster(&name.parse().unwrap()).await {
                        Ok(_) => done.push(name),
                        Err(_) => break, // it was killed
                    }
                }
                done
            })
        });
        let writers: Vec<_> = writers.collect();
        until("some are there", || async {
            (client.clusters().await.unwrap().len() > acknowledged.len() + 40).then_some(())
        })
        .await;
        child.kill().unwrap();
        child.wait().unwrap();
        for done in join_all(writers).await {
            acknowledged.extend(done.unwrap());
        }
    }
    assert!(acknowledged.len() > 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_falls_silent_is_replaced_and_loses_its_routes() {
    let plane = TestControlPlane::start().await;
    let (client, main) = (&plane.client, "main".parse().unwrap());
    client.create_cluster(&main).await.unwrap();
    client.register(&definition("cats", "cats")).await.unwrap();
    let (first, second) = (plane.node("n1").await.run(), plane.node("n2").await.run());
    let service =
        CreateService::new("cats".parse().unwrap(), "cats:1".parse().unwrap(), LaunchType::Node, 2);
    client.create_service(&main, &service).await.unwrap();
    let nodes = || async {
        let routes = client.routes().await.unwrap();
        let backends = routes.hosts.get("cats.main.localhost").cloned().unwrap_or_default();
        let mut nodes: Vec<String> =
            backends.iter().map(|backend| backend.node.to_string()).collect();
        nodes.sort();
        nodes
    };
    until("both nodes have a replica", || async { (nodes().await == ["n1", "n2"]).then_some(()) })
        .await;
    first.abort();
    let silent = Instant::now();
    while nodes().await != ["n2", "n2"] {
        assert!(silent.elapsed() < Duration::from_secs(15), "{:?}", nodes().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        silent.elapsed() > Duration::from_secs(9),
        "a short silence moves nothing: {:?}",
        silent.elapsed()
    );
    let lost = client
        .tasks()
        .await
        .unwrap()
        .into_iter()
        .find(|task| task.status.phase == TaskPhase::Unknown)
        .unwrap();
    assert_eq!(lost.status.reason.unwrap(), "its node `n1` is disconnected");
    second.abort();
}
