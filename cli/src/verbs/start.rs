use std::process::ExitCode;

use anyhow::ensure;
use node::{AttachOptions, Attachment, tasks};

use crate::{
    failure::{self, Advice, USAGE_ERROR},
    home::Home,
    output::{line, notice},
    verbs::{attach, run},
};

/// Start tasks that were created or have ended
#[derive(Debug, clap::Args)]
#[command(
    after_help = "With the same definition, name, ports and volumes; the log goes on. A task that runs stays as it is.
A Linux task finds its own files again; the files that a Wasm program wrote beside its volumes were in memory."
)]
pub struct Args {
    /// Names or ids of tasks
    #[arg(required_unless_present = "after_reboot", value_name = "TASK")]
    tasks: Vec<String>,
    /// Start the tasks that a reboot of the machine has ended and that their --restart brings back,
    /// as `margay up` and `margay node` do when they start
    #[arg(long, conflicts_with_all = ["tasks", "attach", "interactive"])]
    after_reboot: bool,
    /// Show what the task writes, hand it our signals, and exit with its code
    #[arg(short, long)]
    attach: bool,
    /// Hand the task our stdin as well, where it was made with -i
    #[arg(short, long)]
    interactive: bool,
    #[command(flatten)]
    keys: attach::Keys,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<ExitCode> {
        if self.after_reboot {
            return after_reboot(home);
        }
        if self.attach || self.interactive {
            ensure!(
                self.tasks.len() == 1,
                Advice::new("only one task can be started and attached to")
                    .hint("leave -a and -i out")
                    .code(USAGE_ERROR)
            );
            return self.attached(home, &self.tasks[0]);
        }
        super::each(&self.tasks, |text| {
            let task = tasks::find(home.node(), text)?;
            let mut talk = run::Talk::default();
            node::start_task(home.node(), &task, |note| talk.hear(&note)).map_err(ordinary)?;
            line(format_args!("{text}"));
            Ok(())
        })?;
        Ok(ExitCode::SUCCESS)
    }

    fn attached(&self, home: &Home, text: &str) -> anyhow::Result<ExitCode> {
        let task = tasks::find(home.node(), text)?;
        let mut talk = run::Talk::default();
        let options = AttachOptions {
            input: self.interactive,
            signals: true,
            keys: self.keys.detach_keys.clone().unwrap_or_default(),
            ..AttachOptions::default()
        };
        let mut screen = attach::Screen::default();
        let show = |attachment: Attachment<'_>| screen.show(&attachment);
        if task.state()?.is_alive() {
            let end = node::attach(&task, &options, show);
            return Ok(screen.exit(end.map_err(ordinary)?, text));
        }
        if self.interactive && node::has_terminal(&task).map_err(ordinary)? {
            let watch = |note| talk.hear(&note);
            let end = node::start_attached(home.node(), &task, &options, watch, show);
            return Ok(screen.exit(end.map_err(ordinary)?, text));
        }
        let outcome = node::start_local(home.node(), task, self.interactive, |note| {
            talk.hear(&note);
        });
        run::exit(&outcome.map_err(ordinary)?)
    }
}

/// One that cannot be started keeps none of the others from it.
fn after_reboot(home: &Home) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for task in node::ended_by_reboot(home.node()).map_err(ordinary)? {
        let name = &task.record().name;
        let mut talk = run::Talk::default();
        match node::start_task(home.node(), &task, |note| talk.hear(&note)) {
            Ok(()) => line(format_args!("{name}")),
            Err(error) => {
                notice(format_args!("task `{name}` did not start again after the reboot"));
                failure::report(&ordinary(error));
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// A failed start of a task that exists is an ordinary failure, and exits with 1.
pub fn ordinary(error: node::Error) -> anyhow::Error {
    let advice = Advice::new(failure::message(&anyhow::Error::msg(chain(&error)))).code(1);
    match error.hint() {
        Some(hint) => advice.hint(hint).into(),
        None => advice.into(),
    }
}

fn chain(error: &node::Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let mut text = error.to_string();
    for part in causes.map(ToString::to_string).filter(|part| !part.is_empty()) {
        if !text.ends_with(&part) {
            text = format!("{text}: {part}");
        }
    }
    text
}
