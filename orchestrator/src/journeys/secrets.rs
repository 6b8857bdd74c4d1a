use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use spec::{
    LaunchType, SecretName, SecretValue, Task, TaskDefinition, TaskPhase, wire::TaskSecrets,
};

use super::fixture::{FakeNode, TestControlPlane, definition, until};
use crate::{Client, CreateService, RunTask, state::tokens};

const CANARY: &str = "a-canary-that-sings-only-to-its-own-guest";

fn value(text: &str) -> SecretValue {
    SecretValue::new(text.as_bytes().to_vec()).unwrap()
}

fn name(text: &str) -> SecretName {
    text.parse().unwrap()
}

/// `cats` with a role of these lines.
fn with(family: &str, allow: &[&str]) -> TaskDefinition {
    let mut definition = definition(family, "cats");
    definition.role.allow = allow.iter().map(|line| line.parse().unwrap()).collect();
    definition
}

async fn run(client: &Client, id: &str) -> Task {
    let run = RunTask {
        task_definition: id.parse().unwrap(),
        launch_type: LaunchType::Node,
        count: 1,
        overrides: None,
    };
    client.run(&"main".parse().unwrap(), &run).await.unwrap().remove(0)
}

async fn placed(client: &Client, task: &Task) {
    until("it is placed", || async { client.task(&task.id).await.unwrap().spec.node }).await;
}

