use node::tasks;

use crate::{home::Home, output::line};

/// Send a signal to the programs of tasks, KILL if none is named
#[derive(Debug, clap::Args)]
#[command(after_help = "A task that ends by a signal that ends programs is not restarted.
WebAssembly programs have no signals: KILL, TERM, INT, HUP and QUIT end them at once, others are refused.")]
pub struct Args {
    /// Names or ids of tasks
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<String>,
    /// Which one, by name or number
    #[arg(short, long, default_value = "KILL", value_name = "SIGNAL")]
    signal: String,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        // As with Docker, a bad one is a failure and no misuse.
        let signal = node::parse_signal(&self.signal)?;
        super::each(&self.tasks, |text| {
            node::signal_task(&tasks::find(home.node(), text)?, signal)?;
            line(format_args!("{text}"));
            Ok(())
        })
    }
}
