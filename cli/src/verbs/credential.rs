use std::time::Duration;

use clap::Subcommand;
use orchestrator::{Client, CreateCredential, Credential, CredentialScope};
use spec::{CredentialName, Tenant};

use crate::{
    control::{Control, List},
    home::Home,
    output::{ago, json, line, notice, now},
    serve::block_on,
};

/// Create, list, rotate and remove the credentials with which other machines use this platform
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a credential and print it: its secret is shown this once
    Create {
        /// Its name: what it is for
        name: CredentialName,
        /// What its holder may do: read, deploy or manage
        #[arg(long, value_name = "SCOPE", default_value_t = CredentialScope::Manage)]
        scope: CredentialScope,
        /// How long it holds, at most 366d
        #[arg(
            long,
            value_name = "TIME",
            default_value = "90d",
            value_parser = spec::parse_duration
        )]
        expires: Duration,
        #[command(flatten)]
        whose: Whose,
    },
    /// List credentials, without their secrets
    #[command(alias = "list")]
    Ls(List),
    /// Give a credential another secret and print it: the one before is refused at once
    Rotate {
        /// Its name
        name: CredentialName,
        #[command(flatten)]
        whose: Whose,
    },
    /// Remove credentials: their access tokens are refused at once
    Rm {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<CredentialName>,
        #[command(flatten)]
        whose: Whose,
    },
}

/// The tenant of a credential, and where it is.
#[derive(Debug, clap::Args)]
pub struct Whose {
    /// The tenant that its requests are of [default: your own]
    #[arg(long, value_name = "TENANT")]
    tenant: Option<Tenant>,
    #[command(flatten)]
    control: Control,
}

impl Whose {
    /// The tenant as it was named, or that of the caller.
    fn tenant(&self, client: &Client) -> anyhow::Result<Tenant> {
        match &self.tenant {
            Some(tenant) => Ok(tenant.clone()),
            None => Ok(block_on(client.principal())?.tenant),
        }
    }
}

impl Verb {
    /// Prints a secret on stdout alone, and nothing else there.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        match self {
            Self::Create { name, scope, expires, whose } => {
                let lifetime_seconds = Some(expires.as_secs());
                let wanted =
                    CreateCredential { name, tenant: whose.tenant, scope, lifetime_seconds };
                show(&block_on(whose.control.client(home)?.create_credential(&wanted))?)
            }
            Self::Ls(list) => list.run(
                home,
                Client::credentials,
                &["TENANT", "NAME", "SCOPE", "CREATED", "EXPIRES", "LAST USED"],
                |credential| {
                    let used = credential.last_used.map(|at| ago(at, now()));
                    [
                        credential.tenant.to_string(),
                        credential.name.to_string(),
                        credential.scope.to_string(),
                        ago(credential.created, now()),
                        credential.expires.to_string(),
                        used.unwrap_or_else(|| "never".to_owned()),
                    ]
                },
            ),
            Self::Rotate { name, whose } => {
                let client = whose.control.client(home)?;
                let made = block_on(client.rotate_credential(&whose.tenant(&client)?, &name))?;
                match whose.control.keep_if_used(&made)? {
                    Some(path) => {
                        notice(format_args!("The new secret is in `{}`.", path.display()));
                        line(format_args!("{name}"));
                        Ok(())
                    }
                    None => show(&made),
                }
            }
            Self::Rm { names, whose } => {
                let client = whose.control.client(home)?;
                let tenant = whose.tenant(&client)?;
                super::ask_for_each(&names, |name| client.remove_credential(&tenant, name))
            }
        }
    }
}

fn show(made: &Credential) -> anyhow::Result<()> {
    notice(format_args!(
        "Its secret is shown this once: keep it in a private file, and use it with --credential \
         FILE."
    ));
    json(made)
}
