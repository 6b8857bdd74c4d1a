use std::time::{Duration, Instant};

use engine::{Ended, Exit, Stop};
use spec::Usage;

use crate::{
    anonymous_volumes, engines,
    error::{Error, Result},
    home::Home,
    kept_request,
    local::GRACE,
    tasks::{self, Origin, Phase, ProcessId, State, Status, TaskFolder, find, now},
};

mod signal; // a signal for its program
mod start; // start it again, or anew
mod reboot; // start what a reboot has ended
mod wait; // wait for its end

pub use reboot::ended_by_reboot;
pub use signal::signal_task;
pub(crate) use start::make_startable;
pub use start::{restart_task, start_task};
pub use wait::wait_task;

/// What to do about a task that still runs when it is to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    Ended,
    /// Stop it first.
    Forced,
}

/// What to do about volumes that were made for a task alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnonymousVolumes {
    Keep,
    Remove,
}

/// How much longer than its grace a stop may take before it is done without the supervisor.
const SUPERVISOR_TIME_MAX: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(5);

fn is_of_full_disk(error: &Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error, Error::File { source, .. }
        if matches!(source.kind(), StorageFull | QuotaExceeded))
}

/// Ends a task: its supervisor stops it within its grace and then kills it. Returns when it has
/// ended.
///
/// # Errors
/// [`Error::Refused`] for a task of a control plane, which would only start it again;
/// [`Error::NoSignals`] for a Wasm program and a signal that does not end programs.
pub fn stop_task(task: &TaskFolder, stop: Stop) -> Result<State> {
    refuse_a_signal(task, stop)?;
    let state = task.state()?;
    if !state.is_alive() {
        return Ok(state);
    }
    refuse_a_clusters(task)?;
    let grace = stop.grace;
    let deadline = Instant::now() + grace + SUPERVISOR_TIME_MAX;
    let status = task.status()?;
    let supervisor =
        status.as_ref().and_then(|status| status.supervisor).filter(|_| task.is_supervised());
    // On a full disk a task can be ended all the same, which may make room: its supervisor takes
    // its own time then, and is asked again after ours.
    task.note_user_stop();
    match task.ask_stop(stop) {
        Err(error) if !is_of_full_disk(&error) => return Err(error),
        _ => {}
    }
    let asked = supervisor.is_some_and(|process| tasks::terminate(process).unwrap_or(false));
    let worker = status.as_ref().and_then(|status| status.process);
    if asked {
        // A supervisor that does not act in time is asked a second time. Then it kills, and knows
        // how: the process of a native task is its shim, which must not be killed over its
        // container.
        let patience = Instant::now() + grace;
        let mut asked_again = false;
        while Instant::now() < deadline {
            let state = task.state()?;
            if !state.is_alive() {
                return Ok(state);
            }
            if Instant::now() >= patience && !asked_again {
                asked_again =
                    supervisor.is_some_and(|process| tasks::terminate(process).unwrap_or(false));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
    kill(supervisor);
    let ended = engines::end(task, worker, if asked { Duration::ZERO } else { grace });
    for process in [worker, supervisor].into_iter().flatten() {
        process.wait(SUPERVISOR_TIME_MAX);
    }
    close(task, ended);
    task.state()
}

/// How long a task may take to end when a stop names no time.
pub fn grace_of(task: &TaskFolder) -> Duration {
    kept_request::read(task).map_or(GRACE, |request| request.grace)
}

fn refuse_a_signal(task: &TaskFolder, stop: Stop) -> Result<()> {
    stop.signal.map_or(Ok(()), |signal| signal::refuse_without_meaning(task, signal))
}

/// A task of a control plane is not ended here: its service would only be started again.
fn refuse_a_clusters(task: &TaskFolder) -> Result<()> {
    let Origin::Cluster(origin) = &task.record().origin else { return Ok(()) };
    if !task.is_supervised() {
        return Ok(());
    }
    let (name, cluster) = (&task.record().name, &origin.cluster);
    let (message, hint) = match &origin.service {
        Some(service) => (
            format!(
                "`{name}` is a copy of service `{service}` in cluster `{cluster}`, \
                 which would start another"
            ),
            format!("end the service: margay service delete {service} --cluster {cluster}"),
        ),
        None => (
            format!("`{name}` is a task of cluster `{cluster}`"),
            format!("stop it there: margay task stop {}", origin.task),
        ),
    };
    Err(Error::Refused(spec::wire::Fault {
        code: "cluster-task".to_owned(),
        message,
        hint: Some(hint),
    }))
}

/// Writes down the end of a task whose supervisor cannot any more.
fn close(task: &TaskFolder, ended: Option<Ended>) {
    let Ok(owned) = task.clone().own() else { return };
    let status = match task.status() {
        Ok(Some(status)) if status.phase != Phase::Exited => status,
        _ => return,
    };
    let (exit, used) = match ended {
        Some(Ended { exit, usage }) => (exit, usage),
        None => (Exit::Signal(9), engines::usage(task, status.process)),
    };
    let usage = status.usage.unwrap_or_default().plus(used.unwrap_or_default());
    // It stays what it looks like, lost, when that cannot be written.
    let _ = owned.write_status(&Status {
        phase: Phase::Exited,
        process: None,
        ended: Some(now()),
        exit_code: Some(exit.code().into()),
        reason: Some("it was stopped without its supervisor, which was gone".to_owned()),
        usage: Some(usage),
        ..status
    });
}

fn kill(process: Option<ProcessId>) {
    if let Some(process) = process {
        let _ = tasks::kill(process);
    }
}

/// Removes a task's folder, its log with it. Its named volumes stay.
///
/// # Errors
/// [`Error::StillRunning`], unless forced.
pub fn remove_task(
    home: &Home,
    text: &str,
    removal: Removal,
    volumes: AnonymousVolumes,
    grace: Duration,
) -> Result<String> {
    let task = find(home, text)?;
    let name = task.record().name.clone();
    if task.state()?.is_alive() {
        match removal {
            Removal::Ended => {
                refuse_a_clusters(&task)?;
                return Err(Error::StillRunning(name));
            }
            Removal::Forced => drop(stop_task(&task, grace.into())?),
        }
    }
    match task.own() {
        Ok(owned) => {
            engines::sweep(owned.folder());
            let record = owned.record().clone();
            owned.remove()?;
            if volumes == AnonymousVolumes::Remove {
                anonymous_volumes::remove(home, &record)?;
            }
        }
        // `--rm`: its supervisor is removing it at this moment.
        Err(Error::Held(_) | Error::NoSuchTask(_) | Error::File { .. })
            if find(home, text).is_err() => {}
        Err(error) => return Err(error),
    }
    Ok(name)
}

/// What a task has written into its own files, on disk. A Wasm task writes into memory, which ends
/// with it.
pub fn writable_bytes(task: &TaskFolder) -> u64 {
    crate::volumes::bytes_below(&task.path().join(WRITABLE))
}

/// The folder of a task in which it keeps the files that it writes.
const WRITABLE: &str = "layer/upper";

/// What a task has used so far: from its counters while it has them, else what its supervisor wrote
/// at its end.
///
/// # Errors
/// When neither can be read.
pub fn task_usage(task: &TaskFolder) -> Result<Usage> {
    let status = task.status()?;
    let written = status.as_ref().and_then(|status| status.usage).unwrap_or_default();
    match status {
        Some(status) if status.phase == Phase::Exited => Ok(written),
        // What is written down meanwhile is of its earlier starts.
        status => {
            let process = status.and_then(|status| status.process);
            Ok(written.plus(engines::usage(task, process).unwrap_or_default()))
        }
    }
}
