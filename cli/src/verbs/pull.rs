use registry::Entries;
use spec::Reference;

use crate::{
    home::Home,
    images,
    progress::Progress,
    serve::block_on,
    transfer::{self, Remote},
};

/// Fetch an image from the registry that its name begins with
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Say nothing but what the name means
    #[arg(short, long)]
    quiet: bool,
    /// Fetch the images for all platforms, and not only the one that this machine runs best
    #[arg(short, long)]
    all_platforms: bool,
    #[command(flatten)]
    remote: Remote,
    /// What to fetch
    #[arg(value_name = "REGISTRY/NAME[:TAG][@DIGEST]")]
    image: Reference,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let entries =
            if self.all_platforms { Entries::All } else { transfer::entry_of_this_machine() };
        let progress = Progress::new(self.quiet);
        let pulled = block_on(transfer::pull(home, &self.image, &self.remote, entries, progress))?;
        images::print_pinned([&self.image], pulled.digest);
        Ok(())
    }
}
