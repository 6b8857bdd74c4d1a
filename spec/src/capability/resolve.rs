use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    clock::ClockLevel,
    env::EnvGrant,
    files::FileGrant,
    inbound::InboundGrant,
    kinds::{Capability, Want},
    outbound::OutboundGrant,
    random::RandomLevel,
    secrets::SecretGrant,
};
use crate::{secret::SecretName, transport::Port};

/// What a guest can reach, one field per kind. Written as its lines.
///
/// The control plane shows it before anything starts, and the node enforces it: both take it from
/// [`resolve`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Capability>", into = "Vec<Capability>")]
pub struct Capabilities {
    /// Folders of its tree, and the volumes that are mounted there.
    pub files: Vec<FileGrant>,
    /// Connections that it may open.
    pub outbound: Vec<OutboundGrant>,
    /// Ports on which it is reached.
    pub inbound: Vec<InboundGrant>,
    /// Environment variables.
    pub env: Vec<EnvGrant>,
    /// Secrets, as files or as variables.
    pub secrets: Vec<SecretGrant>,
    /// The best clock that is granted by name.
    pub clock: Option<ClockLevel>,
    /// The best random numbers that are granted by name.
    pub random: Option<RandomLevel>,
}

impl Capabilities {
    /// Its lines, by kind.
    pub fn lines(&self) -> Vec<Capability> {
        self.clone().into()
    }

    /// Adds a line that is not there yet. Of levels the best one stays.
    pub fn add(&mut self, line: Capability) {
        match line {
            Capability::Files(grant) => add(&mut self.files, grant),
            Capability::Outbound(grant) => add(&mut self.outbound, grant),
            Capability::Inbound(grant) => add(&mut self.inbound, grant),
            Capability::Env(grant) => add(&mut self.env, grant),
            Capability::Secret(grant) => add(&mut self.secrets, grant),
            Capability::Clock(level) => self.clock = self.clock.max(Some(level)),
            Capability::Random(level) => self.random = self.random.max(Some(level)),
        }
    }

    /// Its clock: the finest when no line names one.
    pub fn clock(&self) -> ClockLevel {
        self.clock.unwrap_or(ClockLevel::Fine)
    }

    /// Its random numbers: the kernel's when no line names others.
    pub fn random(&self) -> RandomLevel {
        self.random.unwrap_or(RandomLevel::Secure)
    }

    /// Whether it is reached on `port`.
    pub fn has_port(&self, port: Port) -> bool {
        self.inbound.contains(&InboundGrant { port })
    }

    /// Whether it gets the variable `name`.
    pub fn has_variable(&self, name: &str) -> bool {
        self.env.iter().any(|grant| grant.name == name)
    }
}

fn add<T: PartialEq>(grants: &mut Vec<T>, grant: T) {
    if !grants.contains(&grant) {
        grants.push(grant);
    }
}

impl Extend<Capability> for Capabilities {
    fn extend<I: IntoIterator<Item = Capability>>(&mut self, lines: I) {
        lines.into_iter().for_each(|line| self.add(line));
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(lines: I) -> Self {
        let mut capabilities = Self::default();
        capabilities.extend(lines);
        capabilities
    }
}

impl From<Vec<Capability>> for Capabilities {
    fn from(lines: Vec<Capability>) -> Self {
        lines.into_iter().collect()
    }
}

impl From<Capabilities> for Vec<Capability> {
    fn from(all: Capabilities) -> Self {
        let Capabilities { files, outbound, inbound, env, secrets, clock, random } = all;
        let lines = files.into_iter().map(Capability::Files);
        lines
            .chain(outbound.into_iter().map(Capability::Outbound))
            .chain(inbound.into_iter().map(Capability::Inbound))
            .chain(env.into_iter().map(Capability::Env))
            .chain(secrets.into_iter().map(Capability::Secret))
            .chain(clock.map(Capability::Clock))
            .chain(random.map(Capability::Random))
            .collect()
    }
}

/// What an operator gives one container: the lines of its role or of `--allow`, and what else
/// implies a line.
#[derive(Debug, Clone, Default)]
pub struct OperatorGrants<'a> {
    /// Lines.
    pub allow: &'a [Capability],
    /// Ports on which it listens.
    pub ports: Vec<Port>,
    /// Names of the variables that are set.
    pub env: Vec<&'a str>,
    /// Secrets whose values are provided: files, unless a line says otherwise.
    pub secrets: Vec<&'a SecretName>,
    /// Mounts.
    pub mounts: Vec<FileGrant>,
}

impl OperatorGrants<'_> {
    /// Each line once.
    pub fn lines(&self) -> Vec<Capability> {
        let is_named = |name: &SecretName| {
            self.allow
                .iter()
                .any(|line| matches!(line, Capability::Secret(grant) if grant.name == *name))
        };
        let ports = self.ports.iter().map(|port| Capability::Inbound(InboundGrant { port: *port }));
        let env = self.env.iter().map(|name| EnvGrant { name: (*name).to_owned() });
        let secrets = self.secrets.iter().filter(|name| !is_named(name));
        let secrets = secrets.map(|name| SecretGrant { name: (*name).clone(), as_env: false });
        let lines = self.allow.iter().cloned().chain(ports).chain(env.map(Capability::Env));
        let lines = lines.chain(secrets.map(Capability::Secret));
        let mut unique = Vec::new();
        for line in lines.chain(self.mounts.iter().cloned().map(Capability::Files)) {
            add(&mut unique, line);
        }
        unique
    }
}

