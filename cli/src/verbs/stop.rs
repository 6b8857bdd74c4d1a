use node::tasks;

use crate::{flags::StopFlags, home::Home, output::line};

/// Ask tasks to end, and end them when they take too long
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names or ids of tasks
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<String>,
    #[command(flatten)]
    how: StopFlags,
}

impl Args {
    /// Stops one after the other and prints each as it was named, as Docker does.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let signal = self.how.signal()?;
        super::each(&self.tasks, |text| {
            let task = tasks::find(home.node(), text)?;
            node::stop_task(&task, self.how.stop(&task, signal))?;
            line(format_args!("{text}"));
            Ok(())
        })
    }
}
