//! The order in which the containers of a task start and end.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::name::ContainerName;

/// A container that comes before another one of its task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContainerDependency {
    /// Which one.
    pub container: ContainerName,
    /// How far it must have come.
    #[serde(default)]
    pub condition: DependencyCondition,
}

/// How far a container must have come before another one starts, as ECS has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DependencyCondition {
    /// It runs, or has run.
    #[default]
    #[serde(alias = "START")]
    Start,
    /// It has ended.
    #[serde(alias = "COMPLETE")]
    Complete,
    /// It has ended with exit code 0.
    #[serde(alias = "SUCCESS")]
    Success,
    /// Its health check or its probe has succeeded.
    #[serde(alias = "HEALTHY")]
    Healthy,
}

impl DependencyCondition {
    /// Whether the container has to end before the other one starts.
    pub fn waits_for_end(self) -> bool {
        matches!(self, Self::Complete | Self::Success)
    }

    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Complete => "complete",
            Self::Success => "success",
            Self::Healthy => "healthy",
        }
    }
}

/// What is wrong with the dependencies of a container, as a predicate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DependencyProblem {
    #[error("depends on `{0}`, which is not among its containers")]
    Unknown(ContainerName),
    #[error("depends on `{0}` twice")]
    Twice(ContainerName),
    #[error("waits for the end of `{0}`, which is essential: give that one `essential = false`")]
    EndOfEssential(ContainerName),
    #[error("waits for the end of `{0}`, which has `restart = \"always\"` and never ends")]
    EndOfEndless(ContainerName),
    #[error("depends on itself, by way of `{0}`")]
    Circle(ContainerName),
}

/// A container as far as the order is concerned.
#[derive(Debug, Clone)]
pub(crate) struct Ordered<'a> {
    pub name: &'a ContainerName,
    pub essential: bool,
    pub depends_on: &'a [ContainerDependency],
    /// Whether it may come to an end of its own.
    pub ends: bool,
}

/// The first container whose dependencies cannot be met, and why.
pub(crate) fn check(containers: &[Ordered<'_>]) -> Result<(), (ContainerName, DependencyProblem)> {
    let find = |name: &ContainerName| containers.iter().find(|one| one.name == name);
    for container in containers {
        let wrong = |problem| Err((container.name.clone(), problem));
        for (index, dependency) in container.depends_on.iter().enumerate() {
            let name = &dependency.container;
            let Some(other) = find(name) else {
                return wrong(DependencyProblem::Unknown(name.clone()));
            };
            if container.depends_on[..index].iter().any(|before| before.container == *name) {
                return wrong(DependencyProblem::Twice(name.clone()));
            }
            if dependency.condition.waits_for_end() && other.essential {
                return wrong(DependencyProblem::EndOfEssential(name.clone()));
            }
            if dependency.condition.waits_for_end() && !other.ends {
                return wrong(DependencyProblem::EndOfEndless(name.clone()));
            }
            if reaches(name, container.name, containers) {
                return wrong(DependencyProblem::Circle(name.clone()));
            }
        }
    }
    Ok(())
}

/// Whether `from` depends on `to`, in as many steps as there are containers.
fn reaches(from: &ContainerName, to: &ContainerName, containers: &[Ordered<'_>]) -> bool {
    let mut before: Vec<&ContainerName> = vec![from];
    for _ in 0..=containers.len() {
        if before.contains(&to) {
            return true;
        }
        let next = containers.iter().filter(|one| before.contains(&one.name));
        let next = next.flat_map(|one| one.depends_on.iter().map(|on| &on.container));
        let mut next: Vec<&ContainerName> = next.collect();
        next.sort();
        next.dedup();
        before = next;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_checked_as_ecs_checks_them() {
        let container = |name: &str, essential: bool, on: &[(&str, &str)]| {
            let on = on.iter().map(|(name, condition)| {
                serde_json::json!({ "container": name, "condition": condition })
            });
            let on: Vec<ContainerDependency> =
                on.map(|one| serde_json::from_value(one).unwrap()).collect();
            (name.parse::<ContainerName>().unwrap(), essential, on)
        };
        let app = |on: &[(&str, &str)]| container("app", true, on);
        for (containers, want) in [
            (vec![app(&[])], ""),
            (vec![app(&[("init", "success")]), container("init", false, &[])], ""),
            (vec![app(&[("init", "SUCCESS")]), container("init", false, &[])], ""),
            (vec![app(&[("db", "healthy")]), container("db", true, &[])], ""),
            (vec![app(&[("db", "start")])], "depends on `db`, which is not among its containers"),
            (
                vec![app(&[("db", "start"), ("db", "healthy")]), container("db", true, &[])],
                "depends on `db` twice",
            ),
            (
                vec![app(&[("init", "complete")]), container("init", true, &[])],
                "waits for the end of `init`, which is essential: give that one \
                 `essential = false`",
            ),
            (
                vec![app(&[("endless", "complete")]), container("endless", false, &[])],
                "waits for the end of `endless`, which has `restart = \"always\"` and never ends",
            ),
            (vec![app(&[("endless", "start")]), container("endless", false, &[])], ""),
            (vec![app(&[("app", "start")])], "depends on itself, by way of `app`"),
            (
                vec![app(&[("a", "start")]), container("a", true, &[("app", "start")])],
                "depends on itself, by way of `a`",
            ),
        ] {
            let ordered: Vec<Ordered<'_>> = containers
                .iter()
                .map(|(name, essential, on)| Ordered {
                    name,
                    essential: *essential,
                    depends_on: on,
                    ends: name.as_str() != "endless",
                })
                .collect();
            let said = check(&ordered).err().map(|(_, problem)| problem.to_string());
            assert_eq!(said.unwrap_or_default(), want, "{containers:?}");
        }
    }
}
