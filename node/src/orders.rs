//! What a local task is told: by signals to its supervisor, and through its control socket.

use std::{cell::RefCell, time::Duration};

use engine::Exit;
use tokio::time::{Instant, sleep_until};

use crate::{
    control::{Order, Server},
    drive::{Command, Commands, End},
    request::Note,
    signals::{ENDING, INT, KILL, QUIT, TERM, TaskSignals, WINCH},
    tasks::{Kind, TaskFolder},
    window::terminal_size,
};

/// A program that handles an interrupt ends in a moment; later the user is told how to go on.
const INTERRUPT_TIME_MAX: Duration = Duration::from_secs(1);

/// What a signal to a supervisor means for a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// To end it as `stop` does.
    Stop,
    Kill,
    /// To be handed on; `ends` says that it is meant to end the program.
    Pass {
        ends: bool,
    },
    /// Nothing: a Wasm program has no signals.
    Nothing,
}

/// Decides what `signal` means; `asked` says that the task was asked to end before, by an interrupt
/// or a stop.
fn meaning(kind: Kind, signal: i32, asked: bool) -> Meaning {
    match (kind, signal) {
        (_, KILL) => Meaning::Kill,
        (_, INT | TERM) if asked => Meaning::Kill,
        (Kind::Wasm, signal) if ENDING.contains(&signal) => match asked {
            true => Meaning::Kill,
            false => Meaning::Stop,
        },
        (Kind::Wasm, _) => Meaning::Nothing,
        (Kind::Native, TERM) => Meaning::Stop,
        (Kind::Native, signal) => Meaning::Pass { ends: matches!(signal, INT | QUIT) },
    }
}

/// Signals and orders, as commands for a container.
pub(crate) struct Orders<'a, W> {
    pub signals: TaskSignals,
    pub control: Server,
    pub folder: &'a TaskFolder,
    pub kind: Kind,
    /// How long a stop may take that names no time.
    pub grace: Duration,
    pub stop_signal: Option<i32>,
    pub has_terminal: bool,
    pub watch: &'a RefCell<W>,
    pub asked: Asked,
}

/// What a task was asked so far.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// The first signal that stopped it.
    stop: Option<i32>,
    /// When it was first interrupted, and whether the user was told that it still runs.
    interrupted: Option<(Instant, bool)>,
    /// Signals that were handed on.
    passed: Vec<i32>,
    /// It was killed because it was asked a second time.
    killed_twice_asked: bool,
    /// `margay kill` has killed it.
    killed: bool,
}

impl<W: FnMut(Note)> Commands for Orders<'_, W> {
    async fn next(&mut self) -> Command {
        loop {
            let command = tokio::select! {
                signal = self.signals.next() => self.signalled(signal),
                order = self.control.next() => self.ordered(order),
                () = still_runs(self.asked.interrupted) => {
                    if let Some((_, told)) = &mut self.asked.interrupted {
                        *told = true;
                    }
                    (self.watch.borrow_mut())(Note::Interrupted);
                    None
                }
            };
            if let Some(command) = command {
                return command;
            }
        }
    }
}

/// Ready when a program that was interrupted has had its time.
async fn still_runs(interrupted: Option<(Instant, bool)>) {
    match interrupted {
        Some((at, false)) => sleep_until(at + INTERRUPT_TIME_MAX).await,
        Some((_, true)) | None => std::future::pending().await,
    }
}

impl<W: FnMut(Note)> Orders<'_, W> {
    fn signalled(&mut self, signal: i32) -> Option<Command> {
        if signal == WINCH {
            let size = terminal_size().filter(|_| self.has_terminal)?;
            return Some(Command::Resize(size.0, size.1));
        }
        let asked = self.asked.stop.is_some() || self.asked.interrupted.is_some();
        // A stop by the verb after an interrupt has the time that it names.
        let asked_by_verb = signal == TERM && self.asked.stop.is_none();
        match meaning(self.kind, signal, asked && !asked_by_verb) {
            Meaning::Stop => Some(self.stop(signal)),
            Meaning::Kill => {
                self.asked.killed_twice_asked = true;
                Some(Command::Kill)
            }
            Meaning::Pass { ends } => {
                if signal == INT {
                    self.asked.interrupted = Some((Instant::now(), false));
                }
                Some(self.pass(signal, ends))
            }
            Meaning::Nothing => None,
        }
    }

    fn ordered(&mut self, order: Order) -> Option<Command> {
        match order {
            Order::Attach(_) => None,
            Order::Resize(rows, columns) => Some(Command::Resize(rows, columns)),
            Order::Restart(stop) => Some(Command::Restart(stop)),
            Order::Signal(signal) => match meaning(self.kind, signal, false) {
                Meaning::Kill => {
                    self.asked.killed = true;
                    Some(Command::Kill)
                }
                // A Wasm program ends at once: it cannot catch the signal.
                Meaning::Stop if self.kind == Kind::Wasm => {
                    self.asked.stop = self.asked.stop.or(Some(signal));
                    Some(Command::Stop(Duration::ZERO.into()))
                }
                Meaning::Stop => Some(self.pass(signal, true)),
                Meaning::Pass { ends } => {
                    Some(self.pass(signal, ends || self.stop_signal == Some(signal)))
                }
                Meaning::Nothing => None,
            },
        }
    }

    /// To end as `stop` has asked for it, if that was the verb.
    fn stop(&mut self, signal: i32) -> Command {
        let stop = self.folder.asked_stop().unwrap_or_else(|| self.grace.into());
        self.asked.stop = self.asked.stop.or(stop.signal).or(Some(signal));
        match stop.signal {
            Some(KILL) => {
                self.asked.killed = true;
                Command::Kill
            }
            _ => Command::Stop(stop),
        }
    }

    fn pass(&mut self, number: i32, ends: bool) -> Command {
        if !self.asked.passed.contains(&number) {
            self.asked.passed.push(number);
        }
        Command::Signal { number, ends }
    }
}

