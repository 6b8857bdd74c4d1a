use std::collections::{BTreeMap, BTreeSet};

use spec::{
    ContainerDefinition, LaunchType, Mount, NodeSpec, PortMapping, Resources, Service, ServiceSpec,
    ServiceStatus, TaskDefinition, VolumeClaim,
};

use super::*;
use crate::{records::POOL_LABEL, resolver::Runs};

/// A world that applies plans as the store would, and whose nodes do as they are told when asked
/// to.
#[derive(Default)]
struct World {
    model: Model,
    conditions: BTreeMap<NodeId, NodeCondition>,
    now: u64,
}

const T: &str = "acme";

fn tenant() -> Tenant {
    T.parse().unwrap()
}

impl World {
    fn new() -> Self {
        let mut world = Self { now: 1_000_000, ..Self::default() };
        world.model.clusters.insert((tenant(), "main".parse().unwrap()));
        world
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now)
    }

    fn node(&mut self, name: &str, zone: &str, cpu_millis: u32, memory_mib: u64) {
        let spec = NodeSpec {
            capacity: Resources { cpu_millis, memory_bytes: memory_mib << 20 },
            zone: zone.to_owned(),
            architecture: "amd64".to_owned(),
            runs_native: false,
            ingress_address: None,
            labels: BTreeMap::new(),
        };
        let id: NodeId = name.parse().unwrap();
        let record = NodeRecord {
            id: id.clone(),
            tenant: Some(tenant()),
            spec,
            joined: self.now(),
            drain: false,
            certificates: Vec::new(),
        };
        self.model.nodes.insert(id.clone(), Arc::new(record));
        self.conditions.insert(id, NodeCondition::Ready);
    }

    fn edit_node(&mut self, name: &str, edit: impl FnOnce(&mut NodeRecord)) {
        let node = self.model.nodes.get_mut(&name.parse::<NodeId>().unwrap()).unwrap();
        edit(Arc::make_mut(node));
    }

    fn is(&mut self, node: &str, condition: NodeCondition) {
        self.conditions.insert(node.parse().unwrap(), condition);
    }

    fn define(&mut self, id: &str, edit: impl FnOnce(&mut DefinitionRecord)) {
        let id: TaskDefinitionId = id.parse().unwrap();
        let container: ContainerDefinition =
            serde_json::from_str(r#"{ "name": "app", "image": "cats" }"#).unwrap();
        let definition = TaskDefinition {
            family: id.family.clone(),
            launch_types: vec![LaunchType::Node, LaunchType::Pool],
            role: spec::Role::default(),
            containers: vec![container],
            volumes: Vec::new(),
        };
        let mut record = DefinitionRecord {
            id: id.clone(),
            registered: self.now(),
            active: true,
            definition,
            runs: vec![Runs::Wasm],
        };
        edit(&mut record);
        self.model.definitions.insert((tenant(), id), Arc::new(record));
    }

    fn service(&mut self, name: &str, definition: &str, count: u32) {
        self.model.rev += 1;
        let rev = self.model.rev;
        let key: ServiceKey = (tenant(), "main".parse().unwrap(), name.parse().unwrap());
        let before = self
            .model
            .services
            .get(&key)
            .map(|kept| (kept.create_rev, kept.value.service.generation));
        let (create_rev, generation) = before.unwrap_or((rev, 0));
        let service = Service {
            name: key.2.clone(),
            cluster: key.1.clone(),
            created: self.now(),
            spec: ServiceSpec {
                task_definition: definition.parse().unwrap(),
                count,
                launch_type: LaunchType::Node,
            },
            generation: generation + 1,
            status: ServiceStatus::default(),
        };
        let kept = Kept { value: ServiceRecord { service }, mod_rev: rev, create_rev };
        self.model.services.insert(key, Arc::new(kept));
    }

    fn plan(&self) -> Plan {
        plan(&Desired::of(&self.model), &Observed::of(&self.model, &self.conditions), self.now())
    }

    fn apply(&mut self, plan: &Plan) {
        for step in &plan.steps {
            match step {
                Step::Start { task, volumes } => {
                    let key = (task.tenant.clone(), task.id().clone());
                    assert!(
                        !self.model.tasks.contains_key(&key),
                        "{step} would be a second {}",
                        task.id()
                    );
                    self.keep(task);
                    self.mount(volumes);
                }
                Step::Change { task, volumes, .. } => {
                    self.keep(task);
                    self.mount(volumes);
                }
                Step::Forget { key, .. } => drop(self.model.tasks.remove(key)),
            }
        }
    }

    fn mount(&mut self, volumes: &[Volume]) {
        for volume in volumes {
            self.model.volumes.insert((tenant(), volume.name.clone()), volume.clone());
        }
    }

    fn keep(&mut self, record: &TaskRecord) {
        self.model.rev += 1;
        let rev = self.model.rev;
        let key = (record.tenant.clone(), record.id().clone());
        self.model
            .tasks
            .insert(key, Arc::new(Kept { value: record.clone(), mod_rev: rev, create_rev: rev }));
    }

    /// Plans, applies, and shows the steps; the same again must plan nothing.
    fn step(&mut self) -> Vec<String> {
        let plan = self.plan();
        self.apply(&plan);
        let rest: Vec<String> = self.plan().steps.iter().map(Step::to_string).collect();
        assert!(rest.is_empty(), "an applied plan leaves {rest:?}");
        plan.steps.iter().map(Step::to_string).collect()
    }

    /// Nodes in touch start what they should and end what they should.
    fn act(&mut self) {
        let records: Vec<TaskRecord> =
            self.model.tasks.values().map(|kept| kept.value.clone()).collect();
        for record in records.into_iter().filter(|record| !record.has_ended()) {
            let node = record.task.spec.node.as_ref();
            if node.is_some_and(|node| self.conditions.get(node) == Some(&NodeCondition::Ready)) {
                let phase =
                    if record.task.spec.stop { TaskPhase::Stopped } else { TaskPhase::Running };
                self.keep(&record.at(phase, record.task.status.reason.clone(), self.now()));
            }
        }
    }

    /// Plans and acts until nothing moves.
    fn settle(&mut self) {
        for _ in 0..50 {
            let plan = self.plan();
            self.apply(&plan);
            self.act();
            if plan.steps.is_empty() {
                return;
            }
        }
        panic!(
            "it never settles: {:?}",
            self.plan().steps.iter().map(Step::to_string).collect::<Vec<_>>()
        );
    }

    fn tasks(&self) -> impl Iterator<Item = &TaskRecord> {
        self.model.tasks.values().map(|kept| &kept.value)
    }

    /// Node of each running task, sorted.
    fn running(&self) -> Vec<String> {
        let running = self.tasks().filter(|record| record.task.status.phase == TaskPhase::Running);
        let mut nodes: Vec<String> =
            running.map(|record| record.task.spec.node.as_ref().unwrap().to_string()).collect();
        nodes.sort();
        nodes
    }

    fn why(&self) -> String {
        self.plan().waiting.values().cloned().collect::<Vec<_>>().join("; ")
    }

    fn end(&mut self, reason: &str) {
        let record = self
            .tasks()
            .find(|record| record.task.status.phase == TaskPhase::Running)
            .unwrap()
            .clone();
        self.keep(&record.at(TaskPhase::Stopped, Some(reason.to_owned()), self.now()));
    }
}

