use std::time::Duration;

use node::Removal;

use crate::{home::Home, output::line};

/// Remove ended tasks and their logs; volumes stay
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names or ids of tasks
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<String>,
    /// Stop those that still run
    #[arg(short, long)]
    force: bool,
}

/// Docker's `rm -f` kills at once; a moment costs nothing and lets a guest finish its write.
const GRACE: Duration = Duration::from_secs(1);

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let removal = if self.force { Removal::Forced } else { Removal::Ended };
        super::each(&self.tasks, |text| {
            let name = node::remove_task(home.node(), text, removal, GRACE)?;
            line(format_args!("{name}"));
            Ok(())
        })
    }
}
