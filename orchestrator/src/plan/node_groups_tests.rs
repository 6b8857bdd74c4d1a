use serde_json::json;

use super::*;

const START: u64 = 1_000_000;

/// A group, its hook that does as it is asked, and its nodes.
struct Bed {
    group: NodeGroup,
    seen: GroupSeen,
    now: u64,
}

impl Bed {
    fn new(min: u32, desired: u32, max: u32) -> Self {
        let group = json!({
            "name": "workers", "tenant": "me", "created": "2026-11-27T10:00:00.000Z",
            "spec": { "min": min, "max": max, "desired": desired, "hook": "exec:machines" },
            "machines": [], "made": 0, "failures": 0, "events": [],
        });
        Self {
            group: serde_json::from_value(group).unwrap(),
            seen: GroupSeen::default(),
            now: START,
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now)
    }

    /// Plans until nothing moves.
    fn settle(&mut self) -> &mut Self {
        for _ in 0..10 {
            match after(&self.group, &self.seen, self.now()) {
                Some(next) => self.group = next,
                None => return self,
            }
        }
        panic!("it does not settle: {:?}", self.group);
    }

    fn pass(&mut self, seconds: u64) -> &mut Self {
        self.now += seconds * 1000;
        self.settle()
    }

    /// Every machine that comes joins, and every one that goes is removed.
    fn obey(&mut self) -> &mut Self {
        for _ in 0..20 {
            self.settle();
            let machines = self.group.machines.clone();
            for GroupMachine { node, state, .. } in machines {
                match state {
                    MachineState::Requested | MachineState::Starting => {
                        self.seen.nodes.insert(node, node_with(0));
                    }
                    MachineState::Draining => self.node(&node).tasks = 0,
                    MachineState::Removing => {
                        self.seen.nodes.remove(&node);
                        self.group.machines.retain(|machine| machine.node != node);
                    }
                    MachineState::Ready => {}
                }
            }
        }
        self.settle()
    }

    fn node(&mut self, id: &NodeId) -> &mut GroupNode {
        self.seen.nodes.get_mut(id).unwrap()
    }

    fn states(&self) -> Vec<MachineState> {
        self.group.machines.iter().map(|machine| machine.state).collect()
    }

    fn said(&self) -> &str {
        &self.group.events[0].message
    }
}

fn node_with(tasks: usize) -> GroupNode {
    GroupNode {
        condition: NodeCondition::Ready,
        tasks,
        is_protected: false,
        spec: crate::journeys::fixture::node_spec(),
    }
}

#[test]
fn a_group_asks_for_one_machine_at_a_time_until_it_has_as_many_as_desired() {
    let mut bed = Bed::new(0, 3, 5);
    bed.settle();
    assert_eq!(bed.states(), [MachineState::Requested]);
    bed.pass(60);
    assert_eq!(bed.states(), [MachineState::Requested], "one is on its way");
    bed.obey();
    assert_eq!(bed.states(), [MachineState::Ready; 3]);
    let names: std::collections::BTreeSet<_> =
        bed.group.machines.iter().map(|machine| machine.node.clone()).collect();
    assert_eq!(names.len(), 3);
}

#[test]
fn a_machine_that_never_joins_is_given_back_and_the_next_one_waits_longer_each_time() {
    let mut bed = Bed::new(0, 1, 5);
    bed.settle();
    for (index, wait) in [5, 10, 20, 40, 80, 160, 320, 600, 600].into_iter().enumerate() {
        bed.pass(599);
        assert_eq!(bed.states(), [MachineState::Requested], "try {index}");
        bed.pass(1);
        assert_eq!(bed.states(), [MachineState::Removing], "try {index}");
        assert!(bed.said().contains("has not joined within 600 s: it is given back"));
        bed.group.machines.clear(); // its hook has removed it
        bed.pass(wait - 1);
        assert!(bed.states().is_empty(), "try {index} waits {wait} s");
        bed.pass(1);
    }
    bed.obey();
    assert_eq!((bed.group.failures, bed.states()), (0, vec![MachineState::Ready]));
}