fn reserve(cpu_millis: u32, memory_mib: u64) -> impl FnOnce(&mut DefinitionRecord) {
    move |record| {
        let container = &mut record.definition.containers[0];
        (container.cpu_millis, container.memory_soft_bytes) = (cpu_millis, memory_mib << 20);
    }
}

fn with_port(record: &mut DefinitionRecord) {
    let port =
        PortMapping { container_port: 80, host_port: Some(8080), protocol: spec::Protocol::Http };
    record.definition.containers[0].ports.push(port);
}

fn with_volume(record: &mut DefinitionRecord) {
    record.definition.volumes.push(VolumeClaim { name: "book".parse().unwrap(), bytes_max: None });
    let mount =
        Mount { volume: "book".parse().unwrap(), path: "/data".to_owned(), read_only: false };
    record.definition.containers[0].mounts.push(mount);
}

#[test]
fn copies_spread_over_zones_and_then_over_nodes() {
    let mut world = World::new();
    for (node, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
        world.node(node, zone, 4000, 4096);
    }
    world.define("cats:1", |_| {});
    world.service("cats", "cats:1", 4);
    world.settle();
    assert_eq!(world.running(), ["a1", "a2", "b1", "b1"]);
}

#[test]
fn a_count_goes_up_and_down() {
    let mut world = World::new();
    world.node("n1", "a", 4000, 4096);
    world.define("cats:1", |_| {});
    for count in [3, 5, 1, 0, 2] {
        world.service("cats", "cats:1", count);
        world.settle();
        assert_eq!(world.running().len(), count as usize, "count {count}");
    }
}

