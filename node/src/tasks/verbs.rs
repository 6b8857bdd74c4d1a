use std::time::{Duration, Instant};

use rustix::process::Signal;
use spec::{Timestamp, Usage};

use super::{
    folder::{TaskFolder, find},
    process::{self, ProcessId},
    record::{Kind, Origin, Phase, State, Status},
};
use crate::{
    error::{Error, Result, chain},
    home::Home,
    running::Ended,
};

/// What to do about a task that still runs when it is to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Refuse.
    Ended,
    /// Stop it first.
    Forced,
}

/// How much longer than its grace a stop may take before we do it ourselves.
const SUPERVISOR_TIME_MAX: Duration = Duration::from_secs(3);
/// What a task shim may take beyond the grace before it is ended by force: its container's last
/// words have half of it.
const SHIM_TIME_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Ends a task: its supervisor stops it within `grace` and then kills it. Returns when it has
/// ended.
///
/// # Errors
/// [`Error::Refused`] for a task of a control plane, which would only start it again.
pub fn stop(task: &TaskFolder, grace: Duration) -> Result<State> {
    let state = task.state()?;
    if !state.is_alive() {
        return Ok(state);
    }
    refuse_a_clusters(task)?;
    let deadline = Instant::now() + grace + SUPERVISOR_TIME_MAX;
    let status = task.status()?;
    let supervisor =
        status.as_ref().and_then(|status| status.supervisor).filter(|_| task.is_supervised());
    if supervisor.is_some() {
        task.ask_grace(grace)?;
    }
    let asked =
        supervisor.is_some_and(|process| process::signal(process, Signal::TERM).unwrap_or(false));
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
                asked_again = supervisor
                    .is_some_and(|process| process::signal(process, Signal::TERM).unwrap_or(false));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    } else if let Some(worker) = worker.filter(|_| task.record().kind == Kind::Wasm) {
        let _ = process::signal(worker, Signal::TERM);
        wait_for_end(worker, grace);
    }
    kill(supervisor);
    let ended = match task.record().kind {
        Kind::Wasm => None,
        Kind::Native => end_native(task, if asked { Duration::ZERO } else { grace }),
    };
    kill(worker);
    for process in [worker, supervisor].into_iter().flatten() {
        wait_for_end(process, SUPERVISOR_TIME_MAX);
    }
    close(task, ended);
    task.state()
}

/// A task of a control plane is not ours to end: it would only be started again.
fn refuse_a_clusters(task: &TaskFolder) -> Result<()> {
    let Origin::Cluster(origin) = &task.record().origin else { return Ok(()) };
    if !task.is_supervised() {
        return Ok(());
    }
    let (name, cluster) = (&task.record().name, &origin.cluster);
    let (message, hint) = match &origin.service {
        Some(service) => (
            format!(
                "`{name}` is a copy of service `{service}` in cluster `{cluster}`, which would start another"
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

/// Ends a native container through its shim, whose death alone would leave the container running,
/// and clears away what is left of it. Says how it ended, if it still ran.
fn end_native(task: &TaskFolder, grace: Duration) -> Option<Ended> {
    let ended = match shim::Task::adopt(task.path()) {
        Ok(shim::Adopted::Running(running)) => {
            // One that cannot be asked any more is swept below.
            let _ = running.stop(grace);
            running.end(grace + SHIM_TIME_MAX).ok().map(Ended::of_native)
        }
        Ok(shim::Adopted::Ended(..)) | Err(_) => None,
    };
    sweep_native(task);
    ended
}

fn sweep_native(task: &TaskFolder) {
    if let Err(error) = shim::sweep(task.path()) {
        tracing::warn!(error = chain(&error), "a native container left something behind");
    }
}

/// Writes down the end of a task whose supervisor cannot any more.
fn close(task: &TaskFolder, ended: Option<Ended>) {
    let Ok(owned) = task.clone().own() else { return };
    let status = match task.status() {
        Ok(Some(status)) if status.phase != Phase::Exited => status,
        _ => return,
    };
    // It stays what it looks like, lost, when that cannot be written.
    let _ = owned.write_status(&Status {
        phase: Phase::Exited,
        process: None,
        ended: Some(Timestamp::of(std::time::SystemTime::now())),
        exit_code: Some(ended.as_ref().map_or(137, |ended| ended.exit_code)),
        reason: Some("it was stopped without its supervisor, which was gone".to_owned()),
        usage: ended
            .and_then(|ended| ended.usage)
            .or_else(|| crate::meter::read(&task.usage_page())),
        ..status
    });
}

fn kill(process: Option<ProcessId>) {
    if let Some(process) = process {
        let _ = process::kill(process);
    }
}

fn wait_for_end(process: ProcessId, time_max: Duration) {
    let deadline = Instant::now() + time_max;
    while process.is_alive() && Instant::now() < deadline {
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Removes a task's folder, its log with it. Its volumes stay.
///
/// # Errors
/// [`Error::StillRunning`], unless forced.
pub fn remove(home: &Home, text: &str, removal: Removal, grace: Duration) -> Result<String> {
    let task = find(home, text)?;
    let name = task.record().name.clone();
    if task.state()?.is_alive() {
        match removal {
            Removal::Ended => {
                refuse_a_clusters(&task)?;
                return Err(Error::StillRunning(name));
            }
            Removal::Forced => drop(stop(&task, grace)?),
        }
    }
    match task.own() {
        Ok(owned) => {
            if owned.record().kind == Kind::Native {
                sweep_native(owned.folder());
            }
            owned.remove()?;
        }
        // `--rm`: its supervisor is removing it at this moment.
        Err(Error::Held(_) | Error::File { .. }) if find(home, text).is_err() => {}
        Err(error) => return Err(error),
    }
    Ok(name)
}

/// What a task has used so far: from its counters while it has them, else what its supervisor wrote
/// at its end.
///
/// # Errors
/// When neither can be read.
pub fn usage(task: &TaskFolder) -> Result<Usage> {
    let status = task.status()?;
    let written = status.as_ref().and_then(|status| status.usage);
    // The kernel counts for a native container, and its shim asks; what is written down meanwhile
    // is of its earlier lives.
    if task.record().kind == Kind::Native
        && status.and_then(|status| status.process).is_some_and(|shim| shim.is_alive())
        && let Ok(shim::Adopted::Running(running)) = shim::Task::adopt(task.path())
        && let Ok(now) = running.status()
    {
        return Ok(written.unwrap_or_default().plus(now.usage));
    }
    if let Some(usage) = written {
        return Ok(usage);
    }
    Ok(crate::meter::read(&task.usage_page()).unwrap_or_default())
}
