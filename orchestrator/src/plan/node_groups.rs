//! What becomes of a node group: one pure function over what it was and what is seen of its nodes.

use std::{collections::BTreeMap, time::Duration};

use spec::{
    Digest, NodeCondition, NodeGroupName, NodeId, NodeSpec, Resources, SchedulingStrategy,
    ServiceEvent, Timestamp,
};

use super::{
    Step,
    capacity::{NodeCapacity, PlacementRequest},
    draft::Draft,
    reason::{Lack, Unplaceable},
};
use crate::{
    limits::{
        GROUP_BACK_OFF_MAX, GROUP_BACK_OFF_MIN, GROUP_DRAIN_TIME, GROUP_LOST_AFTER,
        GROUP_MACHINES_PER_HOUR, NODE_CPU_MILLIS_MAX, NODE_MEMORY_BYTES_MAX, SERVICE_EVENTS_MAX,
    },
    state::{
        model::Model,
        node_groups::{GroupMachine, MachineState, NODE_GROUP_LABEL, NodeGroup, PROTECTION_LABEL},
        objects::Runs,
        records::{NodeRecord, POOL_LABEL},
    },
};

const HOUR: Duration = Duration::from_secs(3600);

/// What is seen of a node of a group.
#[derive(Debug, Clone)]
pub(crate) struct GroupNode {
    pub condition: NodeCondition,
    /// Without those of daemons, which every node has.
    pub tasks: usize,
    pub is_protected: bool,
    pub spec: NodeSpec,
}

/// What is seen of a group.
#[derive(Debug, Clone, Default)]
pub(crate) struct GroupSeen {
    pub nodes: BTreeMap<NodeId, GroupNode>,
    /// Whether a task waits that would fit on another node of it.
    pub is_wanted: bool,
}

/// The pause after so many failures in a row.
pub(crate) fn back_off(failures: u32) -> Duration {
    GROUP_BACK_OFF_MIN
        .saturating_mul(1 << failures.saturating_sub(1).min(16))
        .min(GROUP_BACK_OFF_MAX)
}

/// What becomes of `group`, if anything.
pub(crate) fn after(group: &NodeGroup, seen: &GroupSeen, now: Timestamp) -> Option<NodeGroup> {
    let mut next = group.clone();
    next.asked.retain(|asked| now.since(*asked) < HOUR);
    for index in 0..next.machines.len() {
        let node = seen.nodes.get(&next.machines[index].node);
        next.follow(index, node, now);
    }
    next.spec.desired = next.spec.desired.clamp(next.spec.min, next.spec.max);
    if next.spec.managed_scaling {
        next.scale(seen, now);
    }
    match next.size().cmp(&next.spec.desired) {
        std::cmp::Ordering::Less => next.add(now),
        std::cmp::Ordering::Equal => {}
        std::cmp::Ordering::Greater => next.shrink(seen, now),
    }
    (next != *group).then_some(next)
}

impl NodeGroup {
    /// Writes down what happened to it.
    pub(crate) fn tell(&mut self, message: String, now: Timestamp) {
        self.events.insert(0, ServiceEvent { at: now, message });
        self.events.truncate(SERVICE_EVENTS_MAX);
    }

    /// A machine could not be added: the next one waits, and this one is given back.
    pub(crate) fn give_back(&mut self, node: &NodeId, why: &str, now: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        self.retry_after = Some(later(now, back_off(self.failures)));
        if let Some(machine) = self.machines.iter_mut().find(|machine| machine.node == *node) {
            machine.enter(MachineState::Removing, now);
        }
        self.tell(format!("`{node}` {why}: it is given back"), now);
    }

    /// What a machine has come to.
    fn follow(&mut self, index: usize, node: Option<&GroupNode>, now: Timestamp) {
        let join_time = Duration::from_secs(self.spec.join_seconds.into());
        let machine = &mut self.machines[index];
        let (id, age) = (machine.node.clone(), now.since(machine.since));
        match (machine.state, node) {
            (MachineState::Requested | MachineState::Starting, Some(node)) => {
                machine.enter(MachineState::Ready, now);
                (self.failures, self.retry_after) = (0, None);
                self.template = Some(node.spec.clone());
                self.tell(format!("`{id}` has joined after {} s", age.as_secs()), now);
            }
            (MachineState::Requested | MachineState::Starting, None) if age >= join_time => {
                self.give_back(&id, &format!("has not joined within {} s", age.as_secs()), now);
            }
            (MachineState::Ready, None) => {
                machine.enter(MachineState::Removing, now);
                self.tell(format!("node `{id}` was removed, and so is its machine"), now);
            }
            (MachineState::Ready, Some(node)) => {
                let is_lost = node.condition == NodeCondition::Disconnected;
                let is_unused = node.tasks == 0 && !is_lost;
                machine.lost_since = is_lost.then(|| machine.lost_since.unwrap_or(now));
                machine.unused_since = is_unused.then(|| machine.unused_since.unwrap_or(now));
                if machine.lost_since.is_some_and(|at| now.since(at) >= GROUP_LOST_AFTER) {
                    machine.enter(MachineState::Removing, now);
                    self.tell(format!("node `{id}` is lost, and its machine is replaced"), now);
                }
            }
            (MachineState::Draining, node) => {
                let is_done = node.is_none_or(|node| node.tasks == 0) || age >= GROUP_DRAIN_TIME;
                if is_done {
                    machine.enter(MachineState::Removing, now);
                }
            }
            (MachineState::Requested | MachineState::Starting | MachineState::Removing, _) => {}
        }
    }

