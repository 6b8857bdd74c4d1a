use std::{
    io::{ErrorKind, IsTerminal as _},
    ops::ControlFlow,
};

use anyhow::Context as _;
use node::tasks::{self, LogLine, LogOptions, LogStream};

use crate::{home::Home, output::printable};

/// Show what a task wrote
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name or id of the task
    task: String,
    /// Wait for more until the task ends
    #[arg(short, long)]
    follow: bool,
    /// Show only the last lines
    #[arg(short = 'n', long, value_name = "LINES", value_parser = tail)]
    tail: Option<Tail>,
    /// Show when each line was written
    #[arg(short, long)]
    timestamps: bool,
}

/// `--tail`: a number, or Docker's `all`.
#[derive(Debug, Clone, Copy)]
struct Tail(Option<usize>);

fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail(None)),
        _ => text
            .parse()
            .map(|lines| Tail(Some(lines)))
            .map_err(|_| "use a number, or `all`".to_owned()),
    }
}

impl Args {
    /// Writes a task's stdout to ours and its stderr to ours.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let task = tasks::find(home.node(), &self.task)?;
        let options = LogOptions { follow: self.follow, tail: self.tail.and_then(|tail| tail.0) };
        let mut failed = None;
        tasks::follow(&task, options, |line| match self.write(line) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })?;
        match failed {
            // The reader may leave.
            Some(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(error).context("cannot write the log to stdout")
            }
            _ => Ok(()),
        }
    }

    fn write(&self, line: LogLine<'_>) -> std::io::Result<()> {
        match line.stream {
            LogStream::Stdout => {
                let out = std::io::stdout();
                let terminal = out.is_terminal();
                self.write_to(&mut out.lock(), terminal, line)
            }
            LogStream::Stderr => {
                let out = std::io::stderr();
                let terminal = out.is_terminal();
                self.write_to(&mut out.lock(), terminal, line)
            }
        }
    }

    fn write_to(
        &self,
        out: &mut dyn std::io::Write,
        terminal: bool,
        line: LogLine<'_>,
    ) -> std::io::Result<()> {
        if self.timestamps {
            write!(out, "{} ", line.time)?;
        }
        match terminal {
            // A guest's bytes must not move our cursor.
            true => out.write_all(printable(&String::from_utf8_lossy(line.text)).as_bytes())?,
            false => out.write_all(line.text)?,
        }
        if !line.partial {
            out.write_all(b"\n")?;
        }
        out.flush()
    }
}
