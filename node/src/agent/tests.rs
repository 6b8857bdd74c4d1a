use std::{sync::Arc, time::Duration};

use spec::wire::{self, DesiredSet, RouteTable};
use tokio::{sync::watch, time::Instant};

use super::{
    super::{
        adoption::{self, AdoptableTask},
        report::ContainerReport,
        settings::NodeFolder,
        task::TaskHandle,
    },
    Agent, AgentConfig,
};
use crate::{Home, identity::Identity, tasks};

/// An agent without a control plane.
fn agent(home: &Home) -> Agent {
    let folder = NodeFolder::of(home).unwrap();
    let identity = Identity {
        version: 1,
        node: "local".parse().unwrap(),
        control_plane: "127.0.0.1:1".to_owned(),
        registry: Some("127.0.0.1:2".to_owned()),
        certificate_pem: String::new(),
        key_pem: String::new(),
        ca_pem: String::new(),
    };
    identity.write(&folder.identity()).unwrap();
    Agent::open(AgentConfig::new(home.clone())).unwrap()
}

fn set(token: Option<&str>) -> DesiredSet {
    serde_json::from_value(serde_json::json!({
        "version": 1, "epoch": 1, "revision": 7, "routes": RouteTable::default(),
        "tasks": [{
            "id": "t", "tenant": "acme", "cluster": "main", "service": null,
            "definition_id": "cats:1",
            "definition": {
                "family": "cats", "launch_types": ["node"],
                "containers": [{"name": "cats", "image": "cats"}]
            },
            "launch_type": "node", "stop": false, "pull_token": token,
        }],
    }))
    .unwrap()
}

#[test]
fn a_new_token_reaches_its_task_and_is_no_news_and_never_on_disk() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let home = Home::at(folder.path().join("home")).unwrap();
    let agent = agent(&home);
    let (tell, mut sets) = watch::channel(None);
    let (mut epoch, key) = (0, ("acme".parse().unwrap(), "t".parse().unwrap()));
    let written = || std::fs::metadata(agent.folder.desired()).unwrap().ino();
    agent.accept(set(Some("first")), &mut epoch, &tell).unwrap();
    assert_eq!(agent.host.token(&key).as_deref(), Some("first"));
    let before = written();
    assert!(sets.has_changed().unwrap());
    sets.mark_unchanged();
    assert_eq!(agent.accept(set(Some("second")), &mut epoch, &tell).unwrap(), Some(7));
    assert_eq!(agent.host.token(&key).as_deref(), Some("second"));
    assert!(!sets.has_changed().unwrap(), "a token alone starts nothing");
    assert_eq!(written(), before, "and is not worth a write");
    let kept = std::fs::read_to_string(agent.folder.desired()).unwrap();
    assert!(!kept.contains("first") && !kept.contains("second"), "{kept}");
    assert_eq!(*tell.borrow().as_ref().unwrap().as_ref(), set(None));
}

/// The next poll tells the control plane that this node has them: an authority may ask the ingress
/// for what is in them at once.
#[test]
fn routes_are_with_the_ingress_before_the_control_plane_hears_that_they_are_here() {
    let folder = tempfile::tempdir().unwrap();
    let agent = agent(&Home::at(folder.path().join("home")).unwrap());
    let (tell, _sets) = watch::channel(None);
    let mut asked = set(None);
    asked.routes.hosts.insert("cats.main.localhost".to_owned(), Vec::new());
    // No task is started or stopped meanwhile: nothing but this follows desired sets.
    assert_eq!(agent.accept(asked, &mut 0, &tell).unwrap(), Some(7));
    let written = std::fs::read_to_string(agent.host.ingress.routes_file()).unwrap();
    assert!(written.contains("cats.main.localhost"), "{written}");
}

fn used(runs: u64) -> spec::Usage {
    spec::Usage { runs, ..spec::Usage::default() }
}

