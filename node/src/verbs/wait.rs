use std::time::Duration;

use crate::{
    error::Result,
    tasks::{State, TaskFolder},
};

/// How often a task that is waited for is looked at.
const WAIT_EVERY: Duration = Duration::from_millis(20);
/// As for a program that was killed.
const LOST: i32 = 137;

/// Waits until a task has ended for good; the code that it ended with.
///
/// # Errors
/// When its state cannot be read.
pub fn wait_task(task: &TaskFolder) -> Result<i32> {
    // Readable until we have seen its end, also where its folder goes with it.
    let task = task.pin()?;
    loop {
        match task.state()? {
            State::Exited(code) => return Ok(code),
            State::Created => return Ok(0),
            State::Lost => return Ok(LOST),
            _ => std::thread::sleep(WAIT_EVERY),
        }
    }
}