#[test]
fn whoever_cannot_be_placed_is_told_why() {
    type Case = (&'static str, fn(&mut DefinitionRecord), fn(&mut World), &'static str);
    let cases: [Case; 7] = [
        ("no node", |_| {}, |w| w.model.nodes.clear(), "you have no node: `margay node join`"),
        ("silent", |_| {}, |w| w.is("n1", NodeCondition::Suspect), "no node is ready"),
        (
            "drained",
            |_| {},
            |w| w.edit_node("n1", |n| n.drain = true),
            "every node that could take it is drained",
        ),
        (
            "native",
            |d| d.runs = vec![Runs::Native(vec!["arm64".to_owned()])],
            |_| {},
            "it is a native image for arm64, and no node has an OCI runtime for it",
        ),
        (
            "cpu",
            |d| reserve(2001, 1)(d),
            |_| {},
            "no node has 2001 millis of CPU and 8MiB of memory left",
        ),
        (
            "memory",
            |d| reserve(1, 1025)(d),
            |_| {},
            "no node has 10 millis of CPU and 1025MiB of memory left",
        ),
        (
            "volume",
            with_volume,
            |w| {
                let (name, node) = ("book".parse().unwrap(), "gone".parse().unwrap());
                w.mount(&[Volume { name, node, created: w.now() }]);
            },
            "its volume is on node `gone`, which is not available",
        ),
    ];
    for (what, edit, setting, want) in cases {
        let mut world = World::new();
        world.node("n1", "a", 2000, 1024);
        world.define("cats:1", edit);
        world.service("cats", "cats:1", 1);
        setting(&mut world);
        assert_eq!(world.step(), [""; 0], "{what}");
        assert_eq!(world.why(), want, "{what}");
    }
}

#[test]
fn whoever_reserves_nothing_still_finds_an_end() {
    for (what, cpu_millis, memory_mib, placed, want) in [
        ("by CPU", 100, 64 << 10, 10, "no node has 10 millis of CPU and 8MiB of memory left"),
        ("by memory", 64_000, 80, 10, "no node has 10 millis of CPU and 8MiB of memory left"),
        (
            "by number",
            64_000,
            64 << 10,
            500,
            "every node that could take it has 500 tasks, and that is the most: add a node",
        ),
    ] {
        let mut world = World::new();
        world.node("n1", "a", cpu_millis, memory_mib);
        world.define("cats:1", reserve(0, 0));
        world.service("cats", "cats:1", 510);
        world.settle();
        assert_eq!((world.running().len(), world.why().as_str()), (placed, want), "{what}");
    }
}

#[test]
fn a_host_port_is_given_once_per_node() {
    let mut world = World::new();
    world.node("n1", "a", 4000, 4096);
    world.node("n2", "a", 4000, 4096);
    world.define("cats:1", with_port);
    world.service("cats", "cats:1", 3);
    world.settle();
    assert_eq!(world.running(), ["n1", "n2"]);
    assert_eq!(world.why(), "host port 8080 is taken on every node");
}

#[test]
fn pool_tasks_go_to_pool_nodes_and_node_tasks_to_own_nodes() {
    let mut world = World::new();
    world.node("own", "a", 4000, 4096);
    world.node("shared", "a", 4000, 4096);
    world.node("both", "a", 100, 4096);
    world.node("strange", "a", 4000, 4096);
    world.edit_node("shared", |n| n.tenant = None);
    world.edit_node("strange", |n| n.tenant = Some("other".parse().unwrap()));
    for node in ["shared", "both"] {
        world.edit_node(node, |n| {
            drop(n.spec.labels.insert(POOL_LABEL.to_owned(), "true".to_owned()))
        });
    }
    world.define("cats:1", |_| {});
    world.service("cats", "cats:1", 4);
    world.settle();
    assert_eq!(world.running(), ["both", "own", "own", "own"]);
    let key = world.model.services.keys().next().unwrap().clone();
    Arc::make_mut(world.model.services.get_mut(&key).unwrap()).value.service.spec.launch_type =
        LaunchType::Pool;
    world.settle();
    assert!(
        world.running().iter().all(|node| node == "shared" || node == "both"),
        "{:?}",
        world.running()
    );
}

