use std::time::{Duration, Instant};

use engine::Stop;

use super::{LOOK_EVERY, refuse_a_clusters, refuse_a_signal, stop_task};
use crate::{
    control::{self, Answer, Order},
    error::{Error, Result},
    home::Home,
    keeper::start_in_background,
    request::Note,
    tasks::{Origin, State, TaskFolder, tell},
};

/// For a task whose supervisor was killed.
const ORPHAN_GRACE: Duration = Duration::from_secs(1);
/// Beyond its grace: an image that has to be prepared again takes seconds.
const RESTART_TIME_MAX: Duration = Duration::from_secs(120);

/// Starts a task that was created, or has ended, in the background. One that runs stays as it is.
///
/// # Errors
/// What kept it from starting.
pub fn start_task(home: &Home, task: &TaskFolder, watch: impl FnMut(Note)) -> Result<()> {
    make_startable(task)?;
    if task.state()?.is_alive() {
        return Ok(());
    }
    match start_in_background(home, task, watch) {
        Ok(_) => Ok(()),
        // Another start was faster.
        Err(_) if task.state().is_ok_and(State::is_alive) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Ends a task if it runs, and starts it again with the same supervisor, or a new one in the
/// background. Returns when it runs.
///
/// # Errors
/// [`Error::Refused`] for a task of a control plane; when it could not be started again.
pub fn restart_task(
    home: &Home,
    task: &TaskFolder,
    stop: Stop,
    watch: impl FnMut(Note),
) -> Result<()> {
    refuse_a_clusters(task)?;
    refuse_a_signal(task, stop)?;
    let before = task.status()?.and_then(|status| status.started);
    let restarting = task.is_supervised()
        && matches!(control::ask(task, Order::Restart(stop)), Ok(Answer::Done));
    if !restarting {
        stop_task(task, stop)?;
        start_task(home, task, watch)?;
        tell(task.path(), task.record(), "restart", |event| event);
        return Ok(());
    }
    let deadline = Instant::now() + stop.grace + RESTART_TIME_MAX;
    while Instant::now() < deadline {
        let status = task.status()?;
        let started = status.as_ref().and_then(|status| status.started);
        if started != before {
            return Ok(());
        }
        if !task.state()?.is_alive() {
            let why = status.and_then(|status| status.reason);
            return Err(Error::Start {
                task: task.record().name.clone(),
                why: why.unwrap_or_else(|| "it ended".to_owned()),
                hint: None,
                exit_code: Error::OURS,
            });
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Err(Error::Held(task.record().name.clone()))
}

/// Refuses what cannot be started here, and ends what a killed supervisor has left running.
pub(crate) fn make_startable(task: &TaskFolder) -> Result<()> {
    match &task.record().origin {
        Origin::Cluster(_) | Origin::Invoked => {
            refuse_a_clusters(task)?;
            return Err(Error::NotKept(task.record().name.clone()));
        }
        Origin::Local => {}
    }
    if task.state()? == State::Unsupervised {
        stop_task(task, ORPHAN_GRACE.into())?;
    }
    Ok(())
}