fn report() -> Arc<ContainerReport> {
    ContainerReport::new(crate::usage_log::Meter {
        tenant: "acme".parse().unwrap(),
        task: "t".parse().unwrap(),
        container: "cats".parse().unwrap(),
        image: spec::Digest::of(b"cats"),
    })
}

async fn billed(agent: &Agent) -> u64 {
    let records = agent.host.with_usage(|log| log.records()).await.unwrap();
    records.iter().map(|record| record.usage.runs).sum()
}

#[tokio::test]
async fn a_reading_from_before_a_task_was_forgotten_is_not_billed_again() {
    let folder = tempfile::tempdir().unwrap();
    let agent = agent(&Home::at(folder.path().join("home")).unwrap());
    let report = report();
    let reading = vec![(report.clone(), used(7))];
    agent.host.measure(reading.clone()).await;
    // It was read once more, and written down after its counters had left the log.
    report.forget();
    agent
        .host
        .with_usage({
            let meter = report.meter.clone();
            move |log| {
                log.forget(&meter);
                Ok(())
            }
        })
        .await
        .unwrap();
    agent.host.measure(reading).await;
    assert_eq!(billed(&agent).await, 7);
}

#[tokio::test]
async fn every_start_of_a_container_whose_counters_begin_with_it_is_billed() {
    let folder = tempfile::tempdir().unwrap();
    let agent = agent(&Home::at(folder.path().join("home")).unwrap());
    let report = report();
    for runs in [5, 3, 4] {
        report.count_start(used(runs));
        agent.host.measure(vec![(report.clone(), report.read().unwrap())]).await;
    }
    assert_eq!(billed(&agent).await, 12);
    // An agent that adopts it is told what the lives before used.
    let adopted = self::report();
    adopted.count_from(report.base());
    adopted.count_start(used(1));
    agent.host.measure(vec![(adopted.clone(), adopted.read().unwrap())]).await;
    assert_eq!(billed(&agent).await, 13);
}

#[tokio::test]
async fn a_copy_that_cannot_be_started_here_is_given_up_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let agent = agent(&Home::at(folder.path().join("home")).unwrap());
    // Its image was never resolved: no start gets as far as a process.
    let task =
        wire::DesiredTask { service: Some("cats".parse().unwrap()), ..set(None).tasks.remove(0) };
    let mut handle = TaskHandle::start(&agent.host, task, AdoptableTask::new());
    handle.ended(Instant::now() + Duration::from_secs(60)).await;
    let status = handle.status();
    assert_eq!(status.phase, spec::TaskPhase::Stopped);
    assert_eq!(
        status.reason.as_deref(),
        Some(
            "container `cats`: there is no image `cats` here; \
             see what there is: margay images; or: margay pull cats"
        )
    );
    assert_eq!(status.containers[0].restarts, 4, "it was tried five times");
}

#[tokio::test]
async fn a_container_that_has_ended_is_not_run_again_while_its_task_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::at(folder.path().join("home")).unwrap();
    let agent = agent(&home);
    let mut task = set(None).tasks.remove(0);
    let mut dogs = task.definition.containers[0].clone();
    dogs.name = "dogs".parse().unwrap();
    task.definition.containers.push(dogs);
    let owned = tasks::create(&home, tasks::folder_tests::record("acme.t.cats", "t")).unwrap();
    let status = tasks::Status {
        phase: tasks::Phase::Exited,
        exit_code: Some(3),
        reason: Some("it was done".to_owned()),
        usage: Some(used(2)),
        ..tasks::Status::starting(tasks::ProcessId::this())
    };
    let cats = adoption::Adoptable { owned, status: Some(status) };
    let found = AdoptableTask::from([("cats".parse().unwrap(), cats)]);
    let mut handle = TaskHandle::start(&agent.host, task, found);
    handle.ended(Instant::now() + Duration::from_secs(60)).await;
    let cats = handle.status().containers.remove(0);
    assert_eq!(
        (cats.exit_code, cats.reason.as_deref()),
        (Some(3), Some("it was done")),
        "as it ended then"
    );
    assert_eq!(billed(&agent).await, 2);
}
