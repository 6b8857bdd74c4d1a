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
    /// Names an image; the bytes stay where they are.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        images::tag(home, &self.source, &self.target)
    }
}
