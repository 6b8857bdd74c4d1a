use std::collections::BTreeMap;

use spec::{TaskId, Tenant, wire::DesiredSet};

/// Which task: ids are unique for a tenant only.
pub(super) type TaskKey = (Tenant, TaskId);

/// What is here of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// It runs, or is on its way to.
    Alive,
    Stopping,
    /// It has ended, and its last status is kept for the report.
    Ended,
}

/// What to do about a task. Each may be done again without harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Stop(TaskKey),
    Forget(TaskKey),
    Start(TaskKey),
}

/// Every step that moves what is here towards `desired`. What frees ports and memory comes before
/// what takes them.
pub(super) fn converge(desired: &DesiredSet, seen: &BTreeMap<TaskKey, Seen>) -> Vec<Step> {
    let wanted: BTreeMap<TaskKey, bool> = desired
        .tasks
        .iter()
        .map(|task| ((task.tenant.clone(), task.id.clone()), !task.stop))
        .collect();
    let mut steps = Vec::new();
    for (key, state) in seen {
        match (wanted.get(key), state) {
            (Some(false) | None, Seen::Alive) => steps.push(Step::Stop(key.clone())),
            (None, Seen::Ended) => steps.push(Step::Forget(key.clone())),
            // A task ends once: what should run on after its end is a new task, and that is not
            // ours to decide.
            (Some(true), Seen::Alive | Seen::Stopping | Seen::Ended)
            | (Some(false), Seen::Stopping | Seen::Ended)
            | (None, Seen::Stopping) => {}
        }
    }
    let missing = wanted.into_iter().filter(|(key, run)| *run && !seen.contains_key(key));
    steps.extend(missing.map(|(key, _)| Step::Start(key)));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::{
        ContainerDefinition, LaunchType, Role, TaskDefinition,
        wire::{DesiredTask, RouteTable},
    };

    fn key(name: &str) -> TaskKey {
        ("acme".parse().unwrap(), name.parse().unwrap())
    }

    fn set(tasks: &[(&str, bool)]) -> DesiredSet {
        let container: ContainerDefinition =
            serde_json::from_value(serde_json::json!({"name": "cats", "image": "cats"})).unwrap();
        let definition = TaskDefinition {
            family: "cats".parse().unwrap(),
            launch_types: vec![LaunchType::Node],
            role: Role::default(),
            containers: vec![container],
            volumes: Vec::new(),
            placement_constraints: Vec::new(),
            cpu_millis: None,
            memory_bytes: None,
        };
        let task = |(name, run): &(&str, bool)| DesiredTask {
            id: name.parse().unwrap(),
            tenant: "acme".parse().unwrap(),
            cluster: "main".parse().unwrap(),
            service: None,
            definition_id: "cats:1".parse().unwrap(),
            definition: definition.clone(),
            launch_type: LaunchType::Node,
            stop: !run,
            pull_token: None,
        };
        DesiredSet {
            version: 1,
            epoch: 1,
            revision: 1,
            tasks: tasks.iter().map(task).collect(),
            routes: RouteTable::default(),
        }
    }

    /// What a step comes to.
    fn apply(seen: &mut BTreeMap<TaskKey, Seen>, step: &Step) {
        match step {
            Step::Start(key) => drop(seen.insert(key.clone(), Seen::Alive)),
            Step::Stop(key) => drop(seen.insert(key.clone(), Seen::Stopping)),
            Step::Forget(key) => drop(seen.remove(key)),
        }
    }

    #[test]
    fn each_state_leads_to_the_step_that_it_should() {
        for (wanted, seen, want) in [
            (Some(true), None, Some(Step::Start(key("t")))),
            (Some(true), Some(Seen::Alive), None),
            (Some(true), Some(Seen::Stopping), None),
            (Some(true), Some(Seen::Ended), None),
            (Some(false), None, None),
            (Some(false), Some(Seen::Alive), Some(Step::Stop(key("t")))),
            (Some(false), Some(Seen::Stopping), None),
            (Some(false), Some(Seen::Ended), None),
            (None, Some(Seen::Alive), Some(Step::Stop(key("t")))),
            (None, Some(Seen::Stopping), None),
            (None, Some(Seen::Ended), Some(Step::Forget(key("t")))),
        ] {
            let desired = set(&wanted.map(|run| ("t", run)).into_iter().collect::<Vec<_>>());
            let actual = seen.map(|state| (key("t"), state)).into_iter().collect();
            assert_eq!(
                converge(&desired, &actual),
                Vec::from_iter(want),
                "{wanted:?} and {seen:?}"
            );
        }
    }

    #[test]
    fn applied_steps_leave_nothing_to_do_until_something_happens() {
        let names = ["a", "b", "c"];
        let wants = [None, Some(true), Some(false)];
        let states = [None, Some(Seen::Alive), Some(Seen::Stopping), Some(Seen::Ended)];
        for world in 0..(wants.len() * states.len()).pow(3) {
            let (mut tasks, mut seen, mut rest) = (Vec::new(), BTreeMap::new(), world);
            for name in names {
                let (want, state) = (wants[rest % 3], states[rest / 3 % 4]);
                rest /= 12;
                tasks.extend(want.map(|run| (name, run)));
                seen.extend(state.map(|state| (key(name), state)));
            }
            let desired = set(&tasks);
            let steps = converge(&desired, &seen);
            let first_start =
                steps.iter().position(|step| matches!(step, Step::Start(_))).unwrap_or(steps.len());
            assert!(
                steps[first_start..].iter().all(|step| matches!(step, Step::Start(_))),
                "{steps:?}"
            );
            steps.iter().for_each(|step| apply(&mut seen, step));
            assert_eq!(converge(&desired, &seen), [], "world {world}");
            // Everything that was told to end does: then what is not wanted is forgotten, and that
            // is all.
            seen.values_mut()
                .filter(|state| **state == Seen::Stopping)
                .for_each(|state| *state = Seen::Ended);
            for step in converge(&desired, &seen) {
                assert!(matches!(step, Step::Forget(_)), "{step:?}");
                apply(&mut seen, &step);
            }
            assert_eq!(converge(&desired, &seen), [], "world {world}");
        }
    }
}
