//! Which registry a verb is about, and what is done with it over the network alone.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use clap::Subcommand;
use registry::{Admin, Existing};
use spec::Tenant;

use crate::{
    credentials::{Credentials, Login},
    failure::{Advice, USAGE_ERROR},
    home::Home,
    output::{Output, line},
    platform::{
        self,
        record::{Record, is_registry},
    },
    serve::block_on,
    transfer,
    verbs::{ask_for_each, login},
};

/// The registry of this home, or another one.
#[derive(Debug, clap::Args)]
pub struct Whereabouts {
    /// Administer the registry there, with the login that `margay login` has kept for it: that of
    /// an operator, or of a user for what is theirs [default: the one of this home, over its
    /// socket]
    #[arg(long, global = true, value_name = "HOST:PORT", value_parser = transfer::registry_name)]
    registry: Option<String>,
    /// Speak plain HTTP with a registry on another machine
    #[arg(long, global = true)]
    plain_http: bool,
    /// Trust the certificate authority in this PEM file too
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Operator {
    /// Let users administer the registry from anywhere, with --registry and their passwords
    Add {
        /// Their names
        #[arg(required = true, value_name = "USER")]
        users: Vec<Tenant>,
    },
    /// List operators
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: Output,
    },
    /// Let users administer the registry no more
    #[command(visible_alias = "remove")]
    Rm {
        /// Their names
        #[arg(required = true, value_name = "USER")]
        users: Vec<Tenant>,
    },
}

impl Whereabouts {
    pub fn is_remote(&self) -> bool {
        self.registry.is_some()
    }

    /// The file of an authority that is trusted too.
    pub fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    /// The administrator of that registry.
    /// `downloads` says that --ca is of use without one.
    pub fn admin(&self, home: &Home, downloads: bool) -> anyhow::Result<Admin> {
        if let Some(registry) = &self.registry {
            let login = self.login(home, registry)?;
            return self.remote(home, registry, &login);
        }
        ensure!(
            !self.plain_http && (self.ca.is_none() || downloads),
            Advice::new(
                "--plain-http and --ca are about a registry that is called over the network"
            )
            .hint("name it: --registry HOST:PORT")
            .code(USAGE_ERROR)
        );
        let data_dir = home.path().join("registry");
        ensure!(
            data_dir.exists(),
            Advice::new(format!("there is no registry in `{}`", home.path().display()))
                .hint("start one: margay up; or name another: --registry HOST:PORT")
        );
        Ok(Admin::new(data_dir))
    }

    fn remote(&self, home: &Home, registry: &str, login: &Login) -> anyhow::Result<Admin> {
        let remote = transfer::Remote {
            plain_http: self.plain_http,
            ca: self.ca.clone(),
            registry_timeout: None,
        };
        let options = transfer::options(home, &remote, registry, Some(login))?;
        Ok(Admin::remote(options, registry))
    }

    fn login(&self, home: &Home, registry: &str) -> anyhow::Result<Login> {
        transfer::login(home, registry)?.ok_or_else(|| {
            Advice::new(format!("there is no login for `{registry}` in this home"))
                .hint(format!("log in first: margay login -u USER {registry}"))
                .into()
        })
    }

    /// Gives the user that is logged in another password.
    pub fn change_password(&self, home: &Home, from_stdin: bool) -> anyhow::Result<()> {
        let Some(registry) = &self.registry else {
            return Err(Advice::new("your own password is changed over the network")
                .hint(
                    "name the registry: --registry HOST:PORT; the operator of one on this machine \
                       changes any: margay registry user passwd NAME",
                )
                .code(USAGE_ERROR)
                .into());
        };
        let login = self.login(home, registry)?;
        ensure!(
            !login.user.contains('+'),
            Advice::new(format!("`{}` is a robot account, which has no password", login.user))
                .hint(format!(
                    "give it another secret: margay registry robot rotate {}",
                    login.user
                ))
        );
        let user: Tenant = login.user.parse()?;
        let admin = self.remote(home, registry, &login)?;
        let password = login::new_password(from_stdin)?;
        block_on(admin.put_user(&user, &password, Existing::Known))?;
        if Record::read(home)?.is_some_and(|record| is_registry(record.registry, registry)) {
            platform::keep_password(home, &user, &password)?;
        }
        Credentials::read(home)?.keep(registry, Login { user: login.user, password })?;
        line(format_args!("{user}"));
        Ok(())
    }
}

impl Operator {
    pub fn run(self, admin: &Admin) -> anyhow::Result<()> {
        match self {
            Self::Add { users } => ask_for_each(&users, |user| admin.set_operator(user, true)),
            Self::Rm { users } => ask_for_each(&users, |user| admin.set_operator(user, false)),
            Self::Ls { output } => {
                output.records(&block_on(admin.operators())?, &["OPERATOR"], |user| {
                    [user.to_string()]
                })
            }
        }
    }
}
