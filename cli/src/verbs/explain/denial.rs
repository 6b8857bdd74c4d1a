use std::collections::BTreeMap;

use anyhow::bail;
use orchestrator::{Client, RegisteredDefinition};
use spec::{
    Capability, Explanation, ExplanationCause, Frame, LogQuery, OutboundGrant, Task, TaskId,
};

/// How a worker writes a denial into the log of its task.
const MARK: &str = "margay: denied ";
/// Denied lines that are explained: a task that is denied more asks for everything there is.
const LINES_MAX: usize = 50;

/// What a task was denied: by its definition, and as its log says.
pub async fn explain(client: &Client, id: &TaskId) -> anyhow::Result<Explanation> {
    let task = client.task(id).await?;
    let definition = client.definition(&task.spec.task_definition).await?;
    let mut denied: BTreeMap<String, bool> = BTreeMap::new();
    for line in definition.grants.iter().flat_map(|grants| &grants.denied) {
        denied.insert(line.to_string(), false);
    }
    for container in &task.status.containers {
        let query = LogQuery { grep: Some(MARK.to_owned()), ..LogQuery::default() };
        let mut stream = client.logs(id, Some(&container.name), &query).await?;
        loop {
            match stream.next().await? {
                Some(Frame::Log { text, .. }) if denied.len() < LINES_MAX => {
                    denied.extend(line_of(&String::from_utf8_lossy(&text)));
                }
                Some(Frame::End(end)) => match end.fault {
                    Some(fault) => bail!(fault),
                    None => break,
                },
                Some(_) => {}
                None => break,
            }
        }
    }
    Ok(explained(&task, &definition, &denied))
}

/// The line of a denial, and whether the owner of the node is what is missing.
fn line_of(text: &str) -> Option<(String, bool)> {
    let (_, rest) = text.split_once(MARK)?;
    let (line, _) = rest.split_once(" (")?;
    Some((line.to_owned(), rest.contains("the network is not opened")))
}

/// Pure: what is to be said of the denied lines, each with whether its role grants it already.
fn explained(
    task: &Task,
    definition: &RegisteredDefinition,
    denied: &BTreeMap<String, bool>,
) -> Explanation {
    let family = &task.spec.task_definition.family;
    let role = &definition.definition.role.allow;
    let causes = denied.iter().map(|(line, network_is_missing)| {
        let is_granted = *network_is_missing || role.iter().any(|allow| allow.to_string() == *line);
        let (why, change) = match (line.parse(), is_granted) {
            (Ok(Capability::Outbound(grant)), true) => (
                format!("`{line}` is granted, and the owner of the node does not open the network"),
                Some(format!("on its node: margay up --private-network {}", network(&grant))),
            ),
            (Ok(Capability::Outbound(grant)), false) if grant.private => (
                format!("`{line}` is not granted, and it is an internal address"),
                Some(format!(
                    "add \"{line}\" to `role.allow` of `{family}`: margay task register FILE; and on \
                     its node: margay up --private-network {}",
                    network(&grant)
                )),
            ),
            (_, true) => (format!("`{line}` was denied to an earlier revision"), None),
            (_, false) => (
                format!("`{line}` is not granted"),
                Some(format!(
                    "add \"{line}\" to `role.allow` of `{family}`: margay task register FILE"
                )),
            ),
        };
        ExplanationCause { why, change }
    });
    let causes: Vec<_> = causes.collect();
    let state = match causes.len() {
        0 => "nothing was denied to it".to_owned(),
        1 => "one capability was denied to it".to_owned(),
        many => format!("{many} capabilities were denied to it"),
    };
    Explanation { subject: format!("task `{}`", task.id), state, causes }
}

/// What `--private-network` would take.
fn network(grant: &OutboundGrant) -> String {
    match &grant.host {
        spec::Host::Address(address) => address.to_string(),
        _ => "ADDRESS/BITS".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denied_line_is_read_from_a_log_and_explained() {
        for (text, want) in [
            ("margay: denied env:A (1x); grant it: --allow env:A", Some(("env:A", false))),
            (
                "margay: denied net.out:http://10.0.0.7:80;private (4x): the network is not opened",
                Some(("net.out:http://10.0.0.7:80;private", true)),
            ),
            ("something else", None),
        ] {
            let got = line_of(text);
            assert_eq!(got.as_ref().map(|(line, key)| (line.as_str(), *key)), want, "{text}");
        }
        let task = serde_json::json!({
            "id": "cats-1", "created": "2026-11-27T10:00:00.000Z",
            "spec": { "cluster": "main", "task_definition": "cats:1", "launch_type": "node",
                "service": null, "node": "n1", "stop": false },
            "status": { "phase": "running" },
        });
        let task: Task = serde_json::from_value(task).unwrap();
        let definition = serde_json::json!({
            "id": "cats:1", "registered": "2026-11-27T10:00:00.000Z", "active": true, "grants": [],
            "definition": { "family": "cats", "containers": [],
                "role": { "allow": ["net.out:http://10.0.0.7:80;private"] } },
        });
        let definition: RegisteredDefinition = serde_json::from_value(definition).unwrap();
        for (line, key, want) in [
            ("env:A", false, "add \"env:A\" to `role.allow` of `cats`: margay task register FILE"),
            (
                "net.out:http://10.0.0.7:80;private",
                true,
                "on its node: margay up --private-network 10.0.0.7",
            ),
            (
                "net.out:http://10.0.0.8:80;private",
                false,
                "and on its node: margay up --private-network 10.0.0.8",
            ),
        ] {
            let denied = BTreeMap::from([(line.to_owned(), key)]);
            let explanation = explained(&task, &definition, &denied);
            let change = explanation.causes[0].change.clone().unwrap();
            assert!(change.contains(want), "{line}: {change}");
        }
    }
}
