use std::time::Duration;

use node::tasks;

use crate::{home::Home, output::line};

/// Ask tasks to end, and end them when they take too long
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names or ids of tasks
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<String>,
    /// How long a task may take to end by itself, in seconds
    #[arg(short, long, alias = "timeout", default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=3600))]
    time: u64,
}

impl Args {
    /// Stops one after the other and prints each name, as Docker does.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let grace = Duration::from_secs(self.time);
        super::each(&self.tasks, |text| {
            let task = tasks::find(home.node(), text)?;
            node::stop_task(&task, grace)?;
            line(format_args!("{}", task.record().name));
            Ok(())
        })
    }
}
