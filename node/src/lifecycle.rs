//! The life of a container: what restarts it, when, and when it is given up.
//!
//! [`Lifecycle::after`] decides, and looks at no clock; [`drive`](crate::drive::drive) carries that
//! out for `margay run`, its keeper, `margay invoke` and the agent alike.

use std::time::Duration;

use engine::Exit;
use spec::ContainerRestart;
use tokio::time::Instant;

use crate::tasks::RestartPolicy;

/// After the first end a container starts again at once, but for what a process needs to be gone.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between two starts.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A container that has run for so long has not failed at once: its next end counts as a first one.
const STEADY_AFTER: Duration = Duration::from_secs(30);
/// Where a definition says when a container is started again, as Kubernetes has it: the second
/// pause, twice as long each time, and at most; and the run after which the next end counts as a
/// first.
const DECLARED_PAUSE: Duration = Duration::from_secs(10);
const DECLARED_PAUSE_MAX: Duration = Duration::from_secs(300);
const DECLARED_STEADY_AFTER: Duration = Duration::from_secs(600);
/// A job is given up when its image or a secret cannot be had after so many tries.
const FETCHES_MAX: u32 = 5;
/// A replica that could not be started so often in a row is given up: its port is taken here, the
/// disk is full, and on another node it may well run. About seven seconds.
const STARTS_MAX: u32 = 5;
/// For what an idle container is in the middle of when it is asked to end.
const IDLE_GRACE: Duration = Duration::from_secs(5);
/// Beyond its grace, before a container is killed.
const LINGER_TIME_MAX: Duration = Duration::from_secs(2);

/// After a kill: a task shim waits for readers of its program's last output for up to 30 seconds.
const KILL_TIME_MAX: Duration = Duration::from_secs(35);

/// The exit code of a start that came to nothing.
const NOT_STARTED: u8 = 125;

/// Which containers are started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restart {
    /// `margay invoke`: none.
    Never,
    /// `margay run`: as `--restart` says, once it has run.
    Policy(RestartPolicy),
    /// A task on its own: until its image and its secrets could be had. It runs once.
    UntilFetched,
    /// A replica of a service: whatever it ended with, unless it cannot be started here.
    Always,
    /// As its definition says.
    Declared(ContainerRestart),
}

/// Where a container is, with what matters there alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Its image is fetched and prepared, and a process is made.
    Starting,
    /// Its process runs. `idle_since` moves with each request.
    Running { since: Instant, runs: u64, idle_since: Instant },
    /// It was asked to end; killed at `kill_at`.
    Stopping { kill_at: Instant, then: Then },
    /// It was killed; given up at `lost_at` if it stays.
    Killed { lost_at: Instant, then: Then },
    /// It ended too early, and starts again at `until`. `quick` says that it was hardly away.
    BackOff { until: Instant, quick: bool },
    /// No process runs, and the first request starts one.
    Idle,
    /// It has ended for good.
    Exited,
}

/// What follows a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Exit,
    /// It was asked to end because it had no requests.
    Idle,
    /// It was asked to end for another start.
    Start,
}

/// What happens to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// Its process exists, and runs from here on.
    Spawned,
    /// Its program runs.
    Started,
    /// No process could be made.
    StartFailed(StartFailed),
    /// Its process ended.
    Exited(Exit),
    /// It is not wanted any more, and gets this long.
    StopRequested(Duration),
    KillRequested,
    /// It is wanted anew, and gets this long to end.
    RestartRequested(Duration),
    /// Its program was sent a signal that is meant to end it.
    EndSignalled,
    /// So many requests have been counted.
    Counted {
        runs: u64,
    },
    /// A request waits for a process.
    RequestWaiting,
    /// What [`Lifecycle::deadline`] said has come.
    DeadlineReached,
}

/// Whether the next start may go better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartFailed {
    /// The image could not be fetched, or a secret.
    NotFetched,
    Here,
}

/// What is to be done. The driver also writes down each state that is entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    Stop(Duration),
    Kill,
}

/// A container's state, and what it takes to decide about the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lifecycle {
    pub state: State,
    restart: Restart,
    /// Without a request for so long a container ends until the next one; never where left out.
    idle_after: Option<Duration>,
    /// Ends in a row without a steady run between them.
    ends: u32,
    /// Starts in a row that came to nothing although the image was there.
    starts_failed: u32,
    pub restarts: u32,
    /// It is not wanted any more.
    stopping: bool,
}

impl Lifecycle {
    pub fn new(restart: Restart, idle_after: Option<Duration>, restarts: u32) -> Self {
        Self {
            state: State::Starting,
            restart,
            idle_after,
            ends: 0,
            starts_failed: 0,
            restarts,
            stopping: false,
        }
    }

