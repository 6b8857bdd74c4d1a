use std::{collections::BTreeMap, io, path::Path};

use engine::exec::Program;
use serde::Deserialize;

use crate::{
    Error,
    bundle::strings::{check_args, check_variables},
};

/// What every process of a container is made with: read from the `config.json` that its first one
/// was made by, so that both have the same walls.
#[derive(Debug, Deserialize)]
pub(crate) struct Template {
    process: Process,
    linux: Linux,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    user: User,
    env: Vec<String>,
    cwd: String,
    capabilities: Capabilities,
    #[serde(default)]
    no_new_privileges: bool,
    #[serde(default)]
    oom_score_adj: Option<i32>,
    #[serde(default)]
    rlimits: Vec<ResourceLimit>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct User {
    pub uid: u32,
    pub gid: u32,
    #[serde(default)]
    pub additional_gids: Vec<u32>,
}

/// Names such as `CAP_CHOWN`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Capabilities {
    pub bounding: Vec<String>,
    pub effective: Vec<String>,
    pub permitted: Vec<String>,
    pub inheritable: Vec<String>,
    pub ambient: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ResourceLimit {
    /// As in `RLIMIT_NOFILE`.
    #[serde(rename = "type")]
    pub name: String,
    pub soft: u64,
    pub hard: u64,
}

#[derive(Debug, Deserialize)]
struct Linux {
    seccomp: serde_json::Value,
}

/// A program with everything decided that the container's own files do not decide.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub cwd: String,
    pub user: User,
    /// To be looked up in the container instead.
    pub user_name: Option<String>,
    pub terminal: Option<(u16, u16)>,
    pub capabilities: &'a Capabilities,
    /// Whether programs with a set-user-id bit gain nothing.
    pub no_new_privileges: bool,
    pub rlimits: &'a [ResourceLimit],
    pub oom_score_adj: Option<i32>,
}

impl Template {
    pub(crate) fn read(bundle: &Path) -> Result<Self, Error> {
        let path = bundle.join("config.json");
        let read = std::fs::read(&path)
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from));
        read.map_err(Error::io(format!("read `{}`", path.display())))
    }

    pub(crate) fn seccomp(&self) -> &serde_json::Value {
        &self.linux.seccomp
    }

    /// What the container's first process would be, were it `program`.
    ///
    /// # Errors
    /// [`Error::Config`] for arguments and variables that Linux does not take.
    pub(crate) fn order(&self, program: Program) -> Result<Order<'_>, Error> {
        check_args(&program.args)?;
        let split = |line: &String| {
            line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        let mut env: BTreeMap<_, _> = self.process.env.iter().filter_map(split).collect();
        if program.user.is_some() {
            // That of the user; it is not known yet.
            env.remove("HOME");
        }
        if program.terminal.is_some() {
            env.entry("TERM".to_owned()).or_insert_with(|| "xterm".to_owned());
        }
        env.extend(program.env);
        check_variables(&env)?;
        let cwd = program.working_dir.unwrap_or_else(|| self.process.cwd.clone());
        if !cwd.starts_with('/') || cwd.contains('\0') {
            let what = format!("working directory `{}`", cwd.escape_debug());
            return Err(Error::Config { what, why: "it is no absolute path".to_owned() });
        }
        Ok(Order {
            args: program.args,
            env,
            cwd,
            user: self.process.user.clone(),
            user_name: program.user,
            terminal: program.terminal,
            capabilities: &self.process.capabilities,
            no_new_privileges: self.process.no_new_privileges,
            rlimits: &self.process.rlimits,
            oom_score_adj: self.process.oom_score_adj,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template() -> Template {
        let golden = include_str!("../../bundle/config.golden.json");
        let mut config: serde_json::Value = serde_json::from_str(golden).unwrap();
        config["process"]["env"] = serde_json::json!(["A=image", "HOME=/root", "PATH=/bin"]);
        serde_json::from_value(config).unwrap()
    }

    fn program(user: Option<&str>) -> Program {
        Program {
            args: vec!["/bin/true".to_owned()],
            env: [("A".to_owned(), "mine".to_owned())].into(),
            user: user.map(str::to_owned),
            ..Program::default()
        }
    }

    #[test]
    fn a_program_has_the_containers_own_variables_user_and_folder() {
        let template = template();
        let order = template.order(program(None)).unwrap();
        let env: Vec<_> = order.env.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(env, ["A=mine", "HOME=/root", "PATH=/bin"]);
        assert_eq!(order.user.uid, 33);
        let other = template.order(program(Some("www"))).unwrap();
        assert!(!other.env.contains_key("HOME"), "it is the user's");
        let terminal = Program { terminal: Some((1, 1)), ..program(None) };
        assert_eq!(template.order(terminal).unwrap().env["TERM"], "xterm");
    }

    #[test]
    fn what_linux_does_not_take_is_refused_by_name() {
        let template = template();
        let with = |change: fn(&mut Program)| {
            let mut program = program(None);
            change(&mut program);
            template.order(program).map(drop).expect_err("refused").to_string()
        };
        for (error, why) in [
            (with(|p| p.args = Vec::new()), "neither the image nor the command line"),
            (with(|p| p.args = vec!["a\0b".to_owned()]), "NUL"),
            (with(|p| drop(p.env.insert(String::new(), String::new()))), "`` cannot be a variable"),
            (with(|p| p.working_dir = Some("srv".to_owned())), "`srv`"),
        ] {
            assert!(error.contains(why), "{error}");
        }
    }
}
