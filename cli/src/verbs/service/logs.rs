//! What the copies of a service wrote, from their folders on this machine.

use std::{io, ops::ControlFlow, sync::mpsc, thread};

use anyhow::bail;
use node::tasks::{self, LogOptions, LogStream, TaskFolder};
use spec::{Task, Timestamp};

use crate::{
    failure::Advice,
    home::Home,
    output::{notice, printable},
};

/// Lines that wait to be printed. A task that writes faster waits in its file.
const LINES_MAX: usize = 1000;

/// Parses `--since`: a time, or how long ago.
pub fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(ago) = spec::parse_duration(text) {
        return Ok(Timestamp::of(std::time::SystemTime::now() - ago));
    }
    let whole = text.strip_suffix('Z').filter(|text| text.len() == "2026-11-27T10:00:00".len());
    let parsed = whole.map_or(text.to_owned(), |text| format!("{text}.000Z")).parse();
    parsed.map_err(|_| "use a duration like 10m, or a time like 2026-11-27T10:00:00Z".to_owned())
}

/// What to show of the logs.
pub struct Shown {
    pub follow: bool,
    pub tail: Option<usize>,
    pub since: Option<Timestamp>,
    pub timestamps: bool,
}

struct Line {
    stream: LogStream,
    text: String,
}

/// Prints the lines of `tasks`, each with its task and container in front.
pub fn show(home: &Home, service: &str, copies: &[Task], shown: &Shown) -> anyhow::Result<()> {
    let folders = tasks::list(home.node())?;
    let (mut here, mut elsewhere) = (Vec::new(), Vec::new());
    for task in copies {
        for container in &task.status.containers {
            let label = format!("{}.{}", task.id, container.name);
            match found(&folders, &label) {
                Some(folder) => here.push((label, folder)),
                None => elsewhere.push((label, task.spec.node.clone())),
            }
        }
    }
    for (label, node) in &elsewhere {
        let node = node.as_ref().map_or("no node yet".to_owned(), |node| format!("node `{node}`"));
        notice(format_args!("{label} is on {node}: its log is on that machine (margay logs)"));
    }
    if here.is_empty() && !elsewhere.is_empty() {
        bail!(
            Advice::new(format!("no copy of service `{service}` has its log on this machine"))
                .hint("on the machine of the node: margay ps --all, then margay logs NAME")
        );
    }
    let (sender, lines) = mpsc::sync_channel::<Line>(LINES_MAX);
    thread::scope(|scope| {
        for (label, folder) in &here {
            let sender = sender.clone();
            scope.spawn(move || {
                let options = LogOptions { follow: shown.follow, tail: shown.tail };
                let read = tasks::follow(folder, options, |line| {
                    let text = String::from_utf8_lossy(line.text);
                    if is_older(line.time, shown.since) {
                        return ControlFlow::Continue(());
                    }
                    let time =
                        if shown.timestamps { format!("{} ", line.time) } else { String::new() };
                    let text = format!("{label} | {time}{}", printable(&text));
                    match sender.send(Line { stream: line.stream, text }) {
                        Ok(()) => ControlFlow::Continue(()),
                        Err(_) => ControlFlow::Break(()),
                    }
                });
                if let Err(error) = read {
                    notice(format_args!("{label}: {error}"));
                }
            });
        }
        drop(sender);
        print(lines)
    })
}

/// Until the readers have read all, or the one that reads us leaves.
fn print(lines: mpsc::Receiver<Line>) -> anyhow::Result<()> {
    use io::Write as _;
    for line in lines {
        let printed = match line.stream {
            LogStream::Stdout => writeln!(io::stdout().lock(), "{}", line.text),
            LogStream::Stderr => writeln!(io::stderr().lock(), "{}", line.text),
        };
        match printed {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            printed => printed?,
        }
    }
    Ok(())
}

fn is_older(time: &str, since: Option<Timestamp>) -> bool {
    let Some(since) = since else { return false };
    // Logs have more digits than milliseconds.
    let millis = time.get(.."2026-11-27T10:00:00.000".len()).map(|time| format!("{time}Z"));
    let at = millis.and_then(|time| time.parse::<Timestamp>().ok());
    at.is_some_and(|at| at < since)
}

/// The folder of a container of the platform, whose id is TENANT.TASK.CONTAINER.
fn found(folders: &[TaskFolder], label: &str) -> Option<TaskFolder> {
    let is_it = |folder: &&TaskFolder| {
        folder.record().id.strip_suffix(label).is_some_and(|tenant| tenant.ends_with('.'))
    };
    folders.iter().find(is_it).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_or_how_long_ago() {
        let at = since("2026-11-27T10:00:00Z").unwrap();
        assert_eq!(at, since("2026-11-27T10:00:00.000Z").unwrap());
        assert!(since("10m").unwrap() > at && since("yesterday").is_err());
        for (time, older) in [
            ("2026-11-27T09:59:59.999999999Z", true),
            ("2026-11-27T10:00:00.000000001Z", false),
            ("no time", false),
        ] {
            assert_eq!(is_older(time, Some(at)), older, "{time}");
            assert!(!is_older(time, None));
        }
    }
}