#[test]
fn a_lost_node_is_replaced_once_and_the_original_stays_when_it_comes_back() {
    let mut world = World::new();
    for node in ["n1", "n2"] {
        world.node(node, "a", 4000, 4096);
    }
    world.define("cats:1", |_| {});
    world.service("cats", "cats:1", 2);
    world.settle();
    let originals: BTreeSet<String> = world.tasks().map(|record| record.id().to_string()).collect();
    world.is("n1", NodeCondition::Suspect);
    assert_eq!(world.step(), [""; 0], "silence alone moves nothing");
    world.is("n1", NodeCondition::Disconnected);
    let steps = world.step();
    assert_eq!(steps.iter().filter(|step| step.starts_with("start")).count(), 1, "{steps:?}");
    world.act();
    assert_eq!(world.step(), [""; 0], "replaced once");
    assert_eq!(world.running(), ["n2", "n2"]);
    world.is("n1", NodeCondition::Ready);
    world.act(); // its task ran all the time
    assert_eq!(world.running(), ["n1", "n2", "n2"]);
    world.settle();
    let kept: BTreeSet<String> = world
        .tasks()
        .filter(|record| record.task.status.phase == TaskPhase::Running)
        .map(|record| record.id().to_string())
        .collect();
    assert_eq!(kept, originals);
}

#[test]
fn a_removed_node_ends_its_tasks_and_they_are_replaced_without_a_wait() {
    let mut world = World::new();
    world.node("n1", "a", 4000, 4096);
    world.node("n2", "b", 4000, 4096);
    world.define("cats:1", |_| {});
    world.service("cats", "cats:1", 2);
    world.settle();
    world.model.nodes.remove(&"n1".parse::<NodeId>().unwrap());
    world.settle();
    assert_eq!(world.running(), ["n2", "n2"]);
}

#[test]
fn failures_in_a_row_wait_longer_and_longer() {
    let mut world = World::new();
    world.node("n1", "a", 4000, 4096);
    world.define("cats:1", |_| {});
    world.service("cats", "cats:1", 1);
    world.settle();
    for wait in [0, 1, 2, 4, 8, 16, 32, 60, 60] {
        world.end("exit code 1");
        if wait > 0 {
            world.now += wait * 1000 - 1;
            world.settle();
            assert_eq!(world.running(), [""; 0], "{wait} s have not passed");
            assert!(
                world.why().contains("times in a row and waits to be started again: exit code 1"),
                "{}",
                world.why()
            );
            world.now += 1;
        }
        world.settle();
        assert_eq!(world.running(), ["n1"], "after {wait} s");
    }
    world.now += 61_000;
    world.end("exit code 1");
    world.settle();
    assert_eq!(world.running(), ["n1"], "who ran for a minute starts afresh");
}

#[test]
fn a_copy_that_cannot_start_on_a_node_is_tried_on_another() {
    let mut world = World::new();
    for node in ["n1", "n2", "n3"] {
        world.node(node, "a", 4000, 4096);
    }
    world.define("cats:1", |_| {});
    world.service("cats", "cats:1", 1);
    // Its node gives up, later than a copy takes to count as steady.
    let fail = |world: &mut World| {
        let starting = world
            .tasks()
            .find(|record| record.task.status.phase == TaskPhase::Starting)
            .unwrap()
            .clone();
        world.now += 90_000;
        world.keep(&starting.at(
            TaskPhase::Stopped,
            Some("it cannot be fetched".to_owned()),
            world.now(),
        ));
        starting.task.spec.node.unwrap().to_string()
    };
    let mut tried = Vec::new();
    for wait in [0, 0, 1, 2] {
        world.now += wait * 1000;
        assert_eq!(world.step().len(), 1, "after {tried:?}");
        tried.push(fail(&mut world));
    }
    let (three, again) = tried.split_at(3);
    assert_eq!(BTreeSet::from_iter(three).len(), 3, "each once: {tried:?}");
    assert_eq!(world.step(), [""; 0], "and then it waits longer and longer");
    assert!(
        world.why().contains("failed 4 times in a row and waits to be started again"),
        "{}",
        world.why()
    );
    assert_eq!(again, &three[..1], "with nowhere else left, any will do: {tried:?}");
    // After a while the node is as good as any.
    world.now += 301_000;
    for node in ["n2", "n3"] {
        world.edit_node(node, |n| n.drain = true);
    }
    world.settle();
    assert_eq!(world.running(), ["n1"]);
    // One that ran and ended stays where it was.
    world.edit_node("n2", |n| n.drain = false);
    world.end("exit code 1");
    world.now += 60_000;
    world.settle();
    assert_eq!(world.running(), ["n1"]);
}

