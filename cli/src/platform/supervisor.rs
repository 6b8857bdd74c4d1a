//! Restarts the processes of `margay up` that exit: the first time at once, then with growing
//! back-off.

use std::{
    env,
    net::TcpListener,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::{failure::Advice, home::Home, output::notice};

use super::listen::lend;

/// A first restart costs nothing; a program that cannot start is not tried more often than this.
const BACK_OFF: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
];
/// A process that ran for this long starts over at the first back-off.
const STEADY_AFTER: Duration = Duration::from_secs(10);
/// The binary of this process, also when another version has replaced its file: the processes of a
/// platform are of one version.
const PROGRAM: &str = "/proc/self/exe";
/// What a process has of the environment of `margay up`: its log, how a panic is told, and for the
/// agent where OCI runtimes lie. Tokens and passwords of a shell are not among it.
const ENVIRONMENT: [&str; 3] = ["MARGAY_LOG", "RUST_BACKTRACE", "PATH"];
/// How long a process may drain until it is killed.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(20);

/// A supervised process, and the listeners that outlive it.
pub struct Process {
    /// The verb that it runs, and its name in messages.
    pub name: &'static str,
    /// After the verb.
    arguments: Vec<String>,
    /// Its listeners, each with the flag that passes it on.
    listeners: Vec<(&'static str, TcpListener)>,
    child: Option<Child>,
    started: Instant,
    restarts: usize,
    due: Option<Instant>,
}

impl Process {
    pub fn new(
        name: &'static str,
        arguments: Vec<String>,
        listeners: Vec<(&'static str, TcpListener)>,
    ) -> Self {
        Self {
            name,
            arguments,
            listeners,
            child: None,
            started: Instant::now(),
            restarts: 0,
            due: None,
        }
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))))
    }

    pub fn start(&mut self, home: &Home) -> anyhow::Result<()> {
        self.started = Instant::now();
        self.due = None;
        let mut command = Command::new(PROGRAM);
        command
            .arg0("margay")
            .arg(self.name)
            .args(&self.arguments)
            .env_clear()
            .envs(ENVIRONMENT.into_iter().filter_map(|name| Some((name, env::var_os(name)?))))
            .env("MARGAY_HOME", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        // A process group of its own: Ctrl-C reaches the supervisor alone, which ends the others in
        // order.
        command.process_group(0).kill_on_drop(true);
        command.arg("--parent").arg(std::process::id().to_string());
        let spawned = lend(&self.listeners, |flags| command.args(flags).spawn())?;
        self.child = Some(spawned.with_context(|| format!("cannot start the {}", self.name))?);
        Ok(())
    }

    /// Waits until it ends; forever when it does not run.
    pub async fn ended(&mut self) -> ExitStatus {
        match &mut self.child {
            Some(child) => match child.wait().await {
                Ok(status) => status,
                Err(_) => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }

    fn exited(&mut self, how: std::fmt::Arguments<'_>) {
        self.child = None;
        if self.started.elapsed() >= STEADY_AFTER {
            self.restarts = 0;
        }
        let wait = BACK_OFF[self.restarts.min(BACK_OFF.len() - 1)];
        self.restarts += 1;
        self.due = Some(Instant::now() + wait);
        notice(format_args!("the {} {how}; restarting it", self.name));
    }

    /// Stops it and waits for it; kills it when it exceeds [`DRAIN_TIME_MAX`].
    pub async fn drain(&mut self) -> Option<ExitStatus> {
        self.due = None;
        self.child.as_ref()?;
        self.signal(Signal::TERM);
        let ended = tokio::time::timeout(DRAIN_TIME_MAX, self.ended()).await;
        let status = match ended {
            Ok(status) => status,
            Err(_) => {
                notice(format_args!("the {} takes too long to end; killing it", self.name));
                self.signal(Signal::KILL);
                self.ended().await
            }
        };
        self.child = None;
        Some(status)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            // It may have exited in this moment.
            let _ = kill_process(pid, signal);
        }
    }
}

/// The processes, in the order in which they are started.
pub struct Supervisor {
    pub home: Home,
    pub processes: Vec<Process>,
    pub restarts: Restarts,
}

/// What happens when a process exits again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restarts {
    /// It is restarted: the cause may go away.
    Always,
    /// The platform ends after so many in a row, before anything waits for what cannot come.
    AtMost(usize),
}

impl Supervisor {
    /// The name of a process that was started and has exited.
    pub fn exited_process(&mut self) -> Option<&'static str> {
        self.processes.iter_mut().find_map(|process| process.has_ended().then_some(process.name))
    }

    /// Waits until a process exits or a restart is due, and acts on it. Returns whether a process
    /// id changed. A process that exited is restarted by the next call, so that its owner can look
    /// at the cause before.
    pub async fn supervise(&mut self) -> anyhow::Result<bool> {
        let due = self.processes.iter().filter_map(|process| process.due).min();
        let alarm = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        let ended = futures_util::future::select_all(
            self.processes.iter_mut().map(|process| Box::pin(process.ended())),
        );
        let exited = tokio::select! {
            () = alarm => None,
            (status, index, _) = ended => Some((index, status)),
        };
        if let Some((index, status)) = exited {
            let process = &mut self.processes[index];
            if self.restarts == Restarts::AtMost(process.restarts) {
                bail!(
                    Advice::new(format!("the {} exits each time that it is started", process.name))
                        .hint("its error is printed above; margay doctor checks this machine")
                );
            }
            process.exited(format_args!("exited ({status})"));
            return Ok(true);
        }
        Ok(self.start_due())
    }

    /// A process that cannot be started counts as one that exited at once: neither ends the others.
    fn start_due(&mut self) -> bool {
        let mut changed = false;
        for process in &mut self.processes {
            if process.due.is_some_and(|due| due <= Instant::now()) {
                if let Err(error) = process.start(&self.home) {
                    process.exited(format_args!("could not be started ({error:#})"));
                }
                changed = true;
            }
        }
        changed
    }

    /// Stops the processes, the last started first, and waits for each.
    pub async fn drain(&mut self) {
        for process in self.processes.iter_mut().rev() {
            process.drain().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_cannot_be_started_is_retried_with_growing_back_off() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(Some(folder.path().join("home"))).unwrap();
        let process = Process::new("ghost", vec!["no NUL is an argument: \0".into()], Vec::new());
        let mut supervisor =
            Supervisor { home, processes: vec![process], restarts: Restarts::Always };
        for wait in BACK_OFF {
            let before = Instant::now();
            supervisor.processes[0].due = Some(before);
            assert!(supervisor.start_due());
            let due = supervisor.processes[0].due.expect("it is retried");
            let after = Instant::now();
            let bounds = due.saturating_duration_since(after)..=due.duration_since(before);
            assert!(bounds.contains(&wait), "{wait:?} in {bounds:?}");
        }
    }

    #[tokio::test]
    async fn a_process_that_never_stays_ends_a_platform_that_is_to_end_then() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(Some(folder.path().join("home"))).unwrap();
        let mut ghost = Process::new("ghost", Vec::new(), Vec::new());
        ghost.child = Some(Command::new("false").spawn().unwrap());
        ghost.restarts = 3;
        let restarts = Restarts::AtMost(3);
        let mut supervisor = Supervisor { home, processes: vec![ghost], restarts };
        let error = supervisor.supervise().await.unwrap_err().to_string();
        assert_eq!(error, "the ghost exits each time that it is started");
    }
}
