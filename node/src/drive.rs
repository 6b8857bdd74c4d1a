//! Carries out what [`Lifecycle`] decides about one container.

use std::time::Duration;

use engine::{Container, Ended, Event, Exit, Stop};
use spec::Usage;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    error::{Error, Result},
    health::Monitor,
    lifecycle::{Effect, Event as Step, Lifecycle, StartFailed, State},
    signals::KILL,
    tasks::Health,
};

/// How often a container that may become idle is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a container is started for: `margay run`, `margay invoke`, or a task of a cluster.
pub(crate) trait Supervisor {
    /// Fetches and decides whatever a start needs. Given up when the container is to stop.
    async fn prepare(&mut self) -> Result<()>;

    /// Makes its process. Never given up halfway.
    async fn spawn(&mut self) -> Result<Box<dyn Container>>;

    /// Writes down which process runs it, before anything else can happen to it.
    fn spawned(&mut self, container: &dyn Container) -> Result<()>;

    fn started(&mut self);

    /// The check of its health, where it has one, from when its program runs.
    fn monitor(&self) -> Option<Monitor> {
        None
    }

    /// A probe has ended, which makes its health this.
    fn probed(&mut self, _health: Health) {}

    fn denied(&mut self, line: String, count: u64);

    /// No process could be made.
    fn start_failed(&mut self, error: Error) -> (StartFailed, End);

    /// Its process has ended. Counters are to be kept before anything else happens.
    async fn ended(&mut self, ended: &Ended);

    /// It has come into another state than running. `end` is its last end.
    fn entered(&mut self, lifecycle: &Lifecycle, end: &End);

    /// Its program is about to be sent this signal; its own stop signal when none is named.
    fn signalling(&mut self, _signal: Option<i32>) {}

    /// It is to end for another start.
    fn restarting(&mut self) {}

    /// How much of a grace means anything to its program.
    fn grace(&self, grace: Duration) -> Duration {
        grace
    }

    /// How many requests it has been sent, where it may become idle without any.
    fn requests(&mut self) -> Option<u64> {
        None
    }

    /// Ready when a request waits at one of its ports.
    async fn request_waiting(&mut self) {
        std::future::pending().await
    }
}

/// Where orders come from.
pub(crate) trait Commands {
    /// Cancel-safe; never ready again when there are no more.
    async fn next(&mut self) -> Command;
}

/// What a running container can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// To end.
    Stop(Stop),
    Kill,
    /// A signal for the program; `ends` says that it is meant to end it.
    Signal {
        number: i32,
        ends: bool,
    },
    /// To end, for another start.
    Restart(Stop),
    /// The terminal has other rows and columns.
    Resize(u16, u16),
}

/// How a container ended last, in the words of statuses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct End {
    /// Where it had a process.
    pub exit: Option<Exit>,
    /// Nothing when it never started and did not fail.
    pub exit_code: Option<i32>,
    pub reason: Option<String>,
    /// As in [`Ended`].
    pub usage: Option<Usage>,
}

impl End {
    pub fn of(exit: Exit) -> Self {
        let (exit_code, reason) = (Some(exit.code().into()), exit.message());
        Self { exit: Some(exit), exit_code, reason, usage: None }
    }
}

/// Where the driver begins.
#[derive(Debug)]
pub(crate) enum Begin {
    Fresh,
    /// An earlier supervisor has left it running.
    Running(Box<dyn Container>),
    /// It ended while no supervisor was there.
    Ended(Ended),
}

/// Takes a container from its first start to its last end.
pub(crate) async fn drive(
    supervisor: &mut impl Supervisor,
    commands: &mut impl Commands,
    lifecycle: Lifecycle,
    begin: Begin,
) -> End {
    let mut driver = Driver {
        supervisor,
        commands,
        lifecycle,
        container: None,
        monitor: None,
        stop_signal: None,
        end: End::default(),
    };
    match begin {
        Begin::Fresh => {}
        Begin::Running(container) => {
            driver.container = Some(container);
            driver.take(&Step::Spawned).await;
            driver.monitor = driver.supervisor.monitor();
        }
        Begin::Ended(ended) => {
            let step = driver.ended(ended).await;
            driver.take(&step).await;
        }
    }
    while driver.lifecycle.state != State::Exited {
        if let Some(step) = driver.next().await {
            driver.take(&step).await;
        }
    }
    driver.end
}

struct Driver<'a, S, C> {
    supervisor: &'a mut S,
    commands: &'a mut C,
    lifecycle: Lifecycle,
    /// In the states from running to killed.
    container: Option<Box<dyn Container>>,
    /// While its program runs, where it is asked whether it is well.
    monitor: Option<Monitor>,
    /// What the last stop named in place of the program's own.
    stop_signal: Option<i32>,
    end: End,
}

