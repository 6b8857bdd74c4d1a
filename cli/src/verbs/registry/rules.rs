//! Switches and immutable tags.

use clap::{Subcommand, ValueEnum};
use registry::{Admin, Immutable, Repository, Switch};

use crate::{
    output::{Output, line, notice},
    serve::block_on,
};

/// What a switch is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wanted {
    On,
    Off,
}

#[derive(Debug, Subcommand)]
pub enum ImmutableVerb {
    /// List the repositories whose tags are immutable
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: Output,
    },
    /// From now on a tag of this repository that is set stays so until it is deleted
    Set {
        /// Which one, as in me/cats
        repository: Repository,
        /// But not a tag of this pattern, as in latest or dev-* (repeatable)
        #[arg(long = "except", value_name = "PATTERN")]
        except: Vec<String>,
    },
    /// Let the tags of a repository be moved again
    #[command(visible_alias = "remove")]
    Rm {
        /// Which one, as in me/cats
        repository: Repository,
    },
}

pub fn switch(admin: &Admin, switch: Switch, wanted: Option<Wanted>) -> anyhow::Result<()> {
    if let Some(wanted) = wanted {
        block_on(admin.set_switch(switch, wanted == Wanted::On))?;
    }
    if switch == Switch::AnonymousPush && wanted == Some(Wanted::On) {
        notice(format_args!(
            "Every client that reaches this registry may push, pull and delete without a login"
        ));
    }
    line(format_args!("{}", if block_on(admin.is_on(switch))? { "on" } else { "off" }));
    Ok(())
}

impl ImmutableVerb {
    pub fn run(self, admin: &Admin) -> anyhow::Result<()> {
        match self {
            Self::Ls { output } => {
                let all = block_on(admin.immutable())?;
                output.records(&all, &["REPOSITORY", "EXCEPT"], |info| {
                    let except = match info.rule.except.is_empty() {
                        true => "-".to_owned(),
                        false => info.rule.except.join(","),
                    };
                    [info.repository.clone(), except]
                })
            }
            Self::Set { repository, except } => {
                block_on(admin.set_immutable(&repository, Some(Immutable { except })))?;
                line(format_args!("{repository}"));
                Ok(())
            }
            Self::Rm { repository } => {
                block_on(admin.set_immutable(&repository, None))?;
                line(format_args!("{repository}"));
                Ok(())
            }
        }
    }
}
