use std::time::Duration;

use node::tasks::{self, Removal};
use packager::Layout;

use crate::{
    home::Home,
    images,
    output::{line, size},
};

/// Remove what nothing needs any more: bytes that no image names, and with --tasks ended tasks
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Remove ended tasks and their logs as well; volumes stay
    #[arg(long)]
    tasks: bool,
}

impl Args {
    /// Prints what is gone.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        if self.tasks {
            for folder in tasks::list(home.node())? {
                if !folder.state()?.is_alive() {
                    let name = tasks::remove(home.node(), &folder.record().id, Removal::Ended, Duration::ZERO)?;
                    line(format_args!("Deleted task: {name}"));
                }
            }
            for id in tasks::clear_damaged(home.node())? {
                line(format_args!("Deleted damaged task: {id}"));
            }
        }
        // Files that were only run have names in a layout of their own, which nobody sees.
        let files = Layout::open(home.files())?;
        for file in files.list()? {
            files.untag(&file.reference)?;
        }
        let freed = images::layout(home)?.prune()?.bytes + files.prune()?.bytes;
        line(format_args!("Freed {}", size(freed)));
        Ok(())
    }
}
