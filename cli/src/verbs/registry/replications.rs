//! Repositories that are pushed to other registries.

use clap::Subcommand;
use registry::{
    Admin, Delivery, DeliveryOutcome, NewReplication, Replica, ReplicationName, RepositoryPattern,
};

use crate::{
    output::{Output, ago, line, now},
    serve::block_on,
    verbs::{ask_for_each, login},
};

#[derive(Debug, Subcommand)]
pub enum Replication {
    /// Push what is in repositories, and what is pushed to them, to another registry
    #[command(
        after_help = "What is there is compared first, and what is missing is pushed, with signatures and other referrers. A change
is written with the push that it is about: it is not lost in a crash, and waits while the other registry
does not answer. Bytes that the other registry has are not sent again.

Examples:
  margay registry replication create acme/eu https://eu.example.com --username acme --password-stdin <token
  margay registry replication create acme/ecr https://123.dkr.ecr.eu-west-1.amazonaws.com --to backup \\
    --repositories 'acme/web-*' --username AWS --password-stdin <token"
    )]
    Create {
        /// Its name, of the account whose repositories it is about
        #[arg(value_name = "ACCOUNT/NAME")]
        replication: ReplicationName,
        /// The other registry: https://HOST[:PORT]
        url: String,
        /// Which repositories, as in acme/web-* [default: all of the account]
        #[arg(long, value_name = "PATTERN")]
        repositories: Option<RepositoryPattern>,
        /// What takes the place of the account in their names there
        #[arg(long, value_name = "NAMESPACE")]
        to: Option<String>,
        /// Delete there what is deleted here
        #[arg(long)]
        deletions: bool,
        /// As which user
        #[arg(long, value_name = "USER", requires = "password_stdin")]
        username: Option<String>,
        /// Read the password, or a token, from stdin
        #[arg(long, requires = "username")]
        password_stdin: bool,
        /// Let the registry be at an internal address, and of plain HTTP: an operator may
        #[arg(long)]
        private: bool,
    },
    /// List replications, and what waits
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: Output,
    },
    /// List the last changes, and how they ended
    Log {
        /// Its name
        #[arg(value_name = "ACCOUNT/NAME")]
        replication: ReplicationName,
        #[command(flatten)]
        output: Output,
    },
    /// Compare everything once more, and push what is missing
    Sync {
        /// Its name
        #[arg(value_name = "ACCOUNT/NAME")]
        replication: ReplicationName,
    },
    /// End replications; what is at the other registry stays
    #[command(visible_alias = "remove")]
    Rm {
        /// Their names
        #[arg(required = true, value_name = "ACCOUNT/NAME")]
        replications: Vec<ReplicationName>,
    },
}

impl Replication {
    pub fn run(self, admin: &Admin) -> anyhow::Result<()> {
        match self {
            Self::Create {
                replication,
                url,
                repositories,
                to,
                deletions,
                username,
                password_stdin: _,
                private,
            } => {
                let all = || RepositoryPattern::all_of(&replication.account);
                let repositories = repositories.unwrap_or_else(all);
                let login = username.map(login::of_other_registry).transpose()?;
                let replica = Replica { to, deletions, login };
                let wanted = NewReplication { url, repositories, replica, private };
                block_on(admin.create_replication(&replication, &wanted))?;
                line(format_args!("{replication}"));
                Ok(())
            }
            Self::Ls { output } => list(admin, output),
            Self::Log { replication, output } => {
                let changes = block_on(admin.replication_log(&replication))?;
                output.records(&changes, &["WHEN", "CHANGE", "TYPE", "RESULT"], |change| {
                    let (event, kind) = (change.event.clone(), change.kind.clone());
                    [ago(change.at, now()), event, kind, result(change)]
                })
            }
            Self::Sync { replication } => {
                block_on(admin.sync_replication(&replication))?;
                line(format_args!("{replication}"));
                Ok(())
            }
            Self::Rm { replications } => {
                ask_for_each(&replications, |name| admin.remove_replication(name))
            }
        }
    }
}

fn list(admin: &Admin, output: Output) -> anyhow::Result<()> {
    let headings = ["REPLICATION", "REPOSITORIES", "TO", "WAITING", "SINCE", "LAST"];
    output.records(&block_on(admin.replications())?, &headings, |one| {
        let to = one.to.as_ref().map_or_else(String::new, |to| format!("/{to}"));
        [
            one.replication.to_string(),
            one.repositories.to_string(),
            format!("{}{to}", one.url.trim_end_matches('/')),
            one.pending.to_string(),
            one.waiting_since.map_or_else(|| "-".to_owned(), |since| ago(since, now())),
            one.last.as_ref().map_or_else(|| "-".to_owned(), result),
        ]
    })
}

/// How a change ended.
fn result(change: &Delivery) -> String {
    let why = change.error.as_deref().unwrap_or_default();
    match change.outcome {
        DeliveryOutcome::Delivered => "replicated".to_owned(),
        DeliveryOutcome::Failed => format!("failed ({why})"),
        DeliveryOutcome::GivenUp => format!("given up ({why})"),
    }
}
