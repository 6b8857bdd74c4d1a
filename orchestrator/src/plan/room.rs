use std::collections::{BTreeMap, BTreeSet};

use spec::{LaunchType, NodeCondition, NodeId, TaskId, Tenant, VolumeName, print_bytes};

use super::{Desired, Observed};
use crate::{
    model::ServiceKey,
    records::{DefinitionRecord, NodeRecord},
    resolver::Runs,
};

/// Tasks on one node. Each is a process or more that its agent supervises and reports, and all of
/// their definitions go to it in one answer: 500 of the largest are half of what a node reads.
const TASKS_MAX: usize = 500;
/// What a container takes at least, whatever it reserves: a worker that does nothing has ten
/// megabytes, most of them shared. Without this, somebody who reserves nothing fits in everywhere,
/// for ever.
const CPU_MILLIS_MIN: u32 = 10;
const MEMORY_BYTES_MIN: u64 = 8 << 20;

/// What nodes have left while a plan is made.
pub(super) struct Room<'a> {
    nodes: BTreeMap<&'a NodeId, Slot<'a>>,
    /// Who may be writing to a volume: one task, unless it was otherwise before we looked.
    writers: BTreeMap<(Tenant, VolumeName), Vec<TaskId>>,
}

/// One node.
struct Slot<'a> {
    node: &'a NodeRecord,
    condition: NodeCondition,
    cpu_millis: u64,
    memory_bytes: u64,
    /// Those that have not ended.
    tasks: usize,
    /// Host ports that are taken.
    ports: BTreeSet<u16>,
    /// Copies of each service here, those of tasks that should end not counted.
    copies: BTreeMap<ServiceKey, usize>,
}

/// What is looked for.
pub(super) struct Need<'a> {
    pub tenant: &'a Tenant,
    pub task: &'a TaskId,
    pub definition: &'a DefinitionRecord,
    pub launch_type: LaunchType,
    /// Whose copies to spread.
    pub service: Option<&'a ServiceKey>,
    /// Nodes to take only when no other will do.
    pub avoid: Vec<&'a NodeId>,
}

impl<'a> Room<'a> {
    /// What every task that has not ended leaves of each node. A task whose node is silent still
    /// counts there: it may well be running.
    pub fn left_on(desired: &Desired<'a>, observed: &Observed<'a>) -> Self {
        let slots = observed.nodes.iter().map(|(id, node)| {
            let capacity = node.spec.capacity;
            let slot = Slot {
                node,
                condition: observed.condition(id),
                cpu_millis: u64::from(capacity.cpu_millis),
                memory_bytes: capacity.memory_bytes,
                tasks: 0,
                ports: BTreeSet::new(),
                copies: BTreeMap::new(),
            };
            (id, slot)
        });
        let mut room = Self { nodes: slots.collect(), writers: BTreeMap::new() };
        for ((tenant, _), kept) in observed.tasks {
            let (record, spec) = (&kept.value, &kept.value.task.spec);
            let Some(slot) = spec.node.as_ref().and_then(|node| room.nodes.get_mut(node)) else {
                continue;
            };
            if record.has_ended() {
                continue;
            }
            slot.tasks += 1;
            if let (Some(service), true) = (&spec.service, record.is_wanted()) {
                *slot
                    .copies
                    .entry((tenant.clone(), spec.cluster.clone(), service.clone()))
                    .or_default() += 1;
            }
            if let Some(definition) =
                desired.definitions.get(&(tenant.clone(), spec.task_definition.clone()))
            {
                slot.take(definition);
                room.write(tenant, record.id(), definition);
            }
        }
        room
    }

    /// The best node for `need`, with its room taken; or why there is none, in a sentence.
    pub fn take(&mut self, need: &Need<'_>, pinned: Option<&NodeId>) -> Result<NodeId, String> {
        self.check_writers(need)?;
        let best = self.best(need, pinned)?;
        let slot = self.nodes.get_mut(&best).expect("it was found in here");
        slot.tasks += 1;
        slot.take(need.definition);
        if let Some(service) = need.service {
            *slot.copies.entry(service.clone()).or_default() += 1;
        }
        self.write(need.tenant, need.task, need.definition);
        Ok(best)
    }