impl Asked {
    /// The end of a container in the light of what it was asked.
    pub fn explain(&self, end: End) -> End {
        let usage = end.usage;
        match (&end.exit, self.stop.and_then(|signal| u8::try_from(signal).ok())) {
            (Some(exit), _) if self.killed_twice_asked && exit.code() == KILLED => {
                let why = "it was interrupted a second time, and killed".to_owned();
                End { reason: Some(why), usage, ..End::of(exit.clone()) }
            }
            (Some(exit), _) if self.killed && exit.code() == KILLED => {
                End { reason: None, usage, ..End::of(exit.clone()) }
            }
            // What was handed on explains itself.
            (Some(Exit::Signal(signal)), _) if self.passed.contains(&i32::from(*signal)) => {
                End { reason: None, ..end }
            }
            (Some(exit), Some(signal)) => End { usage, ..End::of(exit.clone().asked_by(signal)) },
            (Some(_), None) => end,
            // It was asked to end before it had begun.
            (None, Some(signal)) => End { exit_code: Some(128 + i32::from(signal)), ..end },
            (None, None) => end,
        }
    }
}

/// 128 and SIGKILL.
const KILLED: u8 = 137;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::{HUP, USR1};

    #[test]
    fn a_signal_means_for_each_kind_what_it_can() {
        use Meaning::{Kill, Nothing, Pass, Stop};
        for (kind, signal, asked, want) in [
            (Kind::Native, INT, false, Pass { ends: true }),
            (Kind::Native, INT, true, Kill),
            (Kind::Native, TERM, false, Stop),
            (Kind::Native, TERM, true, Kill),
            (Kind::Native, HUP, false, Pass { ends: false }),
            (Kind::Native, HUP, true, Pass { ends: false }),
            (Kind::Native, QUIT, false, Pass { ends: true }),
            (Kind::Native, USR1, true, Pass { ends: false }),
            (Kind::Native, KILL, false, Kill),
            (Kind::Wasm, INT, false, Stop),
            (Kind::Wasm, INT, true, Kill),
            (Kind::Wasm, TERM, false, Stop),
            (Kind::Wasm, HUP, false, Stop),
            (Kind::Wasm, QUIT, true, Kill),
            (Kind::Wasm, USR1, false, Nothing),
            (Kind::Wasm, KILL, false, Kill),
        ] {
            assert_eq!(meaning(kind, signal, asked), want, "{kind:?} {signal} {asked}");
        }
    }

    #[test]
    fn an_end_is_explained_by_what_was_asked() {
        let stopped = |signal| Asked { stop: Some(signal), ..Asked::default() };
        let passed = Asked { passed: vec![INT], ..Asked::default() };
        let twice = Asked { killed_twice_asked: true, ..Asked::default() };
        let killed = Asked { killed: true, ..Asked::default() };
        for (asked, exit, code, reason) in [
            (stopped(INT), Exit::TERMINATED, 130, None),
            (stopped(TERM), Exit::TERMINATED, 143, None),
            (stopped(TERM), Exit::Stopped(7), 7, None),
            (passed, Exit::Signal(2), 130, None),
            (twice, Exit::Signal(9), 137, Some("it was interrupted a second time, and killed")),
            (killed, Exit::Signal(9), 137, None),
            (Asked::default(), Exit::Signal(9), 137, Some("ended by signal 9")),
        ] {
            let end = asked.explain(End::of(exit.clone()));
            assert_eq!(
                (end.exit_code, end.reason.as_deref()),
                (Some(code), reason),
                "{asked:?} {exit:?}"
            );
        }
        assert_eq!(stopped(INT).explain(End::default()).exit_code, Some(130));
    }
}
