//! The replicas of a service: as many as its count, or one for each node that a daemon is for.

use std::collections::{BTreeMap, BTreeSet};

use spec::{NodeCondition, NodeId, SchedulingStrategy};

use super::{capacity::PlacementRequest, draft::Draft};
use crate::state::records::{ServiceKey, ServiceRecord, Stored, TaskRecord};

/// The tasks of each replica.
pub(super) type Replicas<'a> = BTreeMap<u32, Vec<&'a Stored<TaskRecord>>>;

/// Which replicas a service has.
#[derive(Debug, Default)]
pub(super) struct Ordinals {
    /// Those that should have a task, and the node that it is for, as of a daemon.
    pub wanted: BTreeMap<u32, Option<NodeId>>,
    /// Those that are left as they are: their nodes are out of touch.
    pub left: BTreeSet<u32>,
}

impl Ordinals {
    pub fn count(&self) -> u32 {
        u32::try_from(self.wanted.len()).unwrap_or(u32::MAX)
    }

    pub fn all(&self) -> impl Iterator<Item = u32> {
        self.wanted.keys().copied()
    }
}

impl Draft<'_> {
    /// The replicas that a service should have.
    pub fn ordinals(
        &self,
        key: &ServiceKey,
        record: &ServiceRecord,
        replicas: &Replicas<'_>,
    ) -> Ordinals {
        let spec = &record.service.spec;
        match spec.scheduling {
            SchedulingStrategy::Replica => {
                let wanted = (0..spec.count).map(|ordinal| (ordinal, None)).collect();
                Ordinals { wanted, left: BTreeSet::new() }
            }
            SchedulingStrategy::Daemon => self.daemon_ordinals(key, record, replicas),
        }
    }

    /// Each node keeps the number of the replica that it has had.
    fn daemon_ordinals(
        &self,
        key: &ServiceKey,
        record: &ServiceRecord,
        replicas: &Replicas<'_>,
    ) -> Ordinals {
        let mut ordinals = Ordinals::default();
        let mut numbers: BTreeMap<&NodeId, u32> = BTreeMap::new();
        let mut taken: BTreeSet<u32> = BTreeSet::new();
        for (ordinal, tasks) in replicas {
            let newest = tasks.iter().max_by_key(|task| task.value.slot.map(|slot| slot.attempt));
            let node = newest.and_then(|task| task.value.task.spec.node.as_ref());
            if tasks.iter().any(|task| !task.value.has_ended()) {
                taken.insert(*ordinal);
            }
            if let Some(node) = node {
                numbers.entry(node).or_insert(*ordinal);
            }
        }
        let mut without = Vec::new();
        for node in self.model.nodes.keys() {
            let number = numbers.get(node).copied();
            let tasks =
                number.and_then(|number| replicas.get(&number)).map_or(&[][..], Vec::as_slice);
            match (self.wants_daemon(key, record, node, tasks), number) {
                (Wanted::Yes, Some(number)) => {
                    ordinals.wanted.insert(number, Some(node.clone()));
                }
                (Wanted::Yes, None) => without.push(node.clone()),
                (Wanted::Unknown, Some(number)) => {
                    ordinals.left.insert(number);
                }
                (Wanted::Unknown, None) | (Wanted::No, _) => {}
            }
        }
        taken.extend(ordinals.wanted.keys().chain(&ordinals.left));
        let mut free = (0..).filter(|number| !taken.contains(number));
        for (node, number) in without.into_iter().zip(&mut free) {
            ordinals.wanted.insert(number, Some(node));
        }
        ordinals
    }

    /// Whether a node should have a task of a daemon, of which it has `tasks`.
    fn wants_daemon(
        &self,
        key: &ServiceKey,
        record: &ServiceRecord,
        node: &NodeId,
        tasks: &[&Stored<TaskRecord>],
    ) -> Wanted {
        let spec = &record.service.spec;
        let has_one = tasks.iter().any(|task| task.value.is_wanted());
        let Some(known) = self.capacity.nodes.get(node) else { return Wanted::No };
        if !known.node.takes(&key.0, spec.launch_type) {
            return Wanted::No;
        }
        if self.is_disconnected(node) {
            return Wanted::Unknown;
        }
        let Some(revision) = self.revision(key, &spec.task_definition, spec.launch_type) else {
            return if has_one { Wanted::Yes } else { Wanted::No };
        };
        // The services of a node that is drained may need what its daemons do, until they are gone.
        if known.node.drain {
            return if has_one && self.has_other_work(node) { Wanted::Yes } else { Wanted::No };
        }
        if known.node.expels(&spec.placement.tolerations) {
            return Wanted::No;
        }
        if has_one {
            return Wanted::Yes;
        }
        let task = self.sample(key, record);
        let request = PlacementRequest {
            task: &task,
            definition: revision.definition,
            service: Some(key),
            placement: &spec.placement,
            only: None,
            avoid: Vec::new(),
        };
        let is_open = !known.node.cordoned && known.condition() != NodeCondition::Disconnected;
        if is_open && known.suits(&request) { Wanted::Yes } else { Wanted::No }
    }

    /// Whether it has tasks that are no daemons'.
    fn has_other_work(&self, node: &NodeId) -> bool {
        let is_daemon = |task: &TaskRecord| {
            let service = task.service_key().and_then(|key| self.model.services.get(&key));
            service.is_some_and(|service| {
                service.value.service.spec.scheduling == SchedulingStrategy::Daemon
            })
        };
        let here = |task: &&TaskRecord| task.task.spec.node.as_ref() == Some(node);
        let tasks = self.model.tasks.values().map(|stored| &stored.value);
        tasks.filter(here).any(|task| !task.has_ended() && !is_daemon(task))
    }
}

enum Wanted {
    Yes,
    No,
    /// It is out of touch.
    Unknown,
}
