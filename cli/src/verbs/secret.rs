use std::path::PathBuf;

use clap::Subcommand;
use orchestrator::Client;
use spec::SecretName;

use crate::{
    control::{Control, List},
    flags,
    home::Home,
    output::{ago, json, line, now, size},
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
    Ls(List),
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
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        match self {
            Self::Create { name, file, control } => {
                let value = flags::secret(&file)?;
                let secret = block_on(control.client(home)?.create_secret(&name, &value))?;
                line(format_args!("{}", secret.name));
                Ok(())
            }
            Self::Ls(list) => {
                list.run(home, Client::secrets, &["NAME", "SIZE", "CREATED"], |secret| {
                    let size = size(secret.size_bytes);
                    [secret.name.to_string(), size, ago(secret.created, now())]
                })
            }
            Self::Inspect { names, control } => {
                let client = control.client(home)?;
                let secrets = names.iter().map(|name| block_on(client.secret(name)));
                json(&secrets.collect::<Result<Vec<_>, _>>()?)
            }
            Self::Rm { names, control } => {
                let client = control.client(home)?;
                super::ask_for_each(&names, |name| client.remove_secret(name))
            }
        }
    }
}