impl<S: Supervisor, C: Commands> Driver<'_, S, C> {
    /// What happens next, if it is anything to decide about.
    async fn next(&mut self) -> Option<Step> {
        let deadline = self.lifecycle.deadline();
        let due = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let Some(container) = &mut self.container else {
            return match self.lifecycle.state {
                State::Starting => Some(self.start().await),
                State::Idle => tokio::select! {
                    () = self.supervisor.request_waiting() => Some(Step::RequestWaiting),
                    command = self.commands.next() => requested(command),
                },
                _ => tokio::select! {
                    () = due => Some(Step::DeadlineReached),
                    command = self.commands.next() => requested(command),
                },
            };
        };
        let runs = matches!(self.lifecycle.state, State::Running { .. });
        let looks = self.lifecycle.may_idle() && runs;
        tokio::select! {
            event = container.next_event() => match event {
                Event::Started => {
                    self.supervisor.started();
                    self.monitor = self.supervisor.monitor();
                    Some(Step::Started)
                }
                Event::Denied { line, count } => {
                    self.supervisor.denied(line, count);
                    None
                }
                Event::Exited(ended) => Some(self.ended(ended).await),
            },
            command = self.commands.next() => {
                obey(command, &**container, self.supervisor, &mut self.stop_signal).await
            }
            () = due => {
                if matches!(self.lifecycle.state, State::Killed { .. }) {
                    let why = "it did not end when it was killed".to_owned();
                    self.ended(Ended::of(Exit::Lost(why))).await;
                }
                Some(Step::DeadlineReached)
            }
            health = next_health(&mut self.monitor), if runs => {
                self.supervisor.probed(health);
                None
            }
            () = sleep(LOOK_EVERY), if looks => {
                self.supervisor.requests().map(|runs| Step::Counted { runs })
            }
        }
    }

    async fn start(&mut self) -> Step {
        let prepared = tokio::select! {
            prepared = self.supervisor.prepare() => prepared,
            step = stop_requested(self.commands) => return step,
        };
        let spawned = match prepared {
            Ok(()) => self.supervisor.spawn().await,
            Err(error) => Err(error),
        };
        let failed = match spawned {
            Ok(container) => match self.supervisor.spawned(&*container) {
                Ok(()) => {
                    self.container = Some(container);
                    return Step::Spawned;
                }
                Err(error) => {
                    // A process that no later supervisor would know of must not be.
                    container.kill();
                    error
                }
            },
            Err(error) => error,
        };
        let (failed, end) = self.supervisor.start_failed(failed);
        self.end = end;
        Step::StartFailed(failed)
    }

    async fn ended(&mut self, ended: Ended) -> Step {
        (self.container, self.monitor) = (None, None);
        self.supervisor.ended(&ended).await;
        self.end = End { usage: ended.usage, ..End::of(ended.exit.clone()) };
        Step::Exited(ended.exit)
    }

    async fn take(&mut self, step: &Step) {
        if matches!(step, Step::RestartRequested(_)) {
            self.supervisor.restarting();
        }
        let before = self.lifecycle.state;
        let (after, effects) = self.lifecycle.clone().after(step, Instant::now());
        self.lifecycle = after;
        for effect in effects {
            match (effect, &self.container) {
                (Effect::Stop(grace), Some(container)) => {
                    let signal = self.stop_signal.take();
                    self.supervisor.signalling(signal);
                    container.stop(Stop { grace, signal }).await;
                }
                (Effect::Kill, Some(container)) => {
                    self.supervisor.signalling(Some(KILL));
                    container.kill();
                }
                (Effect::Stop(_) | Effect::Kill, None) => {}
            }
        }
        let state = self.lifecycle.state;
        if std::mem::discriminant(&before) != std::mem::discriminant(&state)
            && !matches!(state, State::Running { .. })
        {
            self.supervisor.entered(&self.lifecycle, &self.end);
        }
    }
}

async fn next_health(monitor: &mut Option<Monitor>) -> Health {
    match monitor {
        Some(monitor) => monitor.next().await,
        None => std::future::pending().await,
    }
}

/// What a command means for a container that has a process.
async fn obey(
    command: Command,
    container: &dyn Container,
    supervisor: &mut impl Supervisor,
    stop_signal: &mut Option<i32>,
) -> Option<Step> {
    match command {
        Command::Signal { number, ends } => {
            supervisor.signalling(Some(number));
            container.signal(number).await;
            ends.then_some(Step::EndSignalled)
        }
        Command::Restart(Stop { grace, signal }) => {
            *stop_signal = signal;
            Some(Step::RestartRequested(supervisor.grace(grace)))
        }
        Command::Resize(rows, columns) => {
            container.resize(rows, columns).await;
            None
        }
        Command::Stop(Stop { grace, signal }) => {
            *stop_signal = signal;
            Some(Step::StopRequested(supervisor.grace(grace)))
        }
        Command::Kill => Some(Step::KillRequested),
    }
}

fn requested(command: Command) -> Option<Step> {
    match command {
        Command::Stop(stop) => Some(Step::StopRequested(stop.grace)),
        Command::Kill => Some(Step::KillRequested),
        Command::Restart(stop) => Some(Step::RestartRequested(stop.grace)),
        Command::Signal { ends: true, .. } => Some(Step::EndSignalled),
        Command::Signal { ends: false, .. } | Command::Resize(..) => None,
    }
}

/// Of a container without a process nothing else can be asked.
async fn stop_requested(commands: &mut impl Commands) -> Step {
    loop {
        match requested(commands.next().await) {
            // It starts already.
            None | Some(Step::RestartRequested(_)) => {}
            Some(Step::EndSignalled) => return Step::KillRequested,
            Some(step) => return step,
        }
    }
}