    pub fn may_idle(&self) -> bool {
        self.idle_after.is_some()
    }

    /// When [`Event::DeadlineReached`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Stopping { kill_at, .. } => Some(kill_at),
            State::Killed { lost_at, .. } => Some(lost_at),
            State::BackOff { until, .. } => Some(until),
            State::Starting | State::Running { .. } | State::Idle | State::Exited => None,
        }
    }

    /// What `event` leads to, and what is to be done about it.
    pub fn after(mut self, event: &Event, now: Instant) -> (Self, Vec<Effect>) {
        let effects = self.step(event, now);
        (self, effects)
    }

    fn step(&mut self, event: &Event, now: Instant) -> Vec<Effect> {
        use State::{BackOff, Exited, Idle, Killed, Running, Starting, Stopping};
        let ends = [Event::KillRequested, Event::EndSignalled];
        self.stopping |= matches!(event, Event::StopRequested(_)) || ends.contains(event);
        self.state = match (self.state, event) {
            (Starting, Event::Spawned) => Running { since: now, runs: u64::MAX, idle_since: now },
            (Starting | BackOff { .. } | Idle, Event::StopRequested(_) | Event::KillRequested) => {
                Exited
            }
            (Starting, Event::StartFailed(failed)) => self.start_failed(*failed, now),
            (Starting, Event::Exited(exit)) => self.exited(exit, now),
            (BackOff { .. }, Event::EndSignalled) => Exited,
            (BackOff { .. }, Event::DeadlineReached | Event::RestartRequested(_))
            | (Idle, Event::RequestWaiting | Event::RestartRequested(_)) => Starting,

            (Running { since, runs, idle_since }, event) => {
                return self.step_running((since, runs, idle_since), event, now);
            }
            (Stopping { .. } | Killed { .. }, event) => return self.step_ending(event, now),

            // What comes late, or twice, changes nothing.
            (state @ Starting, Event::Started | Event::Counted { .. })
            | (state @ Starting, Event::RequestWaiting | Event::DeadlineReached)
            | (state @ Starting, Event::RestartRequested(_) | Event::EndSignalled)
            | (
                state @ BackOff { .. },
                Event::Spawned
                | Event::Started
                | Event::StartFailed(_)
                | Event::Exited(_)
                | Event::Counted { .. }
                | Event::RequestWaiting,
            )
            | (
                state @ Idle,
                Event::Spawned
                | Event::Started
                | Event::StartFailed(_)
                | Event::Exited(_)
                | Event::Counted { .. }
                | Event::DeadlineReached
                | Event::EndSignalled,
            )
            | (state @ Exited, _) => state,
        };
        Vec::new()
    }

    /// The transitions out of [`State::Stopping`] and [`State::Killed`].
    fn step_ending(&mut self, event: &Event, now: Instant) -> Vec<Effect> {
        use State::{Killed, Stopping};
        let killed = |then| Killed { lost_at: now + KILL_TIME_MAX, then };
        match (self.state, event) {
            // A second request kills; one that follows a stop for another reason changes what comes
            // then.
            (Stopping { kill_at, .. }, Event::StopRequested(_)) => {
                self.state = Stopping { kill_at, then: Then::Exit };
            }
            (Stopping { kill_at, then: Then::Idle }, Event::RestartRequested(_)) => {
                self.state = Stopping { kill_at, then: Then::Start };
            }
            (Stopping { .. }, Event::KillRequested) => {
                self.state = killed(Then::Exit);
                return vec![Effect::Kill];
            }
            (Stopping { then, .. }, Event::DeadlineReached) => {
                self.state = killed(then);
                return vec![Effect::Kill];
            }
            (Killed { lost_at, .. }, Event::StopRequested(_) | Event::KillRequested) => {
                self.state = Killed { lost_at, then: Then::Exit };
            }
            (Stopping { then, .. } | Killed { then, .. }, Event::Exited(_))
            | (Killed { then, .. }, Event::DeadlineReached) => {
                self.state = match then {
                    Then::Idle => State::Idle,
                    Then::Start if !self.stopping => State::Starting,
                    Then::Start | Then::Exit => State::Exited,
                };
            }
            // What comes late, or twice, changes nothing.
            (_, Event::Spawned | Event::Started | Event::StartFailed(_))
            | (_, Event::Counted { .. } | Event::RequestWaiting | Event::EndSignalled)
            | (_, Event::RestartRequested(_))
            | (State::Starting | State::Running { .. } | State::BackOff { .. }, _)
            | (State::Idle | State::Exited, _) => {}
        }
        Vec::new()
    }

    /// The transitions out of [`State::Running`], whose fields are given.
    fn step_running(
        &mut self,
        (since, runs, idle_since): (Instant, u64, Instant),
        event: &Event,
        now: Instant,
    ) -> Vec<Effect> {
        let stopping = |grace: Duration, then| State::Stopping {
            kill_at: now + grace + LINGER_TIME_MAX,
            then,
        };
        match event {
            Event::Exited(exit) => {
                if now.saturating_duration_since(since) >= self.restart.steady_after() {
                    self.ends = 0;
                }
                self.state = self.exited(exit, now);
            }
            Event::Started => self.starts_failed = 0,
            Event::StopRequested(grace) => {
                self.state = stopping(*grace, Then::Exit);
                return vec![Effect::Stop(*grace)];
            }
            Event::KillRequested => {
                self.state = State::Killed { lost_at: now + KILL_TIME_MAX, then: Then::Exit };
                return vec![Effect::Kill];
            }
            Event::Counted { runs: counted } => {
                let idle_since = if runs == *counted { idle_since } else { now };
                let idle = now.saturating_duration_since(idle_since);
                if self.idle_after.is_some_and(|after| idle >= after) {
                    self.state = stopping(IDLE_GRACE, Then::Idle);
                    return vec![Effect::Stop(IDLE_GRACE)];
                }
                self.state = State::Running { since, runs: *counted, idle_since };
            }
            Event::RestartRequested(grace) => {
                self.stopping = false;
                self.state = stopping(*grace, Then::Start);
                return vec![Effect::Stop(*grace)];
            }
            // What comes late, or twice, changes nothing.
            Event::Spawned
            | Event::StartFailed(_)
            | Event::RequestWaiting
            | Event::EndSignalled
            | Event::DeadlineReached => {}
        }
        Vec::new()
    }

    fn start_failed(&mut self, failed: StartFailed, now: Instant) -> State {
        let again = match (self.restart, failed) {
            (Restart::Never, _)
            | (Restart::UntilFetched, StartFailed::Here)
            | (Restart::Declared(ContainerRestart::Never), StartFailed::Here) => false,
            // One that never ran is a failure of its caller: the same start would fail again.
            (Restart::Policy(policy), _) => {
                self.restarts > 0 && policy.restarts(NOT_STARTED, self.restarts)
            }
            (Restart::UntilFetched, StartFailed::NotFetched)
            | (Restart::Declared(ContainerRestart::Never), StartFailed::NotFetched) => {
                self.ends < FETCHES_MAX
            }
            (Restart::Always | Restart::Declared(_), StartFailed::NotFetched) => true,
            (Restart::Always | Restart::Declared(_), StartFailed::Here) => {
                self.starts_failed += 1;
                self.starts_failed < STARTS_MAX
            }
        };
        self.again_if(again, false, now)
    }

    fn exited(&mut self, exit: &Exit, now: Instant) -> State {
        if matches!(exit, Exit::NotStarted(_)) {
            return self.start_failed(StartFailed::Here, now);
        }
        let again = match self.restart {
            Restart::Never | Restart::UntilFetched => false,
            Restart::Policy(policy) => policy.restarts(exit.code(), self.restarts),
            Restart::Always => true,
            Restart::Declared(declared) => declared.restarts(exit.code()),
        };
        self.again_if(again, true, now)
    }

    fn again_if(&mut self, again: bool, ran: bool, now: Instant) -> State {
        if !again || self.stopping {
            return State::Exited;
        }
        self.ends += 1;
        self.restarts += 1;
        // A replica that is back within a tenth of a second was never away, as far as clients can
        // tell: its ports stay open, and requests wait in them.
        let until = now + self.restart.pause(self.ends);
        State::BackOff { until, quick: ran && self.ends <= 1 }
    }
}

impl Restart {
    fn steady_after(self) -> Duration {
        match self {
            Self::Declared(_) => DECLARED_STEADY_AFTER,
            Self::Never | Self::Policy(_) | Self::UntilFetched | Self::Always => STEADY_AFTER,
        }
    }

    fn pause(self, ends: u32) -> Duration {
        match (self, ends) {
            (Self::Declared(_), 2..) => {
                let pause = DECLARED_PAUSE.saturating_mul(1 << (ends - 2).min(5));
                pause.min(DECLARED_PAUSE_MAX)
            }
            _ => pause(ends),
        }
    }
}

/// How long to wait before the next start after so many ends in a row: nothing much, then 1, 2, 4 …
/// 30 seconds.
fn pause(ends: u32) -> Duration {
    match ends {
        0 | 1 => FIRST_PAUSE,
        n => Duration::from_secs(1 << (n - 2).min(5)).min(PAUSE_MAX),
    }
}

#[cfg(test)]
mod tests;
