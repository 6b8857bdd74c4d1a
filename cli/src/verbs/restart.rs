use std::time::Duration;

use node::tasks;

use crate::{home::Home, output::line, verbs::run};

/// Stop tasks and start them again
#[derive(Debug, clap::Args)]
#[command(after_help = "Ports, volumes and the log go on; a task that has ended is started.")]
pub struct Args {
    /// Names or ids of tasks
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<String>,
    /// How long a task may take to end by itself, in seconds
    #[arg(short, long, alias = "timeout", default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=3600))]
    time: u64,
}

impl Args {
    /// Restarts one after the other and prints each as it was named, as Docker does.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let grace = Duration::from_secs(self.time);
        super::each(&self.tasks, |text| {
            let task = tasks::find(home.node(), text)?;
            let mut talk = run::Talk::default();
            node::restart_task(home.node(), &task, grace, |note| talk.hear(&note))
                .map_err(super::start::ordinary)?;
            line(format_args!("{text}"));
            Ok(())
        })
    }
}
