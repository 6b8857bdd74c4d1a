use std::{
    io::{ErrorKind, IsTerminal as _},
    ops::ControlFlow,
};

use anyhow::Context as _;
use node::tasks::{self, LogLine, LogOptions, LogStream};

use crate::{
    flags::point_in_time,
    home::Home,
    output::{now, printable},
};

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
    /// Show only what was written since: 10m, 2026-11-27T10:00:00Z, or seconds since 1970
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Show only what was written until then
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Show when each line was written
    #[arg(short, long)]
    timestamps: bool,
}

/// `--tail`: a number, or Docker's `all`.
#[derive(Debug, Clone, Copy)]
struct Tail(Option<usize>);

fn tail(text: &str) -> Result<Tail, &'static str> {
    match text {
        "all" => Ok(Tail(None)),
        _ => match text.parse() {
            Ok(lines) => Ok(Tail(Some(lines))),
            Err(_) => Err("use a number, or `all`"),
        },
    }
}

impl Args {
    /// Writes a task's stdout to ours and its stderr to ours.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let task = tasks::find(home.node(), &self.task)?;
        let options = LogOptions { follow: self.follow, tail: self.tail.and_then(|tail| tail.0) };
        let now = now();
        let time = |text: &Option<String>| match text {
            Some(text) => point_in_time(text, now).map(Some),
            None => Ok(None),
        };
        let (since, until) = (time(&self.since)?, time(&self.until)?);
        let mut failed = None;
        tasks::follow(&task, options, |line| {
            if since.is_some() || until.is_some() {
                // A line whose time cannot be read is shown.
                let at = point_in_time(line.time, now).ok();
                if at.is_some_and(|at| since.is_some_and(|since| at < since)) {
                    return ControlFlow::Continue(());
                }
                if at.is_some_and(|at| until.is_some_and(|until| at > until)) {
                    return ControlFlow::Break(());
                }
            }
            match self.write(line) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
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
        let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
        let (mut out, terminal): (Box<dyn std::io::Write>, bool) = match line.stream {
            LogStream::Stdout => (Box::new(stdout.lock()), stdout.is_terminal()),
            LogStream::Stderr => (Box::new(stderr.lock()), stderr.is_terminal()),
        };
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
