use clap::Subcommand;
use orchestrator::{ChangeDomains, Client, TenantDomains};
use spec::{HostName, Tenant};

use crate::{
    control::{Control, List},
    home::Home,
    output::Output,
    serve::block_on,
};

/// What to do with domains.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the domains of all tenants
    #[command(visible_alias = "list")]
    Ls(List),
    /// Let services of a tenant have a domain as a host name, and every name below it
    Grant(Named),
    /// Take domains away, and with them the host names that services have there
    #[command(visible_alias = "rm")]
    Revoke(Named),
}

/// Domains of one tenant.
#[derive(Debug, clap::Args)]
pub struct Named {
    /// The tenant
    tenant: Tenant,
    /// The domains, as in example.com
    #[arg(required = true, value_name = "DOMAIN")]
    domains: Vec<HostName>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    control: Control,
}

impl Verb {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        match self {
            Self::Ls(list) => list.run(home, Client::domains, &["TENANT", "DOMAINS"], |one| {
                [one.tenant.to_string(), words(one)]
            }),
            Self::Grant(named) => {
                named.change(home, |grant| ChangeDomains { grant, ..ChangeDomains::default() })
            }
            Self::Revoke(named) => {
                named.change(home, |revoke| ChangeDomains { revoke, ..ChangeDomains::default() })
            }
        }
    }
}

impl Named {
    fn change(
        self,
        home: &Home,
        change: impl FnOnce(Vec<HostName>) -> ChangeDomains,
    ) -> anyhow::Result<()> {
        let client = self.control.client(home)?;
        let after = block_on(client.change_domains(&self.tenant, &change(self.domains)))?;
        self.output.record(&after, words)
    }
}

fn words(one: &TenantDomains) -> String {
    match one.domains.is_empty() {
        true => "-".to_owned(),
        false => one.domains.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
    }
}
