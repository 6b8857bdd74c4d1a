use std::{path::PathBuf, process::ExitCode};

use anyhow::ensure;
use engine::exec::Program;
use node::{ExecRequest, Heard, tasks};
use orchestrator::Client;
use spec::{ExecProgram, TerminalSize};

use crate::{
    control::Control,
    failure::{Advice, USAGE_ERROR},
    flags::Variables,
    home::Home,
    output::{Paint, notice, printable},
    remote,
    serve::block_on,
    terminal::{self, RawTerminal},
};

/// Run another program in a task that runs, on whichever node
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "margay exec [OPTIONS] TASK PROGRAM [ARG]...",
    after_help = "The program has the task's files, variables, grants and limits, and what it uses counts as the task's.
Exits with its code, with 128 + N when signal N ended it, with 126 or 127 when it cannot run or is not
there, and with 125 when margay failed.

Examples:
  margay exec web ls /srv
  margay exec -it web sh
  margay exec --program ./inspect.wasm web /data

A task of this machine is joined here. Tasks of a platform, and a copy of a service, are joined through
its control plane, with the credential in MARGAY_CREDENTIAL from anywhere: there the program ends with
its client."
)]
pub struct Args {
    /// Return when it runs
    #[arg(short, long)]
    detach: bool,
    /// Keep stdin open to the program
    #[arg(short, long)]
    interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    tty: bool,
    #[command(flatten)]
    variables: Variables,
    /// Run it in this folder of the task
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Run it as this user of a Linux image
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Run this Wasm program of this machine in place of one of the image
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    #[command(flatten)]
    control: Control,
    /// The task, the program and its arguments: all that follows the task is for the program
    // One argument for both: clap would take a flag of ours between two.
    #[arg(required = true, num_args = 1.., trailing_var_arg = true, value_names = ["TASK", "PROGRAM"])]
    task_and_program: Vec<String>,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<ExitCode> {
        let (task, args) = self.task_and_program.split_first().expect("clap asks for one at least");
        // With a file, its name is the program's where none is given.
        let named = self.program.as_ref().and_then(|path| path.file_name());
        let named = named.map(|name| name.to_string_lossy().into_owned());
        ensure!(
            !args.is_empty() || named.is_some(),
            Advice::new(format!("no program to run in `{task}`"))
                .hint(format!("name one: margay exec {task} PROGRAM [ARG]..."))
                .code(USAGE_ERROR)
        );
        let task = match tasks::find(home.node(), task) {
            Ok(found) => found,
            Err(error) => match self.control.reachable(home)? {
                Some(client) => return self.run_elsewhere(&client, task, args),
                None => return Err(error.into()),
            },
        };
        let program = Program {
            args: named.into_iter().chain(args.iter().cloned()).collect(),
            env: self.variables.read()?,
            working_dir: given(self.workdir.as_deref()),
            user: given(self.user.as_deref()),
            terminal: self.terminal()?,
            ..Program::default()
        };
        let (file, interactive) = (self.program.clone(), self.interactive);
        let request = ExecRequest { program, file, interactive, detach: self.detach };
        // Only while the program runs, and where it has a terminal of its own that edits lines.
        let wants_raw = self.tty && self.interactive && task.record().kind == tasks::Kind::Native;
        let mut raw = None;
        let ended = node::exec(home.node(), &task, request, |heard| match heard {
            Heard::Preparing => notice(format_args!("Preparing the program: making machine code")),
            Heard::Started if wants_raw => raw = RawTerminal::new(),
            Heard::Started => {}
        });
        drop(raw);
        let Some(exit) = ended? else { return Ok(ExitCode::SUCCESS) };
        let by_signal = matches!(exit, engine::Exit::Signal(_));
        if let Some(message) = exit.message().filter(|_| !by_signal) {
            let paint = Paint::on_stderr();
            notice(format_args!("{} {}", paint.error("error:"), printable(&message)));
        }
        Ok(ExitCode::from(exit.code()))
    }

    /// Through the control plane.
    fn run_elsewhere(
        &self,
        client: &Client,
        name: &str,
        args: &[String],
    ) -> anyhow::Result<ExitCode> {
        ensure!(
            self.program.is_none(),
            Advice::new("--program takes a task of this machine")
                .hint("add the program to its image, or run it on the task's node")
                .code(USAGE_ERROR)
        );
        let program = ExecProgram {
            args: args.to_vec(),
            env: self.variables.read()?,
            working_dir: given(self.workdir.as_deref()),
            user: given(self.user.as_deref()),
            terminal: self.terminal()?.map(|(rows, columns)| TerminalSize { rows, columns }),
            interactive: self.interactive && !self.detach,
            detach: self.detach,
        };
        block_on(async {
            let found = remote::found(client, name, None).await?;
            let (task, container) = found.one(client).await?;
            remote::exec(client, &task, container.as_ref(), program).await
        })
    }

    fn terminal(&self) -> anyhow::Result<Option<(u16, u16)>> {
        if !self.tty {
            return Ok(None);
        }
        if self.detach {
            return Ok(Some(terminal::UNSEEN));
        }
        terminal::size(self.interactive).map(Some)
    }
}

/// As in Docker an empty value counts as none.
fn given(flag: Option<&str>) -> Option<String> {
    flag.filter(|value| !value.is_empty()).map(str::to_owned)
}
