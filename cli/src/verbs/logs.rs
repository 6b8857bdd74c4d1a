use std::{
    io::{ErrorKind, IsTerminal as _},
    ops::ControlFlow,
};

use anyhow::Context as _;
use node::tasks::{self, LogLine, LogOptions, LogStream};

use orchestrator::Client;
use spec::{ClusterName, LogQuery, Timestamp};

use crate::{
    control::Control,
    failure::Advice,
    flags::point_in_time,
    home::Home,
    output::{now, printable},
    remote,
    serve::block_on,
};

/// Show what a task wrote, or all copies of a service, on whichever node
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A task of this machine is read here. Tasks and services of a platform are read through its control
plane, with the credential in MARGAY_CREDENTIAL from anywhere; ended ones for as long as their node
keeps them.

Examples:
  margay logs -n 100 web
  margay logs -f --grep error cats"
)]
pub struct Args {
    /// Name or id of the task, or name of the service
    #[arg(value_name = "TASK|SERVICE")]
    task: String,
    /// Where the service is
    #[arg(long, value_name = "NAME")]
    cluster: Option<ClusterName>,
    #[command(flatten)]
    shown: Shown,
    /// Show when each line was written
    #[arg(short, long)]
    timestamps: bool,
    #[command(flatten)]
    control: Control,
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
    /// Show only lines that hold this text
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    grep: Option<String>,
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

    /// As a control plane is asked for it.
    ///
    /// # Errors
    /// For what is no point in time.
    pub fn query(&self) -> Result<LogQuery, Advice> {
        let period = self.period()?;
        let LogOptions { follow, tail } = self.options(&period);
        let Period { since, until, .. } = period;
        let tail = tail.map(|lines| lines as u64);
        Ok(LogQuery { follow, tail, since, until, grep: self.grep.clone() })
    }

    fn wants(&self, line: &LogLine<'_>) -> bool {
        let holds = |text: &String| line.text.windows(text.len()).any(|w| w == text.as_bytes());
        self.grep.as_ref().is_none_or(holds)
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
        let task = match tasks::find(home.node(), &self.task) {
            Ok(task) if self.cluster.is_none() => task,
            found => match (self.control.reachable(home)?, found) {
                (Some(client), _) => return self.show(&client),
                (None, found) => found?,
            },
        };
        let mut failed = None;
        let (options, wants) =
            (self.shown.options(&period), |line: &LogLine<'_>| self.shown.wants(line));
        tasks::follow_while(
            &task,
            options,
            wants,
            || true,
            |line| {
                period.within(line.time, || match self.write(line) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(error) => {
                        failed = Some(error);
                        ControlFlow::Break(())
                    }
                })
            },
        )?;
        match failed {
            // The reader may leave.
            Some(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(error).context("cannot write the log to stdout")
            }
            _ => Ok(()),
        }
    }

    fn show(&self, client: &Client) -> anyhow::Result<()> {
        let query = self.shown.query()?;
        let format = remote::Format::Lines;
        let shown = remote::Shown { timestamps: self.timestamps, labels: false, format };
        block_on(async {
            let found = remote::found(client, &self.task, self.cluster.as_ref()).await?;
            remote::show(client, found, &query, shown).await
        })
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
