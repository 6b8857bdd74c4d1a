//! What is kept of a node for replicas that are between two tasks: the one before has ended or is
//! ending, and the next one is not placed. Another service does not take what one has freed for
//! itself.

use std::collections::{BTreeMap, BTreeSet};

use spec::SchedulingStrategy;

use super::capacity::{Capacity, NodeCapacity, PlacementRequest, ReplicaKey, Share};
use crate::state::{model::Model, records::TaskRecord};

/// The tasks of one replica.
#[derive(Default)]
struct Turns<'a> {
    newest: Option<(u32, &'a TaskRecord)>,
    has_wanted: bool,
}

impl<'a> Capacity<'a> {
    /// Keeps their places for replicas of services that should have a task and have none.
    pub fn hold_places(&mut self, model: &'a Model) {
        let mut replicas: BTreeMap<ReplicaKey, Turns<'a>> = BTreeMap::new();
        for record in model.tasks.values().map(|stored| &stored.value) {
            let Some((service, slot)) = record.service_key().zip(record.slot) else { continue };
            let turns = replicas.entry((service, slot.ordinal)).or_default();
            turns.has_wanted |= record.is_wanted();
            if turns.newest.is_none_or(|(attempt, _)| slot.attempt > attempt) {
                turns.newest = Some((slot.attempt, record));
            }
        }
        for (key, Turns { newest, has_wanted }) in replicas {
            let Some((_, record)) = newest.filter(|_| !has_wanted) else { continue };
            if let Some((node, share)) = self.kept(model, &key, record) {
                node.holds.insert(key, share);
            }
        }
    }

    /// What the next task of a replica takes of the node of its last one, beyond what that still
    /// has. Nothing of a node that would not take it.
    fn kept(
        &mut self,
        model: &Model,
        key: &ReplicaKey,
        last: &TaskRecord,
    ) -> Option<(&mut NodeCapacity<'a>, Share)> {
        let spec = &model.services.get(&key.0)?.value.service.spec;
        let is_wanted = spec.scheduling == SchedulingStrategy::Daemon || key.1 < spec.count;
        if !is_wanted || spec.launch_type_of(key.1) != last.task.spec.launch_type {
            return None;
        }
        let id = (key.0.0.clone(), spec.task_definition.clone());
        let definition = model.definitions.get(&id)?;
        let still = match last.has_ended() {
            true => Share::default(),
            false => self.share_of(last, model.definition_of(last)?),
        };
        let request = PlacementRequest {
            task: last,
            definition,
            service: Some(&key.0),
            placement: &spec.placement,
            only: None,
            avoid: Vec::new(),
        };
        let node = self.nodes.get_mut(last.task.spec.node.as_ref()?)?;
        (node.is_open() && node.suits(&request))
            .then(|| (node, Share::of(definition).beyond(&still)))
    }

    /// The replica has its next task.
    pub(super) fn release(&mut self, key: &ReplicaKey) {
        for node in self.nodes.values_mut().filter(|node| !node.holds.is_empty()) {
            node.holds.remove(key);
        }
    }
}

impl Share {
    /// What this one has more than `other`.
    fn beyond(&self, other: &Self) -> Self {
        let ports: BTreeSet<u16> = self.ports.difference(&other.ports).copied().collect();
        Self {
            cpu_millis: self.cpu_millis.saturating_sub(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
            tasks: self.tasks.saturating_sub(other.tasks),
            ports,
        }
    }
}
