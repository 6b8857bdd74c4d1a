//! Definitions that are written for other orchestrators: named, with the keys that correspond.

use std::path::Path;

use crate::failure::Advice;

/// A format that is not read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    Compose,
    Ecs,
    Kubernetes,
    Nomad,
    Yaml,
}

/// The format of `text`, when it is one of another orchestrator.
pub fn recognise(text: &str) -> Option<Foreign> {
    let lines =
        || text.lines().map(str::trim_end).filter(|line| !line.trim_start().starts_with('#'));
    let has_key = |key: &str| {
        lines().any(|line| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(':')))
    };
    if let Ok(serde_json::Value::Object(object)) = serde_json::from_str(text) {
        let has = |key: &str| object.contains_key(key);
        return match () {
            () if has("containerDefinitions") || has("taskDefinition") => Some(Foreign::Ecs),
            () if has("apiVersion") && has("kind") => Some(Foreign::Kubernetes),
            () if has("services") => Some(Foreign::Compose),
            () if has("Job") || has("job") => Some(Foreign::Nomad),
            () => None,
        };
    }
    let is_job = |line: &str| line.starts_with("job \"") && line.ends_with('{');
    match () {
        () if lines().any(is_job) => Some(Foreign::Nomad),
        () if has_key("apiVersion") && has_key("kind") => Some(Foreign::Kubernetes),
        () if has_key("services") => Some(Foreign::Compose),
        () if is_yaml(lines()) => Some(Foreign::Yaml),
        () => None,
    }
}

/// TOML has no line that begins with `KEY:`, and none that is `---`.
fn is_yaml<'a>(mut lines: impl Iterator<Item = &'a str>) -> bool {
    let first = lines.find(|line| !line.trim().is_empty()).unwrap_or_default();
    let key =
        first.split_once(':').map(|(key, rest)| (key, rest.is_empty() || rest.starts_with(' ')));
    let word = |key: &str| {
        !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    first == "---" || key.is_some_and(|(key, separated)| separated && word(key))
}

impl Foreign {
    fn name(self) -> &'static str {
        match self {
            Self::Compose => "a Compose file",
            Self::Ecs => "a task definition of Amazon ECS",
            Self::Kubernetes => "a Kubernetes manifest",
            Self::Nomad => "a Nomad job",
            Self::Yaml => "YAML",
        }
    }

    /// Which of its keys is which of ours.
    fn keys(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Compose => &[
                ("services.NAME", "`[[containers]]` with `name`"),
                ("image", "`image`"),
                ("environment", "`env`"),
                ("ports: \"8080:80\"", "`ports = [{ container_port = 80, host_port = 8080 }]`"),
                ("volumes", "`[[volumes]]` and `mounts`"),
                ("deploy.replicas", "margay service create --count"),
            ],
            Self::Ecs => &[
                ("containerDefinitions", "`[[containers]]`"),
                ("cpu: 256", "`cpu_millis = 250`"),
                ("memory: 512", "`memory_hard_bytes = 536870912`"),
                ("portMappings.containerPort", "`ports = [{ container_port = 80 }]`"),
                ("environment", "`env`"),
                ("secrets, taskRoleArn", "`role.allow`"),
            ],
            Self::Kubernetes => &[
                ("metadata.name", "`family`"),
                ("spec.containers", "`[[containers]]`"),
                ("ports.containerPort", "`ports = [{ container_port = 80 }]`"),
                ("env", "`env`"),
                ("resources.limits.memory", "`memory_hard_bytes`"),
                ("replicas", "margay service create --count"),
            ],
            Self::Nomad => &[
                ("job", "`family`"),
                ("task", "`[[containers]]`"),
                ("config.image", "`image`"),
                ("resources.cpu, memory", "`cpu_millis`, `memory_hard_bytes`"),
                ("env", "`env`"),
                ("group.count", "margay service create --count"),
            ],
            Self::Yaml => &[],
        }
    }

    pub fn refusal(self, path: &Path) -> Advice {
        let what = match self {
            Self::Ecs => "it is JSON with other keys",
            Self::Nomad => "it is HCL",
            Self::Compose | Self::Kubernetes | Self::Yaml => "it is YAML",
        };
        let name = if self == Self::Yaml { String::new() } else { format!(" is {}:", self.name()) };
        let text =
            format!("`{}`{name} {what}, and a task definition is TOML or JSON", path.display());
        let keys = self.keys().iter().map(|(theirs, ours)| format!("`{theirs}` is {ours}"));
        let keys = keys.collect::<Vec<_>>().join("; ");
        let hint = match keys.is_empty() {
            true => "write it as TOML: docs/guide-cluster.md has one".to_owned(),
            false => format!("write these keys as they are here: {keys}"),
        };
        Advice::new(text).hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_of_others_are_told_by_their_keys() {
        for (text, want) in [
            ("version: \"3\"\nservices:\n  web:\n    image: nginx\n", Some(Foreign::Compose)),
            ("# app\nservices:\n", Some(Foreign::Compose)),
            ("{\"services\": {}}", Some(Foreign::Compose)),
            ("{\"family\": \"web\", \"containerDefinitions\": []}", Some(Foreign::Ecs)),
            ("apiVersion: apps/v1\nkind: Deployment\n", Some(Foreign::Kubernetes)),
            ("{\"apiVersion\": \"v1\", \"kind\": \"Pod\"}", Some(Foreign::Kubernetes)),
            ("job \"web\" {\n  group \"g\" {}\n}\n", Some(Foreign::Nomad)),
            ("{\"Job\": {}}", Some(Foreign::Nomad)),
            ("---\nfamily: cats\n", Some(Foreign::Yaml)),
            ("family: cats\n", Some(Foreign::Yaml)),
            ("family = \"cats\"\n[[containers]]\n", None),
            ("{\"family\": \"cats\", \"containers\": []}", None),
            ("# services: none\nfamily = \"a: b\"\n", None),
            ("", None),
            ("{", None),
        ] {
            assert_eq!(recognise(text), want, "{text}");
        }
    }
}
