use std::path::PathBuf;

use clap::Subcommand;
use orchestrator::Secret;
use spec::SecretName;

use crate::{
    control::Control,
    flags,
    home::Home,
    output::{Output, Table, ago, json, line, now, size},
    serve::block_on,
};

/// Create, list, inspect and remove secrets of a platform
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a secret from a file, byte for byte; a role grants it with the line `secret:NAME`
    Create {
        /// Its name: guests find it as /run/secrets/NAME
        name: SecretName,
        /// The file that holds it, or - for stdin
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
        #[command(flatten)]
        control: Control,
    },
    /// List secrets, without their values
    #[command(alias = "list")]
    Ls {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        control: Control,
    },
    /// Show what may be known of secrets, as JSON: everything but their values
    Inspect {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<SecretName>,
        #[command(flatten)]
        control: Control,
    },
    /// Remove secrets that no service and no task uses
    Rm {
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<SecretName>,
        #[command(flatten)]
        control: Control,
    },
}

impl Verb {
    /// Does it through the control plane.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        match self {
            Self::Create { name, file, control } => {
                let value = flags::secret(&file)?;
                let client = control.client(home)?;
                let secret = block_on(async { Ok(client.create_secret(&name, &value).await?) })?;
                line(format_args!("{}", secret.name));
                Ok(())
            }
            Self::Ls { output, control } => {
                let client = control.client(home)?;
                let secrets = block_on(async { Ok(client.secrets().await?) })?;
                output.records(&secrets, table)
            }
            Self::Inspect { names, control } => {
                let client = control.client(home)?;
                let mut secrets = Vec::new();
                for name in &names {
                    secrets.push(block_on(async { Ok(client.secret(name).await?) })?);
                }
                json(&secrets)
            }
            Self::Rm { names, control } => {
                let client = control.client(home)?;
                super::ask_for_each(&names, |name| client.remove_secret(name))
            }
        }
    }
}

fn table(secrets: &[Secret]) -> Table {
    let mut table = Table::new(&["NAME", "SIZE", "CREATED"]);
    for secret in secrets {
        table.row([secret.name.to_string(), size(secret.size_bytes), ago(secret.created, now())]);
    }
    table
}
