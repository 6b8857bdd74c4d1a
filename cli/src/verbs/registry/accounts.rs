//! Users, organisations and robot accounts.

use std::{
    fmt::{self, Display},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use anyhow::bail;
use clap::Subcommand;
use registry::{Admin, Existing, Repositories, Repository, RobotCredential, RobotScope};
use spec::{CredentialName, Tenant};

use super::htpasswd;
use crate::{
    home::Home,
    output::{Output, ago, line, notice, now},
    platform,
    serve::block_on,
    verbs::{ask_for_each, login},
};

#[derive(Debug, Subcommand)]
pub enum User {
    /// Add a user
    Add {
        /// The name; the user owns the repositories NAME/…
        name: Tenant,
        /// Read the password from stdin
        #[arg(long)]
        password_stdin: bool,
    },
    /// Add the users of an htpasswd file, with the passwords that they have
    #[command(
        after_help = "The passwords are hashes of bcrypt, as other registries take them (htpasswd -B). Users that are there already are
named, and stay as they are."
    )]
    Import {
        /// The file; - reads stdin
        #[arg(value_name = "HTPASSWD")]
        file: PathBuf,
    },
    /// List users
    Ls,
    /// Give a user another password: logins and tokens with the one before end at once
    Passwd {
        /// The name
        name: Tenant,
        /// Read the password from stdin
        #[arg(long)]
        password_stdin: bool,
    },
    /// Remove a user with its robot accounts; refused while it owns repositories
    Rm {
        /// The name
        name: Tenant,
        #[command(flatten)]
        then: Heirs,
    },
}

#[derive(Debug, Subcommand)]
pub enum Organisation {
    /// Add an organisation: it owns the repositories NAME/…, and has teams and no password
    Add {
        /// The name
        name: Tenant,
    },
    /// List organisations
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: Output,
    },
    /// Remove an organisation with its teams and robot accounts; refused while it owns repositories
    #[command(visible_alias = "remove")]
    Rm {
        /// The name
        name: Tenant,
        #[command(flatten)]
        then: Heirs,
    },
}

/// What becomes of the repositories of an account that is removed.
#[derive(Debug, clap::Args)]
pub struct Heirs {
    /// Make its repositories those of this user or organisation
    #[arg(long, value_name = "ACCOUNT")]
    transfer_to: Option<Tenant>,
    /// Delete its repositories
    #[arg(long, conflicts_with = "transfer_to")]
    delete_repositories: bool,
}

impl From<Heirs> for Repositories {
    fn from(heirs: Heirs) -> Self {
        match (heirs.transfer_to, heirs.delete_repositories) {
            (Some(account), _) => Self::TransferTo(account),
            (None, true) => Self::Delete,
            (None, false) => Self::Keep,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Robot {
    /// Add a robot account and print its secret, this once
    Add {
        /// USER+ROBOT or ORGANISATION+ROBOT, which is what it logs in as
        #[arg(value_name = "USER+ROBOT")]
        login: RobotLogin,
        /// pull, or push, which is to pull, add and delete
        #[arg(long, value_name = "SCOPE", default_value_t = RobotScope::Pull)]
        scope: RobotScope,
        /// Limit it to this repository of its user (repeatable) [default: all of them]
        #[arg(long = "repository", value_name = "REPOSITORY")]
        repositories: Vec<Repository>,
        /// How long it holds, at most 366d
        #[arg(
            long,
            value_name = "TIME",
            default_value = "90d",
            value_parser = spec::parse_duration
        )]
        expires: Duration,
    },
    /// List robot accounts, without their secrets
    Ls {
        #[command(flatten)]
        output: Output,
    },
    /// Give a robot account another secret and print it: the one before is refused at once
    Rotate {
        /// Its name
        #[arg(value_name = "USER+ROBOT")]
        login: RobotLogin,
    },
    /// Remove robot accounts: what they are doing breaks off
    Rm {
        /// Their names
        #[arg(required = true, value_name = "USER+ROBOT")]
        logins: Vec<RobotLogin>,
    },
}

/// The name of a robot account.
#[derive(Debug, Clone)]
pub struct RobotLogin {
    user: Tenant,
    robot: CredentialName,
}

impl FromStr for RobotLogin {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let Some((user, robot)) = text.split_once('+') else {
            bail!("`{text}` is not USER+ROBOT, as in me+ci");
        };
        Ok(Self { user: user.parse()?, robot: robot.parse()? })
    }
}

