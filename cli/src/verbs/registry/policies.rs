//! Teams, and what policies let users, teams and robot accounts do.

use std::collections::BTreeSet;

use clap::Subcommand;
use registry::{
    Action, Admin, PolicyCheck, PolicyInfo, Repository, RepositoryPattern, Role, Subject,
    TeamChange, TeamName,
};
use spec::Tenant;

use crate::{
    output::{Output, line, print_table},
    serve::block_on,
};

#[derive(Debug, Subcommand)]
pub enum Team {
    /// Add users to a team, which is made if there is none
    Add {
        /// ACCOUNT/TEAM: a team of an organisation or a user
        #[arg(value_name = "ACCOUNT/TEAM")]
        team: TeamName,
        /// The users
        #[arg(value_name = "USER")]
        members: Vec<Tenant>,
    },
    /// List teams and their members
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: Output,
    },
    /// Remove users from a team, or, when none is named, the team and the policies for it
    #[command(visible_alias = "remove")]
    Rm {
        /// ACCOUNT/TEAM
        #[arg(value_name = "ACCOUNT/TEAM")]
        team: TeamName,
        /// The users
        #[arg(value_name = "USER")]
        members: Vec<Tenant>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Let a subject do what these roles allow, in place of what this policy has allowed before
    #[command(
        after_help = "REPOSITORIES is a name, or a pattern in which * stands for any characters: acme/app, acme/*, acme/web-*.
A pattern without / is about names without / alone: policy set 'base-*' '*' push lets every login push
base-1, and * all such names.
SUBJECT is USER, USER+ROBOT, ACCOUNT/TEAM, or * for every client with a login.

Roles; all of them read, and a subject with several policies has the roles of all:
  pull           read
  push           add blobs and manifests, set and move tags
  tag-create     the same, but no tag that is set is moved
  tag-overwrite  set and move tags among the manifests that are there
  delete         remove tags, manifests and blobs
  admin          everything, and decide about these repositories

Examples:
  margay registry policy set 'acme/*' acme/dev push delete
  margay registry policy set me/cats you pull
  margay registry policy set '*' '*' push"
    )]
    Set {
        /// Which repositories
        repositories: RepositoryPattern,
        /// Which client
        subject: Subject,
        /// What it may do
        #[arg(required = true, value_name = "ROLE")]
        roles: Vec<Role>,
        #[command(flatten)]
        output: Output,
    },
    /// List policies
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: Output,
    },
    /// Remove a policy: what goes on by its roles breaks off
    #[command(visible_alias = "remove")]
    Rm {
        /// Its repositories, as it is listed
        repositories: RepositoryPattern,
        /// Its subject
        subject: Subject,
    },
    /// Say what a user or a robot account may do in a repository, and by which policies
    Check {
        /// USER or USER+ROBOT
        subject: Subject,
        /// The repository
        repository: Repository,
        #[command(flatten)]
        output: Output,
    },
}

impl Team {
    pub fn run(self, admin: &Admin) -> anyhow::Result<()> {
        match self {
            Self::Add { team, members } => {
                let change =
                    TeamChange { add: members.into_iter().collect(), ..TeamChange::default() };
                block_on(admin.change_team(&team, &change))?;
                line(format_args!("{team}"));
            }
            Self::Rm { team, members } if members.is_empty() => {
                block_on(admin.remove_team(&team))?;
                line(format_args!("{team}"));
            }
            Self::Rm { team, members } => {
                let change =
                    TeamChange { remove: members.into_iter().collect(), ..TeamChange::default() };
                block_on(admin.change_team(&team, &change))?;
                line(format_args!("{team}"));
            }
            Self::Ls { output } => {
                output.records(&block_on(admin.teams())?, &["TEAM", "MEMBERS"], |team| {
                    let members: Vec<_> = team.members.iter().map(ToString::to_string).collect();
                    let members =
                        if members.is_empty() { "-".to_owned() } else { members.join(",") };
                    [team.team.to_string(), members]
                })?;
            }
        }
        Ok(())
    }
}

const HEADINGS: [&str; 3] = ["REPOSITORIES", "SUBJECT", "ROLES"];

impl Policy {
    pub fn run(self, admin: &Admin) -> anyhow::Result<()> {
        match self {
            Self::Set { repositories, subject, roles, output } => {
                let roles: BTreeSet<Role> = roles.into_iter().collect();
                let set = block_on(admin.set_policy(&repositories, &subject, &roles))?;
                output.records(&[set], &HEADINGS, row)
            }
            Self::Ls { output } => output.records(&block_on(admin.policies())?, &HEADINGS, row),
            Self::Rm { repositories, subject } => {
                block_on(admin.remove_policy(&repositories, &subject))?;
                line(format_args!("{repositories} {subject}"));
                Ok(())
            }
            Self::Check { subject, repository, output } => {
                let checked = block_on(admin.check_policy(&subject, &repository))?;
                if output.is_json() {
                    return crate::output::json(&checked);
                }
                line(format_args!("{}", told(&checked)));
                if !checked.policies.is_empty() {
                    print_table(&HEADINGS, checked.policies.iter().map(row));
                }
                Ok(())
            }
        }
    }
}

fn row(policy: &PolicyInfo) -> [String; 3] {
    let roles: Vec<_> = policy.roles.iter().map(|role| role.name()).collect();
    [policy.repositories.to_string(), policy.subject.to_string(), roles.join(",")]
}

/// `pull, push (owner)`.
fn told(checked: &PolicyCheck) -> String {
    let allowed: Vec<_> = checked.allowed.iter().copied().map(Action::name).collect();
    let allowed = if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") };
    let why = [(checked.is_owner, "owner"), (checked.is_public, "public")];
    let why: Vec<_> = why.into_iter().filter_map(|(is, word)| is.then_some(word)).collect();
    match why.is_empty() {
        true => allowed,
        false => format!("{allowed} ({})", why.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_told_with_its_reasons() {
        let none =
            PolicyCheck { allowed: vec![], is_owner: false, is_public: false, policies: vec![] };
        assert_eq!(told(&none), "nothing");
        let allowed = vec![Action::Pull, Action::TagCreate];
        let some = PolicyCheck { allowed, is_owner: true, is_public: true, ..none };
        assert_eq!(told(&some), "pull, tag-create (owner, public)");
    }
}