#[test]
fn a_new_revision_replaces_the_old_one_without_a_gap() {
    let mut world = World::new();
    world.node("n1", "a", 4000, 4096);
    world.define("cats:1", |_| {});
    world.define("cats:2", |_| {});
    world.service("cats", "cats:1", 3);
    world.settle();
    world.service("cats", "cats:2", 3);
    for _ in 0..10 {
        let plan = world.plan();
        world.apply(&plan);
        let serving = world
            .tasks()
            .filter(|r| r.task.status.phase == TaskPhase::Running && r.is_wanted())
            .count();
        assert!(serving >= 3, "{serving} copies serve");
        world.act();
    }
    let revisions: BTreeSet<String> = world
        .tasks()
        .filter(|record| record.task.status.phase == TaskPhase::Running)
        .map(|record| record.task.spec.task_definition.to_string())
        .collect();
    assert_eq!(revisions, BTreeSet::from(["cats:2".to_owned()]));
}

#[test]
fn without_room_for_both_the_old_one_makes_way_one_copy_at_a_time() {
    let mut world = World::new();
    for node in ["n1", "n2"] {
        world.node(node, "a", 4000, 4096);
    }
    for id in ["cats:1", "cats:2"] {
        world.define(id, with_port);
    }
    world.service("cats", "cats:1", 2);
    world.settle();
    world.service("cats", "cats:2", 2);
    for _ in 0..20 {
        let plan = world.plan();
        world.apply(&plan);
        let serving = world
            .tasks()
            .filter(|r| r.task.status.phase == TaskPhase::Running && r.is_wanted())
            .count();
        assert!(serving >= 1, "one copy always serves");
        world.act();
    }
    world.settle();
    let live = world.tasks().filter(|record| record.is_wanted());
    assert!(
        live.into_iter().all(|record| record.task.spec.task_definition.to_string() == "cats:2")
    );
    assert_eq!(world.running(), ["n1", "n2"]);
}

#[test]
fn tasks_follow_their_volume_and_never_write_to_it_together() {
    let mut world = World::new();
    for node in ["n1", "n2"] {
        world.node(node, "a", 4000, 4096);
    }
    for id in ["book:1", "book:2"] {
        world.define(id, with_volume);
    }
    world.service("book", "book:1", 1);
    world.settle();
    let home = world.running();
    let volume = world.model.volumes.values().next().unwrap().node.to_string();
    assert_eq!(home, std::slice::from_ref(&volume));
    world.service("book", "book:2", 1);
    for _ in 0..10 {
        let plan = world.plan();
        world.apply(&plan);
        let writers = world.tasks().filter(|record| !record.has_ended()).count();
        assert!(writers <= 1, "two writers");
        world.act();
    }
    assert_eq!(world.running(), home);
    world.edit_node(&volume, |n| n.drain = true);
    world.settle();
    assert_eq!(world.running(), home, "a volume cannot move, so its task stays on a drained node");
    world.edit_node(&volume, |n| n.drain = false);
    world.is(&volume, NodeCondition::Disconnected);
    world.settle();
    assert_eq!(world.running(), [""; 0], "nobody else may write while its node could");
    assert_eq!(world.why(), "the task before it still has its volume");
    world.is(&volume, NodeCondition::Ready);
    world.settle();
    assert_eq!(world.running(), home);
}

