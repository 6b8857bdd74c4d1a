//! What the copies of a service wrote, from their folders on this machine.

use std::{io, ops::ControlFlow, sync::mpsc, thread};

use anyhow::bail;
use node::tasks::{self, LogStream, TaskFolder};
use spec::Task;

use crate::{
    failure::Advice,
    home::Home,
    output::{notice, printable},
    verbs::logs::Shown,
};

/// Lines that wait to be printed. A task that writes faster waits in its file.
const LINES_MAX: usize = 1000;

struct Line {
    stream: LogStream,
    text: String,
}

/// Prints the lines of `tasks`, each with its task and container in front.
pub fn show(home: &Home, service: &str, copies: &[Task], shown: &Shown) -> anyhow::Result<()> {
    let period = shown.period()?;
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
        let period = &period;
        for (label, folder) in &here {
            let sender = sender.clone();
            scope.spawn(move || {
                let read = tasks::follow(folder, shown.options(period), |line| {
                    period.within(line.time, || {
                        let text = String::from_utf8_lossy(line.text);
                        let time = match shown.timestamps {
                            true => format!("{} ", line.time),
                            false => String::new(),
                        };
                        let text = format!("{label} | {time}{}", printable(&text));
                        match sender.send(Line { stream: line.stream, text }) {
                            Ok(()) => ControlFlow::Continue(()),
                            Err(_) => ControlFlow::Break(()),
                        }
                    })
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

/// The folder of a container of the platform, whose id is TENANT.TASK.CONTAINER.
fn found(folders: &[TaskFolder], label: &str) -> Option<TaskFolder> {
    let is_it = |folder: &&TaskFolder| {
        folder.record().id.strip_suffix(label).is_some_and(|tenant| tenant.ends_with('.'))
    };
    folders.iter().find(is_it).cloned()
}