/// What a container gets, and what was cut or left out on the way there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    /// In force.
    pub capabilities: Capabilities,
    /// Granted, and not used: the image does not ask for it.
    pub cut: Vec<Capability>,
    /// Asked for as optional, and not granted.
    pub denied: Vec<Capability>,
}

/// A line that the image needs and that was not granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingGrant(pub Capability);

impl fmt::Display for MissingGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the image wants `{}`, which it has not been granted", self.0)
    }
}

impl std::error::Error for MissingGrant {}

/// The intersection of what an image wants and what its operator grants.
///
/// An image without wants gets what is granted. One with wants gets, for each, the grant that
/// covers it in the grant's own words (its volume, its ceiling), and grants that it never asked for
/// are cut.
///
/// # Errors
/// [`MissingGrant`] names the first want that is required and not granted.
pub fn resolve(wants: &[Want], grants: &[Capability]) -> Result<Resolved, MissingGrant> {
    let mut resolved = Resolved::default();
    if wants.is_empty() {
        resolved.capabilities.extend(grants.iter().cloned());
        return Ok(resolved);
    }
    for Want { capability: wanted, optional } in wants {
        match grants.iter().find(|grant| grant.covers(wanted)) {
            Some(grant) => resolved.capabilities.add(grant.narrowed_to(wanted)),
            None if *optional => resolved.denied.push(wanted.clone()),
            None => return Err(MissingGrant(wanted.clone())),
        }
    }
    let is_unused = |grant: &&Capability| !wants.iter().any(|want| grant.covers(&want.capability));
    resolved.cut = grants.iter().filter(is_unused).cloned().collect();
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines<T: std::str::FromStr<Err = crate::ParseError>>(lines: &[&str]) -> Vec<T> {
        lines.iter().map(|line| line.parse().unwrap_or_else(|e| panic!("{e}"))).collect()
    }

    #[test]
    fn wants_and_grants_meet_in_the_smaller_of_the_two() {
        let wants = lines::<Want>(&[
            "fs:/data#rw;volume=any",
            "net.out:https://a.example.com;optional",
            "env:LOG",
            "clock:coarse;optional",
        ]);
        let grants = lines::<Capability>(&[
            "fs:/data#rwd;volume=orders;max=1MiB",
            "env:LOG",
            "env:SPARE",
            "clock:fine",
        ]);
        let got = resolve(&wants, &grants).unwrap();
        assert_eq!(
            got.capabilities.lines(),
            lines(&["fs:/data#rw;volume=orders;max=1MiB", "env:LOG", "clock:coarse"])
        );
        assert_eq!(got.denied, lines(&["net.out:https://a.example.com:443"]));
        assert_eq!(got.cut, lines(&["env:SPARE"]));
        assert_eq!(resolve(&[], &grants).unwrap().capabilities.lines(), grants);
    }

    #[test]
    fn a_required_want_without_a_grant_is_named() {
        let wants = lines::<Want>(&["net.out:https://a.example.com"]);
        let missing = resolve(&wants, &[]).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "the image wants `net.out:https://a.example.com:443`, which it has not been granted"
        );
    }

    #[test]
    fn every_line_stands_there_once_and_of_levels_the_best() {
        let granted = ["env:A", "clock:frozen", "env:A", "clock:fine", "net.in:http/80"];
        let got = resolve(&[], &lines(&granted)).unwrap().capabilities;
        assert_eq!(got.lines(), lines(&["net.in:http/80", "env:A", "clock:fine"]));
        let written = serde_json::to_string(&got).unwrap();
        assert_eq!(written, r#"["net.in:http/80","env:A","clock:fine"]"#);
        assert_eq!(serde_json::from_str::<Capabilities>(&written).unwrap(), got);
    }

    #[test]
    fn a_port_a_variable_a_secret_and_a_mount_imply_a_line_each() {
        let (allow, volume) = (lines(&["secret:b;as=env", "env:LOG"]), "orders".parse().unwrap());
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let grants = OperatorGrants {
            allow: &allow,
            ports: vec![Port::tcp(80), Port::tcp(80)],
            env: vec!["LOG", "LEVEL"],
            secrets: vec![&a, &b],
            mounts: vec![FileGrant::mount("/data", true, &volume, Some(1 << 20))],
        };
        let want = [
            "secret:b;as=env",
            "env:LOG",
            "net.in:http/80",
            "env:LEVEL",
            "secret:a",
            "fs:/data#r;volume=orders;max=1MiB",
        ];
        assert_eq!(grants.lines(), lines(&want));
    }
}
