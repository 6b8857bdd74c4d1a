use std::{path::Path, sync::Mutex};

use super::record::{Phase, Status, TaskRecord};
use crate::events::{self, Event, Subject};

/// How `stop` wants a task to end, in its folder.
pub(super) const STOP: &str = "stop.json";

/// What was told last about a task, so that each thing is told once.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<Option<Phase>>);

impl Told {
    /// Tells what a new status means, if it means anything new.
    pub fn status(&self, path: &Path, task: &TaskRecord, status: &Status) {
        // It only decides about a line of the log.
        let Ok(mut last) = self.0.lock() else { return };
        let before = last.replace(status.phase);
        let (is_new, ran) = (before != Some(status.phase), before == Some(Phase::Running));
        match status.phase {
            Phase::Running if is_new && status.started.is_some() => {
                tell(path, task, "start", |event| event);
            }
            Phase::BackOff if is_new => died(path, task, status),
            Phase::Exited if is_new => {
                if before != Some(Phase::BackOff) {
                    died(path, task, status);
                }
                if path.join(STOP).exists() {
                    tell(path, task, "stop", |event| event);
                }
            }
            Phase::Idle | Phase::Starting if ran => died(path, task, status),
            Phase::Created
            | Phase::Starting
            | Phase::Running
            | Phase::Idle
            | Phase::BackOff
            | Phase::Exited => {}
        }
    }
}

fn died(path: &Path, task: &TaskRecord, status: &Status) {
    if status.reason.as_deref().is_some_and(|reason| reason.starts_with("E_MEMORY")) {
        tell(path, task, "oom", |event| event);
    }
    let code = status.exit_code.unwrap_or_default();
    tell(path, task, "die", |event| event.with("exitCode", code));
}

/// Appends what happened to the task in the folder `path` to the log of events.
pub(crate) fn tell(
    path: &Path,
    task: &TaskRecord,
    action: &str,
    with: impl FnOnce(Event) -> Event,
) {
    // `HOME/tasks/ID`.
    let Some(root) = path.parent().and_then(Path::parent) else { return };
    let event = Event::of(Subject::Task, action, &task.id);
    events::record_at(root, &with(event.with("name", &task.name).with("image", &task.image)));
}
