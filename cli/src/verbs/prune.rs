use std::time::Duration;

use blobs::collect::Marked;
use node::{Removal, tasks};
use packager::Layout;

use crate::{
    home::Home,
    images,
    output::{line, size},
};

/// Remove what nothing needs any more: bytes that no image names, machine code made of them,
/// unpacked layers from which nothing runs, and with --tasks ended tasks
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Remove ended tasks and their logs as well; volumes stay
    #[arg(long)]
    tasks: bool,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        if self.tasks {
            for folder in tasks::list(home.node())? {
                if !folder.state()?.is_alive() {
                    let name = node::remove_task(
                        home.node(),
                        &folder.record().id,
                        Removal::Ended,
                        node::AnonymousVolumes::Keep,
                        Duration::ZERO,
                    )?;
                    line(format_args!("Deleted task: {name}"));
                }
            }
            for id in tasks::clear_damaged(home.node())? {
                line(format_args!("Deleted damaged task: {id}"));
            }
        }
        // Files that were only run have names in a layout of their own, which no verb lists.
        let files = images::files(home)?;
        for file in files.list()? {
            files.untag(&file.reference)?;
        }
        let layout = images::layout(home)?;
        let blobs = layout.prune()?.bytes + files.prune()?.bytes;
        let freed =
            blobs + prepared(home, &[&layout, &files])? + node::prune_unpacked(home.node(), 0)?;
        line(format_args!("Freed {}", size(freed)));
        Ok(())
    }
}

/// Removes what was prepared from images that neither have a name in `layouts` nor run. Returns how
/// many bytes are gone.
pub fn prepared(home: &Home, layouts: &[&Layout]) -> anyhow::Result<u64> {
    let mut running = Vec::new();
    for task in tasks::list(home.node())? {
        if task.state()?.is_alive() {
            running.push(task.record().digest);
        }
    }
    let mut marked = Marked::default();
    for layout in layouts {
        marked = marked.and(layout.mark(&running)?);
    }
    Ok(node::prune_prepared(home.node(), &marked)?)
}
