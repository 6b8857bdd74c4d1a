use node::tasks;

use crate::{flags::StopFlags, home::Home, output::line, verbs::run};

/// Stop tasks and start them again
#[derive(Debug, clap::Args)]
#[command(after_help = "Ports, volumes and the log go on; a task that has ended is started.")]
pub struct Args {
    /// Names or ids of tasks
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<String>,
    #[command(flatten)]
    how: StopFlags,
}

impl Args {
    /// Restarts one after the other and prints each as it was named, as Docker does.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let signal = self.how.signal()?;
        super::each(&self.tasks, |text| {
            let task = tasks::find(home.node(), text)?;
            let mut talk = run::Talk::default();
            let stop = self.how.stop(&task, signal);
            node::restart_task(home.node(), &task, stop, |note| talk.hear(&note))
                .map_err(super::start::ordinary)?;
            line(format_args!("{text}"));
            Ok(())
        })
    }
}
