//! Images that have to be signed before they are pulled.

use std::path::PathBuf;

use clap::Subcommand;
use registry::{Admin, RepositoryPattern, VerifyingKey};

use crate::{
    output::{Output, line},
    serve::block_on,
    verbs::{ask_for_each, verify},
};

#[derive(Debug, Subcommand)]
pub enum Signature {
    /// Serve images of these repositories only when one of these keys has signed them
    #[command(
        after_help = "Clients that may push to a repository read it nevertheless, so that they can sign what is there. Of an index that
is signed all images are served."
    )]
    Set {
        /// Which repositories, as in acme/* or acme/web-*
        #[arg(value_name = "PATTERN")]
        repositories: RepositoryPattern,
        /// A public key, in PEM (repeatable)
        #[arg(long = "key", required = true, value_name = "FILE")]
        keys: Vec<PathBuf>,
    },
    /// List which keys must have signed what
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: Output,
    },
    /// Serve images whether they are signed or not
    #[command(visible_alias = "remove")]
    Rm {
        /// Which repositories, as they were set
        #[arg(required = true, value_name = "PATTERN")]
        repositories: Vec<RepositoryPattern>,
    },
}

impl Signature {
    pub fn run(self, admin: &Admin) -> anyhow::Result<()> {
        match self {
            Self::Set { repositories, keys } => {
                let keys = keys
                    .iter()
                    .map(|path| verify::verifying_key(path))
                    .collect::<Result<Vec<_>, _>>()?;
                block_on(admin.set_signature_policy(&repositories, &keys))?;
                line(format_args!("{repositories}"));
                Ok(())
            }
            Self::Ls { output } => {
                let policies = block_on(admin.signature_policies())?;
                output.records(&policies, &["REPOSITORIES", "KEYS"], |policy| {
                    let keys: Vec<_> = policy.keys.iter().map(VerifyingKey::fingerprint).collect();
                    [policy.repositories.to_string(), keys.join(" ")]
                })
            }
            Self::Rm { repositories } => {
                ask_for_each(&repositories, |pattern| admin.remove_signature_policy(pattern))
            }
        }
    }
}
