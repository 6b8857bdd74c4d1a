use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{definition::TaskDefinition, name::ContainerName, text::ParseError};

/// Arguments and variables of one run together: as many as ECS takes, and enough for any command.
const OVERRIDES_BYTES_MAX: usize = 8 << 10;

/// What one run changes in one container of a task definition.
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
        let bytes: usize = arguments.chain(variables).sum();
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
        if let Some(command) = &self.command {
            container.command = Some(command.clone());
        }
        container.env.extend(self.env.clone());
        changed.check()?;
        Ok(changed)
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
        let overrides = TaskOverrides { container: None, command: command.clone(), env };
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
}