    /// How many machines tasks ask for: one more at a time, or one less that nothing uses.
    fn scale(&mut self, seen: &GroupSeen, now: Timestamp) {
        let is_settled = self.machines.iter().all(|machine| machine.state == MachineState::Ready);
        let desired = self.spec.desired;
        if seen.is_wanted {
            if is_settled && self.size() == desired && desired < self.spec.max {
                self.spec.desired += 1;
                let desired = self.spec.desired;
                self.tell(format!("tasks wait for a node: {desired} are asked for"), now);
            }
            return;
        }
        let scale_in_after = Duration::from_secs(self.spec.scale_in_seconds.into());
        let is_unused = |machine: &&GroupMachine| {
            machine.unused_since.is_some_and(|at| now.since(at) >= scale_in_after)
                && seen.nodes.get(&machine.node).is_some_and(|node| !node.is_protected)
        };
        let unused = self.machines.iter().find(is_unused).map(|machine| machine.node.clone());
        if let (Some(node), true) = (unused, is_settled && desired > self.spec.min) {
            self.spec.desired -= 1;
            let seconds = scale_in_after.as_secs();
            self.tell(format!("`{node}` has had no tasks for {seconds} s: it is removed"), now);
            self.enter(&node, MachineState::Draining, now);
        }
    }

    /// One more, unless one is on its way or it is too early.
    fn add(&mut self, now: Timestamp) {
        let is_coming = self.machines.iter().any(|machine| machine.state.is_coming());
        let waits = self.retry_after.is_some_and(|at| at > now);
        if is_coming || waits || self.asked.len() >= GROUP_MACHINES_PER_HOUR {
            return;
        }
        self.made += 1;
        self.asked.push(now);
        let node = machine_name(&self.name, self.created, self.made);
        self.tell(format!("`{node}` is asked for"), now);
        self.machines.push(GroupMachine::new(node, now));
    }

    /// One less, while no other leaves: one that has not joined yet, or the one with the fewest
    /// tasks that is not protected.
    fn shrink(&mut self, seen: &GroupSeen, now: Timestamp) {
        if self.machines.iter().any(|machine| machine.state == MachineState::Draining) {
            return;
        }
        let rank = |machine: &&GroupMachine| {
            let node = seen.nodes.get(&machine.node);
            (machine.state == MachineState::Ready, node.map_or(0, |node| node.tasks))
        };
        let may_go = |machine: &&GroupMachine| {
            let node = seen.nodes.get(&machine.node);
            machine.state.counts() && node.is_none_or(|node| !node.is_protected)
        };
        let Some(machine) = self.machines.iter().filter(may_go).min_by_key(rank) else { return };
        let (node, is_ready) = (machine.node.clone(), machine.state == MachineState::Ready);
        let state = if is_ready { MachineState::Draining } else { MachineState::Removing };
        self.tell(format!("`{node}` is removed: {} are asked for", self.spec.desired), now);
        self.enter(&node, state, now);
    }

    fn enter(&mut self, node: &NodeId, state: MachineState, now: Timestamp) {
        let machine = self.machines.iter_mut().find(|machine| machine.node == *node);
        machine.into_iter().for_each(|machine| machine.enter(state, now));
    }
}

pub(crate) fn later(now: Timestamp, after: Duration) -> Timestamp {
    let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    Timestamp::from_millis(now.millis().saturating_add(millis))
}

/// No machine has the name of an earlier one, also not of a group that had the same name.
fn machine_name(group: &NodeGroupName, created: Timestamp, number: u64) -> NodeId {
    let hash = Digest::of(format!("{group}/{created}/{number}").as_bytes()).hex()[..8].to_owned();
    let stem: String = group.as_str().chars().take(40).collect();
    let stem = stem.trim_end_matches('-');
    format!("{stem}-{hash}").parse().expect("the start of a label and hex digits make a label")
}

