use http::{Method, StatusCode};
use serde_json::Value;
use spec::{
    CertificateName, EventSubject, IngressSettings, LaunchType, SecretValue,
    wire::{CertificatePair, RouteCertificate},
};

use super::fixture::{FakeNode, TestControlPlane, definition, until};
use crate::{Client, CreateService};

fn name(text: &str) -> CertificateName {
    text.parse().unwrap()
}

/// A chain and its key.
fn made(hosts: &[&str]) -> (String, SecretValue) {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(hosts).unwrap();
    let key = SecretValue::new(made.signing_key.serialize_pem().into_bytes()).unwrap();
    (made.cert.pem(), key)
}

/// What a node hears about a certificate.
async fn asks(node: &FakeNode, tenant: &str, name: &str) -> Result<CertificatePair, StatusCode> {
    let path = format!("/v1/node/certificates/{tenant}/{name}");
    match node.ask(Method::GET, &path, &Value::Null).await {
        (StatusCode::OK, answer) => Ok(serde_json::from_value(answer).unwrap()),
        (status, _) => Err(status),
    }
}

/// The certificates that a node is told.
async fn told(node: &FakeNode) -> Vec<(String, RouteCertificate)> {
    let set = node.clone().poll().await;
    set.routes.certificates.into_iter().map(|(host, shown)| (host.to_string(), shown)).collect()
}

async fn serve(client: &Client, host: &str) {
    client.create_cluster(&"main".parse().unwrap()).await.unwrap();
    client.register(&definition("cats", "cats")).await.unwrap();
    let ingress =
        IngressSettings { hosts: vec![host.parse().unwrap()], ..IngressSettings::default() };
    let service = CreateService {
        ingress,
        ..CreateService::new(
            "cats".parse().unwrap(),
            "cats:1".parse().unwrap(),
            LaunchType::Node,
            1,
        )
    };
    client.create_service(&"main".parse().unwrap(), &service).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_goes_to_nodes_that_serve_a_host_of_it_and_its_key_into_no_answer() {
    let plane = TestControlPlane::start().await;
    let (client, n1) = (&plane.client, plane.node("n1").await);
    let (chain, key) = made(&["shop.example", "unused.example"]);
    let uploaded =
        client.create_certificate(&name("shop"), chain.clone(), key.clone()).await.unwrap();
    let hosts: Vec<_> = uploaded.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["shop.example", "unused.example"]);
    // Nothing is served there yet.
    assert_eq!(asks(&n1, "acme", "shop").await.unwrap_err(), StatusCode::NOT_FOUND);
    serve(client, "shop.example").await;
    let shown = until("its node is told", || async {
        let told = told(&n1).await;
        (!told.is_empty()).then_some(told)
    })
    .await;
    let [(host, shown)] = &shown[..] else { panic!("{shown:?}") };
    assert_eq!((host.as_str(), &shown.fingerprint), ("shop.example", &uploaded.fingerprint));
    let pair = asks(&n1, "acme", "shop").await.unwrap();
    assert_eq!((pair.chain_pem, pair.key), (chain, key.clone()));
    assert_eq!(asks(&n1, "other", "shop").await.unwrap_err(), StatusCode::NOT_FOUND);
    // Neither what is told with every change nor what clients see has the key.
    let set = serde_json::to_string(&n1.clone().poll().await).unwrap();
    let listed = serde_json::to_string(&client.certificates().await.unwrap()).unwrap();
    let secret = String::from_utf8(key.expose().to_vec()).unwrap();
    let line = secret.lines().nth(1).unwrap();
    assert!(!set.contains(line) && !listed.contains(line));
    // Another one in its place is told by its fingerprint.
    let (chain, key) = made(&["shop.example"]);
    let replaced = client.replace_certificate(&name("shop"), chain, key).await.unwrap();
    assert_ne!(replaced.fingerprint, uploaded.fingerprint);
    until("the next one is told", || async {
        let told = told(&n1).await;
        (told.first()?.1.fingerprint == replaced.fingerprint).then_some(())
    })
    .await;
    let events = client.events(&[]).await.unwrap();
    let about = events.iter().filter(|event| event.subject == EventSubject::Certificate);
    let about: Vec<_> = about.map(|event| event.message.as_str()).collect();
    assert_eq!(about, ["it was uploaded, for `shop.example`"]);
    client.remove_certificate(&name("shop")).await.unwrap();
    assert_eq!(asks(&n1, "acme", "shop").await.unwrap_err(), StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_certificate_is_named_when_it_is_uploaded() {
    let plane = TestControlPlane::start().await;
    let client = &plane.client;
    let ann = plane.client_of("ann").await;
    let (chain, key) = made(&["shop.example"]);
    let (_, other) = made(&["shop.example"]);
    let said = client.create_certificate(&name("shop"), chain.clone(), other).await.unwrap_err();
    assert!(said.to_string().contains("certificate `shop` is not taken: the key is not"), "{said}");
    assert!(said.hint().unwrap().contains("give the key"), "{said}");
    let said = ann.create_certificate(&name("shop"), chain.clone(), key.clone()).await.unwrap_err();
    assert_eq!(said.to_string(), "host `shop.example` is in no domain that this tenant has");
    client.create_certificate(&name("shop"), chain.clone(), key.clone()).await.unwrap();
    let said = client.create_certificate(&name("shop"), chain.clone(), key).await.unwrap_err();
    assert!(said.hint().unwrap().contains("margay certificate update shop"), "{said}");
    let said = client.certificate(&name("none")).await.unwrap_err();
    assert!(said.hint().unwrap().contains("margay certificate ls"), "{said}");
}
