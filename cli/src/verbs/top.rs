use std::{
    collections::BTreeSet,
    io::Read as _,
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, bail};
use node::{
    processes::{self, Process},
    tasks,
};
use serde::Serialize;

use crate::{
    failure::Advice,
    home::Home,
    output::{Format, Output, duration, line, size},
};

/// Show the processes of a task
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "margay top [OPTIONS] TASK [PS OPTIONS]",
    after_help = "With options of `ps` it shows what that says of them.

Example:
  margay top web -eo pid,comm,rss"
)]
pub struct Args {
    /// Print records as aligned columns or as JSON
    // Without the short name that it has elsewhere: `-o` is an option of `ps`.
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    output: Format,
    /// Name or id of the task
    task: String,
    /// Options for the `ps` of this machine
    #[arg(value_name = "PS OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    ps: Vec<String>,
}

#[derive(Serialize)]
struct Row {
    pid: i32,
    parent: i32,
    uid: u32,
    cpu_ms: u64,
    memory_bytes: u64,
    command: String,
}

impl Args {
    pub fn run(self, home: &Home) -> anyhow::Result<()> {
        let task = tasks::find(home.node(), &self.task)?;
        let name = &task.record().name;
        let found = processes::of_task(&task)?;
        if found.is_empty() {
            bail!(
                Advice::new(format!("task `{name}` has no process: it is not running"))
                    .hint("see what state it is in: margay ps -a")
            );
        }
        if !self.ps.is_empty() {
            let pids = found.iter().map(|process| process.pid).collect();
            return show_as_ps(&self.ps, &pids);
        }
        let row = |process: Process| Row {
            pid: process.pid,
            parent: process.parent,
            uid: process.uid,
            cpu_ms: u64::try_from(process.cpu_time.as_millis()).unwrap_or(u64::MAX),
            memory_bytes: process.memory_bytes,
            command: process.command,
        };
        let rows: Vec<Row> = found.into_iter().map(row).collect();
        Output { output: self.output }.records(
            &rows,
            &["PID", "PPID", "UID", "TIME", "MEMORY", "COMMAND"],
            |row| {
                [
                    row.pid.to_string(),
                    row.parent.to_string(),
                    row.uid.to_string(),
                    duration(std::time::Duration::from_millis(row.cpu_ms)),
                    size(row.memory_bytes),
                    row.command.clone(),
                ]
            },
        )
    }
}

/// What `ps` writes of the processes that it knows: it is not to be read without an end.
const PS_BYTES_MAX: u64 = 16 << 20;

/// Prints what `ps` with these options says of some processes, as Docker does: `ps` is asked for
/// them, and where its options cannot be combined with that, for all that these choose.
fn show_as_ps(options: &[String], pids: &BTreeSet<i32>) -> anyhow::Result<()> {
    let numbers: Vec<String> = pids.iter().map(ToString::to_string).collect();
    let asked = format!("-q{}", numbers.join(","));
    let said = match ps(options, Some(&asked))? {
        (said, ended) if ended.success() => said,
        _ => {
            let (said, ended) = ps(options, None)?;
            if !ended.success() {
                let options = options.join(" ");
                bail!(
                    Advice::new(format!("`ps {options}` failed: {ended}"))
                        .hint("as in: margay top TASK -ef")
                );
            }
            said
        }
    };
    let Some(rows) = rows_of(&said, pids) else {
        bail!(
            Advice::new("`ps` shows no column `PID`, by which the task's processes are found")
                .hint("name it among the columns: margay top TASK -eo pid,comm")
        );
    };
    for row in rows {
        line(format_args!("{row}"));
    }
    Ok(())
}

/// What `ps` says, and how it ended. What it complains of is shown unless it is asked again.
fn ps(options: &[String], asked: Option<&str>) -> anyhow::Result<(String, ExitStatus)> {
    let complaints = || if asked.is_some() { Stdio::null() } else { Stdio::inherit() };
    let started = Command::new("ps")
        .args(options)
        .args(asked)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(complaints())
        .spawn();
    let mut ps = match started {
        Ok(ps) => ps,
        Err(error) => bail!(
            Advice::new(format!("cannot run `ps`: {error}"))
                .hint("install it (Debian: apt-get install procps), or leave its options out")
        ),
    };
    let mut said = Vec::new();
    if let Some(out) = ps.stdout.take() {
        out.take(PS_BYTES_MAX).read_to_end(&mut said).context("cannot read what `ps` says")?;
    }
    let ended = ps.wait().context("cannot wait for `ps`")?;
    Ok((String::from_utf8_lossy(&said).into_owned(), ended))
}

/// The head of a table of `ps`, and the rows of `pids` with those of their threads, which have a
/// `-` in place of a number. Nothing when there is no column of numbers.
fn rows_of<'a>(table: &'a str, pids: &BTreeSet<i32>) -> Option<Vec<&'a str>> {
    let mut lines = table.lines();
    let head = lines.next()?;
    let column = head.split_whitespace().position(|title| title == "PID")?;
    let mut rows = vec![head];
    let mut before = false;
    for row in lines {
        before = match row.split_whitespace().nth(column) {
            Some("-") => before,
            number => {
                number.and_then(|pid| pid.parse().ok()).is_some_and(|pid| pids.contains(&pid))
            }
        };
        if before {
            rows.push(row);
        }
    }
    Some(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_processes_of_the_task_are_left_of_a_table() {
        let table = "UID PID CMD\n  0   7 sh -c 12\n  0   - -\n  0  12 sh\n  0   - -\n";
        let pids = BTreeSet::from([7, 99]);
        let rows = rows_of(table, &pids);
        assert_eq!(rows, Some(vec!["UID PID CMD", "  0   7 sh -c 12", "  0   - -"]));
        for table in ["", "CMD\nsh\n", "PPID\n7\n"] {
            assert_eq!(rows_of(table, &pids), None, "{table}");
        }
    }
}
