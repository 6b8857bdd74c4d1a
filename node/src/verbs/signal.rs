use std::time::{Duration, Instant};

use super::{LOOK_EVERY, refuse_a_clusters, stop_task};
use crate::{
    control::{self, Answer, Order},
    error::{Error, Result},
    signals::{ENDING, KILL},
    tasks::{Kind, State, TaskFolder},
};

/// For what a task shim needs after a kill, under swap.
const KILL_TIME_MAX: Duration = Duration::from_secs(10);

/// Sends a signal to the program of a task. One that is meant to end it ends it for good, whatever
/// its restart policy says.
///
/// # Errors
/// [`Error::NotRunning`], and [`Error::NoSignals`] for a Wasm program and a signal that does not
/// end programs.
pub fn signal_task(task: &TaskFolder, signal: i32) -> Result<()> {
    refuse_a_clusters(task)?;
    let name = || task.record().name.clone();
    if !task.state()?.is_alive() {
        return Err(Error::NotRunning(name()));
    }
    refuse_without_meaning(task, signal)?;
    if signal == KILL || ENDING.contains(&signal) {
        task.note_user_stop();
    }
    match control::ask(task, Order::Signal(signal)) {
        Ok(Answer::Done) => {}
        // Its supervisor is gone, or of another version: only an end can be had without it.
        Ok(_) | Err(_) if task.state()?.is_alive() => {
            stop_task(task, Duration::ZERO.into())?;
        }
        Ok(_) | Err(_) => return Err(Error::NotRunning(name())),
    }
    // Docker returns when a killed container is dead.
    let deadline = Instant::now() + KILL_TIME_MAX;
    while signal == KILL && task.state().is_ok_and(State::is_alive) && Instant::now() < deadline {
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// A Wasm program has no signals but those that end it.
pub(super) fn refuse_without_meaning(task: &TaskFolder, signal: i32) -> Result<()> {
    let ends = signal == KILL || ENDING.contains(&signal);
    match task.record().kind {
        Kind::Wasm if !ends => Err(Error::NoSignals { task: task.record().name.clone(), signal }),
        Kind::Wasm | Kind::Native => Ok(()),
    }
}
