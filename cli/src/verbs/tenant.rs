mod domain; // below which a tenant may have host names

use clap::Subcommand;
use orchestrator::{Client, QuotaReport};
use spec::{QuotaChange, QuotaResource, Tenant};

use crate::{
    control::{Control, List},
    failure::{Advice, USAGE_ERROR},
    home::Home,
    output::{Output, json, print_table},
    serve::block_on,
};

/// Look after the tenants of a platform
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// What a tenant may have
    #[command(subcommand)]
    Quota(Quota),
    /// Below which domains services of a tenant may have host names: for the operator
    #[command(subcommand)]
    Domain(domain::Verb),
}

/// What to do with quotas.
#[derive(Debug, Subcommand)]
pub enum Quota {
    /// List the quotas of all tenants, as USED/LIMIT: for the operator
    #[command(visible_alias = "list")]
    Ls(List),
    /// Show what a tenant may have and what it has: your own, or as the operator another's
    Show {
        /// The tenant [default: your own]
        tenant: Option<Tenant>,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        control: Control,
    },
    /// Change what a tenant may have: for the operator
    Set {
        /// The tenant
        tenant: Tenant,
        /// What to change, as in tasks=100 or memory=4GiB; what is left out stays
        #[arg(required = true, value_name = "NAME=VALUE")]
        changes: Vec<String>,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        control: Control,
    },
}

impl Verb {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        match self {
            Self::Domain(verb) => verb.run(home),
            Self::Quota(Quota::Ls(list)) => list.run(home, Client::quotas, &HEADINGS, |report| {
                let both = |one: &QuotaResource| {
                    let amounts = [report.used.of(*one), report.limits.of(*one)];
                    amounts.map(|amount| one.print(amount)).join("/")
                };
                let tenant = report.tenant.to_string();
                std::iter::once(tenant)
                    .chain(QuotaResource::ALL.iter().map(both))
                    .collect::<Vec<_>>()
            }),
            Self::Quota(Quota::Show { tenant, output, control }) => {
                let client = control.client(home)?;
                let report = match &tenant {
                    Some(tenant) => block_on(client.quota_of(tenant))?,
                    None => block_on(client.quota())?,
                };
                show(output, &report)
            }
            Self::Quota(Quota::Set { tenant, changes, output, control }) => {
                let mut change = QuotaChange::default();
                let set = changes.iter().try_for_each(|line| change.set(line));
                set.map_err(|error| Advice::new(error.to_string()).code(USAGE_ERROR))?;
                let client = control.client(home)?;
                show(output, &block_on(client.change_quota(&tenant, &change))?)
            }
        }
    }
}

/// In the order of [`QuotaResource::ALL`].
const HEADINGS: [&str; 1 + QuotaResource::ALL.len()] = [
    "TENANT",
    "TASKS",
    "NODES",
    "CPU-MILLIS",
    "MEMORY",
    "VOLUMES",
    "DEFINITIONS",
    "SECRETS",
    "TOKENS",
];

fn show(output: Output, report: &QuotaReport) -> anyhow::Result<()> {
    if output.is_json() {
        return json(report);
    }
    let row = |one: &QuotaResource| {
        let amounts = [report.used.of(*one), report.limits.of(*one)];
        std::iter::once(one.name().to_owned()).chain(amounts.map(|amount| one.print(amount)))
    };
    print_table(&["RESOURCE", "USED", "LIMIT"], QuotaResource::ALL.iter().map(row));
    Ok(())
}
