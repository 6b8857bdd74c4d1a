use crate::{
    error::Result,
    home::Home,
    tasks::{self, Origin, State, Status, TaskFolder, is_over},
};

/// The tasks of `margay run` that ran in an earlier boot of the machine and that their restart
/// policies bring back, in the order in which they were made.
///
/// # Errors
/// When the tasks cannot be listed.
pub fn ended_by_reboot(home: &Home) -> Result<Vec<TaskFolder>> {
    let mut tasks = tasks::list(home)?;
    tasks.retain(|task| returns(task).unwrap_or(false));
    Ok(tasks)
}

fn returns(task: &TaskFolder) -> Result<bool> {
    let record = task.record();
    if record.origin != Origin::Local {
        return Ok(false);
    }
    let status = task.status()?;
    let code = match task.state()? {
        State::Exited(code) => Some(code),
        State::Lost => None,
        State::Created
        | State::Starting
        | State::Running
        | State::Unsupervised
        | State::Idle
        | State::BackOff => return Ok(false),
    };
    // A power cut may have emptied it, and nothing else does.
    let boot_is_over = |status: &Status| is_over(status.boot.as_deref());
    let restarts = status.as_ref().map_or(0, |status| status.restarts);
    Ok(status.as_ref().is_none_or(boot_is_over)
        && record.restart.returns(code, restarts, task.was_stopped_by_user()))
}