impl Draft<'_> {
    /// The next step of each group.
    pub(super) fn plan_node_groups(&mut self) {
        for (name, stored) in &self.model.node_groups {
            let seen = GroupSeen {
                nodes: seen_nodes(self.model, self, &stored.value),
                is_wanted: self.wanted_groups.contains(name),
            };
            if let Some(next) = after(&stored.value, &seen, self.now) {
                let (group, based_on) = (Box::new(next), stored.mod_rev);
                self.plan.steps.push(Step::NodeGroup { group, based_on });
            }
        }
    }

    /// Why `request` waits, with the group that gives it a node, or would if it were larger.
    pub(super) fn with_group(
        &mut self,
        request: &PlacementRequest<'_>,
        why: Unplaceable,
    ) -> Unplaceable {
        if !matches!(why, Unplaceable::NoNode(_) | Unplaceable::NoFit { .. }) {
            return why;
        }
        let groups = self.model.node_groups.values().map(|stored| &stored.value);
        let mut groups: Vec<&NodeGroup> = groups.filter(|group| fits(group, request)).collect();
        groups.sort_by_key(|group| !has_room(group));
        let Some(group) = groups.first() else { return why };
        let (name, max) = (group.name.clone(), group.spec.max);
        match has_room(group) {
            true => {
                self.wanted_groups.insert(name.clone());
                Unplaceable::AwaitsGroup { group: name, why: Box::new(why) }
            }
            false => Unplaceable::GroupIsFull { group: name, max, why: Box::new(why) },
        }
    }
}

/// Whether it gets another node when one is wanted, or one is on its way.
fn has_room(group: &NodeGroup) -> bool {
    let NodeGroup { spec, .. } = group;
    spec.managed_scaling && spec.desired < spec.max
        || group.machines.iter().any(|machine| machine.state.is_coming())
        || group.size() < spec.desired
}

fn seen_nodes(model: &Model, draft: &Draft<'_>, group: &NodeGroup) -> BTreeMap<NodeId, GroupNode> {
    let seen = |machine: &GroupMachine| {
        let node = model.nodes.get(&machine.node)?;
        let of_services = model.tasks_on(&node.id).filter(|stored| {
            let service = stored.value.service_key().and_then(|key| model.services.get(&key));
            service.is_none_or(|service| {
                service.value.service.spec.scheduling == SchedulingStrategy::Replica
            })
        });
        let is_protected =
            node.all_labels().get(PROTECTION_LABEL).is_some_and(|value| value == "true");
        let seen = GroupNode {
            condition: draft.observed.condition(&node.id),
            tasks: of_services.count(),
            is_protected,
            spec: node.spec.clone(),
        };
        Some((node.id.clone(), seen))
    };
    group.machines.iter().filter_map(seen).collect()
}

/// Whether `request` would fit on a new node of `group`, by the same rules as on one that is there.
/// A group that has had no node yet is tried.
fn fits(group: &NodeGroup, request: &PlacementRequest<'_>) -> bool {
    let node = node_of(group, request);
    let capacity = NodeCapacity::unused(&node);
    let lack = capacity.lack(&capacity.left, 0, request, None);
    let is_unknown = group.template.is_none();
    capacity.offers(request)
        && match lack {
            None => true,
            Some(Lack::Constraint) => is_unknown,
            Some(_) => false,
        }
}

/// A node as the next one of `group` will be.
fn node_of(group: &NodeGroup, request: &PlacementRequest<'_>) -> NodeRecord {
    let architecture = request.definition.runs.iter().find_map(|runs| match runs {
        Runs::Native(architectures) => architectures.first().cloned(),
        Runs::Wasm => None,
    });
    let unknown = || NodeSpec {
        capacity: Resources {
            cpu_millis: NODE_CPU_MILLIS_MAX,
            memory_bytes: NODE_MEMORY_BYTES_MAX,
        },
        zone: "default".to_owned(),
        architecture: architecture.unwrap_or_default(),
        runs_native: true,
        ingress_address: None,
        labels: BTreeMap::new(),
        version: String::new(),
    };
    let mut spec = group.template.clone().unwrap_or_else(unknown);
    if group.spec.pool {
        spec.labels.insert(POOL_LABEL.to_owned(), "true".to_owned());
    }
    let mut labels = group.spec.labels.clone();
    labels.insert(NODE_GROUP_LABEL.to_owned(), group.name.to_string());
    NodeRecord {
        id: machine_name(&group.name, group.created, group.made + 1),
        tenant: Some(group.tenant.clone()),
        spec,
        joined: group.created,
        drain: false,
        drain_deadline: None,
        cordoned: false,
        labels,
        taints: group.spec.taints.clone(),
        certificates: Vec::new(),
    }
}

#[cfg(test)]
#[path = "node_groups_tests.rs"]
mod tests;
