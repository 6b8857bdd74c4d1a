use anyhow::ensure;
use clap::{Subcommand, ValueEnum};
use registry::{Admin, Config, Repository, Server};
use spec::Tenant;
use tokio::net::TcpListener;

use crate::{
    failure::Advice,
    home::Home,
    output::{Output, line},
    platform::{self, listen::Listen},
    serve::{self, Child, block_on},
    verbs::login,
};

/// Run the registry apart, or manage its users and the visibility of repositories
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Without a subcommand: serve in the foreground.
It speaks plain HTTP; put a proxy that ends TLS in front of it before other machines reach it."
)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    child: Child,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Manage users
    #[command(subcommand)]
    User(User),
    /// Make a repository public or private
    Visibility {
        /// Which one, as in me/cats
        repository: Repository,
        /// Readable by all, or by its owner alone
        visibility: Visibility,
    },
    /// List repositories and their visibility
    Ls {
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
enum User {
    /// Add a user, or give one another password
    Add {
        /// The name; the user owns the repositories NAME/…
        name: Tenant,
        /// Read the password from stdin
        #[arg(long)]
        password_stdin: bool,
    },
    /// List users
    Ls,
    /// Remove a user; the repositories stay
    Rm {
        /// The name
        name: Tenant,
    },
}

/// The visibility of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Visibility {
    /// All clients may read it.
    Public,
    /// Its owner alone.
    Private,
}

impl From<Visibility> for registry::Visibility {
    fn from(visibility: Visibility) -> Self {
        match visibility {
            Visibility::Public => Self::Public,
            Visibility::Private => Self::Private,
        }
    }
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        match self.verb {
            Some(verb) => verb.run(home),
            None => self.serve(home),
        }
    }

    fn serve(self, home: &Home) -> anyhow::Result<()> {
        self.child.begin()?;
        let socket = self.listen.socket(platform::REGISTRY_PORT)?;
        socket.set_nonblocking(true)?;
        let data_dir = home.folder("registry")?;
        serve::until_shutdown(|stop| async move {
            let server = Server::open(Config::new(data_dir)).await?;
            self.listen.announce("registry", &socket)?;
            anyhow::Ok(server.serve(TcpListener::from_std(socket)?, stop).await?)
        })
    }
}

impl Verb {
    fn run(self, home: &Home) -> anyhow::Result<()> {
        let data_dir = home.path().join("registry");
        ensure!(
            data_dir.exists(),
            Advice::new(format!("there is no registry in `{}`", home.path().display()))
                .hint("start one: margay up")
        );
        let admin = Admin::new(data_dir);
        match self {
            Self::User(User::Add { name, password_stdin }) => {
                let password = login::new_password(password_stdin)?;
                block_on(admin.put_user(&name, &password))?;
                line(format_args!("{name}"));
            }
            Self::User(User::Ls) => {
                let users = block_on(admin.users())?;
                users.iter().for_each(|user| line(format_args!("{user}")));
            }
            Self::User(User::Rm { name }) => {
                block_on(admin.remove_user(&name))?;
                line(format_args!("{name}"));
            }
            Self::Visibility { repository, visibility } => {
                let there = block_on(admin.repositories())?;
                ensure!(
                    there.iter().any(|known| known.name == repository.to_string()),
                    Advice::new(format!("there is no repository `{repository}`"))
                        .hint("see what there is: margay registry ls")
                );
                block_on(admin.set_visibility(&repository, visibility.into()))?;
                line(format_args!("{repository}"));
            }
            Self::Ls { output } => {
                let repositories = block_on(admin.repositories())?;
                output.records(&repositories, &["REPOSITORY", "READ BY"], |repository| {
                    let readers = match repository.visibility {
                        registry::Visibility::Public => "everyone",
                        registry::Visibility::Private => "its owner",
                    };
                    [repository.name.clone(), readers.to_owned()]
                })?;
            }
        }
        Ok(())
    }
}
