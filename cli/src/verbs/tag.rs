use spec::Reference;

use crate::{home::Home, images};

/// Give an image another name
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its name now
    source: Reference,
    /// The name that it gets as well
    target: Reference,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        images::tag(home, &self.source, &self.target)
    }
}
