//! Keeps the processes of `margay up` alive: one that ends is started again, at first at once, then
//! with growing waits.

use std::{
    net::TcpListener,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::{home::Home, output::talk};

use super::listen::lend;

/// A first restart costs nothing; a program that cannot start is not tried more often than this.
const WAITS: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
];
/// Who has lived this long is well again.
const WELL_AFTER: Duration = Duration::from_secs(10);
/// The program that runs here, also when another version has taken its path meanwhile: all of a
/// platform are of one kind.
const PROGRAM: &str = "/proc/self/exe";
/// How long a process may drain until it is killed.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(20);

/// One of them: what to start, and the sockets that stay when it does not.
pub struct Process {
    /// As people call it.
    pub name: &'static str,
    /// After `margay`.
    pub arguments: Vec<String>,
    program: &'static str,
    /// Where it listens, and the flag by which it hears of that.
    listeners: Vec<(&'static str, TcpListener)>,
    child: Option<Child>,
    started: Instant,
    falls: usize,
    due: Option<Instant>,
}

impl Process {
    /// A process that has not been started yet.
    pub fn new(
        name: &'static str,
        arguments: Vec<String>,
        listeners: Vec<(&'static str, TcpListener)>,
    ) -> Self {
        Self {
            name,
            arguments,
            program: PROGRAM,
            listeners,
            child: None,
            started: Instant::now(),
            falls: 0,
            due: None,
        }
    }

    /// Its process id while it lives.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Whether it was started and runs no more.
    fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))))
    }

    /// Starts it.
    pub fn start(&mut self, home: &Home) -> anyhow::Result<()> {
        self.started = Instant::now();
        self.due = None;
        let mut command = Command::new(self.program);
        command
            .arg0("margay")
            .args(&self.arguments)
            .env("MARGAY_HOME", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        // A group of its own: Ctrl-C is for us alone, and we pass it on in order.
        command.process_group(0).kill_on_drop(true);
        command.arg("--parent").arg(std::process::id().to_string());
        let spawned = lend(&self.listeners, |words| command.args(words).spawn())?;
        self.child = Some(spawned.with_context(|| format!("cannot start the {}", self.name))?);
        Ok(())
    }

    /// Waits until it ends; forever when it does not run.
    async fn ended(&mut self) -> ExitStatus {
        match &mut self.child {
            Some(child) => match child.wait().await {
                Ok(status) => status,
                Err(_) => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }

    fn fell(&mut self, how: std::fmt::Arguments<'_>) {
        self.child = None;
        if self.started.elapsed() >= WELL_AFTER {
            self.falls = 0;
        }
        let wait = WAITS[self.falls.min(WAITS.len() - 1)];
        self.falls += 1;
        self.due = Some(Instant::now() + wait);
        talk(format_args!("the {} {how}; starting it again", self.name));
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            // It may have ended by itself in this moment.
            let _ = kill_process(pid, signal);
        }
    }
}

/// All of them, in the order in which they are started.
pub struct Supervisor {
    home: Home,
    /// The processes.
    pub processes: Vec<Process>,
}

impl Supervisor {
    /// Nobody is started yet.
    pub fn new(home: Home, processes: Vec<Process>) -> Self {
        Self { home, processes }
    }

    /// One that was started and runs no more.
    pub fn who_has_ended(&mut self) -> Option<&'static str> {
        self.processes.iter_mut().find_map(|process| process.has_ended().then_some(process.name))
    }

    /// Watches until one process has ended or one is due, and does what follows. Says whether any
    /// process id changed. One that has ended is started by the next call, so that its owner can
    /// look at why before.
    pub async fn tend(&mut self) -> anyhow::Result<bool> {
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
        let fallen = tokio::select! {
            () = alarm => None,
            (status, index, _) = ended => Some((index, status)),
        };
        if let Some((index, status)) = fallen {
            self.processes[index].fell(format_args!("ended ({status})"));
            return Ok(true);
        }
        Ok(self.start_what_is_due())
    }

    /// One that cannot be started now has no more fallen than one that ended at once: neither ends
    /// the others.
    fn start_what_is_due(&mut self) -> bool {
        let mut changed = false;
        for process in &mut self.processes {
            if process.due.is_some_and(|due| due <= Instant::now()) {
                if let Err(error) = process.start(&self.home) {
                    process.fell(format_args!("could not be started ({error:#})"));
                }
                changed = true;
            }
        }
        changed
    }

    /// Asks them to end, the last started first, and waits for each; kills who takes too long.
    pub async fn drain(&mut self) {
        for process in self.processes.iter_mut().rev() {
            process.due = None;
            process.signal(Signal::TERM);
            if process.child.is_some()
                && tokio::time::timeout(DRAIN_TIME_MAX, process.ended()).await.is_err()
            {
                talk(format_args!("the {} takes too long to end; killing it", process.name));
                process.signal(Signal::KILL);
                process.ended().await;
            }
            process.child = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_cannot_be_started_is_tried_again_with_growing_waits() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(Some(folder.path().join("home"))).unwrap();
        let mut process = Process::new("ghost", Vec::new(), Vec::new());
        process.program = "/nonexistent/margay";
        let mut supervisor = Supervisor::new(home, vec![process]);
        for wait in WAITS {
            let before = Instant::now();
            supervisor.processes[0].due = Some(before);
            assert!(supervisor.start_what_is_due());
            let due = supervisor.processes[0].due.expect("it is tried again");
            let after = Instant::now();
            let bounds = due.saturating_duration_since(after)..=due.duration_since(before);
            assert!(bounds.contains(&wait), "{wait:?} in {bounds:?}");
        }
    }
}
