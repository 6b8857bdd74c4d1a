mod explained; // each line: asked for, granted by, in force
mod role; // what an operator grants, read from a file

use std::{path::PathBuf, process::ExitCode};

use clap::Subcommand;
use orchestrator::Client;
use serde::Serialize;
use spec::{Capability, ContainerName, LaunchType, TaskDefinition, TaskDefinitionId};

use crate::{
    control::Control,
    home::Home,
    images::{self, Choice, Fetch},
    output::Output,
    program,
    serve::block_on,
    transfer::Remote,
    verbs::diff::changes,
};
use explained::Explained;

/// See what an image asks for, what a role grants it, and how two roles differ
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show each capability line of an image and a role, and whether the image would start
    #[command(
        after_help = "An image that is not here is pulled. Nothing is started. The exit code is 0 when the image would start, and 1 when
something is missing.

Examples:
  margay grants explain api:v1
  margay grants explain api:v1 --role task.toml --launch-type pool
  margay grants explain ./app.wasm --allow net.out:https://api.example.com"
    )]
    Explain(ExplainArgs),
    /// Show what one task definition grants that another does not
    #[command(after_help = "Examples:
  margay grants diff api:3 task.toml
  margay grants diff --exit-code api:3 api:4 && echo the same")]
    Diff(DiffArgs),
}

#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// An image, or a Wasm file
    #[arg(value_name = "IMAGE")]
    image: String,
    /// A task definition, or a TOML file with `allow = ["LINE"]`
    #[arg(long, value_name = "FILE")]
    role: Option<PathBuf>,
    /// The container of the definition, where it has several
    #[arg(long, value_name = "NAME", requires = "role")]
    container: Option<ContainerName>,
    /// Grant a capability line besides
    #[arg(long, value_name = "LINE")]
    allow: Vec<Capability>,
    /// Within the policy of nodes of your own, or of the shared pool
    #[arg(long, value_name = "node|pool", default_value = "node")]
    launch_type: LaunchType,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// The definition to compare with: a file, or a registered FAMILY:REVISION
    #[arg(value_name = "DEFINITION")]
    before: String,
    /// The definition that is compared
    #[arg(value_name = "DEFINITION")]
    after: String,
    /// Exit with 1 when they differ, and with 2 when they cannot be compared
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    control: Control,
}

impl Verb {
    /// Whether its exit code says how two definitions compare.
    pub fn compares_with_code(&self) -> bool {
        matches!(self, Self::Diff(args) if args.exit_code)
    }

    pub fn run(self, home: &Home) -> anyhow::Result<ExitCode> {
        match self {
            Self::Explain(args) => args.run(home),
            Self::Diff(args) => args.run(home),
        }
    }
}

impl ExplainArgs {
    fn run(self, home: &Home) -> anyhow::Result<ExitCode> {
        let mut grants = match &self.role {
            Some(path) => role::grants(path, &self.image, self.container.as_ref())?,
            None => Vec::new(),
        };
        grants.extend(self.allow);
        let choice = Choice { platform: None, quiet: false };
        let found = images::find_for(home, &self.image, Fetch::Missing, &self.remote, choice)?;
        let manifest = found.layout.choose(&found.descriptor, &packager::host_platforms())?;
        let plan = found.layout.plan(&manifest)?;
        let facts = program::of(&found.layout, &plan)?;
        let explained =
            Explained::of(&self.image, &plan.wants, &grants, self.launch_type, facts.as_ref());
        self.output.record(&explained, explained::told)?;
        Ok(ExitCode::from(u8::from(!explained.starts)))
    }
}

/// What two definitions grant, container by container.
#[derive(Debug, Serialize)]
struct Diff {
    before: String,
    after: String,
    same: bool,
    containers: Vec<ContainerDiff>,
}

#[derive(Debug, Serialize)]
struct ContainerDiff {
    container: ContainerName,
    added: Vec<Added>,
    removed: Vec<Capability>,
}

#[derive(Debug, Serialize)]
struct Added {
    grant: Capability,
    /// A line of before that reaches as far, or farther.
    #[serde(skip_serializing_if = "Option::is_none")]
    within: Option<Capability>,
}

