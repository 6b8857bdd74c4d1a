use node::tasks;

use crate::{home::Home, output::line};

/// Wait until tasks have ended, and print their exit codes
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names or ids of tasks
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<String>,
}

impl Args {
    /// In the order of the arguments, one code in each line.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        super::each(&self.tasks, |text| {
            let code = node::wait_task(&tasks::find(home.node(), text)?)?;
            line(format_args!("{code}"));
            Ok(())
        })
    }
}
