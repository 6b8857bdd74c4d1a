use image::{ProgramFacts, World};
use serde::Serialize;
use spec::{Capabilities, Capability, LaunchType, LimitRequest, Want, bound, resolve};

use crate::output::aligned;

/// Every line of an image and a role, and what comes of it.
#[derive(Debug, Serialize)]
pub struct Explained {
    image: String,
    /// Whether nothing that it needs is missing.
    pub starts: bool,
    lines: Vec<Line>,
    /// What the launch type cuts, and what a program can do without any line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Line {
    capability: Capability,
    wanted: Wanted,
    #[serde(skip_serializing_if = "Option::is_none")]
    granted_by: Option<Capability>,
    result: Outcome,
    /// What is in force, where that is not the line itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_force: Option<Capability>,
}

/// What the image says of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Wanted {
    Required,
    Optional,
    /// It asks for other lines.
    No,
    /// It asks for nothing by name, and so takes what is granted.
    Unsaid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Granted,
    Denied,
    Missing,
    Unused,
}

impl Explained {
    /// Pure. The decision is that of [`resolve`] and [`bound`], line by line.
    pub fn of(
        image: &str,
        wants: &[Want],
        grants: &[Capability],
        launch_type: LaunchType,
        facts: Option<&ProgramFacts>,
    ) -> Self {
        let mut lines: Vec<Line> = wants.iter().map(|want| Line::of_want(want, grants)).collect();
        let asked = |grant: &Capability| wants.iter().any(|want| grant.covers(&want.capability));
        lines.extend(grants.iter().filter(|grant| !asked(grant)).map(|grant| {
            let (wanted, result) = match wants.is_empty() {
                true => (Wanted::Unsaid, Outcome::Granted),
                false => (Wanted::No, Outcome::Unused),
            };
            let granted_by = Some(grant.clone());
            Line { capability: grant.clone(), wanted, granted_by, result, in_force: None }
        }));
        let mut in_force: Capabilities = lines.iter().filter_map(Line::in_force).collect();
        let serves = facts.is_some_and(|facts| facts.world == World::Http);
        let request = LimitRequest { serves, ..LimitRequest::default() };
        let bounded = bound(launch_type, &request, &mut in_force);
        let mut notes: Vec<String> = bounded.clamped.iter().map(ToString::to_string).collect();
        notes.extend(facts.and_then(|facts| sends_in_vain(facts, &in_force)));
        let starts = resolve(wants, grants).is_ok();
        Self { image: image.to_owned(), starts, lines, notes }
    }
}

impl Line {
    fn of_want(want: &Want, grants: &[Capability]) -> Self {
        let wanted = if want.optional { Wanted::Optional } else { Wanted::Required };
        let granted_by = grants.iter().find(|grant| grant.covers(&want.capability)).cloned();
        let result = match (&granted_by, want.optional) {
            (Some(_), _) => Outcome::Granted,
            (None, true) => Outcome::Denied,
            (None, false) => Outcome::Missing,
        };
        let one = Want { optional: true, ..want.clone() };
        let met = granted_by.as_slice();
        let in_force = resolve(&[one], met).ok().and_then(|met| met.capabilities.lines().pop());
        let in_force = in_force.filter(|line| *line != want.capability);
        Self { capability: want.capability.clone(), wanted, granted_by, result, in_force }
    }

    fn in_force(&self) -> Option<Capability> {
        let granted = self.result == Outcome::Granted;
        granted.then(|| self.in_force.clone().unwrap_or_else(|| self.capability.clone()))
    }
}

/// A program that imports the client of HTTP and may reach no host.
fn sends_in_vain(facts: &ProgramFacts, in_force: &Capabilities) -> Option<String> {
    const CLIENT: &str = "wasi:http/outgoing-handler";
    let imports = facts.imports.iter().any(|import| import.starts_with(CLIENT));
    (imports && in_force.outbound.is_empty()).then(|| {
        format!(
            "the program imports `{CLIENT}`, and each request that it sends is denied: no line \
                 names a host, as in net.out:https://api.example.com"
        )
    })
}

