//! Each file in `goldens/` is a script, with the plan that each of its lines (`> …`) leads to
//! below it. `UPDATE_GOLDEN=1` writes the plans anew.

use std::{fmt::Write as _, fs, path::PathBuf};

use spec::wire::RequestCounts;

use super::*;
use crate::plan::reason::Unplaceable;

#[test]
fn scripts_lead_to_their_golden_plans() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/plan/tests/goldens");
    let mut count = 0;
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let golden = fs::read_to_string(&path).unwrap();
        let mut cluster = TestCluster::new();
        let mut text = String::new();
        for line in golden.lines().filter(|line| line.starts_with(['>', '#'])) {
            writeln!(text, "{line}").unwrap();
            if let Some(command) = line.strip_prefix("> ") {
                cluster.command(command);
                text += &cluster.settle_printed();
            }
        }
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let golden = fs::read_to_string(&path).unwrap();
        assert_eq!(text, golden, "{}: UPDATE_GOLDEN=1 accepts the new plan", path.display());
        count += 1;
    }
    assert!(count >= 8, "{count} scripts");
}

/// `placement constraint zone == a; strategy binpack:memory`.
fn placement(line: &str) -> Placement {
    let mut placement = Placement::default();
    for part in line.trim_start_matches("placement").split(';').filter(|part| !part.is_empty()) {
        let (what, value) = part.trim().split_once(' ').unwrap();
        match what {
            "constraint" => placement.constraints.push(value.parse().unwrap()),
            "prefer" => placement.preferences.push(value.parse().unwrap()),
            "strategy" => placement.strategies.push(value.parse().unwrap()),
            "tolerate" => placement.tolerations.push(value.parse().unwrap()),
            "rebalance" => placement.rebalance = value == "true",
            "provider" => placement.capacity_providers.push(value.parse().unwrap()),
            _ => panic!("no placement `{what}`"),
        }
    }
    placement
}

impl TestCluster {
    fn command(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (options, names): (Vec<&str>, Vec<&str>) =
            words.into_iter().partition(|word| word.contains('='));
        let option = |name: &str| {
            options.iter().filter_map(|word| word.split_once('=')).find(|(key, _)| *key == name)
        };
        let number = |name: &str, default: u32| {
            option(name).map_or(default, |(_, value)| value.parse().unwrap())
        };
        match names.as_slice() {
            ["node", name] => {
                let (zone, mib) = (option("zone").map_or("a", |(_, zone)| zone), 4096);
                self.node(name, zone, number("cpu", 4) * 1000, number("memory_mib", mib).into());
            }
            ["define", id] => {
                let (cpu, memory) = (number("cpu_millis", 0), number("memory_mib", 0));
                self.define(id, |record| {
                    reserve(cpu, memory.into())(record);
                    if option("task_cpu_millis").is_some() {
                        record.definition.cpu_millis = Some(number("task_cpu_millis", 0));
                    }
                    if option("port").is_some() {
                        with_port(record);
                    }
                    if option("volume").is_some() {
                        with_volume(record);
                    }
                    if let Some((_, name)) = option("secret") {
                        record
                            .definition
                            .role
                            .allow
                            .push(format!("secret:{name}").parse().unwrap());
                    }
                    if let Some((_, architecture)) = option("native") {
                        record.runs = vec![Runs::Native(vec![architecture.to_owned()])];
                    }
                });
            }
            ["service", name, count] => {
                self.define_cats();
                let id = option("of").map_or("cats:1", |(_, id)| id);
                self.service(name, id, count.parse().unwrap());
            }
            ["delete", name] => {
                let key = (tenant(), "main".parse().unwrap(), name.parse().unwrap());
                self.model.services.remove(&key).unwrap();
            }
            ["secret", name] => {
                self.model.secrets.insert((tenant(), name.parse().unwrap()));
            }
            ["bad", id, ..] => {
                let why = names[2..].join(" ");
                self.bad.insert(id.parse().unwrap(), why);
            }
            ["good", id] => drop(self.bad.remove(&id.parse::<TaskDefinitionId>().unwrap())),
            ["settings"] => {
                self.settings = DeploymentSettings {
                    minimum_healthy_percent: number("min", 100),
                    maximum_percent: number("max", 200),
                    circuit_breaker: option("no-breaker").is_none(),
                    rollback: option("no-rollback").is_none(),
                    deadline_seconds: number("deadline", 600),
                    strategy: option("strategy").map_or("rolling", |(_, it)| it).parse().unwrap(),
                    canary_percent: number("canary", 5),
                    step_percent: number("step", 10),
                    step_bake_seconds: number("step-bake", 300),
                    bake_seconds: number("bake", 300),
                    failed_requests_percent_max: number("failed-max", 5),
                };
            }
            ["requests", id, requests, failed] => {
                self.ask(&id.parse().unwrap(), requests.parse().unwrap(), failed.parse().unwrap());
            }
            ["promote", name] => self.edit_service(name, |service, now| {
                service.promote(RequestCounts::default(), now);
            }),
            ["crash", id] => self.crash(&id.parse().unwrap()),
            ["daemon", name] => {
                let usual = self.spec.clone();
                self.spec.scheduling = SchedulingStrategy::Daemon;
                self.define_cats();
                self.service(name, option("of").map_or("cats:1", |(_, id)| id), 0);
                self.spec = usual;
            }
            ["placement", ..] => self.spec.placement = placement(line),
            ["priority", number] => self.spec.priority = number.parse().unwrap(),
            ["rebalance", name] => {
                self.edit_service(name, |service, now| service.begin_rebalancing(now));
            }
            ["idle", name] => {
                let is_its = |task: &&TaskRecord| {
                    task.task.spec.service.as_ref().is_some_and(|service| service.as_str() == *name)
                };
                let idle = self.tasks().filter(is_its).map(TaskRecord::key).collect();
                self.observed.idle = idle;
            }
            ["pool", node] => self.edit_node(node, |node| {
                node.tenant = None;
                node.spec.labels.insert(POOL_LABEL.to_owned(), "true".to_owned());
            }),
            ["cordon", node] => self.edit_node(node, |node| node.cordoned = true),
            ["pressure", node, kind] => {
                let kind = serde_json::from_value(serde_json::Value::from(*kind)).unwrap();
                self.observed.under_pressure.insert(node.parse().unwrap(), kind);
            }
            ["relief", node] => {
                self.observed.under_pressure.remove(&node.parse::<NodeId>().unwrap());
            }
            ["uncordon", node] => self.edit_node(node, |node| node.cordoned = false),
            ["taint", node, taint] => {
                self.edit_node(node, |node| node.taints.push(taint.parse().unwrap()));
            }
            ["untaint", node] => self.edit_node(node, |node| node.taints.clear()),
            ["label", node] => {
                let labels = options.iter().filter_map(|word| word.split_once('='));
                let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
                self.edit_node(node, |node| node.labels.extend(labels));
            }
            ["drain", node, "within", seconds] => {
                let seconds: u64 = seconds.parse().unwrap();
                let deadline = Timestamp::from_millis(self.now + seconds * 1000);
                self.edit_node(node, |node| {
                    (node.drain, node.drain_deadline) = (true, Some(deadline));
                });
            }
            ["pause", name] => self.edit_service(name, |service, now| service.pause(true, now)),
            ["resume", name] => self.edit_service(name, |service, now| service.pause(false, now)),
            ["suspect", node] => self.is(node, NodeCondition::Suspect),
            ["lose", node] => self.is(node, NodeCondition::Disconnected),
            ["return", node] => {
                self.is(node, NodeCondition::Ready);
                self.act();
            }
            ["drain", node] => self.edit_node(node, |node| node.drain = true),
            ["undrain", node] => self.edit_node(node, |node| node.drain = false),
            ["remove", node] => {
                self.model.nodes.remove(&node.parse::<NodeId>().unwrap()).unwrap();
            }
            ["wait", seconds] => self.now += seconds.parse::<u64>().unwrap() * 1000,
            ["fail"] => self.end("exit code 1"),
            _ => panic!("no command `{line}`"),
        }
    }

