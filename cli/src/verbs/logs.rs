use std::{
    io::{ErrorKind, IsTerminal as _},
    ops::ControlFlow,
};

use anyhow::Context as _;
use node::tasks::{self, LogLine, LogOptions, LogStream};

use spec::Timestamp;

use crate::{
    failure::Advice,
    flags::point_in_time,
    home::Home,
    output::{now, printable},
};

/// Show what a task wrote
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name or id of the task
    task: String,
    #[command(flatten)]
    shown: Shown,
}

/// What to show of a log.
#[derive(Debug, clap::Args)]
pub struct Shown {
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
    pub timestamps: bool,
}

/// `--tail`: a number, or Docker's `all`.
#[derive(Debug, Clone, Copy)]
struct Tail(Option<usize>);

fn tail(text: &str) -> Result<Tail, &'static str> {
    match text {
        "all" => Ok(Tail(None)),
        _ => match text.parse::<i64>() {
            // As Docker has it.
            Ok(lines) => Ok(Tail(usize::try_from(lines).ok())),
            Err(_) => Err("use a number, or `all`"),
        },
    }
}

impl Shown {
    pub fn options(&self, period: &Period) -> LogOptions {
        // What is written from now on is later than an end that is past.
        let follow = self.follow && period.until.is_none_or(|until| until > period.now);
        LogOptions { follow, tail: self.tail.and_then(|tail| tail.0) }
    }

    /// # Errors
    /// For what is no point in time.
    pub fn period(&self) -> Result<Period, Advice> {
        let now = now();
        let time =
            |text: &Option<String>| text.as_ref().map(|text| point_in_time(text, now)).transpose();
        Ok(Period { since: time(&self.since)?, until: time(&self.until)?, now })
    }
}

/// From `--since` to `--until`.
#[derive(Debug)]
pub struct Period {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    now: Timestamp,
}

impl Period {
    /// Hands a line to `show` unless it is older than the period, and ends with the first that is
    /// newer. A line whose time cannot be read is shown.
    pub fn within(&self, time: &str, show: impl FnOnce() -> ControlFlow<()>) -> ControlFlow<()> {
        if self.since.is_none() && self.until.is_none() {
            return show();
        }
        match point_in_time(time, self.now) {
            Ok(at) if self.since.is_some_and(|since| at < since) => ControlFlow::Continue(()),
            Ok(at) if self.until.is_some_and(|until| at > until) => ControlFlow::Break(()),
            Ok(_) | Err(_) => show(),
        }
    }
}

impl Args {
    /// Writes a task's stdout to ours and its stderr to ours.
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let period = self.shown.period()?;
        let task = tasks::find(home.node(), &self.task)?;
        let mut failed = None;
        tasks::follow(&task, self.shown.options(&period), |line| {
            period.within(line.time, || match self.write(line) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            })
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
        if self.shown.timestamps {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_shows_its_lines_and_ends() {
        let at = |text: &str| Some(point_in_time(text, now()).unwrap());
        let ten = "2026-11-27T10:00:00Z";
        for (since, until, time, want) in [
            (None, None, "2026-11-27T09:59:59.999999999Z", "shown"),
            (at(ten), None, "2026-11-27T09:59:59.999999999Z", "left out"),
            (at(ten), None, "2026-11-27T10:00:00.000000001Z", "shown"),
            (None, at(ten), "2026-11-27T09:59:59.999999999Z", "shown"),
            (None, at(ten), "2026-11-27T10:00:00.001Z", "the end"),
            (at(ten), at(ten), "no time", "shown"),
        ] {
            let mut shown = false;
            let flow = Period { since, until, now: now() }.within(time, || {
                shown = true;
                ControlFlow::Continue(())
            });
            let got = match (flow, shown) {
                (ControlFlow::Continue(()), true) => "shown",
                (ControlFlow::Continue(()), false) => "left out",
                (ControlFlow::Break(()), _) => "the end",
            };
            assert_eq!(got, want, "{since:?} to {until:?}: {time}");
        }
    }
}
