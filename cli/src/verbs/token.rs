use clap::Subcommand;
use orchestrator::CreateJoinToken;

use crate::{
    control::Control,
    home::Home,
    output::{line, notice},
    serve::block_on,
};

/// Make tokens for nodes
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a token with which one node may join, once
    Create(Wanted),
}

/// Which token for a node.
#[derive(Debug, clap::Args)]
pub struct Wanted {
    /// Let the node take work of the shared pool as well
    #[arg(long)]
    pool: bool,
    /// Make it a node of the pool alone, which belongs to no tenant
    #[arg(long, conflicts_with = "pool")]
    shared: bool,
    #[command(flatten)]
    control: Control,
}

impl Wanted {
    pub fn make(self, home: &Home) -> anyhow::Result<()> {
        let wanted = CreateJoinToken { pool: self.pool, shared: self.shared };
        let made = block_on(self.control.client(home)?.create_join_token(wanted))?;
        line(format_args!("{}", made.token));
        notice(format_args!(
            "Works once, until {}. On the node: margay node join TOKEN",
            made.expires
        ));
        Ok(())
    }
}

impl Verb {
    /// Prints what was made on stdout, and nothing else there.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        match self {
            Self::Create(wanted) => wanted.make(home),
        }
    }
}
