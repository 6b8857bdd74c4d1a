use spec::{IngressSettings, LaunchType, ServiceListener, TaskDefinition};

use super::fixture::TestControlPlane;
use crate::{Client, CreateService, Error, UpdateService};

fn definition() -> TaskDefinition {
    let ports = serde_json::json!([
        { "container_port": 80 },
        { "container_port": 6379, "protocol": "tcp" },
        { "container_port": 53, "protocol": "udp" },
    ]);
    let container = serde_json::json!({ "name": "app", "image": "native", "ports": ports });
    let text = serde_json::json!({ "family": "cats", "containers": [container] });
    serde_json::from_value(text).unwrap()
}

/// A port of the ingress, and one of the container.
type Listener = (&'static str, Option<u16>);

fn with(listeners: &[Listener]) -> IngressSettings {
    let listener = |(port, container_port): &Listener| ServiceListener {
        port: port.parse().unwrap(),
        container_port: *container_port,
        proxy_protocol: false,
        sources: Vec::new(),
        idle_seconds_max: None,
    };
    let listeners = listeners.iter().map(listener).collect();
    IngressSettings { listeners, ..IngressSettings::default() }
}

async fn create(client: &Client, name: &str, listeners: &[Listener]) -> Result<(), Error> {
    let service = CreateService {
        ingress: with(listeners),
        ..CreateService::new(name.parse().unwrap(), "cats:1".parse().unwrap(), LaunchType::Node, 1)
    };
    client.create_service(&"main".parse().unwrap(), &service).await.map(drop)
}

fn said(result: Result<(), Error>) -> String {
    result.err().map_or_else(String::new, |error| format!("{error} {:?}", error.hint()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_has_one_service_and_the_operator_says_which_ports_there_are() {
    let plane = TestControlPlane::start().await;
    let (client, other) = (&plane.client, plane.client_of("other").await);
    for client in [client, &other] {
        client.create_cluster(&"main".parse().unwrap()).await.unwrap();
        client.register(&definition()).await.unwrap();
    }
    create(client, "one", &[("20000", None), ("20001", Some(80))]).await.unwrap();
    for (name, listeners, want) in [
        ("two", &[("20000", None)][..], "`20000/tcp` is that of service `one` in cluster `main`"),
        ("two", &[("20010", None)], "is none of those that the operator has set aside"),
        ("two", &[("1", None)], "use one of 20000-20009"),
        ("two", &[("20002", Some(81))], "has no port 81/tcp"),
        ("two", &[("20002", None), ("20002", None)], "`20002/tcp` is given twice"),
        ("two", &[("20002/udp", Some(80))], "has no port 80/udp"),
        ("two", &[("20002", Some(53))], "has no port 53/tcp"),
    ] {
        let said = said(create(client, name, listeners).await);
        assert!(said.contains(want), "{listeners:?}: {said}");
    }
    // The same number for datagrams is another port.
    create(&other, "datagrams", &[("20000/udp", None)]).await.unwrap();
    let taken = said(create(client, "two", &[("20000/udp", Some(53))]).await);
    assert!(taken.contains("port `20000/udp` is taken"), "{taken}");
    let taken = said(create(&other, "two", &[("20000", None)]).await);
    assert!(taken.contains("port `20000/tcp` is taken"), "{taken}");
    assert!(!taken.contains("one") && !taken.contains("acme"), "{taken}");

    // A port is free again when its service has it no more, or is gone.
    let (main, one) = ("main".parse().unwrap(), "one".parse().unwrap());
    let change = UpdateService { ingress: Some(with(&[("20001", None)])), ..Default::default() };
    client.update_service(&main, &one, &change).await.unwrap();
    create(&other, "two", &[("20000", None)]).await.unwrap();
    let taken = said(create(client, "three", &[("20000", None)]).await);
    assert!(taken.contains("port `20000/tcp` is taken") && !taken.contains("two"), "{taken}");
    client.delete_service(&main, &one).await.unwrap();
    create(&other, "three", &[("20001", None)]).await.unwrap();
}
