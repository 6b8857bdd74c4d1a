//! Signals to this process.

use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Error, Result};

pub(crate) async fn terminated() {
    let (term, int) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut term), Ok(mut int)) = (term, int) else {
        // Without handlers the signals do what they always do: end the process.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

pub(crate) const HUP: i32 = 1;
pub(crate) const INT: i32 = 2;
pub(crate) const QUIT: i32 = 3;
pub(crate) const KILL: i32 = 9;
pub(crate) const USR1: i32 = 10;
pub(crate) const USR2: i32 = 12;
pub(crate) const ALRM: i32 = 14;
pub(crate) const TERM: i32 = 15;
pub(crate) const CONT: i32 = 18;
pub(crate) const WINCH: i32 = 28;

/// Those whose default is to end a process, and that a terminal, a shell or `stop` sends for it.
pub(crate) const ENDING: [i32; 4] = [INT, TERM, HUP, QUIT];

/// The number of a signal: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`.
///
/// # Errors
/// [`Error::BadArgument`].
pub fn parse_signal(text: &str) -> Result<i32> {
    shim::parse_signal(text).ok_or_else(|| Error::BadArgument {
        text: text.chars().take(100).collect(),
        what: "a signal: a name or a number, as in KILL, SIGTERM, 15 or SIGRTMIN+3",
    })
}

/// The signals that are meant for a task. Not among them: TSTP and its kin, which are between this
/// process and its shell, and those that report errors of this process.
pub(crate) struct TaskSignals {
    signals: Vec<(Signal, i32)>,
    /// The last one that asks to end.
    last: Option<(i32, Instant)>,
}

/// Two signals of one kind within this time are one: `timeout` sends each to its child and then to
/// the group of both, and no user presses Ctrl-C twice so fast.
const ONE_SIGNAL_TIME: Duration = Duration::from_millis(100);

impl TaskSignals {
    pub fn listen() -> Result<Self> {
        let listen = |number: i32| {
            let signal = signal(SignalKind::from_raw(number))
                .map_err(|source| Error::System { verb: "listen for signals", source })?;
            Ok::<_, Error>((signal, number))
        };
        let numbers = ENDING.into_iter().chain([USR1, USR2, ALRM, CONT, WINCH]);
        Ok(Self { signals: numbers.map(listen).collect::<Result<_>>()?, last: None })
    }

    /// The number of the next one.
    pub async fn next(&mut self) -> i32 {
        loop {
            let received = self.signals.iter_mut().map(|(signal, number)| {
                Box::pin(async {
                    signal.recv().await;
                    *number
                })
            });
            let number = futures_util::future::select_all(received).await.0;
            if !ENDING.contains(&number) {
                return number;
            }
            let before = self.last.replace((number, Instant::now()));
            if !before.is_some_and(|(last, at)| last == number && at.elapsed() < ONE_SIGNAL_TIME) {
                return number;
            }
        }
    }

    /// The next one that asks to end.
    pub async fn stop(&mut self) {
        while !ENDING.contains(&self.next().await) {}
    }
}
