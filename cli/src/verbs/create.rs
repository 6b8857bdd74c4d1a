use std::process::ExitCode;

use crate::{home::Home, output::line, verbs::run};

/// Make a task without starting it, and print its id
#[derive(Debug, clap::Args)]
#[command(
    // As in Docker, -h names the host.
    disable_help_flag = true,
    override_usage = "margay create [OPTIONS] IMAGE [ARG]...",
    after_help = "Takes what `margay run` takes, except what concerns the start. Start it: margay start TASK"
)]
pub struct Args {
    #[command(flatten)]
    task: run::TaskArgs,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<ExitCode> {
        let request = self.task.request(home, run::Terminal::Later)?;
        let mut talk = run::Talk::new(&self.task);
        let id = self.task.with_cidfile(|| {
            let (id, _) = node::create_task(home.node(), &request, |note| talk.hear(&note))?;
            Ok((id.clone(), id))
        })?;
        line(format_args!("{id}"));
        Ok(ExitCode::SUCCESS)
    }
}
