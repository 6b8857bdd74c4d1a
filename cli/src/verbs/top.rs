use anyhow::bail;
use node::tasks;
use serde::Serialize;

use crate::{
    failure::Advice,
    home::Home,
    output::{Output, duration, size},
    processes::{self, Process},
};

/// Show the processes of a task
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    output: Output,
    /// Name or id of the task
    task: String,
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
        let row = |process: Process| Row {
            pid: process.pid,
            parent: process.parent,
            uid: process.uid,
            cpu_ms: u64::try_from(process.cpu_time.as_millis()).unwrap_or(u64::MAX),
            memory_bytes: process.memory_bytes,
            command: process.command,
        };
        let rows: Vec<Row> = found.into_iter().map(row).collect();
        self.output.records(&rows, &["PID", "PPID", "UID", "TIME", "MEMORY", "COMMAND"], |row| {
            [
                row.pid.to_string(),
                row.parent.to_string(),
                row.uid.to_string(),
                duration(std::time::Duration::from_millis(row.cpu_ms)),
                size(row.memory_bytes),
                row.command.clone(),
            ]
        })
    }
}
