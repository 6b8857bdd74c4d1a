use spec::{Capability, SecretName};

/// What a run says of the role that its image needs.
#[derive(Debug, PartialEq, Eq)]
pub struct LearnedRole {
    /// For `role.allow`.
    pub allow: Vec<Capability>,
    /// Granted, and not used.
    pub unused: Vec<Capability>,
}

impl LearnedRole {
    /// Pure. Hosts are those that were reached. A run does not show which files, variables, secrets
    /// and clocks a program would do without, so that those stay as they were granted.
    pub fn of<'a>(
        granted: &[Capability],
        secrets: impl IntoIterator<Item = &'a SecretName>,
        reached: &[Capability],
    ) -> Self {
        let is_host = |line: &&Capability| matches!(line, Capability::Outbound(_));
        let is_used = |line: &&Capability| reached.iter().any(|host| line.covers(host));
        let mut allow = reached.to_vec();
        let secrets = secrets.into_iter().map(|name| {
            let grant = spec::SecretGrant { name: name.clone(), as_env: false };
            Capability::Secret(grant)
        });
        let is_granted = |line: &Capability| match line {
            Capability::Secret(one) => granted
                .iter()
                .any(|line| matches!(line, Capability::Secret(other) if other.name == one.name)),
            _ => false,
        };
        allow.extend(granted.iter().filter(|line| !is_host(line)).cloned());
        allow.extend(secrets.filter(|line| !is_granted(line)));
        let unused = granted.iter().filter(is_host).filter(|line| !is_used(line)).cloned();
        Self { allow, unused: unused.collect() }
    }

    /// As a task definition has it.
    pub fn told(&self) -> String {
        let mut lines = match self.allow.as_slice() {
            [] => vec!["Learned: it reached no host, and its role needs no line".to_owned()],
            allow => {
                let allow = allow.iter().map(|line| format!("  \"{line}\","));
                let head = ["Learned, for its task definition:", "role.allow = ["];
                head.map(str::to_owned).into_iter().chain(allow).chain(["]".to_owned()]).collect()
            }
        };
        let unused = self.unused.iter();
        lines.extend(unused.map(|line| format!("Granted, and not used in this run: {line}")));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[&str]) -> Vec<Capability> {
        lines.iter().map(|line| line.parse().unwrap_or_else(|e| panic!("{e}"))).collect()
    }

    #[test]
    fn a_role_has_the_hosts_that_were_reached_and_all_else_as_it_was_granted() {
        let granted = lines(&[
            "net.out:https://*.example.com",
            "net.out:https://spare.example.org",
            "clock:coarse",
            "secret:a;as=env",
        ]);
        let secrets: [SecretName; 2] = ["a".parse().unwrap(), "b".parse().unwrap()];
        let reached = lines(&["net.out:https://api.example.com", "net.out:http://new.example.net"]);
        let role = LearnedRole::of(&granted, &secrets, &reached);
        let allow = [
            "net.out:https://api.example.com",
            "net.out:http://new.example.net",
            "clock:coarse",
            "secret:a;as=env",
            "secret:b",
        ];
        assert_eq!(role.allow, lines(&allow));
        assert_eq!(role.unused, lines(&["net.out:https://spare.example.org"]));
        let definition = format!("family = \"a\"\ncontainers = []\n{}", toml_of(&role.told()));
        let definition: spec::TaskDefinition = toml::from_str(&definition).unwrap();
        assert_eq!(definition.role.allow, role.allow, "what is told can be pasted");
        let nothing = LearnedRole::of(&[], [], &[]).told();
        assert_eq!(nothing, "Learned: it reached no host, and its role needs no line");
    }

    /// What stands between the head and the lines of what was not used.
    fn toml_of(told: &str) -> String {
        let from = told.find("role.allow").unwrap();
        let to = told.find("]\n").unwrap();
        told[from..=to].to_owned()
    }
}
