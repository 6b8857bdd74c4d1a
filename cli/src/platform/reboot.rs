//! Tasks of `margay run` whose restart policies bring them back after the machine has started
//! again.

use std::process::Stdio;

use tokio::process::Command;

use crate::{home::Home, output::notice};

/// Starts them beside a platform or a node that has just started, which neither waits for them nor
/// ends with them.
pub fn bring_back(home: &Home) {
    match node::ended_by_reboot(home.node()) {
        Ok(tasks) if tasks.is_empty() => return,
        Ok(tasks) => {
            let count = tasks.len();
            let noun = if count == 1 { "task" } else { "tasks" };
            notice(format_args!("Starting {count} {noun} of before the reboot again"));
        }
        Err(error) => {
            notice(format_args!("the tasks of before a reboot cannot be found: {error}"));
            return;
        }
    }
    let mut command = Command::new("/proc/self/exe");
    command.arg0("margay").args(["start", "--after-reboot"]).env("MARGAY_HOME", home.path());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    // Reaped by the runtime once it has ended, and told of by itself.
    if let Err(error) = command.spawn() {
        notice(format_args!("the tasks of before the reboot cannot be started: {error}"));
    }
}