#[test]
fn a_group_asks_for_so_many_machines_in_an_hour_and_no_more() {
    let mut bed = Bed::new(0, 1, 5);
    let mut asked = 0;
    for _ in 0..3_000 {
        bed.settle();
        asked += bed.group.machines.len();
        bed.group.machines.clear(); // each is gone at once
        bed.pass(1);
    }
    assert_eq!(asked, GROUP_MACHINES_PER_HOUR);
}

#[test]
fn tasks_that_wait_raise_what_is_desired_and_nodes_without_tasks_lower_it() {
    let mut bed = Bed::new(1, 1, 3);
    bed.obey();
    for want in [2, 3, 3] {
        bed.seen.is_wanted = true;
        bed.settle();
        bed.seen.is_wanted = false;
        bed.obey();
        let nodes: Vec<NodeId> = bed.seen.nodes.keys().cloned().collect();
        nodes.iter().for_each(|node| bed.node(node).tasks = 4);
        assert_eq!((bed.group.spec.desired, bed.states().len()), (want, want as usize));
    }
    bed.pass(3600);
    assert_eq!(bed.states().len(), 3, "all have tasks");
    let nodes: Vec<NodeId> = bed.seen.nodes.keys().cloned().collect();
    nodes.iter().for_each(|node| bed.node(node).tasks = 0);
    bed.node(&nodes[0]).is_protected = true;
    bed.settle();
    bed.pass(599);
    assert_eq!(bed.states(), [MachineState::Ready; 3]);
    bed.pass(1);
    let leaving =
        |bed: &Bed| bed.group.machines.iter().filter(|machine| !machine.state.counts()).count();
    assert_eq!(leaving(&bed), 1, "one at a time");
    assert!(bed.said().contains("has had no tasks for 600 s"), "{}", bed.said());
    bed.obey().pass(600);
    bed.obey().pass(600);
    bed.obey();
    assert_eq!(bed.states(), [MachineState::Ready]);
    assert_eq!(bed.group.machines[0].node, nodes[0], "the protected one stays");
    bed.pass(36_000);
    assert_eq!(bed.states(), [MachineState::Ready], "never fewer than min");
}

#[test]
fn a_group_that_is_made_smaller_drains_the_node_with_the_fewest_tasks_first() {
    let mut bed = Bed::new(0, 3, 3);
    bed.obey();
    let nodes: Vec<NodeId> = bed.group.machines.iter().map(|one| one.node.clone()).collect();
    for (node, tasks) in nodes.iter().zip([5, 1, 3]) {
        bed.node(node).tasks = tasks;
    }
    bed.group.spec.desired = 1;
    bed.settle();
    let draining: Vec<&NodeId> = bed
        .group
        .machines
        .iter()
        .filter(|machine| machine.state == MachineState::Draining)
        .map(|machine| &machine.node)
        .collect();
    assert_eq!(draining, [&nodes[1]]);
    bed.pass(GROUP_DRAIN_TIME.as_secs() - 1);
    assert!(!bed.states().contains(&MachineState::Removing), "its tasks have time to move");
    bed.pass(1);
    assert!(bed.states().contains(&MachineState::Removing));
    bed.obey();
    assert_eq!(bed.group.machines[0].node, nodes[0]);
}

#[test]
fn a_lost_node_and_a_removed_one_are_replaced() {
    let mut bed = Bed::new(0, 2, 2);
    bed.obey();
    let nodes: Vec<NodeId> = bed.group.machines.iter().map(|one| one.node.clone()).collect();
    nodes.iter().for_each(|node| bed.node(node).tasks = 1);
    bed.node(&nodes[0]).condition = NodeCondition::Disconnected;
    bed.settle().pass(599);
    bed.node(&nodes[0]).condition = NodeCondition::Ready;
    bed.settle().pass(599);
    assert_eq!(bed.states(), [MachineState::Ready; 2], "it came back in time");
    bed.node(&nodes[0]).condition = NodeCondition::Disconnected;
    bed.settle().pass(600);
    assert!(bed.said().contains("is asked for"), "{}", bed.said());
    bed.obey();
    assert!(!bed.group.machines.iter().any(|machine| machine.node == nodes[0]));
    bed.seen.nodes.remove(&nodes[1]);
    bed.obey();
    assert_eq!(bed.states(), [MachineState::Ready; 2]);
    assert!(!bed.group.machines.iter().any(|machine| machine.node == nodes[1]));
}
