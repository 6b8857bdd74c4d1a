//! Asks a container whether it is well, one probe after another, for as long as it runs.

use std::time::Duration;

use spec::Timestamp;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

use crate::{
    exec::probe,
    home::Home,
    tasks::{Check, Health, HealthStatus, Probe, ProcessId, Status, TaskFolder, now},
};

/// The check of one container since its program was started.
pub(crate) struct Monitor {
    home: Home,
    task: TaskFolder,
    /// That its container ends with.
    process: Option<ProcessId>,
    check: Check,
    health: Health,
    started: Timestamp,
    next: Next,
}

enum Next {
    At(Instant),
    /// It has no more.
    Never,
    /// A probe runs, on a thread of its own: it waits for a program. It ends with its time limit,
    /// or with the container.
    Running(oneshot::Receiver<Probe>),
}

impl Monitor {
    /// Of a task that has a check and runs, going on from what its status says.
    pub fn of(home: &Home, task: &TaskFolder, status: &Status) -> Option<Self> {
        let check = task.record().health_check.clone()?;
        let health = status.health.clone().unwrap_or_else(|| Health::at_start(None));
        let started = status.started.unwrap_or_else(now);
        if check.until_healthy && health.status == HealthStatus::Healthy {
            return None;
        }
        let next = Next::At(Instant::now() + health.pause(&check, started, now()));
        let (home, task, process) = (home.clone(), task.clone(), status.process);
        Some(Self { home, task, process, check, health, started, next })
    }

    /// The health after the next probe. Cancel-safe: the next call goes on where this one was.
    pub async fn next(&mut self) -> Health {
        loop {
            match &mut self.next {
                Next::At(at) => {
                    sleep_until(*at).await;
                    self.next = Next::Running(self.probe());
                }
                Next::Never => return std::future::pending().await,
                Next::Running(probe) => {
                    let probe = probe.await;
                    // It is gone without a word when there was no thread for it.
                    let probe = probe.unwrap_or_else(|_| not_run("no thread for it can be made"));
                    let health = self.health.clone().after(probe, &self.check, self.started);
                    self.health = health;
                    let pause = self.health.pause(&self.check, self.started, now());
                    let is_well = self.health.status == HealthStatus::Healthy;
                    self.next = match self.check.until_healthy && is_well {
                        true => Next::Never,
                        false => Next::At(Instant::now() + pause.max(PAUSE_MIN)),
                    };
                    return self.health.clone();
                }
            }
        }
    }

    fn probe(&self) -> oneshot::Receiver<Probe> {
        let (tell, probe) = oneshot::channel();
        let (home, task, check) = (self.home.clone(), self.task.clone(), self.check.clone());
        let process = self.process;
        let run = move || {
            let start = now();
            let (exit_code, output) = probe::run(&home, &task, process, &check);
            // The container may have ended.
            let _ = tell.send(Probe { start, end: now(), exit_code, output });
        };
        drop(std::thread::Builder::new().name("health".to_owned()).spawn(run));
        probe
    }
}

/// Between two probes, whatever was asked for: each makes a process.
const PAUSE_MIN: Duration = Duration::from_millis(1);

fn not_run(why: &str) -> Probe {
    Probe { start: now(), end: now(), exit_code: probe::NOT_RUN, output: why.to_owned() }
}