    /// From now on `task` may write to the volumes of its definition.
    fn write(&mut self, tenant: &Tenant, task: &TaskId, definition: &DefinitionRecord) {
        for volume in definition.written() {
            let writers = self.writers.entry((tenant.clone(), volume.clone())).or_default();
            if !writers.contains(task) {
                writers.push(task.clone());
            }
        }
    }

    /// Two tasks that write to one volume would write over each other, whichever definition or
    /// service they are of.
    fn check_writers(&self, need: &Need<'_>) -> Result<(), String> {
        match self.writers_of(need).next() {
            None => Ok(()),
            Some((volume, writer)) => Err(format!(
                "volume `{volume}` is written to by task `{writer}`, and by one task at a time: stop that one, or mount it with `read_only = true`"
            )),
        }
    }

    /// Who may be writing to a volume that `need` wants to write to.
    fn writers_of<'r>(
        &'r self,
        need: &'r Need<'_>,
    ) -> impl Iterator<Item = (&'r VolumeName, &'r TaskId)> {
        let of = |volume: &'r VolumeName| {
            let writers = self.writers.get(&(need.tenant.clone(), volume.clone()));
            writers.into_iter().flatten().map(move |writer| (volume, writer))
        };
        need.definition.written().flat_map(of)
    }

    /// Whether `need` would fit on `node` if `task`, which is one of `old`, were not there.
    pub fn would_fit(
        &self,
        need: &Need<'_>,
        node: &NodeId,
        task: &TaskId,
        old: &DefinitionRecord,
    ) -> bool {
        let Some(slot) = self.nodes.get(node) else { return false };
        let (cpu, memory) = reserved(need.definition);
        let (cpu_freed, memory_freed) = reserved(old);
        let freed: BTreeSet<u16> = host_ports(old).collect();
        slot.offers(need)
            && slot.condition == NodeCondition::Ready
            && !slot.node.drain
            && slot.runs(need.definition)
            && host_ports(need.definition)
                .all(|port| freed.contains(&port) || !slot.ports.contains(&port))
            && slot.tasks <= TASKS_MAX
            && self.writers_of(need).all(|(_, writer)| writer == task)
            && slot.cpu_millis + cpu_freed >= cpu
            && slot.memory_bytes.saturating_add(memory_freed) >= memory
    }

    /// One that is not to be avoided, then fewest copies in the zone, then on the node, then the
    /// fullest node that has room: so that large tasks find room later.
    fn best(&self, need: &Need<'_>, pinned: Option<&NodeId>) -> Result<NodeId, String> {
        let candidates = self.candidates(need, pinned)?;
        let copies = |slot: &Slot<'_>| {
            need.service.and_then(|key| slot.copies.get(key)).copied().unwrap_or_default()
        };
        let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
        for slot in self.nodes.values() {
            *zones.entry(&slot.node.spec.zone).or_default() += copies(slot);
        }
        let score = |slot: &&&Slot<'_>| {
            let avoided = need.avoid.contains(&&slot.node.id);
            (
                avoided,
                zones.get(slot.node.spec.zone.as_str()).copied(),
                copies(slot),
                slot.memory_bytes,
                slot.cpu_millis,
            )
        };
        let best = candidates.iter().min_by_key(score).expect("candidates are never empty");
        Ok(best.node.id.clone())
    }

    /// Nodes on which it could start now. Each filter that leaves none is the reason to give.
    fn candidates(
        &self,
        need: &Need<'_>,
        pinned: Option<&NodeId>,
    ) -> Result<Vec<&Slot<'a>>, String> {
        let mut left: Vec<&Slot<'a>> =
            self.nodes.values().filter(|slot| slot.offers(need)).collect();
        let mut narrow = |fits: &dyn Fn(&Slot<'_>) -> bool, reason: &dyn Fn() -> String| {
            left.retain(|slot| fits(slot));
            if left.is_empty() { Err(reason()) } else { Ok(()) }
        };
        narrow(&|_| true, &|| match need.launch_type {
            LaunchType::Node => "you have no node: `margay node join`".to_owned(),
            LaunchType::Pool => "the pool has no node".to_owned(),
        })?;
        if let Some(node) = pinned {
            narrow(&|slot| slot.node.id == *node, &|| {
                format!("its volume is on node `{node}`, which is not available")
            })?;
        }
        narrow(&|slot| slot.condition == NodeCondition::Ready, &|| match pinned {
            Some(node) => format!("its volume is on node `{node}`, which is not ready"),
            None => "no node is ready".to_owned(),
        })?;
        narrow(&|slot| !slot.node.drain, &|| {
            "every node that could take it is drained".to_owned()
        })?;
        narrow(&|slot| slot.runs(need.definition), &|| {
            format!(
                "it is a native image{}, and no node has an OCI runtime for it",
                architectures(need.definition)
            )
        })?;
        narrow(
            &|slot| host_ports(need.definition).all(|port| !slot.ports.contains(&port)),
            &|| {
                let ports: Vec<String> =
                    host_ports(need.definition).map(|port| port.to_string()).collect();
                format!("host port {} is taken on every node", ports.join(" or "))
            },
        )?;
        narrow(&|slot| slot.tasks < TASKS_MAX, &|| {
            format!(
                "every node that could take it has {TASKS_MAX} tasks, and that is the most: add a node"
            )
        })?;
        let (cpu, memory) = reserved(need.definition);
        narrow(&|slot| slot.cpu_millis >= cpu && slot.memory_bytes >= memory, &|| {
            format!("no node has {cpu} millis of CPU and {} of memory left", print_bytes(memory))
        })?;
        Ok(left)
    }
}