impl Display for RobotLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.user, self.robot)
    }
}

impl User {
    /// `home` is that of the registry.
    pub fn run(self, home: Option<&Home>, admin: &Admin) -> anyhow::Result<()> {
        match self {
            Self::Add { name, password_stdin } => {
                let password = login::new_password(password_stdin)?;
                block_on(admin.put_user(&name, &password, Existing::New))?;
                line(format_args!("{name}"));
            }
            Self::Passwd { name, password_stdin } => {
                let password = login::new_password(password_stdin)?;
                block_on(admin.put_user(&name, &password, Existing::Known))?;
                home.map(|home| platform::keep_password(home, &name, &password)).transpose()?;
                line(format_args!("{name}"));
            }
            Self::Import { file } => return htpasswd::import(admin, &file),
            Self::Ls => {
                let users = block_on(admin.users())?;
                users.iter().for_each(|user| line(format_args!("{user}")));
            }
            Self::Rm { name, then } => {
                block_on(admin.remove_user(&name, &then.into()))?;
                line(format_args!("{name}"));
            }
        }
        Ok(())
    }
}

impl Robot {
    pub fn run(self, admin: &Admin) -> anyhow::Result<()> {
        match self {
            Self::Add { login, scope, repositories, expires } => {
                let RobotLogin { user, robot } = &login;
                let made = admin.create_robot(user, robot, scope, &repositories, expires);
                show(&block_on(made)?);
            }
            Self::Ls { output } => {
                let headings = ["LOGIN", "SCOPE", "REPOSITORIES", "EXPIRES", "LAST USED"];
                output.records(&block_on(admin.robots())?, &headings, |robot| {
                    let repositories = match robot.repositories.is_empty() {
                        true => "all".to_owned(),
                        false => robot.repositories.join(","),
                    };
                    let used = robot.last_used.map(|at| ago(at, now()));
                    [
                        robot.login.clone(),
                        robot.scope.to_string(),
                        repositories,
                        robot.expires.to_string(),
                        used.unwrap_or_else(|| "never".to_owned()),
                    ]
                })?;
            }
            Self::Rotate { login } => {
                show(&block_on(admin.rotate_robot(&login.user, &login.robot))?);
            }
            Self::Rm { logins } => {
                return ask_for_each(&logins, |login| {
                    admin.remove_robot(&login.user, &login.robot)
                });
            }
        }
        Ok(())
    }
}

fn show(made: &RobotCredential) {
    notice(format_args!(
        "This is the password of `{}` until {}, shown this once: docker login -u {} REGISTRY",
        made.login, made.expires, made.login
    ));
    line(format_args!("{}", made.secret));
}

impl Organisation {
    pub fn run(self, admin: &Admin) -> anyhow::Result<()> {
        match self {
            Self::Add { name } => {
                block_on(admin.add_organisation(&name))?;
                line(format_args!("{name}"));
            }
            Self::Ls { output } => {
                let all = block_on(admin.organisations())?;
                output.records(&all, &["ORGANISATION", "ADDED"], |one| {
                    [one.name.to_string(), ago(one.created, now())]
                })?;
            }
            Self::Rm { name, then } => {
                block_on(admin.remove_organisation(&name, &then.into()))?;
                line(format_args!("{name}"));
            }
        }
        Ok(())
    }
}
