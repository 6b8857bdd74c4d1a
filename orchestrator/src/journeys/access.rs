use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use spec::Timestamp;
use store::{Query, SqliteStore, Store, Txn};

use super::fixture::{FakeNode, TestControlPlane, client, definition};
use crate::{
    CreateJoinToken, CreateService, Credential, CredentialScope, UpdateService,
    api::{
        routes::ROUTES,
        test::{Access, openapi},
    },
    state::{
        keys,
        records::{JoinRecord, decode, encode},
    },
};

/// The status for a principal that may not use a route; nothing when it may.
fn expected(access: Access, principal: &str) -> Option<StatusCode> {
    match (access, principal) {
        (Access::Anyone, _) => None,
        // The ingress of a node is a name to other ingresses, and no principal of the API.
        (_, "unauthenticated" | "forger" | "removed" | "ingress") => Some(StatusCode::UNAUTHORIZED),
        (Access::Read | Access::Deploy | Access::Manage, "node") => Some(StatusCode::FORBIDDEN),
        (Access::Deploy | Access::Manage, "reader") => Some(StatusCode::FORBIDDEN),
        (Access::Manage, "deployer") => Some(StatusCode::FORBIDDEN),
        (Access::Operator, "node" | "other tenant" | "reader" | "deployer") => {
            Some(StatusCode::FORBIDDEN)
        }
        (Access::Node, "owner" | "other tenant" | "reader" | "deployer") => {
            Some(StatusCode::FORBIDDEN)
        }
        (Access::Read | Access::Deploy | Access::Manage | Access::Operator | Access::Node, _) => {
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_admits_only_the_principals_of_its_row() {
    let plane = TestControlPlane::start().await;
    let node = plane.node("n1").await;
    let (certificate, key) = node.ingress_certificate().await;
    let token_of = async |scope| {
        let credential = plane.credential_of("other", scope).await;
        (plane.access_token(&credential).await, credential)
    };
    let (manager, _) = token_of(CredentialScope::Manage).await;
    let (deployer, _) = token_of(CredentialScope::Deploy).await;
    let (reader, _) = token_of(CredentialScope::Read).await;
    let (removed, credential) = token_of(CredentialScope::Manage).await;
    let name = credential.name.unwrap();
    plane.client.remove_credential(&credential.tenant, &name).await.unwrap();
    let forged = manager.replace("other", "acme");
    for route in ROUTES {
        // Names that do not exist: what is admitted is answered so, or that the body is invalid.
        let path = route.path.replace('{', "x-").replace('}', "");
        if route.path == "/v1/node/streams" {
            continue; // it waits: what it says is in the journey of streams
        }
        for (principal, token) in [
            ("unauthenticated", None),
            ("forger", Some(&forged)),
            ("removed", Some(&removed)),
            ("other tenant", Some(&manager)),
            ("deployer", Some(&deployer)),
            ("reader", Some(&reader)),
            ("ingress", None),
            ("node", None),
            ("owner", None),
        ] {
            let method = route.method.as_str();
            let (status, answer) = match principal {
                "ingress" => {
                    let with = (certificate.as_str(), key.as_slice());
                    node.ask_with(with, route.method.clone(), &path, &Value::Null).await
                }
                "node" => node.ask(route.method.clone(), &path, &Value::Null).await,
                "owner" => plane.raw(method, &path, None, b"").await,
                _ => plane.raw_tls(method, &path, token.map(String::as_str), b"").await,
            };
            match expected(route.access, principal) {
                Some(want) => {
                    assert_eq!(
                        status, want,
                        "{} {} as {principal}: {answer}",
                        route.method, route.path
                    )
                }
                None => assert!(
                    !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
                        && !status.is_server_error(),
                    "{} {} as {principal}: {status} {answer}",
                    route.method,
                    route.path
                ),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tenant_sees_nothing_of_another() {
    let plane = TestControlPlane::start().await;
    let main = "main".parse().unwrap();
    plane.client.create_cluster(&main).await.unwrap();
    plane.client.register(&definition("cats", "cats")).await.unwrap();
    let _node = plane.node("n1").await;
    let other = plane.client_of("other").await;
    assert_eq!(other.principal().await.unwrap().tenant.as_str(), "other");
    assert!(other.clusters().await.unwrap().is_empty());
    assert!(other.definitions().await.unwrap().is_empty());
    assert!(other.nodes().await.unwrap().is_empty());
    for refused in [
        other.cluster(&main).await.map(drop),
        other.delete_cluster(&main).await,
        other.definition(&"cats:1".parse().unwrap()).await.map(drop),
        other.deregister(&"cats:1".parse().unwrap()).await,
        other.remove_node(&"n1".parse().unwrap()).await,
        other.drain_node(&"n1".parse().unwrap(), true).await.map(drop),
    ] {
        assert!(refused.unwrap_err().to_string().starts_with("there is no "));
    }
    let error = other
        .create_join_token(CreateJoinToken { pool: true, shared: false })
        .await
        .map(drop)
        .unwrap_err();
    assert_eq!(error.hint().unwrap(), "only the operator adds nodes to the pool");
    // Nor does it learn a name from where a page ends.
    let token = plane.credential_of("other", CredentialScope::Read).await;
    let token = plane.access_token(&token).await;
    let listed = |path: &'static str| {
        let plane = &plane;
        let token = token.clone();
        async move { plane.raw_tls("GET", path, Some(&token), b"").await.1 }
    };
    assert_eq!(listed("/v1/nodes?limit=1").await, json!({ "items": [] }));
    for name in ["n0", "n2"] {
        let own = other
            .create_join_token(CreateJoinToken::default())
            .await
            .unwrap()
            .token
            .parse()
            .unwrap();
        FakeNode::join(own, name).await.ok().unwrap();
    }
    let first = listed("/v1/nodes?limit=1").await;
    assert_eq!(
        (&first["items"][0]["id"], &first["next"]),
        (&json!("n0"), &json!("n0")),
        "there is another one"
    );
    let last = listed("/v1/nodes?limit=1&after=n0").await;
    assert_eq!(
        (&last["items"][0]["id"], last.get("next")),
        (&json!("n2"), None),
        "n1 is stepped over"
    );
    // The same names are its own.
    other.create_cluster(&main).await.unwrap();
    other.register(&definition("cats", "cats")).await.unwrap();
    // A service's host name is the one that the ingress knows.
    let wanted = CreateService::new(
        "web".parse().unwrap(),
        "cats:1".parse().unwrap(),
        spec::LaunchType::Node,
        0,
    );
    for (client, host) in
        [(&plane.client, "web.main.localhost"), (&other, "web.main.other.localhost")]
    {
        let created = client.create_service(&main, &wanted).await.unwrap();
        let shown = client.service(&main, &wanted.name).await.unwrap();
        let listed = client.services().await.unwrap().remove(0);
        let updated =
            client.update_service(&main, &wanted.name, &UpdateService::default()).await.unwrap();
        for service in [created, shown, listed, updated] {
            assert_eq!(service.status.host.as_deref(), Some(host));
        }
        let named =
            || async { client.routes().await.unwrap().hosts.contains_key(host).then_some(()) };
        super::fixture::until("the routes have it", named).await;
        client.delete_service(&main, &wanted.name).await.unwrap();
    }
    other.delete_cluster(&main).await.unwrap();
    assert_eq!(plane.client.clusters().await.unwrap().len(), 1);
    // The operator's own credential over TCP is the operator's tenant, and no operator.
    let over_tcp = client(plane.credential());
    let caller = over_tcp.principal().await.unwrap();
    assert_eq!((caller.tenant.as_str(), caller.operator), ("acme", false));
    assert_eq!(over_tcp.clusters().await.unwrap().len(), 1);
    let pinned_elsewhere = Credential { ca_fingerprint: "ab".repeat(32), ..plane.credential() };
    assert!(client(pinned_elsewhere).health().await.is_err(), "another CA is not trusted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_token_works_once_and_a_removed_node_is_unauthenticated() {
    let plane = TestControlPlane::start().await;
    let token = plane.token(CreateJoinToken::default()).await;
    let (first, second) = futures_util::future::join(
        FakeNode::join(token.clone(), "n1"),
        FakeNode::join(token.clone(), "n1"),
    )
    .await;
    let winners = [&first, &second].into_iter().filter(|result| result.is_ok()).count();
    assert_eq!(winners, 1, "one winner");
    let mut node = first.or(second).ok().unwrap();
    for guess in [token.secret.clone(), "0".repeat(64), String::new()] {
        let again = spec::wire::JoinToken { secret: guess, ..token.clone() };
        let Err((status, fault)) = FakeNode::join(again, "n9").await else { panic!("it joined") };
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert!(fault["hint"].as_str().unwrap().contains("make a new one"), "{fault}");
    }
    // The same name again is given another one.
    let twin =
        FakeNode::join(plane.token(CreateJoinToken::default()).await, "n1").await.ok().unwrap();
    assert!(twin.id.as_str().starts_with("n1-"), "{}", twin.id);
    // A renewed certificate works, the one before too until the next renewal, and then no more.
    let (mut oldest, desired) = (node.clone(), |node: &FakeNode| {
        let node = node.clone();
        async move { node.ask(Method::GET, "/v1/node/desired", &Value::Null).await.0 }
    });
    for _ in 0..2 {
        assert_eq!(node.renew().await.0, StatusCode::OK);
        assert_eq!(desired(&node).await, StatusCode::OK);
    }
    assert_eq!(desired(&oldest).await, StatusCode::UNAUTHORIZED);
    assert_eq!(oldest.renew().await.0, StatusCode::UNAUTHORIZED);
    let error = plane.client.remove_node(&node.id).await.unwrap_err();
    assert_eq!(error.to_string(), "node `n1` is not down");
    assert!(error.hint().unwrap().ends_with("margay node rm --force n1"));
    assert_eq!(desired(&node).await, StatusCode::OK, "nothing has happened to it");
    plane.client.force_remove_node(&node.id).await.unwrap();
    assert_eq!(desired(&node).await, StatusCode::UNAUTHORIZED);
    assert_eq!(node.report().await, StatusCode::UNAUTHORIZED);
    assert_eq!(desired(&twin).await, StatusCode::OK);
    // A node that was drained of everything may be removed.
    assert!(plane.client.drain_node(&twin.id, true).await.unwrap().draining);
    plane.client.remove_node(&twin.id).await.unwrap();
    assert_eq!(desired(&twin).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_token_lasts_for_ten_minutes() {
    let mut plane = TestControlPlane::start().await;
    let lifetime = Duration::from_secs(600);
    let before = Timestamp::of(SystemTime::now());
    let made = plane.client.create_join_token(CreateJoinToken::default()).await.unwrap();
    assert!(made.expires.since(before) >= lifetime);
    assert!(made.expires.since(Timestamp::of(SystemTime::now())) <= lifetime);
    let record = JoinRecord { tenant: None, pool: false, expires: made.expires, machine: None };
    for (passed_millis, good) in [(0, true), (599_000, true), (700_000, false)] {
        assert_eq!(
            record.is_good(Timestamp::from_millis(before.millis() + passed_millis)),
            good,
            "{passed_millis}"
        );
    }
    // As if they had passed: only the store knows when it was made.
    plane.end().await;
    let store = SqliteStore::open(&plane.folder.path().join("server").join("store.db")).unwrap();
    let joins = store.range(Query::prefix(keys::JOINS)).await.unwrap();
    let mut aged: JoinRecord = decode(&joins.kvs[0]).unwrap();
    aged.expires = Timestamp::from_millis(before.millis() - 1);
    let put = Txn::new().put(joins.kvs[0].key.to_string(), encode(&aged));
    store.txn(put).await.unwrap();
    drop(store);
    plane.restart().await;
    let Err((status, fault)) = FakeNode::join(made.token.parse().unwrap(), "n1").await else {
        panic!("it joined")
    };
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{fault}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_names_every_route_and_every_type() {
    let document = openapi();
    for route in ROUTES {
        let operation = &document["paths"][route.path][route.method.as_str().to_lowercase()];
        assert!(operation["summary"].is_string(), "{} {}", route.method, route.path);
    }
    let operations: usize = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .map(|item| item.as_object().unwrap().len())
        .sum();
    assert_eq!(operations, ROUTES.len());
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| match value {
                Value::String(text) if key == "$ref" => found.push(text.clone()),
                _ => references(value, found),
            }),
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 100, "{}", found.len());
    for reference in found {
        let name = reference.strip_prefix("#/components/schemas/").unwrap();
        assert!(document["components"]["schemas"][name].is_object(), "{reference} leads nowhere");
    }
    let plane = TestControlPlane::start().await;
    let (status, served) = plane.raw_tls("GET", "/v1/openapi.json", None, b"").await;
    assert_eq!((status, served), (StatusCode::OK, document));
    let (_, health) = plane.raw_tls("GET", "/v1/health", None, b"").await;
    assert_eq!(health["epoch"], json!(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generic_client_verifies_with_the_file_of_a_credential() {
    use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};

    let plane = TestControlPlane::start().await;
    for credential in
        [plane.credential(), plane.credential_of("other", CredentialScope::Read).await]
    {
        let pem = credential.ca_pem.expect("it has the CA");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (host, _) = credential.address.rsplit_once(':').unwrap();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let stream = tokio::net::TcpStream::connect(&credential.address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        connector.connect(name, stream).await.expect("the address is a name of its certificate");
    }
}