#[test]
fn an_old_copy_makes_no_way_for_one_whose_secret_is_not_there() {
    let mut world = World::new();
    world.node("n1", "a", 4000, 4096);
    world.define("book:1", with_volume);
    world.define("book:2", |record| {
        with_volume(record);
        record.definition.role.allow.push("secret:key".parse().unwrap());
    });
    world.service("book", "book:1", 1);
    world.settle();
    let version = |world: &World| -> Vec<String> {
        world
            .tasks()
            .filter(|record| record.is_wanted())
            .map(|r| r.task.spec.task_definition.to_string())
            .collect()
    };
    world.service("book", "book:2", 1);
    world.settle();
    assert_eq!(version(&world), ["book:1"]);
    assert_eq!(
        world.why(),
        "there is no secret `key`, which its role grants: margay secret create key FILE"
    );
    world.model.secrets.insert(("other".parse().unwrap(), "key".parse().unwrap()));
    world.settle();
    assert_eq!(version(&world), ["book:1"], "the secret of another tenant");
    world.model.secrets.insert((tenant(), "key".parse().unwrap()));
    world.settle();
    assert_eq!((version(&world), world.why()), (vec!["book:2".to_owned()], String::new()));
}

#[test]
fn one_volume_has_one_writer_whoever_they_are_and_any_number_of_readers() {
    let mut world = World::new();
    world.node("n1", "a", 4000, 4096);
    world.define("ann:1", with_volume);
    world.define("bob:1", |record| {
        // By a line of its role instead of a mount: the same volume.
        record.definition.role.allow.push("fs:/data#rw;volume=book".parse().unwrap());
    });
    world.define("eve:1", |record| {
        with_volume(record);
        record.definition.containers[0].mounts[0].read_only = true;
    });
    world.service("ann", "ann:1", 1);
    world.service("bob", "bob:1", 1);
    world.service("eve", "eve:1", 2);
    world.settle();
    let names = |world: &World| {
        let running = world.tasks().filter(|record| record.task.status.phase == TaskPhase::Running);
        running
            .map(|record| record.task.spec.service.as_ref().unwrap().to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&world), ["ann", "eve", "eve"]);
    let why = world.why();
    assert!(why.starts_with("volume `book` is written to by task `ann-0-"), "{why}");
    assert!(why.ends_with("stop that one, or mount it with `read_only = true`"), "{why}");
    // A replacement of the one that waits takes nothing away from the one that writes.
    world.define("bob:2", with_volume);
    world.service("bob", "bob:2", 1);
    world.settle();
    assert_eq!(names(&world), ["ann", "eve", "eve"]);
    world.service("ann", "ann:1", 0);
    world.settle();
    assert_eq!(names(&world), ["bob", "eve", "eve"]);
    // And the line leads to the volume's node as a mount does.
    world.service("bob", "bob:1", 0);
    world.settle();
    world.edit_node("n1", |n| n.drain = true);
    world.node("n2", "a", 4000, 4096);
    world.service("bob", "bob:1", 1);
    world.settle();
    assert_eq!(names(&world), ["eve", "eve"]);
    assert!(world.why().starts_with("every node that could take it is drained"), "{}", world.why());
}

#[test]
fn a_drained_node_is_left_without_a_gap() {
    let mut world = World::new();
    for node in ["n1", "n2"] {
        world.node(node, "a", 4000, 4096);
    }
    world.define("cats:1", |_| {});
    world.service("cats", "cats:1", 2);
    world.settle();
    world.edit_node("n1", |n| n.drain = true);
    world.settle();
    assert_eq!(world.running(), ["n2", "n2"]);
    world.edit_node("n2", |n| n.drain = true);
    world.settle();
    assert_eq!(world.running(), ["n2", "n2"], "what runs keeps running when there is nowhere else");
}

#[test]
fn a_deleted_service_ends_its_tasks_and_they_are_forgotten_after_an_hour() {
    let mut world = World::new();
    world.node("n1", "a", 4000, 4096);
    world.define("cats:1", |_| {});
    world.service("cats", "cats:1", 2);
    world.settle();
    world.model.services.clear();
    world.settle();
    assert_eq!(world.tasks().filter(|record| record.has_ended()).count(), 2);
    world.now += 3_600_001;
    world.settle();
    assert_eq!(world.tasks().count(), 0);
}