/// What a node hears about the secrets of a task.
async fn asks(node: &FakeNode, tenant: &str, task: &Task) -> Result<Vec<(String, Vec<u8>)>, Value> {
    let (status, answer) = node
        .ask(Method::GET, &format!("/v1/node/secrets/{tenant}/{}", task.id), &Value::Null)
        .await;
    if status != StatusCode::OK {
        return Err(answer);
    }
    let answer: TaskSecrets = serde_json::from_value(answer).unwrap();
    Ok(answer
        .secrets
        .into_iter()
        .map(|(name, value)| (name.to_string(), value.expose().to_vec()))
        .collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_on_no_disk_and_in_no_answer() {
    let mut plane = TestControlPlane::start().await;
    let body = json!({ "name": "key", "value": STANDARD.encode(CANARY) }).to_string();
    let mut said = Vec::new();
    for _ in 0..2 {
        let (status, answer) =
            plane.raw("POST", "/v1/secrets", Some("once"), body.as_bytes()).await;
        assert_eq!(
            (status, &answer["size_bytes"]),
            (StatusCode::CREATED, &json!(CANARY.len())),
            "{answer}"
        );
        said.push(answer);
    }
    let other = body.replace("\"key\"", "\"other\"");
    for (key, body, status, message) in [
        (Some("once"), other.as_str(), 409, "this Idempotency-Key was used for another request"),
        (None, &body, 409, "a secret `key` is there already"),
        (None, &body.replace("key", "Key"), 400, "is not what `POST /v1/secrets` takes"),
        (None, &body.replace("key", "../key"), 400, "is not what `POST /v1/secrets` takes"),
        (None, &body.replace("=\"", "\""), 400, "is not what `POST /v1/secrets` takes"),
        (
            None,
            &json!({ "name": CANARY.repeat(2), "value": CANARY }).to_string(),
            400,
            "is not what",
        ),
        (
            None,
            &json!({ "name": "n", "value": { CANARY: CANARY } }).to_string(),
            400,
            "is not what",
        ),
        (
            None,
            &json!({ "name": "n", "value": "", "note": CANARY }).to_string(),
            400,
            "is not what",
        ),
        (
            None,
            &json!({ "name": "n", "value": STANDARD.encode([0; 65_537]) }).to_string(),
            400,
            "is not what",
        ),
    ] {
        let (got, answer) = plane.raw("POST", "/v1/secrets", key, body.as_bytes()).await;
        assert_eq!(got.as_u16(), status, "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(message), "{answer}");
        said.push(answer);
    }
    for path in
        ["/v1/secrets", "/v1/secrets/key", "/v1/secrets/none", "/v1/secrets/..", "/v1/principal"]
    {
        said.push(plane.raw("GET", path, None, b"").await.1);
    }
    let said = serde_json::to_string(&said).unwrap();
    let asked = format!("POST /v1/secrets\n{body}");
    let hidden = [
        CANARY.to_owned(),
        STANDARD.encode(CANARY),
        tokens::hex(CANARY.as_bytes()),
        tokens::hashed(asked.as_bytes()),
    ];
    for text in &hidden {
        assert!(!said.contains(text), "{text} in {said}");
    }
    assert_eq!(plane.client.secrets().await.unwrap().len(), 1);
    plane.restart().await;
    assert_eq!(plane.client.secret(&name("key")).await.unwrap().size_bytes, CANARY.len() as u64);
    plane.end().await;
    let mut read = 0;
    let listed = |folder| std::fs::read_dir(plane.folder.path().join(folder)).unwrap();
    for entry in listed("server").chain(listed("server/audit")) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let bytes = std::fs::read(path).unwrap();
        read += bytes.len();
        for text in &hidden {
            let found = bytes.windows(text.len()).any(|window| window == text.as_bytes());
            assert!(!found, "{text} is on the disk");
        }
    }
    assert!(read > 10_000, "there was a store to look through");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_goes_to_the_node_of_a_task_whose_role_grants_it_and_nowhere_else() {
    let plane = TestControlPlane::start().await;
    let client = &plane.client;
    let (n1, n2) = (plane.node("n1").await, plane.node("n2").await);
    client.drain_node(&n2.id, true).await.unwrap();
    client.create_cluster(&"main".parse().unwrap()).await.unwrap();
    client.create_secret(&name("key"), &value(CANARY)).await.unwrap();
    client.create_secret(&name("other"), &value("another")).await.unwrap();
    for one in [
        with("has", &["secret:key"]),
        with("as-env", &["secret:key;as=env", "secret:other"]),
        with("none", &["clock:fine"]),
    ] {
        client.register(&one).await.unwrap();
    }
    let (has, as_env, none) =
        (run(client, "has:1").await, run(client, "as-env:1").await, run(client, "none:1").await);
    for task in [&has, &as_env, &none] {
        placed(client, task).await;
    }
    let pair = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    assert_eq!(asks(&n1, "acme", &has).await.unwrap(), [pair("key", CANARY)]);
    assert_eq!(
        asks(&n1, "acme", &as_env).await.unwrap(),
        [pair("key", CANARY), pair("other", "another")]
    );
    assert_eq!(asks(&n1, "acme", &none).await.unwrap(), []);
    // The desired set, which is told with every change and kept on disk, has none.
    let set = until("the set has all three", || {
        let mut node = n1.clone();
        async move { Some(node.poll().await).filter(|set| set.tasks.len() == 3) }
    });
    let set = serde_json::to_string(&set.await).unwrap();
    assert!(!set.contains(CANARY) && !set.contains(&STANDARD.encode(CANARY)), "{set}");
    // Another node, another tenant, a task that was asked to end: there is no such task.
    for (node, tenant, task) in [(&n2, "acme", &has), (&n1, "other", &has)] {
        let refused = asks(node, tenant, task).await.unwrap_err();
        assert_eq!(refused["message"], format!("there is no task `{}`", task.id), "{refused}");
    }
    client.stop(&has.id).await.unwrap();
    assert!(asks(&n1, "acme", &has).await.is_err());
    // What is in use stays.
    let error = client.remove_secret(&name("other")).await.unwrap_err();
    assert_eq!(error.to_string(), format!("secret `other` is in use by task `{}`", as_env.id));
    client.stop(&as_env.id).await.unwrap();
    let agent = n1.run();
    until("nothing uses it", || async { client.remove_secret(&name("other")).await.ok() }).await;
    let error = client.secret(&name("other")).await.unwrap_err();
    assert!(error.hint().unwrap().contains("margay secret create other FILE"), "{error}");
    agent.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_waits_for_a_secret_that_is_not_there_and_says_how_to_make_it() {
    let plane = TestControlPlane::start().await;
    let client = &plane.client;
    let agent = plane.node("n1").await.run();
    let main = "main".parse().unwrap();
    client.create_cluster(&main).await.unwrap();
    client.register(&with("needs", &["secret:key"])).await.unwrap();
    let task = run(client, "needs:1").await;
    let service = CreateService::new(
        "needs".parse().unwrap(),
        "needs:1".parse().unwrap(),
        LaunchType::Pool,
        1,
    );
    client.create_service(&main, &service).await.unwrap();
    let why = "there is no secret `key`, which its role grants: margay secret create key FILE";
    until("the task says what it waits for", || async {
        client.task(&task.id).await.unwrap().status.reason.filter(|reason| reason == why)
    })
    .await;
    until("the service says so too", || async {
        client
            .service(&main, &service.name)
            .await
            .unwrap()
            .status
            .reason
            .filter(|reason| reason == why)
    })
    .await;
    client.create_secret(&name("key"), &value(CANARY)).await.unwrap();
    until("both run", || async {
        let running = client.service(&main, &service.name).await.unwrap().status.running;
        (client.task(&task.id).await.unwrap().status.phase == TaskPhase::Running && running == 1)
            .then_some(())
    })
    .await;
    let error = client.remove_secret(&name("key")).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("secret `key` is in use by service `needs` in `main`, task `"),
        "{error}"
    );
    agent.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_reaches_no_secret_of_another() {
    let plane = TestControlPlane::start().await;
    let pool = plane.node("n1").await;
    plane.client.create_secret(&name("key"), &value(CANARY)).await.unwrap();
    let other = plane.client_of("other").await;
    assert!(other.secrets().await.unwrap().is_empty());
    for refused in
        [other.secret(&name("key")).await.map(drop), other.remove_secret(&name("key")).await]
    {
        assert_eq!(refused.unwrap_err().to_string(), "there is no secret `key`");
    }
    // The same name is its own, and its tasks wait for that one.
    let main = "main".parse().unwrap();
    other.create_cluster(&main).await.unwrap();
    other.register(&with("thief", &["secret:key"])).await.unwrap();
    let wanted = RunTask {
        task_definition: "thief:1".parse().unwrap(),
        launch_type: LaunchType::Pool,
        count: 1,
        overrides: None,
    };
    let task = other.run(&main, &wanted).await.unwrap().remove(0);
    until("it waits", || async { other.task(&task.id).await.unwrap().status.reason }).await;
    assert!(asks(&pool, "other", &task).await.is_err());
    other.create_secret(&name("key"), &value("its own")).await.unwrap();
    placed(&other, &task).await;
    assert_eq!(
        asks(&pool, "other", &task).await.unwrap(),
        [("key".to_owned(), b"its own".to_vec())]
    );
    assert_eq!(plane.client.secret(&name("key")).await.unwrap().size_bytes, CANARY.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_linux_program_is_refused_a_secret_when_it_is_registered() {
    let plane = TestControlPlane::start().await;
    let mut native = definition("native", "native");
    native.role.allow = vec!["secret:key".parse().unwrap()];
    let error = plane.client.register(&native).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "container `web` is a Linux program, and secrets are for Wasm so far: `secret:key`"
    );
    assert!(error.hint().unwrap().contains("a task of its own"));
}
