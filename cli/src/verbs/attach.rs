use std::{io::Write as _, process::ExitCode};

use node::{AttachEnd, AttachOptions, Attachment, DetachKeys, tasks::LogStream};

use crate::{
    failure::HOST_ERROR,
    home::Home,
    output::{Paint, notice, printable},
    terminal::RawTerminal,
};

/// Attach to a task that runs: see what it writes, and type into it where it was made with -i
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exits with the task's code. The keys leave a terminal without ending the task.
A task that was made without -i and -t shows what it writes from now on. One that another `margay run -i`
has in the foreground takes what is typed here as well, and its stdin ends with that one's."
)]
pub struct Args {
    /// Name or id of the task
    task: String,
    #[command(flatten)]
    keys: Keys,
    /// Do not hand it our stdin
    #[arg(long)]
    no_stdin: bool,
    #[command(flatten)]
    signals: Signals,
}

/// How a terminal is left.
#[derive(Debug, clap::Args)]
pub struct Keys {
    /// The keys that leave the task's terminal [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<DetachKeys>,
}

/// Whether our signals are the task's.
#[derive(Debug, clap::Args)]
pub struct Signals {
    /// Hand our signals to the task
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        action = clap::ArgAction::Set
    )]
    pub sig_proxy: bool,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<ExitCode> {
        let task = node::tasks::find(home.node(), &self.task)?;
        let options = AttachOptions {
            input: !self.no_stdin,
            signals: self.signals.sig_proxy,
            keys: self.keys.detach_keys.unwrap_or_default(),
            ..AttachOptions::default()
        };
        let mut screen = Screen::default();
        let end = node::attach(&task, &options, |attachment| screen.show(&attachment));
        Ok(screen.exit(end?, &self.task))
    }
}

/// Our terminal, while a task has it.
#[derive(Default)]
pub struct Screen {
    raw: Option<RawTerminal>,
    /// Why something that the task wrote was not written here, but for a reader that has left.
    lost: Option<std::io::ErrorKind>,
}

impl Screen {
    pub fn show(&mut self, attachment: &Attachment<'_>) {
        let written = match attachment {
            Attachment::Connected { terminal: true } => {
                self.raw = RawTerminal::new();
                Ok(())
            }
            Attachment::Connected { terminal: false } => Ok(()),
            Attachment::Output(LogStream::Stdout, bytes) => {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(bytes).and_then(|()| stdout.flush())
            }
            Attachment::Output(LogStream::Stderr, bytes) => {
                std::io::stderr().lock().write_all(bytes)
            }
        };
        // A reader that has left is no reason to end the task.
        let why = written.err().map(|error| error.kind());
        self.lost = self.lost.or(why.filter(|why| *why != std::io::ErrorKind::BrokenPipe));
    }

    /// Leaves the terminal, says how it came to an end, and exits as the task did; a success whose
    /// output was lost is none.
    pub fn exit(mut self, end: AttachEnd, task: &str) -> ExitCode {
        self.raw = None;
        if let Some(why) = self.lost {
            notice(format_args!("margay: output was lost: {why}"));
        }
        let code = match end {
            AttachEnd::Detached => {
                notice(format_args!("\nDetached, and the task runs on: margay attach {task}"));
                0
            }
            AttachEnd::Ended { exit_code, reason } => {
                if let Some(reason) = &reason {
                    let error = Paint::on_stderr();
                    notice(format_args!("{} {}", error.error("error:"), printable(reason)));
                }
                u8::try_from(exit_code).unwrap_or(HOST_ERROR)
            }
        };
        match (code, self.lost) {
            (0, Some(_)) => ExitCode::FAILURE,
            _ => ExitCode::from(code),
        }
    }
}