impl Slot<'_> {
    fn offers(&self, need: &Need<'_>) -> bool {
        match need.launch_type {
            LaunchType::Node => self.node.tenant.as_ref() == Some(need.tenant),
            LaunchType::Pool => self.node.in_pool(),
        }
    }

    fn runs(&self, definition: &DefinitionRecord) -> bool {
        definition.runs.iter().all(|runs| match runs {
            Runs::Wasm => true,
            Runs::Native(architectures) => {
                self.node.spec.runs_native && architectures.contains(&self.node.spec.architecture)
            }
        })
    }

    fn take(&mut self, definition: &DefinitionRecord) {
        let (cpu, memory) = reserved(definition);
        self.cpu_millis = self.cpu_millis.saturating_sub(cpu);
        self.memory_bytes = self.memory_bytes.saturating_sub(memory);
        self.ports.extend(host_ports(definition));
    }
}

/// What its containers reserve together, and at least: thousandths of a processor, and bytes.
pub(super) fn reserved(definition: &DefinitionRecord) -> (u64, u64) {
    let containers = &definition.definition.containers;
    let cpu = containers
        .iter()
        .map(|container| u64::from(container.cpu_millis.max(CPU_MILLIS_MIN)))
        .sum();
    let memory =
        containers.iter().map(|container| container.memory_soft_bytes.max(MEMORY_BYTES_MIN));
    let memory = memory.fold(0, u64::saturating_add);
    (cpu, memory)
}

/// The ports that it takes on its host; 0 is any free one and takes none.
pub(super) fn host_ports(definition: &DefinitionRecord) -> impl Iterator<Item = u16> {
    let ports = definition.definition.containers.iter().flat_map(|container| &container.ports);
    ports.filter_map(|port| port.host_port).filter(|port| *port != 0)
}

fn architectures(definition: &DefinitionRecord) -> String {
    let names: Vec<&str> = definition
        .runs
        .iter()
        .flat_map(|runs| match runs {
            Runs::Wasm => &[][..],
            Runs::Native(architectures) => architectures,
        })
        .map(String::as_str)
        .collect();
    if names.is_empty() { String::new() } else { format!(" for {}", names.join(", ")) }
}