impl DiffArgs {
    fn run(self, home: &Home) -> anyhow::Result<ExitCode> {
        let definition = |text: &str| self.definition(home, text);
        let (before, after) = (definition(&self.before)?, definition(&self.after)?);
        let diff = Diff::of((&self.before, &before), (&self.after, &after));
        self.output.record(&diff, told)?;
        Ok(ExitCode::from(u8::from(self.exit_code && !diff.same)))
    }

    /// A file when there is one of that name, and a registered revision otherwise.
    fn definition(&self, home: &Home, text: &str) -> anyhow::Result<TaskDefinition> {
        let path = PathBuf::from(text);
        let id = text.parse::<TaskDefinitionId>();
        match id {
            Ok(id) if !path.exists() => {
                let client: Client = self.control.client(home)?;
                Ok(block_on(client.definition(&id))?.definition)
            }
            _ => super::task::read_definition(&path),
        }
    }
}

impl Diff {
    /// Pure: names of containers as they come, those of before first.
    fn of(before: (&str, &TaskDefinition), after: (&str, &TaskDefinition)) -> Self {
        let mut names: Vec<&ContainerName> = Vec::new();
        for container in before.1.containers.iter().chain(&after.1.containers) {
            if !names.contains(&&container.name) {
                names.push(&container.name);
            }
        }
        let grants = |definition: &TaskDefinition, name: &ContainerName| {
            let container = definition.containers.iter().find(|one| one.name == *name);
            container.map(|container| definition.grants_of(container)).unwrap_or_default()
        };
        let containers = names.into_iter().map(|name| {
            let changes = changes(&grants(before.1, name), &grants(after.1, name), |line| line);
            let added = changes.added.into_iter().map(|(grant, within)| Added { grant, within });
            let (added, removed) = (added.collect(), changes.removed);
            ContainerDiff { container: name.clone(), added, removed }
        });
        let containers: Vec<ContainerDiff> = containers
            .filter(|diff: &ContainerDiff| !diff.added.is_empty() || !diff.removed.is_empty())
            .collect();
        let (before, after) = (before.0.to_owned(), after.0.to_owned());
        Self { before, after, same: containers.is_empty(), containers }
    }
}

/// Signs as of diff(1), removed lines first.
fn told(diff: &Diff) -> String {
    if diff.same {
        return format!("{} and {} grant the same", diff.before, diff.after);
    }
    let mut lines = vec![format!("- {}", diff.before), format!("+ {}", diff.after)];
    for ContainerDiff { container, added, removed } in &diff.containers {
        lines.push(container.to_string());
        lines.extend(removed.iter().map(|line| format!("  - {line}")));
        lines.extend(added.iter().map(|Added { grant, within }| match within {
            Some(wider) => format!("  + {grant} (within {wider} of before)"),
            None => format!("  + {grant}"),
        }));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(allow: &str, containers: &str) -> TaskDefinition {
        toml::from_str(&format!("family = \"api\"\nrole.allow = [{allow}]\n{containers}")).unwrap()
    }

    #[test]
    fn only_what_differs_is_told_and_what_was_covered_before_is_told_apart() {
        let app = "[[containers]]\nname = \"app\"\nimage = \"api:v1\"\n";
        let side = "[[containers]]\nname = \"side\"\nimage = \"log:v1\"\nenv = { LEVEL = \"1\" }\n";
        let wide = "\"net.out:https://*.example.com\"";
        let narrow = "\"net.out:https://api.example.com\"";
        for (before, after, want) in [
            ((wide, app), (wide, app), "before and after grant the same"),
            (
                (wide, app),
                (narrow, app),
                "- before\n+ after\napp\n  - net.out:https://*.example.com:443\n  + \
                 net.out:https://api.example.com:443 (within net.out:https://*.example.com:443 of \
                 before)",
            ),
            (
                (narrow, app),
                (wide, app),
                "- before\n+ after\napp\n  - net.out:https://api.example.com:443\n  + \
                 net.out:https://*.example.com:443",
            ),
            (("", app), ("", side), "- before\n+ after\nside\n  + env:LEVEL"),
        ] {
            let (before, after) = (definition(before.0, before.1), definition(after.0, after.1));
            assert_eq!(told(&Diff::of(("before", &before), ("after", &after))), want);
        }
    }
}
