use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    definition::{ContainerDefinition, Role, TaskDefinition},
    name::ContainerName,
    text::ParseError,
};

/// Arguments and variables of one run together: as many as ECS takes, and enough for any command.
const OVERRIDES_BYTES_MAX: usize = 8 << 10;

/// What one run changes in a task definition and in one of its containers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskOverrides {
    /// Which container; may be left out where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerName>,
    /// Replaces its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Variables beside its own, or in their place. Each is a grant.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// CPU that it reserves, in thousandths of a processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u32>,
    /// Memory that it reserves, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_soft_bytes: Option<u64>,
    /// Memory that it never exceeds, in bytes. It reserves no more than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_hard_bytes: Option<u64>,
    /// CPU of the task as a whole, in thousandths of a processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_cpu_millis: Option<u32>,
    /// Memory of the task as a whole, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_memory_bytes: Option<u64>,
    /// The capabilities of its containers, in place of the definition's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

impl TaskOverrides {
    /// `definition` with these changes.
    ///
    /// # Errors
    /// A sentence on what cannot be changed so.
    pub fn apply(&self, definition: &TaskDefinition) -> Result<TaskDefinition, ParseError> {
        let wrong = |why: String| Err(ParseError(format!("the overrides {why}")));
        let arguments = self.command.iter().flatten().map(String::len);
        let variables = self.env.iter().map(|(name, value)| name.len() + value.len());
        let lines = self.role.iter().flat_map(|role| &role.allow);
        let lines = lines.map(|line| line.to_string().len());
        let bytes: usize = arguments.chain(variables).chain(lines).sum();
        if bytes > OVERRIDES_BYTES_MAX {
            return wrong(format!("have {bytes} bytes, at most {OVERRIDES_BYTES_MAX}"));
        }
        let mut changed = definition.clone();
        let several = changed.containers.len() > 1;
        let container = match &self.container {
            Some(name) => changed.containers.iter_mut().find(|one| one.name == *name),
            None if several => {
                let names = definition.containers.iter().map(|one| format!("`{}`", one.name));
                let names = names.collect::<Vec<_>>().join(", ");
                return wrong(format!("name no container, and there are several: {names}"));
            }
            None => changed.containers.first_mut(),
        };
        let Some(container) = container else {
            let name = self.container.as_ref().map(ToString::to_string).unwrap_or_default();
            return wrong(format!("are for a container `{name}`, which there is not"));
        };
        self.change(container);
        changed.cpu_millis = self.task_cpu_millis.or(changed.cpu_millis);
        changed.memory_bytes = self.task_memory_bytes.or(changed.memory_bytes);
        if let Some(role) = &self.role {
            changed.role = role.clone();
        }
        changed.check()?;
        Ok(changed)
    }

    fn change(&self, container: &mut ContainerDefinition) {
        if let Some(command) = &self.command {
            container.command = Some(command.clone());
        }
        container.env.extend(self.env.clone());
        container.cpu_millis = self.cpu_millis.unwrap_or(container.cpu_millis);
        if let Some(hard) = self.memory_hard_bytes {
            container.memory_hard_bytes = Some(hard);
            container.memory_soft_bytes = container.memory_soft_bytes.min(hard);
        }
        if let Some(soft) = self.memory_soft_bytes {
            container.memory_soft_bytes = soft;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(containers: &[&str]) -> TaskDefinition {
        let containers: Vec<_> = containers
            .iter()
            .map(|name| serde_json::json!({ "name": name, "image": "cats:1", "env": { "A": "1" } }))
            .collect();
        let text = serde_json::json!({ "family": "cats", "containers": containers });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn one_run_changes_arguments_and_variables_of_one_container() {
        let command = Some(vec!["x".to_owned()]);
        let env = BTreeMap::from([("B".to_owned(), "2".to_owned())]);
        let overrides = TaskOverrides { command: command.clone(), env, ..TaskOverrides::default() };
        let changed = overrides.apply(&definition(&["app"])).unwrap();
        assert_eq!(changed.containers[0].command, command);
        assert_eq!(changed.containers[0].env.len(), 2);
        let other = TaskOverrides { container: Some("side".parse().unwrap()), ..overrides.clone() };
        let changed = other.apply(&definition(&["app", "side"])).unwrap();
        assert_eq!(
            (&changed.containers[0].command, &changed.containers[1].command),
            (&None, &command)
        );
        for (overrides, containers, want) in [
            (
                overrides.clone(),
                &["app", "side"][..],
                "name no container, and there are several: `app`, `side`",
            ),
            (other.clone(), &["app"], "a container `side`, which there is not"),
            (
                TaskOverrides { command: Some(vec!["x".repeat(9000)]), ..overrides.clone() },
                &["app"],
                "have 9002 bytes, at most 8192",
            ),
            (
                TaskOverrides {
                    env: BTreeMap::from([("a b".to_owned(), String::new())]),
                    ..TaskOverrides::default()
                },
                &["app"],
                "a b",
            ),
        ] {
            let error = overrides.apply(&definition(containers)).unwrap_err().to_string();
            assert!(error.contains(want), "{want}: {error}");
        }
    }

    #[test]
    fn one_run_has_a_size_and_a_role_of_its_own() {
        const MIB: u64 = 1 << 20;
        let of = |value: serde_json::Value| {
            let overrides: TaskOverrides = serde_json::from_value(value).unwrap();
            overrides.apply(&definition(&["app"])).map_err(|error| error.to_string())
        };
        let more = of(serde_json::json!({
            "cpu_millis": 500, "memory_hard_bytes": 512 * MIB, "memory_soft_bytes": 256 * MIB,
            "task_cpu_millis": 1000, "task_memory_bytes": 1024 * MIB,
            "role": { "allow": ["net.out:https://example.com"] },
        }))
        .unwrap();
        let app = &more.containers[0];
        assert_eq!(
            (app.cpu_millis, app.memory_hard(), app.memory_soft_bytes),
            (500, 512 * MIB, 256 * MIB)
        );
        assert_eq!((more.cpu_millis, more.memory_bytes), (Some(1000), Some(1024 * MIB)));
        assert_eq!(more.role.allow.len(), 1);
        let less = of(serde_json::json!({ "memory_hard_bytes": 32 * MIB })).unwrap();
        assert_eq!(less.containers[0].memory_soft_bytes, 32 * MIB, "it reserves no more");
        for (value, want) in [
            (
                serde_json::json!({ "memory_soft_bytes": 512 * MIB, "memory_hard_bytes": MIB }),
                "more memory than",
            ),
            (serde_json::json!({ "memory_hard_bytes": 1 }), "hard memory limit"),
            (serde_json::json!({ "task_memory_bytes": MIB }), "bytes of memory together"),
            (serde_json::json!({ "task_cpu_millis": 10 }), "raise that"),
        ] {
            let error = of(value).unwrap_err();
            assert!(error.contains(want), "{want}: {error}");
        }
    }
}
