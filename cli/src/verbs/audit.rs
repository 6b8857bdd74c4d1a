use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail, ensure};
use audit::Record;
use clap::Subcommand;
use serde::Serialize;
use spec::Timestamp;

use crate::{
    failure::Advice,
    home::Home,
    output::{Output, line, notice},
};

/// Show what was done on this platform: by which principal, from where, to what, and how it ended
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Every request to the control plane and the registry is recorded, reads included; not the
heartbeats of nodes and probes of health. The log is for the owner of the home, on this machine.

Examples:
  margay audit --since 1h --refused
  margay audit --principal tenant/acme --object /v1/secrets
  margay audit verify"
)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Only what happened within this time
    #[arg(long, value_name = "TIME", value_parser = spec::parse_duration)]
    since: Option<Duration>,
    /// Only of principals that begin so: operator, tenant/NAME, node/NAME, user/NAME,
    /// machine/NAME, control-plane
    #[arg(long, value_name = "PRINCIPAL")]
    principal: Option<String>,
    /// Only from addresses that begin so; socket for the sockets in the home
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
    /// Only to objects whose path begins so
    #[arg(long, value_name = "PATH")]
    object: Option<String>,
    /// Only what was refused or failed
    #[arg(long)]
    refused: bool,
    /// Only the log of this server
    #[arg(long, value_name = "SERVER")]
    server: Option<Server>,
    /// The newest so many
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 1000)]
    tail: usize,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Check that no record was changed, added or left out
    Verify {
        /// Check that the log goes on from this hash, which an earlier `verify` has printed
        #[arg(long, value_name = "HASH")]
        hash: Option<String>,
    },
}

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Server {
    /// The control plane's.
    Server,
    /// The registry's.
    Registry,
}

impl Server {
    const ALL: [Self; 2] = [Self::Server, Self::Registry];

    fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Registry => "registry",
        }
    }

    fn folder(self, home: &Home) -> PathBuf {
        home.path().join(self.name()).join("audit")
    }
}

#[derive(Serialize)]
struct Row {
    server: Server,
    #[serde(flatten)]
    record: Record,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let logs: Vec<Server> =
            Server::ALL.into_iter().filter(|server| server.folder(home).exists()).collect();
        ensure!(
            !logs.is_empty(),
            Advice::new(format!("there is no audit log in `{}`", home.path().display()))
                .hint("start a platform: margay up")
        );
        match self.verb {
            Some(Verb::Verify { hash }) => verify(home, &logs, hash.as_deref()),
            None => self.show(home, &logs),
        }
    }

    fn show(self, home: &Home, logs: &[Server]) -> anyhow::Result<()> {
        let now = Timestamp::of(SystemTime::now());
        let mut rows: Vec<Row> = Vec::new();
        for server in logs.iter().filter(|log| self.server.is_none_or(|only| only == **log)) {
            let folder = server.folder(home);
            let mut newest = std::collections::VecDeque::new();
            audit::entries(&folder, |record| {
                if self.has(&record, now) {
                    newest.push_back(Row { server: *server, record });
                    if newest.len() > self.tail {
                        newest.pop_front();
                    }
                }
            })
            .with_context(|| format!("cannot read the audit log in `{}`", folder.display()))?;
            rows.extend(newest);
        }
        rows.sort_by_key(|row| row.record.at);
        let rows = &rows[rows.len().saturating_sub(self.tail)..];
        let headings = ["AT", "SERVER", "PRINCIPAL", "ADDRESS", "ACTION", "OBJECT", "STATUS"];
        self.output.records(rows, &headings, |Row { server, record }| {
            let event = &record.event;
            let status = match event.code.is_empty() {
                true => event.status.to_string(),
                false => format!("{} {}", event.status, event.code),
            };
            [
                record.at.to_string(),
                server.name().to_owned(),
                event.principal.clone(),
                event.address.clone(),
                event.action.clone(),
                event.object.clone(),
                status,
            ]
        })
    }

    fn has(&self, record: &Record, now: Timestamp) -> bool {
        let begins = |text: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| text.starts_with(wanted.as_str()))
        };
        let event = &record.event;
        self.since.is_none_or(|since| now.since(record.at) <= since)
            && begins(&event.principal, &self.principal)
            && begins(&event.address, &self.address)
            && begins(&event.object, &self.object)
            && (!self.refused || event.status >= 400)
    }
}

fn verify(home: &Home, logs: &[Server], hash: Option<&str>) -> anyhow::Result<()> {
    let mut has_hash = false;
    for server in logs {
        let folder = server.folder(home);
        let verified = audit::verify(&folder, hash)
            .with_context(|| format!("cannot read the audit log in `{}`", folder.display()))?;
        match verified {
            Ok(verified) => {
                has_hash |= verified.has_hash;
                line(format_args!("{} {}", verified.head, server.name()));
                notice(format_args!(
                    "The log of the {} is whole: {} records from number {} on.",
                    server.name(),
                    verified.records,
                    verified.first
                ));
            }
            Err(broken) => bail!(
                Advice::new(format!(
                    "the audit log of the {} is not whole: {broken}",
                    server.name()
                ))
                .hint("keep the file, and compare it with a copy")
            ),
        }
    }
    ensure!(
        has_hash,
        Advice::new(format!("no record has the hash `{}`", hash.unwrap_or_default()))
            .hint("the log was written anew, or the record is older than what is kept")
    );
    Ok(())
}
