use serde::Serialize;
use serde_json::json;
use spec::{ClusterName, Tenant};
use store::{MemoryStore, Store};

use super::*;
use crate::{
    journeys::fixture,
    plan::HostNames,
    state::records::{NodeRecord, POOL_LABEL, encode},
};

async fn reconciler(store: Arc<MemoryStore>) -> Reconciler {
    let state = Arc::new(State::open(store).await.unwrap());
    let names = HostNames { operator: "acme".parse().unwrap(), domain: "localhost".to_owned() };
    let node_watch = Arc::new(NodeWatch::new(state.clone(), names));
    Reconciler::new(state, node_watch)
}

/// Two services of 600 replicas each, on four nodes that are ready: 1,200 steps in one plan.
#[tokio::test]
async fn a_plan_of_more_steps_than_the_watch_buffers_loses_no_event() {
    let (acme, main): (Tenant, ClusterName) = ("acme".parse().unwrap(), "main".parse().unwrap());
    let store = Arc::new(MemoryStore::new());
    let put = async |key: String, value: serde_json::Value| {
        store.txn(Txn::new().put(key, encode(&value))).await.unwrap();
    };
    let at = now();
    put(keys::cluster(&acme, &main), json!({ "name": "main", "created": at })).await;
    put(
        keys::definition(&acme, &"cats:1".parse().unwrap()),
        json!({
            "id": "cats:1", "registered": at, "active": true, "runs": ["wasm"],
            "definition": fixture::definition("cats", "cats"),
        }),
    )
    .await;
    for name in ["n1", "n2", "n3", "n4"] {
        let capacity = spec::Resources { cpu_millis: 1_000_000, memory_bytes: 1 << 40 };
        let node = json!({
            "id": name, "tenant": "acme", "joined": at, "drain": false, "certificates": [],
            "spec": spec::NodeSpec { capacity, ..fixture::node_spec() },
        });
        put(keys::node(&name.parse().unwrap()), node).await;
    }
    for name in ["s1", "s2"] {
        let service = spec::Service {
            name: name.parse().unwrap(),
            cluster: main.clone(),
            created: at,
            spec: spec::ServiceSpec {
                task_definition: "cats:1".parse().unwrap(),
                count: 600,
                launch_type: spec::LaunchType::Node,
                deployment: spec::DeploymentSettings::default(),
                scheduling: spec::SchedulingStrategy::Replica,
                placement: spec::Placement::default(),
                priority: 50,
                scaling: None,
                ingress: spec::IngressSettings::default(),
            },
            generation: 1,
            status: spec::ServiceStatus::default(),
        };
        let key = keys::service(&acme, &main, &service.name);
        put(key, json!({ "service": service })).await;
    }
    let reconciler = reconciler(store.clone()).await;
    let state = &reconciler.state;
    for name in ["n1", "n2", "n3", "n4"] {
        state.reports.heard(&name.parse().unwrap());
    }
    let mut follower = reconciler.list().await.unwrap();
    reconciler.pass(&mut follower).await.unwrap();
    assert_eq!(state.model().tasks.len(), 1_200);
    let rev = store.status().await.unwrap().rev;
    assert_eq!(state.model().rev, rev);
    assert!(follower.watch.next().now_or_never().is_none(), "the watch goes on");
}

/// A store with tenants that each have a service and a node of their own.
struct Tenants {
    store: Arc<MemoryStore>,
    main: ClusterName,
}

impl Tenants {
    async fn new(names: &[&str]) -> Self {
        let tenants = Self { store: Arc::default(), main: "main".parse().unwrap() };
        for name in names {
            let tenant: Tenant = name.parse().unwrap();
            let definition = json!({
                "id": "cats:1", "registered": now(), "active": true, "runs": ["wasm"],
                "definition": fixture::definition("cats", "cats"),
            });
            let key = keys::definition(&tenant, &"cats:1".parse().unwrap());
            tenants.put(key, &definition).await;
            tenants.service(&tenant, "web").await;
            tenants.node(&format!("n-{name}"), Some(name), false).await;
        }
        tenants
    }

    async fn put(&self, key: String, value: &impl Serialize) {
        self.store.txn(Txn::new().put(key, encode(value))).await.unwrap();
    }

    async fn service(&self, tenant: &Tenant, name: &str) {
        let service = spec::Service {
            name: name.parse().unwrap(),
            cluster: self.main.clone(),
            created: now(),
            spec: spec::ServiceSpec {
                task_definition: "cats:1".parse().unwrap(),
                count: 1,
                launch_type: spec::LaunchType::Node,
                deployment: spec::DeploymentSettings::default(),
                scheduling: spec::SchedulingStrategy::Replica,
                placement: spec::Placement::default(),
                priority: 50,
                scaling: None,
                ingress: spec::IngressSettings::default(),
            },
            generation: 1,
            status: spec::ServiceStatus::default(),
        };
        let key = keys::service(tenant, &self.main, &service.name);
        self.put(key, &json!({ "service": service })).await;
    }