/// A small generator of numbers that look random: the same seed, the same world.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// What must hold in every world, whatever happened to it.
fn check(world: &World, seed: u64) {
    for (id, node) in &world.model.nodes {
        let here: Vec<&DefinitionRecord> = world
            .tasks()
            .filter(|record| record.task.spec.node.as_ref() == Some(id) && !record.has_ended())
            .filter_map(|record| world.model.definition_of(record).map(|definition| &**definition))
            .collect();
        let cpu: u64 = here.iter().map(|definition| room::reserved(definition).0).sum();
        let memory: u64 = here.iter().map(|definition| room::reserved(definition).1).sum();
        let ports: Vec<u16> =
            here.iter().flat_map(|definition| room::host_ports(definition)).collect();
        let different: BTreeSet<&u16> = ports.iter().collect();
        assert!(
            cpu <= u64::from(node.spec.capacity.cpu_millis),
            "seed {seed}: {id} promises {cpu} millis"
        );
        assert!(
            memory <= node.spec.capacity.memory_bytes,
            "seed {seed}: {id} promises {memory} bytes"
        );
        assert_eq!(different.len(), ports.len(), "seed {seed}: {id} gives a port twice");
    }
    let mut writers: BTreeMap<VolumeName, usize> = BTreeMap::new();
    for record in
        world.tasks().filter(|record| !record.has_ended() && record.task.spec.node.is_some())
    {
        for volume in world
            .model
            .definition_of(record)
            .into_iter()
            .flat_map(|definition| definition.written())
        {
            *writers.entry(volume.clone()).or_default() += 1;
        }
    }
    assert!(writers.values().all(|count| *count <= 1), "seed {seed}: {writers:?}");
}

#[test]
fn random_worlds_keep_their_promises_and_settle() {
    for seed in 1..=400 {
        let mut dice = Dice(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        let mut world = World::new();
        for n in 0..1 + dice.below(6) {
            let zone = format!("z{}", dice.below(3));
            world.node(
                &format!("n{n}"),
                &zone,
                500 + dice.below(4000) as u32,
                128 + dice.below(2048),
            );
        }
        for d in 0..3u32 {
            let (cpu, memory) = (50 + dice.below(600) as u32, 8 + dice.below(256));
            let kind = if d == 2 { 2 } else { dice.below(3) };
            for revision in 1..=2 {
                world.define(&format!("d{d}:{revision}"), |record| {
                    reserve(cpu, memory)(record);
                    match kind {
                        0 => {}
                        1 => with_port(record),
                        _ => with_volume(record),
                    }
                });
            }
        }
        for _ in 0..40 {
            let d = dice.below(3);
            match dice.below(9) {
                0 | 1 => {
                    let count = if d == 2 { dice.below(2) } else { dice.below(8) };
                    world.service(
                        &format!("s{d}"),
                        &format!("d{d}:{}", 1 + dice.below(2)),
                        count as u32,
                    );
                }
                2 => {
                    let node = format!("n{}", dice.below(world.model.nodes.len() as u64));
                    let condition =
                        [NodeCondition::Ready, NodeCondition::Suspect, NodeCondition::Disconnected];
                    world.is(&node, condition[dice.below(3) as usize]);
                }
                3 if !world.running().is_empty() => world.end("exit code 1"),
                4 => {
                    let (node, drain) = (
                        format!("n{}", dice.below(world.model.nodes.len() as u64)),
                        dice.below(2) == 0,
                    );
                    world.edit_node(&node, |record| record.drain = drain);
                }
                5 => world.now += dice.below(70_000),
                6 => drop(world.model.services.remove(&(
                    tenant(),
                    "main".parse().unwrap(),
                    format!("s{d}").parse().unwrap(),
                ))),
                _ => world.act(),
            }
            world.step();
            check(&world, seed);
        }
        for node in world.model.nodes.keys().cloned().collect::<Vec<_>>() {
            world.is(node.as_str(), NodeCondition::Ready);
            world.edit_node(node.as_str(), |record| record.drain = false);
        }
        world.act();
        world.now += 61_000;
        world.settle();
        check(&world, seed);
        for (key, kept) in &world.model.services {
            let mine = |record: &&TaskRecord| {
                record.task.spec.service.as_ref() == Some(&key.2) && record.is_wanted()
            };
            let live = world.tasks().filter(mine).count();
            let waiting = world.plan().waiting.contains_key(&Subject::Service(key.clone()));
            let count = kept.value.service.spec.count as usize;
            assert!(
                live == count || (live < count && waiting),
                "seed {seed}: {live} of {count} copies of {key:?}"
            );
        }
    }
}
