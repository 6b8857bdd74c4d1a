use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use spec::{
    ContainerDefinition, ContainerHealth, ContainerPhase, ContainerStatus, DeploymentSettings,
    Digest, LaunchType, Mount, NodeSpec, Placement, PortMapping, Resources, SchedulingStrategy,
    Service, ServiceSpec, ServiceStatus, TaskDefinition, TaskDefinitionId, TaskPhase, TaskStatus,
    Tenant, Usage, VolumeClaim, VolumeName,
};

mod claims; // one test for each claim about plans
mod properties; // what holds after any history
mod script; // plans from short scripts, compared with golden files

use super::*;
use crate::state::{
    objects::Runs,
    records::{DefinitionRecord, NodeRecord, POOL_LABEL, ServiceRecord},
};

/// Applies plans as the store would; its nodes do as they are told when asked to.
struct TestCluster {
    model: Model,
    /// What nodes and tasks are seen to do.
    observed: Observed,
    now: u64,
    /// Of services that are made or changed from now on.
    settings: DeploymentSettings,
    /// The rest of what is asked of them.
    spec: ServiceSpec,
    /// Revisions whose tasks never become ready, and what their nodes say about them.
    bad: BTreeMap<TaskDefinitionId, String>,
}

const T: &str = "acme";

fn tenant() -> Tenant {
    T.parse().unwrap()
}

impl TestCluster {
    fn new() -> Self {
        let spec =
            serde_json::json!({ "task_definition": "cats:1", "count": 0, "launch_type": "node" });
        let mut cluster = Self {
            model: Model::default(),
            observed: Observed::default(),
            now: 1_000_000,
            settings: DeploymentSettings::default(),
            spec: serde_json::from_value(spec).unwrap(),
            bad: BTreeMap::new(),
        };
        cluster.model.clusters.insert((tenant(), "main".parse().unwrap()));
        cluster
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
            version: String::new(),
        };
        let id: NodeId = name.parse().unwrap();
        let record = NodeRecord {
            id: id.clone(),
            tenant: Some(tenant()),
            spec,
            joined: self.now(),
            drain: false,
            drain_deadline: None,
            cordoned: false,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            certificates: Vec::new(),
        };
        self.model.nodes.insert(id.clone(), Arc::new(record));
        self.observed.conditions.insert(id, NodeCondition::Ready);
    }

    fn edit_node(&mut self, name: &str, edit: impl FnOnce(&mut NodeRecord)) {
        let node = self.model.nodes.get_mut(&name.parse::<NodeId>().unwrap()).unwrap();
        edit(Arc::make_mut(node));
    }

    fn is(&mut self, node: &str, condition: NodeCondition) {
        self.observed.conditions.insert(node.parse().unwrap(), condition);
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
            placement_constraints: Vec::new(),
            cpu_millis: None,
            memory_bytes: None,
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
        let before = self.model.services.get(&key);
        let create_rev = before.map_or(rev, |stored| stored.create_rev);
        let generation = before.map_or(0, |stored| stored.value.service.generation);
        let before = before.map(|stored| stored.value.clone());
        let service = Service {
            name: key.2.clone(),
            cluster: key.1.clone(),
            created: self.now(),
            spec: ServiceSpec {
                task_definition: definition.parse().unwrap(),
                count,
                launch_type: LaunchType::Node,
                deployment: self.settings,
                ..self.spec.clone()
            },
            generation: generation + 1,
            status: ServiceStatus::default(),
        };
        let mut value = match before {
            Some(before) => ServiceRecord { service, ..before },
            None => ServiceRecord::new(service),
        };
        if value.deployment().is_none() {
            value.begin(None, self.now());
        }
        let stored = Stored { value, mod_rev: rev, create_rev };
        self.model.services.insert(key, Arc::new(stored));
    }

    fn edit_service(&mut self, name: &str, edit: impl FnOnce(&mut ServiceRecord, Timestamp)) {
        let key = (tenant(), "main".parse().unwrap(), name.parse().unwrap());
        let now = self.now();
        edit(&mut Arc::make_mut(self.model.services.get_mut(&key).unwrap()).value, now);
    }

    fn plan(&self) -> Plan {
        plan(&self.model, &self.observed, self.now())
    }

    fn apply(&mut self, plan: &Plan) {
        self.observed.waiting = plan.waiting.clone();
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
                Step::Service { key, service, .. } => {
                    self.model.rev += 1;
                    let (value, mod_rev) = ((**service).clone(), self.model.rev);
                    let create_rev = self.model.services[key].create_rev;
                    let stored = Stored { value, mod_rev, create_rev };
                    self.model.services.insert(key.clone(), Arc::new(stored));
                }
                Step::NodeGroup { .. } => unreachable!("scripts have no node groups"),
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
            .insert(key, Arc::new(Stored { value: record.clone(), mod_rev: rev, create_rev: rev }));
    }

    /// Plans, applies, and shows the steps; the same again must plan nothing.
    fn step(&mut self) -> Vec<String> {
        let plan = self.plan();
        self.apply(&plan);
        // A deployment may be completed by what was just applied.
        let rest = self.plan().steps;
        let rest = rest.iter().filter(|step| !matches!(step, Step::Service { .. }));
        let rest: Vec<String> = rest.map(Step::to_string).collect();
        let steps: Vec<String> = plan.steps.iter().map(Step::to_string).collect();
        assert!(
            rest.is_empty(),
            "the plan {steps:?} with {:?} leaves {rest:?}",
            plan.waiting.values().collect::<Vec<_>>()
        );
        steps
    }

    /// Nodes in touch start what they should and end what they should.
    fn act(&mut self) {
        let records: Vec<TaskRecord> =
            self.model.tasks.values().map(|stored| stored.value.clone()).collect();
        for record in records.into_iter().filter(|record| !record.has_ended()) {
            let node = record.task.spec.node.as_ref();
            if node.is_some_and(|node| {
                self.observed.conditions.get(node) == Some(&NodeCondition::Ready)
            }) {
                let (id, phase) = match record.task.spec.stop {
                    true => (None, TaskPhase::Stopped),
                    false => (Some(&record.task.spec.task_definition), TaskPhase::Running),
                };
                let mut status =
                    TaskStatus { phase, ready: Some(true), ..record.task.status.clone() };
                if let Some(why) = id.and_then(|id| self.bad.get(id)) {
                    status.ready = Some(false);
                    status.containers = vec![unhealthy(why)];
                }
                self.keep(&record.with(status, self.now()));
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
            "the cluster never settles: {:?}",
            self.plan().steps.iter().map(Step::to_string).collect::<Vec<_>>()
        );
    }

    fn tasks(&self) -> impl Iterator<Item = &TaskRecord> {
        self.model.tasks.values().map(|stored| &stored.value)
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
        self.plan().waiting.values().map(Waiting::to_string).collect::<Vec<_>>().join("; ")
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

fn unhealthy(why: &str) -> ContainerStatus {
    ContainerStatus {
        name: "app".parse().unwrap(),
        image: Digest::of(b"cats"),
        phase: ContainerPhase::Running,
        exit_code: None,
        reason: Some(why.to_owned()),
        health: Some(ContainerHealth::Unhealthy),
        idle: false,
        restarts: 0,
        ports: Vec::new(),
        usage: Usage::default(),
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
