use std::time::Duration;

use node::{AnonymousVolumes, Error, Removal};

use crate::{
    home::Home,
    output::{line, notice},
};

/// Remove ended tasks and their logs; volumes stay
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names or ids of tasks
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<String>,
    /// Stop those that still run, and ignore those that do not exist
    #[arg(short, long)]
    force: bool,
    /// Remove the volumes that were made for the task alone; named ones stay
    #[arg(short, long)]
    volumes: bool,
}

/// Docker's `rm -f` kills at once; a moment costs nothing and lets a guest finish its write.
const GRACE: Duration = Duration::from_secs(1);

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let removal = if self.force { Removal::Forced } else { Removal::Ended };
        let volumes = if self.volumes { AnonymousVolumes::Remove } else { AnonymousVolumes::Keep };
        super::each(&self.tasks, |text| {
            match node::remove_task(home.node(), text, removal, volumes, GRACE) {
                // As it was named, as Docker does.
                Ok(_) => line(format_args!("{text}")),
                Err(missing @ Error::NoSuchTask(_)) if self.force => {
                    notice(format_args!("{missing}"));
                }
                Err(error) => return Err(error.into()),
            }
            Ok(())
        })
    }
}
