//! Machines of node groups: what the hook is asked, and which nodes join.

use spec::{NodeGroupName, NodeId};

use super::fixture::{FakeNode, TestControlPlane, until};
use crate::{
    Client, HookAction, HookOutcome, NodeGroup, NodeGroupRequest, NodeGroupSpec, UpdateNodeGroup,
};

fn workers() -> NodeGroupName {
    "workers".parse().unwrap()
}

fn spec(min: u32, desired: u32, max: u32) -> NodeGroupSpec {
    serde_json::from_value(serde_json::json!({
        "min": min, "max": max, "desired": desired, "hook": "exec:machines",
        "labels": { "disk": "fast" }, "taints": ["gpu=true:NoSchedule"],
    }))
    .unwrap()
}

async fn request(client: &Client, action: HookAction) -> NodeGroupRequest {
    until(&format!("{action:?} is asked for"), || async {
        let requests = client.node_group_requests().await.unwrap();
        requests.into_iter().find(|request| request.action == action)
    })
    .await
}

async fn tell(client: &Client, node: &NodeId, action: HookAction, failure: Option<&str>) {
    let outcome = HookOutcome { action, failure: failure.map(str::to_owned) };
    client.hook_outcome(&workers(), node, &outcome).await.unwrap();
}

async fn has(client: &Client, what: &str, is_so: impl Fn(&NodeGroup) -> bool) -> NodeGroup {
    until(what, || async {
        Some(client.node_group(&workers()).await.unwrap()).filter(|group| is_so(group))
    })
    .await
}

#[tokio::test]
async fn a_machine_of_a_group_joins_once_and_under_its_name() {
    let plane = TestControlPlane::start().await;
    let client = &plane.client;
    client.create_node_group(&workers(), spec(0, 1, 2)).await.unwrap();
    let NodeGroupRequest { node, hook, .. } = request(client, HookAction::Add).await;
    assert_eq!(hook, "exec:machines");
    let token = client.machine_token(&workers(), &node).await.unwrap().token;
    // A repeated request has the same token: one machine joins.
    assert_eq!(client.machine_token(&workers(), &node).await.unwrap().token, token);
    tell(client, &node, HookAction::Add, None).await;
    let joined = FakeNode::join(token.parse().unwrap(), "another-name").await.unwrap();
    assert_eq!(joined.id, node);
    let again = FakeNode::join(token.parse().unwrap(), "second").await.err().expect("refused");
    assert_eq!(again.1["code"], "join-token");
    let known = client.node(&node).await.unwrap();
    assert_eq!(known.spec.labels["disk"], "fast");
    assert_eq!(known.spec.labels["node-group"], "workers");
    assert_eq!(known.taints.len(), 1);
    has(client, "it is ready", |group| group.template.is_some()).await;
    assert!(client.node_group_requests().await.unwrap().is_empty());
    let error = client.machine_token(&workers(), &node).await.err().expect("refused");
    assert!(error.to_string().contains("asks for no machine"), "{error}");
}

#[tokio::test]
async fn a_machine_that_was_given_back_cannot_join_and_its_removal_is_tried_again() {
    let mut plane = TestControlPlane::start().await;
    plane.client.create_node_group(&workers(), spec(0, 1, 2)).await.unwrap();
    let NodeGroupRequest { node, .. } = request(&plane.client, HookAction::Add).await;
    let token = plane.client.machine_token(&workers(), &node).await.unwrap().token;
    tell(&plane.client, &node, HookAction::Add, Some("quota\nis used up")).await;
    let late = FakeNode::join(token.parse().unwrap(), "late").await.err().expect("refused");
    assert_eq!(late.1["code"], "join-token");
    // What is to be done stands in the store.
    plane.restart().await;
    let client = &plane.client;
    assert_eq!(request(client, HookAction::Remove).await.node, node);
    tell(client, &node, HookAction::Remove, Some("no such machine")).await;
    assert!(client.node_group_requests().await.unwrap().is_empty(), "it waits");
    let group = client.node_group(&workers()).await.unwrap();
    let said: Vec<&str> = group.events.iter().map(|event| event.message.as_str()).collect();
    assert!(said[0].contains("could not be removed (no such machine): tried again"), "{said:?}");
    assert!(said[1].contains("could not be added (quota is used up): it is given back"));
    assert!(group.retry_after.is_some(), "the next machine waits as well");
    let update = UpdateNodeGroup { desired: Some(0), ..UpdateNodeGroup::default() };
    client.update_node_group(&workers(), &update).await.unwrap();
    let error = client.delete_node_group(&workers()).await.unwrap_err();
    assert!(error.to_string().contains("has a machine"), "{error}");
    tell(client, &node, HookAction::Remove, None).await;
    client.delete_node_group(&workers()).await.unwrap();
}

#[tokio::test]
async fn a_node_group_is_the_operators_and_its_numbers_and_hook_are_checked() {
    let plane = TestControlPlane::start().await;
    let with = |edit: fn(&mut NodeGroupSpec)| {
        let mut spec = spec(1, 1, 2);
        edit(&mut spec);
        spec
    };
    for (spec, want) in [
        (with(|spec| spec.min = 3), "`min` 3, `desired` 1 and `max` 2 are not in order"),
        (with(|spec| spec.desired = 3), "are not in order"),
        (with(|spec| spec.max = 100_000), "`max` is at most 500"),
        (with(|spec| spec.hook = "exec:../../bin/sh".to_owned()), "is not a hook"),
        (with(|spec| spec.hook = "/bin/sh".to_owned()), "is not a hook"),
        (with(|spec| spec.join_seconds = 1), "`join_seconds` is 10 to 3600"),
        (with(|spec| spec.scale_in_seconds = 0), "`scale_in_seconds` is 1 to 86400"),
        (
            with(|spec| drop(spec.labels.insert("node-group".to_owned(), "x".to_owned()))),
            "label `node-group` is set by the platform",
        ),
    ] {
        let error = plane.client.create_node_group(&workers(), spec).await.unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
    }
    let tenant = plane.client_of("ann").await;
    tenant.create_node_group(&workers(), spec(1, 1, 2)).await.unwrap_err();
    tenant.node_groups().await.unwrap_err();
    plane.client.create_node_group(&workers(), spec(1, 1, 2)).await.unwrap();
    let error = plane.client.create_node_group(&workers(), spec(1, 1, 2)).await.unwrap_err();
    assert!(error.to_string().contains("`workers` is there already"), "{error}");
}
