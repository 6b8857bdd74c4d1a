use crate::{
    credentials::Credentials,
    home::Home,
    output::{line, notice},
    transfer,
};

/// Forget a login
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Host and port of the registry, as images name it
    #[arg(value_name = "REGISTRY", default_value = "docker.io", value_parser = transfer::registry_name)]
    registry: String,
}

impl Args {
    /// Removes it from this home; the registry is not asked.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        match Credentials::read(home)?.forget(&self.registry)? {
            true => line(format_args!("Removed the login for {}", self.registry)),
            false => notice(format_args!("Not logged in to {}", self.registry)),
        }
        Ok(())
    }
}