/// A table, and what is missing in the words of `margay run`.
pub fn told(explained: &Explained) -> String {
    let Explained { image, starts, lines, notes } = explained;
    let mut told = Vec::new();
    if lines.is_empty() {
        told.push(format!("{image} asks for no capability by name, and is granted none"));
    } else {
        let rows = lines.iter().map(|line| {
            let granted_by = line.granted_by.as_ref().map_or("-".to_owned(), ToString::to_string);
            let result = match &line.in_force {
                Some(in_force) => format!("granted as {in_force}"),
                None => crate::verbs::word(&line.result),
            };
            let wanted = crate::verbs::word(&line.wanted);
            [line.capability.to_string(), wanted, granted_by, result]
        });
        told.extend(aligned(&["CAPABILITY", "WANTED", "GRANTED BY", "RESULT"], rows));
    }
    told.extend(notes.iter().map(|note| format!("note: {note}")));
    let missing = lines.iter().filter(|line| line.result == Outcome::Missing);
    told.push(if *starts { "It would start" } else { "It would not start" }.to_owned());
    told.extend(missing.map(|line| format!("  add {}", remedy(&line.capability))));
    told.join("\n")
}

/// What in a task definition grants a line.
fn remedy(line: &Capability) -> String {
    match line {
        Capability::Inbound(grant) => {
            format!("`ports = [{{ container_port = {} }}]` to its container", grant.port.number)
        }
        Capability::Env(grant) => {
            format!("`env = {{ {} = \"VALUE\" }}` to its container", grant.name)
        }
        Capability::Files(grant) => format!(
            "`mounts = [{{ path = \"{}\", volume = \"NAME\" }}]` to its container",
            grant.path
        ),
        _ => format!("\"{line}\" to `role.allow`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines<T: std::str::FromStr<Err = spec::ParseError>>(lines: &[&str]) -> Vec<T> {
        lines.iter().map(|line| line.parse().unwrap_or_else(|e| panic!("{e}"))).collect()
    }

    fn facts(imports: &[&str]) -> ProgramFacts {
        serde_json::from_value(serde_json::json!({
            "kind": "component", "wasi": "0.2", "world": "http", "imports": imports, "exports": [],
        }))
        .unwrap()
    }

    #[test]
    fn each_line_says_what_comes_of_it() {
        let wants = [
            "fs:/data#rw",
            "net.out:https://a.example.com",
            "env:LOG;optional",
            "secret:db-password",
        ];
        let grants =
            ["fs:/data#rwd;volume=orders;max=1MiB", "net.out:https://*.example.com", "env:SPARE"];
        let got = Explained::of("api:v1", &lines(&wants), &lines(&grants), LaunchType::Node, None);
        let results: Vec<_> = got.lines.iter().map(|line| (line.wanted, line.result)).collect();
        assert_eq!(
            results,
            [
                (Wanted::Required, Outcome::Granted),
                (Wanted::Required, Outcome::Granted),
                (Wanted::Optional, Outcome::Denied),
                (Wanted::Required, Outcome::Missing),
                (Wanted::No, Outcome::Unused),
            ]
        );
        let told = told(&got);
        assert!(told.contains("granted as fs:/data#rw;volume=orders;max=1MiB"), "{told}");
        assert!(
            told.ends_with("not start\n  add \"secret:db-password\" to `role.allow`"),
            "{told}"
        );
    }

    #[test]
    fn what_is_missing_is_added_where_a_definition_has_it() {
        for (line, want) in [
            ("net.in:http/80", "`ports = [{ container_port = 80 }]` to its container"),
            ("env:LOG", "`env = { LOG = \"VALUE\" }` to its container"),
            (
                "fs:/data#rw",
                "`mounts = [{ path = \"/data\", volume = \"NAME\" }]` to its container",
            ),
            ("clock:fine", "\"clock:fine\" to `role.allow`"),
        ] {
            assert_eq!(remedy(&lines::<Capability>(&[line])[0]), want);
        }
    }

    #[test]
    fn an_image_without_wants_gets_what_is_granted_within_the_policy_of_the_pool() {
        let grants = lines::<Capability>(&["clock:fine"]);
        let facts = facts(&["wasi:http/outgoing-handler@0.2.6"]);
        for (launch_type, notes) in [(LaunchType::Node, 1), (LaunchType::Pool, 2)] {
            let got = Explained::of("api:v1", &[], &grants, launch_type, Some(&facts));
            assert!(got.starts);
            assert_eq!(got.lines[0].wanted, Wanted::Unsaid);
            assert_eq!(got.notes.len(), notes, "{:?}", got.notes);
        }
        let reaches = lines::<Capability>(&["net.out:https://a.example.com"]);
        let got = Explained::of("api:v1", &[], &reaches, LaunchType::Pool, Some(&facts));
        assert_eq!(got.notes, [""; 0]);
    }
}