    async fn node(&self, name: &str, tenant: Option<&str>, pool: bool) -> NodeRecord {
        let mut spec = fixture::node_spec();
        spec.labels.clear();
        if pool {
            spec.labels.insert(POOL_LABEL.to_owned(), "true".to_owned());
        }
        let record = NodeRecord {
            id: name.parse().unwrap(),
            tenant: tenant.map(|tenant| tenant.parse().unwrap()),
            spec,
            joined: now(),
            drain: false,
            drain_deadline: None,
            cordoned: false,
            labels: BTreeMap::default(),
            taints: Vec::new(),
            certificates: Vec::new(),
        };
        self.put(keys::node(&record.id), &record).await;
        record
    }

    /// A replica of `web` of `tenant`.
    async fn task(&self, tenant: &str, id: &str, node: &str, phase: &str) {
        let record = json!({
            "tenant": tenant, "copy": null, "ended": null,
            "task": {
                "id": id, "created": "2026-11-23T16:40:00.000Z", "status": { "phase": phase },
                "spec": {
                    "cluster": "main", "task_definition": "cats:1", "launch_type": "node",
                    "service": "web", "node": node, "stop": false,
                },
            },
        });
        let key = keys::task(&tenant.parse().unwrap(), &id.parse().unwrap());
        self.put(key, &record).await;
    }
}

/// Applies what was written, and wakes nodes as a pass does.
fn deliver(reconciler: &Reconciler, follower: &mut Follower<'_>) {
    follower.catch_up().unwrap();
    reconciler.node_watch.wake(&std::mem::take(&mut follower.touched));
}

#[tokio::test]
async fn routes_are_built_once_for_a_revision_however_many_nodes_poll() {
    let tenants = Tenants::new(&["acme", "ann", "bob"]).await;
    let mut nodes = Vec::new();
    for n in 0..50 {
        nodes.push(tenants.node(&format!("p{n}"), None, true).await);
    }
    let reconciler = reconciler(tenants.store.clone()).await;
    let mut follower = reconciler.list().await.unwrap();
    let watch = &reconciler.node_watch;
    let poll = || nodes.iter().for_each(|node| drop(watch.assigned(node)));
    deliver(&reconciler, &mut follower);
    poll();
    let start = watch.route_builds();
    for (phase, builds) in [("starting", 0), ("running", 1), ("running", 1), ("stopping", 2)] {
        tenants.task("ann", "web-1", "p1", phase).await;
        deliver(&reconciler, &mut follower);
        poll();
        poll();
        assert_eq!(watch.route_builds() - start, builds, "{phase}");
    }
    let slices: Vec<_> = nodes.iter().map(|node| watch.assigned(node).routes.clone()).collect();
    assert!(slices.iter().all(|slice| Arc::ptr_eq(slice, &slices[0])), "one slice for the pool");
}

#[tokio::test]
async fn a_change_wakes_only_the_nodes_that_it_concerns() {
    let tenants = Tenants::new(&["acme", "ann", "bob"]).await;
    let pool = tenants.node("n-pool", None, true).await;
    let ann = tenants.node("n-ann", Some("ann"), false).await;
    let bob = tenants.node("n-bob", Some("bob"), false).await;
    let second = tenants.node("n-bob2", Some("bob"), false).await;
    let reconciler = reconciler(tenants.store.clone()).await;
    let mut follower = reconciler.list().await.unwrap();
    deliver(&reconciler, &mut follower);
    let watch = &reconciler.node_watch;
    let mut polls: Vec<_> = [&pool, &ann, &bob, &second]
        .into_iter()
        .map(|node| (node, watch.subscribe(&node.id), watch.assigned(node).revision))
        .collect();
    let mut woken = |reconciler: &Reconciler, follower: &mut Follower<'_>| {
        deliver(reconciler, follower);
        let mut woken = Vec::new();
        for (node, news, revision) in &mut polls {
            let assigned = watch.assigned(node);
            assert_eq!(
                news.has_changed().unwrap(),
                assigned.revision != *revision,
                "{} is woken exactly when there is news",
                node.id
            );
            if news.has_changed().unwrap() {
                woken.push(node.id.to_string());
            }
            news.mark_unchanged();
            *revision = assigned.revision;
        }
        woken
    };
    tenants.task("ann", "web-1", "n-ann", "starting").await;
    assert_eq!(woken(&reconciler, &mut follower), ["n-ann"], "its task");
    tenants.task("ann", "web-1", "n-ann", "running").await;
    assert_eq!(woken(&reconciler, &mut follower), ["n-pool", "n-ann"], "a route of its tenant");
    tenants.task("bob", "web-1", "n-bob", "running").await;
    assert_eq!(woken(&reconciler, &mut follower), ["n-pool", "n-bob", "n-bob2"]);
    tenants.service(&"acme".parse().unwrap(), "more").await;
    assert_eq!(woken(&reconciler, &mut follower), ["n-pool"], "no other node sees that tenant");
    tenants.put("/t/ann/idempotency/x".to_owned(), &json!({})).await;
    assert!(woken(&reconciler, &mut follower).is_empty(), "no node is told of it");
    tenants.task("ann", "web-2", "n-bob2", "starting").await;
    assert_eq!(woken(&reconciler, &mut follower), ["n-bob2"], "now it sees the routes of two");
}
