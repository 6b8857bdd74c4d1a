//! Quotas and open uploads.

use std::time::Duration;

use anyhow::ensure;
use clap::Subcommand;
use registry::{Admin, QuotaChange, QuotaInfo, QuotaResource, Repository};
use spec::Tenant;

use crate::{
    failure::{Advice, USAGE_ERROR},
    output::{Output, human, size},
    serve::block_on,
    verbs::ask_for_each,
};

#[derive(Debug, Subcommand)]
pub enum Quota {
    /// List what accounts have and may have, as USED/LIMIT, and repositories with own quotas
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: Output,
    },
    /// Change what an account or a repository may have
    #[command(after_help = "Examples:
  margay registry quota set you bytes=10GiB repositories=20
  margay registry quota set you/cats tags=1000
  margay registry quota set you bytes=none")]
    Set {
        /// The account, as in you, or the repository, as in you/cats
        #[arg(value_parser = quota_name)]
        name: String,
        /// What to change: bytes, repositories, tags or uploads; `none` is no limit
        #[arg(required = true, value_name = "NAME=VALUE")]
        changes: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
pub enum Upload {
    /// List uploads that are not finished
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: Output,
    },
    /// Cancel uploads
    #[command(visible_alias = "remove")]
    Rm {
        /// Their identifiers
        #[arg(required = true, value_name = "UPLOAD", value_parser = upload_id)]
        ids: Vec<String>,
    },
}

const HEADINGS: [&str; 5] = ["NAME", "BYTES", "REPOSITORIES", "TAGS", "UPLOADS"];

impl Quota {
    pub fn run(self, admin: &Admin) -> anyhow::Result<()> {
        match self {
            Self::Ls { output } => output.records(&block_on(admin.quotas())?, &HEADINGS, row),
            Self::Set { name, changes, output } => {
                let mut change = QuotaChange::default();
                let set = changes.iter().try_for_each(|line| change.set(line));
                set.map_err(|error| Advice::new(error.to_string()).code(USAGE_ERROR))?;
                let info = block_on(admin.change_quota(&name, &change))?;
                output.records(&[info], &HEADINGS, row)
            }
        }
    }
}

/// An account or a repository.
fn quota_name(text: &str) -> anyhow::Result<String> {
    match text.contains('/') {
        true => text.parse::<Repository>().map(drop)?,
        false => text.parse::<Tenant>().map(drop)?,
    }
    Ok(text.to_owned())
}

fn upload_id(text: &str) -> anyhow::Result<String> {
    ensure!(
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "`{text}` is not the identifier of an upload: see margay registry upload ls"
    );
    Ok(text.to_owned())
}

/// In the order of [`QuotaResource::ALL`].
fn row(info: &QuotaInfo) -> Vec<String> {
    let amount = |resource: QuotaResource, amount: u64| match resource {
        QuotaResource::Bytes => size(amount),
        other => other.print(amount),
    };
    let cell = |resource: QuotaResource| {
        let used = amount(resource, info.used.get(&resource).copied().unwrap_or_default());
        match info.limits.of(resource) {
            Some(limit) => format!("{used}/{}", amount(resource, limit)),
            None => used,
        }
    };
    std::iter::once(info.name.clone()).chain(QuotaResource::ALL.map(cell)).collect()
}

impl Upload {
    pub fn run(self, admin: &Admin) -> anyhow::Result<()> {
        match self {
            Self::Ls { output } => {
                let headings = ["UPLOAD", "REPOSITORY", "OWNER", "SIZE", "IDLE"];
                output.records(&block_on(admin.uploads())?, &headings, |upload| {
                    [
                        upload.id.clone(),
                        upload.repository.clone(),
                        upload.owner.clone(),
                        upload.bytes.map_or_else(|| "-".to_owned(), size),
                        human(Duration::from_secs(upload.idle_seconds)),
                    ]
                })
            }
            Self::Rm { ids } => ask_for_each(&ids, |id| admin.cancel_upload(id)),
        }
    }
}