    /// So many requests more for the first task of a revision that serves.
    fn ask(&mut self, id: &TaskDefinitionId, requests: u64, failed: u64) {
        let task =
            self.tasks().find(|task| task.task.spec.task_definition == *id && task.is_routable());
        let task = task.unwrap();
        let (node, key) = (task.task.spec.node.clone().unwrap(), task.key());
        let counts = self.observed.requests.entry(node).or_default().entry(key).or_default();
        counts.requests += requests;
        counts.failed_requests += failed;
    }

    /// A container of the first task of a revision ends, and its node starts it again.
    fn crash(&mut self, id: &TaskDefinitionId) {
        let task =
            self.tasks().find(|task| task.task.spec.task_definition == *id && task.is_routable());
        let task = task.unwrap().clone();
        let restarts = task.task.status.containers.first().map_or(0, |one| one.restarts);
        let mut status = task.task.status.clone();
        let fresh = ContainerStatus { health: None, reason: None, ..unhealthy("") };
        status.containers = vec![ContainerStatus { restarts: restarts + 1, ..fresh }];
        self.keep(&task.with(status, self.now()));
    }

    fn define_cats(&mut self) {
        if !self.model.definitions.contains_key(&(tenant(), "cats:1".parse().unwrap())) {
            self.define("cats:1", |_| {});
        }
    }

    /// Plans, applies and acts until nothing moves: every step, and then what waits for what.
    fn settle_printed(&mut self) -> String {
        let mut text = String::new();
        loop {
            let plan = self.plan();
            for step in &plan.steps {
                writeln!(text, "  {step}").unwrap();
            }
            self.apply(&plan);
            self.act();
            if plan.steps.is_empty() {
                for (subject, reason) in &plan.waiting {
                    let name = match subject {
                        Subject::Service((_, _, name)) => name.to_string(),
                        Subject::Task((_, id)) => id.to_string(),
                    };
                    writeln!(text, "  {name} waits: {reason}").unwrap();
                    if let Waiting::Unplaceable(Unplaceable::NoFit { nodes, .. }) = reason {
                        for (node, lack) in nodes {
                            writeln!(text, "    {node} {lack}").unwrap();
                        }
                    }
                }
                return text;
            }
        }
    }
}
